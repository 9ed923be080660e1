"""Training and measuring on a GPU, without one: no tensor is on the wrong device, and the host hardly waits."""

import copy
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_device import DEVICE, NAME, FakeDevice, Seen
from nets import BasicBlock
from torch import Tensor, nn

from stimulative import data as data_room
from stimulative import models, unravel
from stimulative.data import Data, from_loaders
from stimulative.data.sentences import Sentences
from stimulative.data.sequences import SequenceLoader, training_order
from stimulative.methods import METHODS, CommonTraining, Method, StimulativeTraining
from stimulative.residual import ResidualNetwork
from stimulative.tasks import resolve_task
from stimulative.training import Trainer, fit_temperatures, load_recipe, measure
from stimulative.training.under_way import UnderWay

CLASSES = 10
SIDE = 8
GPT2 = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 8}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


class Tiny(nn.Module):
    """Two stages, and logits of each image or of each of its places."""

    def __init__(self, channels: int = 3, *, of_places: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3, padding=1)
        self.stage1 = nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 4))
        self.stage2 = nn.Sequential(BasicBlock(4, 6, 2), BasicBlock(6, 6))
        self.head = nn.Conv2d(6, CLASSES, 1) if of_places else nn.Linear(6, CLASSES)
        self.of_places = of_places

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.stage1(self.stem(x)))
        return self.head(x if self.of_places else x.mean((2, 3)))


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE)


@cache
def _unraveled(kind: str) -> ResidualNetwork:
    torch.manual_seed(0)
    if kind == "text":
        model = models.build("transformers/gpt2", classes=CLASSES, arguments=GPT2, task="text")
        return unravel(model, text(2)[0])
    if kind == "vit":
        model = models.build(
            "timm/vit_tiny_patch16_224",
            classes=CLASSES,
            arguments={"img_size": SIDE, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2},
        )
        return unravel(model, images(2))
    return unravel(Tiny(of_places=kind == "places"), images(2))


def text(count: int = 4) -> tuple[dict[str, Tensor], Tensor]:
    """Sequences, the last places of some of them padded."""
    tokens = torch.randint(CLASSES, (count, 8))
    mask = torch.ones_like(tokens)
    mask[::2, 5:] = 0
    return {"input_ids": tokens, "attention_mask": mask}, torch.where(mask == 1, tokens, -100)


BATCHES: dict[str, tuple[str, str | None, Callable[[], tuple[Any, Any]]]] = {
    "classes": ("images", None, lambda: (images(), torch.randint(CLASSES, (4,)))),
    "soft labels": ("images", None, lambda: (images(), torch.rand(4, CLASSES).softmax(-1))),
    "vit": ("vit", None, lambda: (images(), torch.randint(CLASSES, (4,)))),
    "text": ("text", None, text),
    "segmentation": ("places", "segmentation", lambda: (images(), torch.randint(CLASSES, (4, SIDE, SIDE)))),
    "multilabel": ("images", "multilabel", lambda: (images(), torch.rand(4, CLASSES).round())),
    "regression": ("images", "regression", lambda: (images(), torch.randn(4, CLASSES))),
    "embedding": ("images", "embedding", lambda: (images(), None)),
    "embedding with targets": ("images", "embedding", lambda: (images(), torch.randn(4, CLASSES))),
}
STEPS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "common": ("common", {}, tuple(BATCHES)),
    "stimulative": ("stimulative", {}, tuple(BATCHES)),
    "lean": ("stimulative", {"schedule": "lean"}, tuple(BATCHES)),
    "several": ("stimulative", {"subnets_per_step": 3, "sampler": "interstage"}, ("classes",)),
    "several, lean": ("stimulative", {"subnets_per_step": 3, "schedule": "lean"}, ("classes",)),
    "part of the batch": ("stimulative", {"subnet_share": 0.5}, ("classes", "text", "segmentation", "regression")),
    "part of the batch, lean": ("stimulative", {"subnet_share": 0.5, "schedule": "lean"}, ("classes",)),
    "efficient": ("stimulative", {"efficient": True}, ("classes",)),
    "smaller inputs": ("stimulative", {"smaller_inputs": 0.5, "subnets_per_step": 2}, ("classes", "soft labels")),
    "smaller inputs, lean": ("stimulative", {"smaller_inputs": 0.5, "schedule": "lean"}, ("classes",)),
    "directional": ("stimulative", {"objective": "directional"}, ("classes", "text", "segmentation")),
    "normalised": ("stimulative", {"objective": "directional", "normalise_main": True}, ("classes",)),
    "by labels": ("stimulative", {"objective": "labels"}, ("classes", "soft labels")),
    "own statistics": ("stimulative", {"freeze_subnet_statistics": False}, ("classes",)),
    "softened": ("stimulative", {"temperature": 2.0, "reduction": "sum"}, ("classes", "multilabel")),
    "group knowledge": ("group_knowledge", {"loops": 1, "levels": 2}, ("classes", "text", "multilabel", "embedding")),
    "layer supervision": ("layer_supervision", {}, ("classes", "vit", "multilabel")),
    "stage supervision": ("stage_supervision", {}, ("classes", "vit", "multilabel")),
    "self-distillation": ("self_distillation", {}, ("classes", "vit")),
    "stochastic depth": ("stochastic_depth", {}, ("classes", "vit")),
    "stochastic depth, per sample": ("stochastic_depth", {"per_sample": True}, ("classes", "text")),
    "stochastic depth, exponential": ("stochastic_depth", {"decay": "exponential", "rescale": False}, ("classes",)),
}
PAIRS = [(step, batch) for step, (_, _, batches) in STEPS.items() for batch in batches]


def method_of(name: str, settings: dict[str, Any], batch: str, **more: Any) -> Method:
    kind, task, _ = BATCHES[batch]
    if kind == "text":
        pytest.importorskip("transformers")
    network = copy.deepcopy(_unraveled(kind))
    ramp = {"balance_ramp": 0.0} if "balance" in METHODS[name].__init__.__annotations__ else {}
    return METHODS[name](network, task=task, **ramp, **settings, **more).train()


def waits_of(gpu: FakeDevice, method: Method, batch: tuple[Any, Any]) -> list[str]:
    """Where the host waits in a step of training, the first one left out, which looks at the labels."""
    gpu.moved(method)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    x, y = gpu.moved(batch)
    with gpu.watching() as first:
        method.backward(x, y)
    assert len(first.waits) <= 1 and all("check" in wait for wait in first.waits), first.waits
    with gpu.watching() as seen:
        terms = method.backward(x, y)
        optimizer.step()
        optimizer.zero_grad()
    assert terms.loss.device == DEVICE and not first.mix_ups and not seen.mix_ups
    assert seen.kernels.total() > 50
    return seen.waits


@pytest.mark.parametrize(("step", "batch"), PAIRS, ids=lambda name: name)
def test_a_step_mixes_no_devices_and_waits_for_none(step, batch):
    name, settings, _ = STEPS[step]
    method = method_of(name, settings, batch)
    with FakeDevice() as gpu:
        assert not waits_of(gpu, method, BATCHES[batch][2]())


def test_subnets_beside_a_loss_of_ones_own_wait_for_nothing():
    method = method_of("stimulative", {}, "classes")
    assert isinstance(method, StimulativeTraining)
    with FakeDevice() as gpu:
        gpu.moved(method)
        x, y = gpu.moved(BATCHES["classes"][2]())
        with gpu.watching() as seen:
            for _ in range(2):
                with method.beside() as subnets:
                    loss = nn.functional.cross_entropy(method.network.model(x), y)
                (loss + subnets.term).backward()
    assert not seen.waits and not seen.mix_ups and subnets.subnets


# What the device tells: planted faults


class _WaitsBehind(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * float(gradients[0].abs().amax())


WAITS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "item": (lambda x: x * x.amax().item(), "aten::_local_scalar_dense"),
    "a condition": (lambda x: x if x.amax() > 0 else -x, "aten::_local_scalar_dense"),
    "to the CPU and back": (lambda x: x * x.detach().cpu().amax(), "aten::_to_copy"),
    "an index of the CPU": (lambda x: x[torch.arange(len(x))], "aten::index by an index of the CPU"),
    "a mask": (lambda x: x + x[x > 0].sum(), "aten::index by a mask"),
    "a copy that blocks": (lambda x: x * torch.ones(len(x), 1).to(x.device), "aten::_to_copy"),
    "a copy of memory that is not pinned": (
        lambda x: x * torch.ones(len(x), 1).to(x.device, non_blocking=True),
        "aten::_to_copy",
    ),
    "a list": (lambda x: x * torch.tensor([1.0] * CLASSES, device=x.device), "aten::_to_copy"),
    "the backward pass": (lambda x: _WaitsBehind.apply(x), "aten::_local_scalar_dense"),
}


class Faulty(CommonTraining):
    """Common training with a fault in it."""

    fault: Callable[[Tensor], Tensor]

    def run_main(self, x: Any) -> Any:
        return self.fault(super().run_main(x))


def faulty(fault: Callable[[Tensor], Tensor]) -> Faulty:
    method = Faulty(copy.deepcopy(_unraveled("images")), task="regression").train()
    method.fault = fault
    return method


def seen_of(method: Method) -> Seen:
    """What a step does."""
    with FakeDevice() as gpu:
        gpu.moved(method)
        x, y = gpu.moved(BATCHES["regression"][2]())
        with gpu.watching() as seen:
            method.backward(x, y)
    return seen


@pytest.mark.parametrize("fault", WAITS)
def test_a_planted_wait_is_told_with_its_place(fault):
    wrong, operation = WAITS[fault]
    assert not seen_of(faulty(lambda x: x)).waits
    seen = seen_of(faulty(wrong))
    assert seen.waits[0].startswith(f"{operation} in {Path(__file__).name}:") and not seen.mix_ups


def test_what_is_sent_in_time_is_no_wait():
    assert not seen_of(faulty(lambda x: x * torch.ones(len(x), 1).pin_memory().to(x.device, non_blocking=True))).waits


@pytest.mark.parametrize(
    "wrong", [lambda x: x + torch.ones(CLASSES), lambda x: torch.stack([x, torch.ones(len(x), CLASSES)]).sum(0)]
)
def test_a_planted_mix_up_of_devices_is_told_with_its_place(wrong):
    seen = seen_of(faulty(wrong))
    assert seen.mix_ups and f" in {Path(__file__).name}:" in seen.mix_ups[0]


def test_a_planted_clone_is_a_kernel_and_its_bytes():
    kept: list[Tensor] = []

    def clone(x: Tensor) -> Tensor:
        kept.append(x.detach().clone())
        return x

    plain, cloned = seen_of(faulty(lambda x: x)), seen_of(faulty(clone))
    assert cloned.kernels - plain.kernels == {"aten::clone": 1} and not plain.kernels - cloned.kernels
    (held,) = kept
    assert cloned.peak - plain.peak == held.numel() * held.element_size() > 0


def test_bytes_are_those_of_the_tensors_that_live():
    with FakeDevice() as gpu:
        a = torch.empty(10, 10, device=DEVICE)
        with gpu.watching() as seen:
            b = a + 1
            c = (b * b)[2:]
            del b
        assert (seen.before, seen.peak, gpu.bytes) == (400, 1200, 800)
        assert seen.kernels == {"aten::add": 1, "aten::mul": 1}
        del a, c
        assert gpu.bytes == 0


# The real epoch


def on_device(gpu: FakeDevice, trainer: Trainer, data: Data) -> Trainer:
    """The loop as it is on the device: its Fabric, network and data there."""
    from lightning.fabric import Fabric
    from lightning.fabric.accelerators import CPUAccelerator
    from lightning.fabric.plugins import MixedPrecision
    from lightning.fabric.strategies import SingleDeviceStrategy

    class Accelerator(CPUAccelerator):
        def setup_device(self, device: torch.device) -> None:
            pass

    class Strategy(SingleDeviceStrategy):
        def module_to_device(self, module: nn.Module) -> None:
            pass  # a module of fake tensors is moved once

    trainer.data = trainer.prepared.data = data
    precision: Any = trainer.recipe.training.precision
    trainer.fabric = Fabric(
        strategy=Strategy(DEVICE, accelerator=Accelerator()),
        plugins=[MixedPrecision(precision, NAME)] if "mixed" in precision else [],
    )
    gpu.moved(trainer.method)
    trainer.network.to = lambda *args, **kwargs: trainer.network
    trainer._set_up()
    return trainer


EPOCHS: dict[str, dict[str, Any]] = {
    "as ever": {},
    "lean, accumulated, clipped": {
        "method.schedule": "lean",
        "training.accumulate": 3,
        "optimizer.clip_norm": 1.0,
    },
    "in bf16, channels last": {"training.precision": "bf16-mixed", "training.channels_last": True},
    "lean in bf16, adamw": {
        "method.schedule": "lean",
        "training.precision": "bf16-mixed",
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-3,
        "optimizer.fused": True,
        "optimizer.clip_norm": 1.0,
    },
    "16-mixed": {"training.precision": "16-mixed", "optimizer.fused": True, "optimizer.clip_norm": 1.0},
    "mixup and cutmix": {"data.mixup": 0.2, "data.cutmix": 1.0, "method.subnet_share": 0.5},
    "per sample": {"method.name": "stochastic_depth", "method.per_sample": True},
    "lighting": {"data.name": "fake", "data.images": 96, "data.image_size": 8, "data.lighting": 0.1, "data.workers": 0},
}
TEXTS: dict[str, dict[str, Any]] = {
    "accumulated": {"training.accumulate": 2},
    "directional, lean": {"training.accumulate": 3, "method.objective": "directional", "method.schedule": "lean"},
}


def assert_hardly_waits(gpu: FakeDevice, trainer: Trainer) -> None:
    """Once for each look at the losses, once at the end of the epoch, and once for the labels of the first batch."""
    batches, often = len(trainer.data.train), trainer.recipe.training.log_every
    assert batches > often
    with gpu.watching() as seen:
        trainer._train_batches(UnderWay())
    assert len(seen.waits) == math.ceil(batches / often) + 1 and not seen.mix_ups, seen


def assert_waits_for_all_at_once(gpu: FakeDevice, work: Callable[[int], Any]) -> None:
    """The host waits for what comes of all batches, as often whatever their number, and not for each of them."""
    counts = []
    for batches in (1, 3):
        with gpu.watching() as seen:
            work(batches)
        assert seen.kernels and not seen.mix_ups, seen
        counts.append(len(seen.waits))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("epoch", EPOCHS)
def test_an_epoch_waits_for_a_look_at_the_losses_now_and_then(epoch, tmp_path):
    recipe = load_recipe(
        "digits",
        {
            "data.batch_size": 24 if epoch == "lighting" else 200,
            "schedule.epochs": 2,
            "training.loggers": [],
            "training.log_every": 3,
            **EPOCHS[epoch],
        },
    )
    model = Tiny(3 if epoch == "lighting" else 1)
    trainer = Trainer(recipe, tmp_path / "run", model=model, progress=False)
    with FakeDevice() as gpu:
        data = data_room.load(recipe.data, seed=0, device=DEVICE, rank=0, world_size=1)
        on_device(gpu, trainer, data)
        assert_hardly_waits(gpu, trainer)


@pytest.mark.parametrize("epoch", TEXTS)
def test_an_epoch_of_text_waits_no_more_often(epoch, tmp_path):
    pytest.importorskip("transformers")
    for part in ("train", "val"):
        (tmp_path / "texts" / part).mkdir(parents=True)
        for number in range(5):
            text = f"{part} {number}: " + "the quick brown fox. " * (number + 3)
            (tmp_path / "texts" / part / f"{number}.txt").write_text(text)
    recipe = load_recipe(
        {
            "model": {"name": "transformers/gpt2", "arguments": GPT2},
            "data": {"name": f"text:{tmp_path / 'texts'}", "length": 8, "batch_size": 16},
            "method": {"name": "stimulative"},
            "schedule": {"epochs": 2},
            "training": {"loggers": [], "log_every": 3},
        },
        TEXTS[epoch],
    )
    trainer = Trainer(recipe, tmp_path / "run", progress=False)
    with FakeDevice() as gpu:
        data = data_room.load(recipe.data, seed=0, device=DEVICE, rank=0, world_size=1)
        on_device(gpu, trainer, data)
        assert_hardly_waits(gpu, trainer)


def test_batches_of_ones_own_loader_are_sent_without_waiting(tmp_path):
    batches = [(torch.randn(4, 3, SIDE, SIDE), torch.randint(CLASSES, (4,))) for _ in range(5)]
    settings = {"schedule.epochs": 2, "training.loggers": [], "training.log_every": 4}
    own = from_loaders(batches, batches, batches, classes=CLASSES)
    trainer = Trainer(load_recipe("digits", settings), tmp_path / "run", data=own, model=Tiny(), progress=False)
    with FakeDevice() as gpu:
        on_device(gpu, trainer, from_loaders(batches, batches, batches, classes=CLASSES, device=DEVICE))
        assert_hardly_waits(gpu, trainer)


def test_texts_of_several_lengths_are_cut_without_waiting():
    class Words:
        padding = 0

        def whole(self, text: str, length: int) -> list[int]:
            return [len(word) for word in text.split()][:length]

    with FakeDevice() as gpu:
        texts = Sentences.of([" ".join("ab" * n for n in range(1, 2 + k % 5)) for k in range(12)], Words(), 8, DEVICE)
        loader = SequenceLoader(texts, training_order(12, seed=0, rank=0, world_size=1), batch_size=3)
        with gpu.watching() as seen:
            for x, _ in loader:
                torch.ones_like(x["input_ids"])
        assert not seen.waits and x["input_ids"].device == x["attention_mask"].device == DEVICE


# Measuring


@pytest.mark.parametrize("kind", [kind for kind in BATCHES if kind not in ("vit", "embedding")])
def test_measuring_waits_for_no_batch(kind):
    net, task, batch = BATCHES[kind]
    network = copy.deepcopy(_unraveled(net))
    aim = resolve_task(task, network.model)
    with FakeDevice() as gpu:
        gpu.moved(network)
        there = gpu.moved([batch() for _ in range(3)])
        subnets = [network.full, network.space.smallest]
        assert_waits_for_all_at_once(gpu, lambda count: measure(network, there[:count], subnets, aim=aim))


def test_recalibration_waits_for_nothing():
    network = copy.deepcopy(_unraveled("images"))
    with FakeDevice() as gpu:
        gpu.moved(network)
        batches = gpu.moved([images(), images()])
        with gpu.watching() as seen:
            network.recalibrate(batches, [network.full, network.space.smallest])
    assert not seen.waits and not seen.mix_ups


@pytest.mark.parametrize("kind", ["classes", "text"])
def test_fitting_a_temperature_waits_for_no_batch(kind):
    net, _, batch = BATCHES[kind]
    network = copy.deepcopy(_unraveled(net))
    with FakeDevice() as gpu:
        gpu.moved(network)
        there = gpu.moved([batch() for _ in range(3)])
        assert_waits_for_all_at_once(gpu, lambda count: fit_temperatures(network, there[:count]))
