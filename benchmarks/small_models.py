"""Small models of every architecture that Transformers builds from a config, and inputs for them.

Nothing is known of any architecture. A default config is made small: four layers where there are more, a small
vocabulary and image, few experts, and all widths divided by the same number, so that what has to divide one another
still does. The input follows from what the model's forward takes. Where that is not enough, the architecture is not
tried, and the page says so.
"""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.residual import configs_of, without_caches

LAYERS = 4
VOCABULARY = 96
POSITIONS = 64
TOKENS = 12
EXPERTS = 4
LARGEST = 120_000_000
"""Parameters of a model that still counts as small."""

_HEADS = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_CLASSIFICATION",
    "SEQUENCE_CLASSIFICATION",
    "MASKED_LM",
    "AUDIO_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "CTC",
    "SPEECH_SEQ_2_SEQ",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "OBJECT_DETECTION",
    "TOKEN_CLASSIFICATION",
    "IMAGE_TEXT_TO_TEXT",
    "PRETRAINING",
)
"""The kinds of heads that are tried, in this order; the model without a head comes last."""

_LAYERS = re.compile(r"(num_|n_)?(\w+_)?(hidden_)?(layers?|depth|blocks)(_num)?")
_COUNTS = re.compile(r"depths|block_sizes|num_blocks|layer_depths|layers|encoder_layers|decoder_depths|num_layers")
_PLAIN = re.compile(
    r"num_|n_head|head_dim|_heads|^heads|max_|position|rate|theta|length|frame|window|stride|kernel|scale|_id$|_ids$|_index|"
    r"image_size|patch|seed|epoch|token|layer_types|expand|factor|groups?$|top_?k|chunk|sample|_range|n_fft|interval"
)
_CHOSEN = re.compile(r"experts_per_tok|top_?k(?!_group)|moe_k$")
_GROUPS = re.compile(r"n_group|topk_group|num_groups|num_expert_group")
_HEAD_COUNTS = re.compile(r"(num|n)_(\w+_)?heads?")
_EXPERTS = re.compile(r"(num|n)_(\w+_)?experts|moe_num_experts|num_expert")


class NotTried(Exception):
    """No small model of an architecture was made, or no input that it takes."""


def model_types() -> list[str]:
    """The architectures of the installed Transformers that there is a model class of."""
    from transformers.models.auto import configuration_auto as configs

    return sorted(model_type for model_type in configs.CONFIG_MAPPING_NAMES if list(_class_names(model_type)))


def small_model(model_type: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A small model of an architecture in evaluation mode, and an input that it takes.

    Raises:
        NotTried: If there is none.
    """
    import transformers

    failures = []
    for name in _class_names(model_type):
        made = getattr(transformers, name, None)
        if made is None:
            continue
        for config in _small_configs(model_type):
            try:
                model = _built(made, config)
                return model, _input_of(model)
            except Exception as error:  # whatever a model of nobody's own says to numbers that it was not made for
                failures.append(f"{name}: {type(error).__name__}: {error}".splitlines()[0][:160])
    raise NotTried(failures[0] if failures else "its classes need packages that are not installed")


def _class_names(model_type: str) -> Iterator[str]:
    from transformers.models.auto import modeling_auto as models

    seen = set()
    for table in (*(f"MODEL_FOR_{head}_MAPPING_NAMES" for head in _HEADS), "MODEL_MAPPING_NAMES"):
        names = getattr(models, table, {}).get(model_type, ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in seen:
                seen.add(name)
                yield name


def _small_configs(model_type: str) -> Iterator[Any]:
    from transformers import CONFIG_MAPPING

    made = CONFIG_MAPPING[model_type]
    for divisor, fewer in ((8, False), (8, True), (16, False), (4, False)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield made(**_small(made(), divisor, fewer))
            except Exception:  # a config that checks itself may not like another divisor
                continue


def _small(config: Any, divisor: int, fewer: bool) -> dict[str, Any]:
    """The arguments of a config like another, but small: with narrower heads, or fewer of them."""
    asked = set(inspect.signature(type(config).__init__).parameters) - {"self", "kwargs"}
    fields = {key: value for key, value in vars(config).items() if not key.startswith("_")}
    layers = next((value for key in ("num_hidden_layers", "n_layer") if type(value := fields.get(key)) is int), 0)
    small: dict[str, Any] = {}
    for key, value in fields.items():
        if hasattr(value, "attribute_map"):
            small[key] = type(value)(**_small(value, divisor, fewer))
        elif key in asked or len(asked) <= 1:
            new = _smaller(key, value, layers, divisor, fewer)
            if new is not value and new != value:
                small[key] = new
    return small


def _smaller(key: str, value: Any, layers: int, divisor: int, fewer: bool) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str | float):
        return value
    if isinstance(value, list | tuple):
        if layers > LAYERS and len(value) == layers:
            value = value[:LAYERS]
        if _COUNTS.fullmatch(key):
            return type(value)(min(each, 3) if isinstance(each, int) else each for each in value)
        return type(value)(_smaller(key, each, 0, divisor, fewer) for each in value)
    if isinstance(value, Mapping):
        return {name: _smaller(name, each, layers, divisor, fewer) for name, each in value.items()}
    if not isinstance(value, int):
        return value
    return _smaller_number(key, value, divisor, fewer)


def _smaller_number(key: str, value: int, divisor: int, fewer: bool) -> int:
    if key.endswith(("token_id", "token_index")):
        special = {"pad": 0, "bos": 1, "eos": 2, "decoder_start": 2, "sep": 3, "cls": 4, "mask": 5}
        return special.get(key.removesuffix("_token_id"), min(value, VOCABULARY - 1 - sum(map(ord, key)) % 8))
    if "vocab_size" in key or key == "vocabulary_size":
        return min(value, VOCABULARY)
    if _EXPERTS.fullmatch(key):
        return min(value, EXPERTS)
    if _CHOSEN.search(key):
        return min(value, EXPERTS // 2)
    if _GROUPS.fullmatch(key):
        return min(value, 4 if "num_groups" in key else 1)
    if _LAYERS.fullmatch(key):
        return min(value, LAYERS)
    if "max_position" in key or key == "n_positions":
        return min(value, POSITIONS)
    if key == "image_size":
        return min(value, 224)
    if fewer and _HEAD_COUNTS.fullmatch(key):
        return max(1, value // divisor)
    if _PLAIN.search(key) and (fewer or "head_dim" not in key):
        return value
    return value // divisor if value >= 32 and value % divisor == 0 else value


def _built(made: Any, config: Any) -> nn.Module:
    config = copy.deepcopy(config)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in made._from_config(copy.deepcopy(config)).parameters())
    if size > LARGEST:
        raise NotTried(f"it has {size:,} parameters")
    torch.manual_seed(0)
    model = made._from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # a last norm that starts at zero makes a block of nothing
            if parameter.is_floating_point():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def _input_of(model: nn.Module) -> dict[str, Tensor]:
    """An input that a model takes."""
    failure: Exception | None = None
    for candidate in _candidates(model):
        try:
            with torch.no_grad(), without_caches(configs_of(model)):
                output = model(**candidate)
        except Exception as error:
            failure = failure or error
            continue
        tensors = [each for each in output.values() if isinstance(each, Tensor)]
        if tensors and all(bool(each.isfinite().all()) for each in tensors if each.is_floating_point()):
            return candidate
    raise failure or NotTried("it returns no finite numbers")


def _candidates(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    config = model.config
    takes = set(inspect.signature(model.forward).parameters)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(8, 80, (2, TOKENS), generator=generator)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    decoder = {"decoder_input_ids": ids[:, :6]} if "decoder_input_ids" in takes else {}
    text = {key: value for key, value in text.items() if key in takes}
    if "input_ids" in takes and model.main_input_name != "pixel_values":
        yield {**text, **decoder}
        yield {"input_ids": ids}
    if "pixel_values" in takes:
        for images in _images(config, generator):
            yield {"pixel_values": images, **decoder}
            if text:
                yield {"pixel_values": images, **text}
    if "input_features" in takes:
        names = "num_mel_bins", "feature_size", "input_feat_per_channel", "feature_projection_input_dim"
        bins = _first(config, *names, default=80)
        frames = 2 * min(_first(config, "max_source_positions", default=32), 1500)
        for shape in ((2, bins, frames), (2, frames, bins)):
            yield {"input_features": torch.randn(shape, generator=generator), **decoder}
    if "input_values" in takes:
        for shape in ((2, 4000), (2, 1, 4000), (2, _first(config, "max_length", default=64), 128)):
            yield {"input_values": torch.randn(shape, generator=generator), **decoder}
    if "past_values" in takes:
        length = _first(config, "context_length", default=32)
        yield {"past_values": torch.randn(2, length, _first(config, "num_input_channels", default=1))}


def _images(config: Any, generator: torch.Generator) -> Iterator[Tensor]:
    vision = getattr(config, "vision_config", None) or config
    size = _first(vision, "image_size", default=64)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = _first(vision, "num_channels", "in_channels", default=3)
    frames = _first(vision, "num_frames", default=0)
    if frames:
        yield torch.randn(2, frames, channels, height, width, generator=generator)
    yield torch.randn(2, channels, height, width, generator=generator)
    yield torch.randn(2, channels, 224, 224, generator=generator)


def _first(config: Any, *names: str, default: Any) -> Any:
    return next((value for name in names if (value := getattr(config, name, None)) is not None), default)
