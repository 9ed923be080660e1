"""A step on an accelerator, without one: no tensor is on the wrong device, and the host waits for nothing."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from fake_device import DEVICE, FakeDevice, MixUp
from nets import BasicBlock
from torch import Tensor, nn

from stimulative import models, unravel
from stimulative.methods import METHODS, Method, StimulativeTraining
from stimulative.residual import ResidualNetwork

CLASSES = 10
SIDE = 8
GPT2 = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 8}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


class Tiny(nn.Module):
    """Two stages, and logits of each image or of each of its places."""

    def __init__(self, *, of_places: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
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
    assert terms.loss.device == DEVICE
    assert seen.kernels.total() > 50
    return seen.waits


@pytest.mark.parametrize(("step", "batch"), PAIRS, ids=lambda name: name)
def test_a_step_mixes_no_devices_and_waits_for_none(step, batch):
    name, settings, _ = STEPS[step]
    method = method_of(name, settings, batch)
    with FakeDevice() as gpu:
        assert not waits_of(gpu, method, BATCHES[batch][2]())
