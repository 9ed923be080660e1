"""The end of an optimiser step: clipped without waiting, and left out where gradients in half precision overflow."""

from pathlib import Path
from typing import Any

import pytest
import torch
from interrupting import Interrupt
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from nets import CLASSES, LoopedNet
from safetensors.torch import load_file

from stimulative.data import from_loaders
from stimulative.runs import BEST, LAST, PREVIOUS, RunDirectory
from stimulative.training import Callback, Step, Trainer, load_recipe
from stimulative.training.resuming import load_checkpoint, save_checkpoint

FLOWS_OVER = 2.0**26
"""Gradients at this scale do not fit into 16 bits before it was halved some times."""
ADAMW = {"method.schedule": "lean", "optimizer.name": "adamw", "optimizer.lr": 1e-3}


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs compute in 16-mixed, on the CPU, whose scaler works as that of a GPU does."""

    def launched(recipe: Any, world: Any, out: Path, first_step: int) -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=FLOWS_OVER, growth_interval=6)
        return Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])

    monkeypatch.setattr("stimulative.training.trainer.launched", launched)


def trainer(out: Path, settings: dict[str, Any], *callbacks: Callback) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(8, 3, 8, 8, generator=generator), torch.randint(CLASSES, (8,), generator=generator))
        for _ in range(5)
    ]
    torch.manual_seed(0)
    half = {"schedule.epochs": 4, "training.loggers": [], "training.threads": 1, "training.precision": "16-mixed"}
    recipe = load_recipe("digits", half | settings)
    data = from_loaders(batches, batches[:1], batches[:1], classes=CLASSES)
    return Trainer(recipe, out, data=data, model=LoopedNet(), progress=False, callbacks=callbacks)


class Scales(Callback):
    """What the scaler, the learning rate and a weight are after each step."""

    def __init__(self) -> None:
        self.scales: list[float] = []
        self.rates: list[float] = []
        self.weights: list[torch.Tensor] = []

    def on_step(self, trainer: Trainer, step: Step) -> None:
        self.scales.append(trainer.update.scaler.get_scale())
        self.rates.append(trainer.optimizer.param_groups[0]["lr"])
        self.weights.append(trainer.network.model.head.weight.detach().clone())


@pytest.mark.parametrize("settings", [{}, ADAMW, {"optimizer.fused": True}])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.filterwarnings("error:Detected call of `lr_scheduler.step", "ignore:after epoch")
def test_a_step_that_overflows_is_left_out_and_the_learning_rate_keeps_to_its_plan(half, tmp_path, clip_norm, settings):
    seen = Scales()
    run = trainer(tmp_path / "run", {"optimizer.clip_norm": clip_norm, **settings}, seen)
    before = run.network.model.head.weight.detach().clone()
    run.run()
    halved = [later < scale for scale, later in zip([FLOWS_OVER, *seen.scales], seen.scales, strict=False)]
    assert 1 < sum(halved) < len(halved) - 3 and halved[0]
    stood = [torch.equal(*pair) for pair in zip([before, *seen.weights], seen.weights, strict=False)]
    assert stood == halved and torch.isfinite(seen.weights[-1]).all()
    lr = run.recipe.optimizer.lr
    assert seen.rates == pytest.approx([lr * run.scheduler.lr_lambdas[0](n) for n in range(1, len(seen.rates) + 1)])


@pytest.mark.filterwarnings("ignore:after epoch")
def test_a_run_goes_on_with_the_scale_that_it_had(half, tmp_path):
    whole, parts = Scales(), Scales()
    trainer(tmp_path / "whole", {}, whole).run()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "parts", {}, parts, Interrupt(step=11)).run()
    del parts.scales[10:]  # of an epoch that is trained again
    trainer(tmp_path / "parts", {}, parts).run()
    assert parts.scales == whole.scales and len(set(whole.scales)) > 2
    models = [load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parts")]
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


@pytest.mark.filterwarnings("ignore:after epoch")
def test_a_checkpoint_without_a_scaler_goes_on_with_a_new_one(half, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", {}, Interrupt(step=11)).run()
    for name in (LAST, PREVIOUS, BEST):
        if (tmp_path / "run" / name).exists():
            state = load_checkpoint(tmp_path / "run" / name)
            assert state.pop("scaler")["scale"] < FLOWS_OVER
            save_checkpoint(RunDirectory(tmp_path / "run"), name, state)
    assert trainer(tmp_path / "run", {}).update.scaler.get_scale() == FLOWS_OVER


def test_clipping_scales_gradients_down_and_lets_those_pass_that_are_no_numbers(tmp_path):
    run = trainer(tmp_path / "run", {"training.precision": "32-true", "optimizer.clip_norm": 0.5})
    weight = run.network.model.head.weight
    for gradient, expected in ((torch.full_like(weight, 3.0), 0.5), (torch.full_like(weight, torch.nan), torch.nan)):
        run.optimizer.zero_grad()
        weight.grad = gradient
        run.update._clip(0.5)
        assert torch.allclose(weight.grad.norm(), torch.tensor(expected), atol=1e-5, equal_nan=True)
