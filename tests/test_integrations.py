"""Stimulative training in one's own loop, in Lightning's and in that of Transformers."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from nets import CLASSES, BasicBlock, SequentialNet, images, randomised
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import stimulative
from stimulative.errors import UsageError
from stimulative.integrations.lightning import StimulativeCallback
from stimulative.integrations.transformers import StimulativeMixin, StimulativeTrainer
from stimulative.methods import StimulativeTraining, known_targets, shifted_labels
from stimulative.tasks import Classification

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return randomised(SequentialNet(), seed)


def batch(seed: int = 1, count: int = 6) -> tuple[Tensor, Tensor]:
    return images(count, seed=seed), torch.arange(count) % CLASSES


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert actual.keys() == expected.keys() and actual
    for name, value in expected.items():
        assert (actual[name] - value).detach().norm() <= tolerance * max(1.0, float(value.norm())), name


# The subnets' term beside a loss of one's own

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"balance": 1.7},
    "directional": {"objective": "directional", "temperature": 2.0},
    "several on part of the batch": {"subnets_per_step": 3, "subnet_share": 0.5},
    "efficient": {"efficient": True},
    "smaller inputs": {"smaller_inputs": 0.5, "subnets_per_step": 3},
    "mixed statistics": {"freeze_subnet_statistics": False, "sampler": "unordered"},
    "ramped": {"balance": 3.0, "total_steps": 10},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_beside_cross_entropy_gradients_and_statistics_are_those_of_the_method(settings):
    x, y = batch()
    results = []
    for beside in (False, True):
        model = net()
        method = StimulativeTraining(stimulative.unravel(model, images()), seed=5, **settings)
        for _ in range(2):
            if beside:
                with method.beside() as subnets:
                    loss = F.cross_entropy(model(x), y)
                (loss + subnets.term).backward()
                kl, drawn = subnets.subnet_kl, subnets.subnets
            else:
                terms = method.backward(x, y)
                kl, drawn = terms.subnet_kl, terms.subnets
        results.append((gradients(model), dict(model.named_buffers()), kl, drawn, method.step))
    (expected, buffers, kl, drawn, _), (actual, own_buffers, own_kl, own_drawn, steps) = results
    assert_same(actual, expected)
    assert own_drawn == drawn and steps == 2
    assert torch.allclose(own_kl, kl, rtol=1e-12) and kl > 0
    assert all(torch.equal(own_buffers[name], value) for name, value in buffers.items())


def test_the_prefix_is_computed_once_and_the_model_is_left_as_it_was():
    model = net()
    calls: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, BasicBlock):  # a call that is replayed does not reach the block's inside
            module.conv1.register_forward_hook(lambda *_, name=name: calls.append(name))
    before = dict(vars(model))
    method = StimulativeTraining(
        stimulative.unravel(model, images()), sampler=lambda *_: stimulative.Subnet(((0, 1, 2), (0, 2, 3)))
    )
    calls.clear()
    with method.beside() as subnets:
        model(batch()[0])
    main = [f"stage1.{n}" for n in range(3)] + [f"stage2.{n}" for n in range(4)]
    assert calls == [*main, "stage2.2", "stage2.3"]
    assert len(subnets.divergences) == 1
    assert vars(model) == before
    with pytest.raises(ZeroDivisionError), method.beside():
        model(1 / 0)
    assert vars(model) == before


def test_calls_without_gradients_or_in_evaluation_mode_run_no_subnets():
    model, (x, _) = net(), batch()
    method = StimulativeTraining(stimulative.unravel(model, images()))
    with method.beside() as subnets:
        with torch.no_grad():
            model(x)
        model.eval()(x)
    assert subnets.calls == 0 and subnets.term == 0 and method.step == 0


def test_several_calls_in_a_step_enter_by_their_mean_and_count_once():
    model, (x, _) = net(), batch()
    method = StimulativeTraining(stimulative.unravel(model, images()), balance=2.0)
    with method.beside() as subnets:
        model(x)
        model(x.flip(0) + 0.1)
    assert len(subnets.divergences) == 2 and len(subnets.subnets) == 1 and method.step == 1
    assert torch.allclose(subnets.term, subnets.divergences[0] + subnets.divergences[1], rtol=1e-12)


def test_every_leaves_steps_alone():
    model, (x, _) = net(), batch()
    method = StimulativeTraining(stimulative.unravel(model, images()), balance=2.0, every=2)
    weights = []
    for _ in range(4):
        with method.beside() as subnets:
            model(x)
        weights.append(subnets.weight if subnets.divergences else None)
    assert weights == [4.0, None, 4.0, None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "labels"}, "objective: got 'labels', but it needs the targets of the loss"),
        ({"normalise_main": True}, "normalise_main: got True, but it changes the loss"),
        ({"label_smoothing": 0.1}, "label_smoothing: got 0.1, but it changes the loss"),
        ({"schedule": "lean"}, "schedule: got 'lean', but 'lean' goes backward before subnets run"),
    ],
)
def test_settings_of_somebody_elses_loss_are_refused(settings, message):
    method = StimulativeTraining(stimulative.unravel(net(), images()), **settings)
    with pytest.raises(UsageError, match=message), method.beside():
        raise AssertionError("nothing may run")


def test_what_is_no_logits_is_refused():
    class Dense(SequentialNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.stage2(self.stage1(self.act(self.bn(self.conv(x)))))

    model = Dense().double()
    method = StimulativeTraining(stimulative.unravel(model, images()))
    with pytest.raises(UsageError, match=r"the model gives \(6, 8, 4, 4\)"), method.beside():
        model(batch()[0])


# Lightning


class Lit(LightningModule):
    """A LightningModule as people write them; ``way`` is how its step calls the network."""

    def __init__(self, way: str = "self.model", lr: float = 0.05, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.model = net().to(dtype)
        self.way, self.lr = way, lr
        self.validated: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self(x) if self.way == "self" else self.model(x), y)
        return {"loss": loss, "y": y} if self.way == "dictionary" else loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        with self.model.head.register_forward_hook(count):
            self.model(batch[0])
        self.validated.append(calls)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def loader(batches: int = 2, size: int = 6, dtype: torch.dtype = torch.float64) -> DataLoader:
    x, y = batch(count=batches * size)
    return DataLoader(TensorDataset(x.to(dtype), y), batch_size=size)


def trained_by_hand(model: nn.Module, data: DataLoader, epochs: int, lr: float = 0.05, **settings: Any) -> list[str]:
    """The same training with the method itself; returns the subnets."""
    settings = {"total_steps": epochs * len(data), **settings}
    method = StimulativeTraining(stimulative.unravel(model, next(iter(data))[0][:2]), **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    drawn = []
    for _ in range(epochs):
        for x, y in data:
            drawn += map(str, method.backward(x, y).subnets)
            optimizer.step()
            optimizer.zero_grad()
    return drawn


def assert_equal_models(one: nn.Module, other: nn.Module, tolerance: float = 1e-12) -> None:
    assert_same(dict(one.named_parameters()), dict(other.named_parameters()), tolerance)


@pytest.mark.parametrize("way", ["self.model", "self", "dictionary"])
@pytest.mark.parametrize("network", [None, "model"])
def test_a_callback_trains_as_the_method_does_and_finds_the_network(way, network):
    reference, lit = net(), Lit(way)
    drawn = trained_by_hand(reference, loader(), epochs=3, balance=2.0, seed=4)
    assert len(set(drawn)) > 2
    callback = StimulativeCallback(network, balance=2.0, seed=4)
    before = set(vars(lit)), set(vars(lit.model))
    trainer = Trainer(max_epochs=3, callbacks=[callback], **QUIET)
    trainer.fit(lit, loader())
    assert callback.network.model is lit.model
    assert callback.method is not None and callback.method.step == 6
    assert_equal_models(lit.model, reference)
    assert "training_step" not in vars(lit) and set(vars(lit.model)) == before[1]
    assert float(trainer.callback_metrics["subnet_kl"]) > 0


def test_without_the_callback_the_weights_are_others():
    plain, stimulated = Lit(), Lit()
    Trainer(max_epochs=1, **QUIET).fit(plain, loader())
    Trainer(max_epochs=1, callbacks=[StimulativeCallback(balance_ramp=0)], **QUIET).fit(stimulated, loader())
    difference = plain.model.get_parameter("head.weight") - stimulated.model.get_parameter("head.weight")
    assert float(difference.abs().max()) > 1e-4


def test_a_network_that_is_the_module_itself():
    class Whole(Lit):
        """Stem, blocks and head are the LightningModule's own."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = self.model, self.model.head
            self.body.head = nn.Identity()
            del self.model

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    reference, lit = net(), Whole()
    trained_by_hand(reference, loader(), epochs=2)
    callback = StimulativeCallback()
    Trainer(max_epochs=2, callbacks=[callback], **QUIET).fit(lit, loader())
    assert callback.network.model is lit
    assert torch.allclose(lit.body.conv.weight, reference.get_parameter("conv.weight"), rtol=1e-12, atol=1e-14)
    assert torch.allclose(lit.head.weight, reference.get_parameter("head.weight"), rtol=1e-12, atol=1e-14)


def test_gradients_accumulate():
    lit, reference = Lit(), net()
    callback = StimulativeCallback(balance_ramp=0, seed=2)
    Trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[callback], **QUIET).fit(lit, loader())
    method = StimulativeTraining(stimulative.unravel(reference, images()), balance_ramp=0, seed=2)
    for x, y in loader():
        method.backward(x, y, scale=0.5)
    torch.optim.SGD(reference.parameters(), lr=0.05).step()
    assert_equal_models(lit.model, reference)
    assert callback.method is not None and callback.method.total_steps == 2


# so many batches of the trainer's data an epoch, and how it accumulates and ends
ACCUMULATED: dict[str, tuple[int, dict[str, Any], int]] = {
    "not": (4, {"max_epochs": 3}, 12),
    "by twos": (4, {"max_epochs": 3, "accumulate_grad_batches": 2}, 12),
    "with some left": (5, {"max_epochs": 2, "accumulate_grad_batches": 4}, 10),
    "by epochs": (4, {"max_epochs": 3, "callbacks": [GradientAccumulationScheduler({0: 1, 1: 4})]}, 12),
    "until a step": (5, {"max_steps": 3, "accumulate_grad_batches": 4}, 9),
    "until a step, by epochs": (4, {"max_steps": 6, "callbacks": [GradientAccumulationScheduler({0: 1, 1: 4})]}, 12),
    "some of the data": (5, {"max_epochs": 4, "limit_train_batches": 3, "accumulate_grad_batches": 2}, 12),
}


class Balances(Callback):
    """The balance of each batch."""

    def __init__(self, ours: StimulativeCallback) -> None:
        self.ours, self.used = ours, []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        assert self.ours.method is not None
        self.ours.method.step -= 1
        self.used.append(self.ours.method.current_balance)
        self.ours.method.step += 1


def rising(batches: int) -> list[float]:
    """A balance of 3 that is full after half of the batches."""
    return [min(3.0, 3.0 * (at + 1) / (batches / 2)) for at in range(batches)]


@pytest.mark.parametrize("way", ACCUMULATED)
def test_the_balance_is_full_at_the_same_share_of_training_in_lightning(way):
    batches, settings, total = ACCUMULATED[way]
    settings = dict(settings)
    ours = StimulativeCallback(balance=3.0, balance_ramp=0.5)
    seen = Balances(ours)
    callbacks = [*settings.pop("callbacks", []), ours, seen]
    data = DataLoader(TensorDataset(*batch(count=2 * batches)), batch_size=2)
    Trainer(callbacks=callbacks, **settings, **QUIET).fit(Lit(), data)
    assert len(seen.used) == total
    assert seen.used == pytest.approx(rising(total))


def test_a_training_without_end_has_a_constant_balance_unless_it_is_told_how_long_it_takes():
    class Twice(IterableDataset):
        def __iter__(self):
            return iter([batch(count=2), batch(count=2)])

    data = DataLoader(Twice(), batch_size=None)
    for settings, expected in (({}, [3.0] * 4), ({"total_steps": 4}, [1.5, 3.0, 3.0, 3.0])):
        ours = StimulativeCallback(balance=3.0, balance_ramp=0.5, **settings)
        seen = Balances(ours)
        Trainer(callbacks=[ours, seen], max_epochs=2, **QUIET).fit(Lit(), data)
        assert seen.used == pytest.approx(expected)


def test_validation_runs_the_main_net_alone():
    lit = Lit()
    Trainer(max_epochs=2, callbacks=[StimulativeCallback()], **QUIET).fit(lit, loader(), loader())
    assert len(lit.validated) == 6 and set(lit.validated) == {1}  # two of them the sanity check


def test_mixed_precision_finds_the_same_blocks():
    lit = Lit(dtype=torch.float32)
    seen = []

    class Look(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            seen.append((loss.dtype, bool(loss.isfinite())))

    callback = StimulativeCallback(efficient=True)
    data = loader(dtype=torch.float32)
    Trainer(max_epochs=2, precision="bf16-mixed", callbacks=[callback, Look()], **QUIET).fit(lit, data)
    assert [stage.blocks for stage in callback.network.stages] == [3, 4]
    assert seen == [(torch.float32, True)] * 4


def test_training_that_is_resumed_ends_where_uninterrupted_training_does(tmp_path):
    whole, first, second = Lit(), Lit(), Lit()
    Trainer(max_epochs=4, callbacks=[StimulativeCallback(total_steps=8, seed=3)], **QUIET).fit(whole, loader())
    trainer = Trainer(max_epochs=2, callbacks=[StimulativeCallback(total_steps=8, seed=3)], **QUIET)
    trainer.fit(first, loader())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    callback = StimulativeCallback(total_steps=8, seed=99)
    trainer = Trainer(max_epochs=4, callbacks=[callback], **QUIET)
    trainer.fit(second, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert callback.method is not None and callback.method.step == 8
    assert_equal_models(second.model, whole.model)


def test_the_next_fit_begins_anew_with_another_module_and_goes_on_with_the_same_one():
    callback, first, second = StimulativeCallback(seed=3), Lit(), Lit()
    Trainer(max_epochs=2, callbacks=[callback], **QUIET).fit(first, loader())
    trainer = Trainer(max_epochs=2, callbacks=[callback], **QUIET)
    trainer.fit(second, loader())
    assert callback.network.model is second.model
    assert_equal_models(first.model, second.model)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(second, loader())
    assert callback.method is not None and callback.method.step == 6


def test_an_error_in_the_step_leaves_the_module_as_it_was():
    class Failing(Lit):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss if batch_idx == 0 else 1 / 0

    lit = Failing()
    before = set(vars(lit.model))
    with pytest.raises(ZeroDivisionError):
        Trainer(max_epochs=1, callbacks=[StimulativeCallback()], **QUIET).fit(lit, loader())
    assert "training_step" not in vars(lit) and set(vars(lit.model)) == before


class Plain(Lit):
    """No residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, CLASSES)).double()


class ByHand(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class ByForward(Lit):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model.forward(batch[0]), batch[1])


class TwoParts(Lit):
    """The residual part returns features, which a head reads in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Linear(CLASSES, CLASSES).double()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.top(self.model(batch[0])), batch[1])


class Optimized(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.compile(self.model, backend="eager")


class Compiled(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.model.compile(backend="eager")


@pytest.mark.parametrize(
    ("module", "network", "message"),
    [
        (Plain, None, "no residual network in what the training step of Plain calls.*no residual blocks found in"),
        (Plain, "model", "no residual blocks found in Sequential"),
        (Lit, "net", "network='net': Lit has no such module; it has 'model'"),
        (ByHand, None, r"ByHand optimises by hand.*self\.manual_backward\(loss \+ subnets\.term\)"),
        (ByForward, None, r"did not call any network of its own.*not self\.model\.forward\(x\)"),
        (ByForward, "model", "did not call 'model' in training mode"),
        (TwoParts, None, r"calls 'model', which has residual blocks, and then 'top'.*self\(x\).*network='model'"),
        (Optimized, None, "a model compiled as a whole cannot be taken apart"),
        (Optimized, "model", "a model compiled as a whole cannot be taken apart"),
        (Compiled, "model", "a model compiled as a whole cannot be taken apart"),
        (Compiled, None, "a model compiled as a whole cannot be taken apart"),
    ],
)
def test_what_cannot_be_trained_is_refused(module, network, message):
    lit = module()
    with pytest.raises(UsageError, match=f"(?s){message}"):
        Trainer(max_epochs=1, callbacks=[StimulativeCallback(network)], **QUIET).fit(lit, loader())
    assert "training_step" not in vars(lit)


def test_a_module_compiled_as_a_whole_is_refused():
    with pytest.raises(UsageError, match="Lit is compiled as a whole"):
        Trainer(max_epochs=1, callbacks=[StimulativeCallback()], **QUIET).fit(
            torch.compile(Lit(), backend="eager"), loader()
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balanc": 1.0}, "balanc: there is no such setting.*did you mean 'balance'"),
        ({"balance": -1.0}, "balance: got -1.0, but it is 0 or more"),
        ({"objective": "labels"}, "but it needs the targets of the loss"),
        ({"label_smoothing": 0.1}, "label_smoothing: is no setting here, since the loss is your own"),
    ],
)
def test_impossible_settings_are_refused_before_any_work(settings, message):
    with pytest.raises(UsageError, match=message):
        StimulativeCallback(**settings)


DDP = """
import sys
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader
from test_integrations import QUIET, Lit, loader
from stimulative.integrations.lightning import StimulativeCallback
from stimulative.integrations.transformers import StimulativeMixin, StimulativeTrainer

class Sharded(Lit):
    def train_dataloader(self):
        data = loader().dataset
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(data, batch_size=3, sampler=range(rank, len(data), ranks))

class Compare(Callback):
    def on_train_batch_end(self, trainer, pl_module, *_):
        parameters = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        one, other = trainer.strategy.all_gather(parameters)
        assert torch.equal(one, other), "the ranks have different parameters"
        assert not trainer.strategy.model.find_unused_parameters

torch.set_num_threads(1)
lit = Sharded("self")
callback = StimulativeCallback(balance=2.0, balance_ramp=0, seed=4)
settings = {**QUIET, "devices": 2, "strategy": "ddp", "max_epochs": 2, "use_distributed_sampler": False}
trainer = Trainer(callbacks=[callback, Compare()], **settings)
trainer.fit(lit)
if trainer.is_global_zero:
    torch.save({"model": lit.model.state_dict(), "step": callback.method.step}, sys.argv[1])
"""


def test_two_processes_train_as_one_does_on_both_of_their_batches(tmp_path):
    script, out = tmp_path / "ddp.py", tmp_path / "out.pt"
    script.write_text(DDP)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, script, out], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = torch.load(out)
    assert saved["step"] == 4

    reference, data = net(), loader().dataset
    method = StimulativeTraining(stimulative.unravel(reference, images()), balance=2.0, balance_ramp=0)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(4)
    for step in range(4):
        subnet = method.sampler(method.network.space, generator)
        for rank in range(2):  # each has every other sample, three in a batch, and their gradients are averaged
            x, y = data[torch.arange(rank, 12, 2)[step % 2 * 3 :][:3]]
            method.backward(x, y, [subnet], scale=0.5)
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: saved["model"][name] for name, _ in reference.named_parameters()}
    assert_same(weights, dict(reference.named_parameters()))


# Transformers

DROPS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def vit(seed: int = 0, layers: int = 4) -> Any:
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.ViTForImageClassification(config)


def language_model(kind: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=20,
            n_positions=12,
            n_embd=16,
            n_layer=4,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2
    )
    return transformers.LlamaForCausalLM(config)


def pictures(count: int = 16) -> list[dict[str, Any]]:
    x = images(count, seed=2, dtype=torch.float32)
    return [{"pixel_values": x[n], "labels": n % CLASSES} for n in range(count)]


def texts(count: int = 16) -> list[dict[str, Tensor]]:
    """Sequences of different lengths, padded: no label counts there."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for n in range(count):
        tokens = torch.randint(1, 20, (10,), generator=generator)
        real = torch.arange(10) < 4 + n % 6
        rows.append({"input_ids": tokens, "attention_mask": real.long(), "labels": tokens.where(real, -100)})
    return rows


def trainer_for(model: Any, data: Any, out: Path, **settings: Any) -> StimulativeTrainer:
    stimulative_settings = settings.pop("stimulative", {})
    defaults = {
        "output_dir": str(out),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
    }
    args = transformers.TrainingArguments(**{**defaults, **settings})
    return StimulativeTrainer(model, args, train_dataset=data, stimulative=stimulative_settings)


@pytest.mark.parametrize(
    ("pictured", "settings", "total"),
    [
        (16, {}, 8),
        (16, {"gradient_accumulation_steps": 2}, 8),
        (20, {"gradient_accumulation_steps": 4}, 10),
        (20, {"gradient_accumulation_steps": 4, "max_steps": 3}, 9),
        (12, {"gradient_accumulation_steps": 2, "num_train_epochs": 1.5}, 5),
    ],
)
def test_the_balance_is_full_at_the_same_share_of_training_in_the_trainer(tmp_path, pictured, settings, total):
    class Watch(transformers.TrainerCallback):
        """The balance after the last batch of each optimiser step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            trainer.method.step -= 1
            seen.append((trainer.method.step, trainer.method.current_balance))
            trainer.method.step += 1

    seen: list[tuple[int, float]] = []
    data = (pictures() * 2)[:pictured]
    trainer = trainer_for(vit(), data, tmp_path, **settings, stimulative={"balance": 3.0, "balance_ramp": 0.5})
    trainer.add_callback(Watch())
    trainer.train()
    assert seen[-1][0] == total - 1
    assert seen == [(at, pytest.approx(rising(total)[at])) for at, _ in seen]


@pytest.mark.parametrize("kind", ["vit", "gpt2", "llama"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_trainer_trains_as_the_method_does(tmp_path, kind, accumulate):
    """Accumulated batches weigh by their tokens, in both terms."""
    model, data = (vit(), pictures()) if kind == "vit" else (language_model(kind), texts())
    reference = copy.deepcopy(model)
    settings = {"balance": 2.0, "seed": 6, "total_steps": 8}
    trainer = trainer_for(model, data, tmp_path, gradient_accumulation_steps=accumulate, stimulative=settings)
    trainer.train()
    assert trainer.method is not None and trainer.method.step == 8
    assert trainer.network.model is model and "_call_impl" not in vars(model)

    batches = [transformers.default_data_collator(data[at : at + 4]) for at in range(0, 16, 4)] * 2
    inputs = [{key: value for key, value in each.items() if key != "labels"} for each in batches]
    if kind == "vit":
        targets = [each["labels"] for each in batches]
    else:
        targets = [F.pad(each["labels"][:, 1:], (0, 1), value=-100) for each in batches]
    method = StimulativeTraining(stimulative.unravel(reference.train(), inputs[0]), **settings)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05)
    kls = []
    for at in range(0, 8, accumulate):
        numbers = range(at, at + accumulate)
        # what the Trainer divides by: it cannot tell by GPT-2's class name that the first token is no target
        counts = [int(((targets[n] if kind != "gpt2" else batches[n]["labels"]) != -100).sum()) for n in numbers]
        for n in numbers:
            share = int((targets[n] != -100).sum()) / sum(counts)
            kls.append(float(method.backward(inputs[n], targets[n], scale=share).subnet_kl))
        optimizer.step()
        optimizer.zero_grad()
    assert_equal_models(model, reference, tolerance=2e-6)
    logged = [row["subnet_kl"] for row in trainer.state.log_history if "subnet_kl" in row]
    means = [sum(kls[at : at + accumulate]) / accumulate for at in range(0, 8, accumulate)]
    assert logged == pytest.approx(means, rel=1e-3, abs=1e-7) and max(logged) > 1e-5


def test_positions_without_label_count_for_nothing(tmp_path):
    """Other tokens in the padding change nothing, with and without the Trainer's own label smoothing."""
    changed = [{**row, "input_ids": row["input_ids"].where(row["attention_mask"] > 0, 7)} for row in texts()]
    for smoothing in (0.0, 0.1):
        one, other = language_model("gpt2"), language_model("gpt2")
        for model, data in ((one, texts()), (other, changed)):
            trainer_for(model, data, tmp_path, label_smoothing_factor=smoothing).train()
        assert_equal_models(one, other, tolerance=1e-6)


def test_a_trainer_of_ones_own_and_mixed_precision(tmp_path):
    class Weighted(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            logits = model(pixel_values=inputs["pixel_values"]).logits
            loss = F.cross_entropy(logits.float(), inputs["labels"], torch.arange(1.0, CLASSES + 1))
            return (loss, {"logits": logits}) if return_outputs else loss

    class Mine(StimulativeMixin, Weighted):
        pass

    losses = []
    for stimulative_settings in ({"balance": 0.0}, {"balance_ramp": 0, "efficient": True}):
        trainer = trainer_for(vit(), pictures(), tmp_path, bf16=True)
        mine = Mine(trainer.model, trainer.args, train_dataset=pictures(), stimulative=stimulative_settings)
        for _ in range(2):  # the second time the model has autocast in its forward twice
            mine.train()
        assert [stage.blocks for stage in mine.network.stages] == [4]
        losses.append([row["loss"] for row in mine.state.log_history if "loss" in row])
        assert ("subnet_kl" in mine.state.log_history[0]) == ("efficient" in stimulative_settings)
    assert losses[0] != losses[1]


def test_evaluation_runs_the_main_net_alone(tmp_path):
    model = vit()
    trainer = trainer_for(model, pictures(), tmp_path)
    trainer.train()
    calls: list[int] = []
    model.classifier.register_forward_hook(lambda *_: calls.append(1))
    metrics = trainer.evaluate(pictures(8))
    assert len(calls) == 1 and "eval_loss" in metrics
    with torch.no_grad():
        expected = model.eval()(**transformers.default_data_collator(pictures(8))).loss
    assert metrics["eval_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_a_trainer_that_is_resumed_ends_where_an_uninterrupted_one_does(tmp_path):
    settings = {"stimulative": {"seed": 3}, "save_strategy": "steps", "save_steps": 3}
    whole, resumed = language_model("gpt2"), language_model("gpt2", seed=1)
    trainer_for(whole, texts(), tmp_path / "out", **settings).train()
    settings["stimulative"] = {"seed": 99}
    trainer = trainer_for(resumed, texts(), tmp_path / "out", **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert trainer.method is not None and trainer.method.step == 8
    assert_equal_models(resumed, whole, tolerance=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stimulative": {"balanc": 1.0}}, "balanc: there is no such setting.*did you mean 'balance'"),
        ({"stimulative": {"schedule": "lean"}}, "schedule: is no setting here"),
        ({"torch_compile": True}, "torch_compile=True compiles the model as a whole"),
    ],
)
def test_what_a_trainer_cannot_do_is_refused(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        trainer_for(vit(), pictures(), tmp_path, **settings)


def test_a_model_that_checkpoints_activations_is_refused(tmp_path):
    model = vit()
    with pytest.raises(UsageError, match="activation checkpointing is on"):
        trainer_for(model, pictures(), tmp_path, gradient_checkpointing=True).train()
    assert "_call_impl" not in vars(model)


def test_without_the_libraries_the_error_says_what_to_install():
    code = """
import sys
sys.modules["accelerate"] = None
import stimulative
assert not {"lightning", "transformers"} & set(sys.modules), "importing stimulative is to stay light"
try:
    import stimulative.integrations.transformers
except stimulative.UsageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'stimulative[hf]'" in done.stdout


def test_targets_of_tokens_are_shifted_for_decoders_alone():
    labels = torch.tensor([[5, 6, -100]])
    shifted = torch.tensor([[6, -100, -100]])
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)
    )
    bert = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9
    )
    for model, expected in (
        (language_model("gpt2"), shifted),
        (language_model("llama"), shifted),
        (t5, labels),
        (transformers.BertForMaskedLM(bert), labels),
    ):
        assert torch.equal(shifted_labels(model, {"labels": labels}), expected), type(model)
        targets = known_targets(Classification(), model, {"labels": labels}, torch.zeros(1, 3, 9))
        assert torch.equal(targets, expected), type(model)
    assert known_targets(Classification(), t5, {"labels": torch.tensor([1, 2])}, torch.zeros(1, 3, 9)) is None
    assert known_targets(Classification(), t5, {}, torch.zeros(1, 3, 9)) is None
    assert shifted_labels(t5, {"labels": labels, "shift_labels": shifted}) is shifted
