"""A small model of each kind that is deployed, every parameter moved away from where it starts."""

from collections.abc import Callable
from typing import Any

import timm
import torch
import transformers
from torch import Tensor, nn

from stimulative import models

CLASSES = 10
TOKENS = 100


def images(size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def tokens(length: int = 12, count: int = 2) -> dict[str, Tensor]:
    drawn = torch.randint(TOKENS, (count, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": drawn, "attention_mask": torch.ones_like(drawn)}


def _timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=CLASSES, **arguments)


def _cifar(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: models.build(f"cifar/{name}", classes=CLASSES, arguments=arguments)


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_layer=4, n_embd=32, n_head=4, vocab_size=TOKENS, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def _llama() -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            num_hidden_layers=4,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=TOKENS,
        )
    )


_SWIN = {"img_size": 56, "depths": (2, 2, 4, 2), "embed_dim": 24, "num_heads": (1, 2, 3, 4)}

KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "cifar-resnet": (_cifar("resnet20", width=4), lambda: images(32)),
    "small-stem-resnet": (_cifar("resnet18"), lambda: images(32)),
    "resnet50": (_timm("resnet50"), lambda: images(32)),
    "mobilenetv3": (_timm("mobilenetv3_small_100"), lambda: images(32)),
    "convnext": (_timm("convnext_atto"), lambda: images(32)),
    "vit": (_timm("vit_tiny_patch16_224", img_size=32, embed_dim=48), lambda: images(32)),
    "swin": (_timm("swin_tiny_patch4_window7_224", **_SWIN), lambda: images(56)),
    "densenet": (_timm("densenet121", growth_rate=8, block_config=(3, 4, 4, 3)), lambda: images(32)),
    "gpt2": (_gpt2, tokens),
    "llama": (_llama, tokens),
}


def make(kind: str) -> tuple[nn.Module, Any]:
    """The model, and what it is called with."""
    torch.manual_seed(0)
    build, example = KINDS[kind]
    model = build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # last norms start at zero, and then a block does nothing that could be missed
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model, example()
