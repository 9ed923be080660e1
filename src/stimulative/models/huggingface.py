"""The models of Hugging Face Transformers, by their model types, built from a config without trained weights.

What is built is a plain Transformers model: its state dict loads into the same class, and ``save_pretrained`` works.

A model for text is trained on a vocabulary of one's own, so the released model's ids of special tokens mean nothing in
it: there is no beginning and no end of text unless the arguments say so. Its ``use_cache`` is off, since training
passes would build a cache that nobody reads; ``generate`` has its own setting, which is on.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

from stimulative.errors import UsageError
from stimulative.models.factory import Factory
from stimulative.models.sentence_encoder import sentence_encoder
from stimulative.naming import did_you_mean
from stimulative.tasks import TaskName

_KINDS = {
    "images": ("image classifier", "AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"),
    "segmentation": (
        *("semantic segmenter", "AutoModelForSemanticSegmentation"),
        "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    ),
    "text": ("causal language model", "AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
}
_ENCODERS = (  # of models that have a decoder, too, the first is their encoder alone
    ("AutoModelForTextEncoding", "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES"),
    ("AutoModel", "MODEL_MAPPING_NAMES"),
)
# Config fields that the signatures do not show, since all configs take them.
_COMMON = {"attn_implementation", "num_labels", "output_attentions"}
_PREFIX = "transformers/"
_NO_CHECKPOINT = "it is built from a config, which is that of no checkpoint in particular"


def find_transformers(name: str, task: TaskName = "images") -> Factory:
    """Finds ``transformers/MODEL_TYPE``, for instance ``transformers/vit`` or ``transformers/gpt2``.

    Args:
        name: The whole name.
        task: ``"text"`` for the model type's causal language model, ``"segmentation"`` for its semantic segmenter,
            ``"embedding"`` for its encoder of texts, if it has no image classifier; else that.

    Raises:
        UsageError: Transformers is not installed, has no such model type, or no model of that type for the task.
    """
    try:
        from transformers.models.auto import modeling_auto
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError as error:
        raise UsageError(
            f"model {name!r} needs the package transformers, which cannot be imported ({error}): "
            "pip install 'stimulative[hf]'"
        ) from error

    model_type = name.removeprefix(_PREFIX)
    kind, auto_class, mapping = _KINDS[task if task in _KINDS else "images"]
    with_class = getattr(modeling_auto, mapping)
    for_images = getattr(modeling_auto, _KINDS["images"][2])
    if task == "embedding" and model_type not in for_images and model_type in CONFIG_MAPPING:
        return _encoder(name, model_type, modeling_auto)
    if model_type not in CONFIG_MAPPING:
        nearest = did_you_mean(name, (f"{_PREFIX}{known}" for known in with_class))
        raise UsageError(
            f"Transformers has no model type {model_type!r}; a model is written {_PREFIX}MODEL_TYPE, for {task} such "
            f"as {_examples(task)}{nearest}"
        )
    if model_type not in with_class:
        raise UsageError(
            f"Transformers has no {kind} of model type {model_type!r} ({auto_class}), which a model for {task} has to "
            f"be; it has {_classes_of(model_type, modeling_auto)}. Take another type, such as {_examples(task)}, or "
            "build one of these in a factory of your own, 'package.module:factory'"
        )
    fields = _fields(model_type)
    reserved: dict[str, str] = dict.fromkeys(("id2label", "label2id"), "the classes follow from the data")
    make = partial(_make, auto_class, model_type, fields)
    if task != "text":
        channels = "num_channels" if "num_channels" in fields else None
        sizes = "num_labels", channels, channels is None
        return Factory(name, make, *sizes, reserved, frozenset(fields), none_published=_NO_CHECKPOINT)
    if "vocab_size" not in fields:
        nearest = did_you_mean(f"{name}_text", (f"{_PREFIX}{known}" for known in with_class if known != model_type))
        raise UsageError(
            f"model type {model_type!r} is made of several models, so that it has no vocabulary of its own to set; "
            f"take the type of its text model{nearest}"
        )
    reserved |= {"num_labels": "a language model has no classes", "is_decoder": "a causal language model is one"}
    return Factory(name, make, "vocab_size", None, False, reserved, frozenset(fields), none_published=_NO_CHECKPOINT)


def _fields(model_type: str) -> set[str]:
    """The fields of a model type's config."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    fields = {*inspect.signature(config_class).parameters, *config_class.attribute_map, *_COMMON}
    return fields | {"rope_theta", "rope_scaling"} if "rope_parameters" in fields else fields


def _encoder(name: str, model_type: str, modeling_auto: Any) -> Factory:
    """The encoder of texts of a model type."""
    classes = ((auto_class, getattr(modeling_auto, mapping)) for auto_class, mapping in _ENCODERS)
    auto_class = next((auto_class for auto_class, known in classes if model_type in known), None)
    fields = _fields(model_type)
    if auto_class is None or "vocab_size" not in fields:
        raise UsageError(
            f"Transformers has no encoder of texts of model type {model_type!r}; it has "
            f"{_classes_of(model_type, modeling_auto)}. Take another type, such as {_examples('embedding')}"
        )
    known = frozenset(fields - {"num_labels"} | {"pooling", "normalise"})
    make = partial(sentence_encoder, auto_class, model_type)
    reserved = {"num_labels": "an encoder has no classes"}
    return Factory(name, make, "vocabulary", None, False, reserved, known, none_published=_NO_CHECKPOINT)


def _make(auto_class: str, model_type: str, fields: set[str], **arguments: Any) -> nn.Module:
    import transformers

    text = auto_class == "AutoModelForCausalLM"
    given = arguments
    if text:
        own: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id"))
        own |= {"use_cache": False, "is_decoder": True}
        arguments = {field: value for field, value in own.items() if field in fields} | arguments
    try:
        config = transformers.AutoConfig.for_model(model_type, **arguments)
    except Exception as error:  # the checks of configs have errors of their own, which span several lines
        raise ValueError(" ".join(str(error).split())) from error
    if text and "pad_token_id" not in given and (getattr(config, "pad_token_id", None) or 0) >= config.vocab_size:
        config.pad_token_id = None
    model = getattr(transformers, auto_class).from_config(config)
    if text and model.can_generate():
        model.generation_config.use_cache = True
    return model


def _examples(task: TaskName) -> str:
    of_task = {"text": ("gpt2", "llama", "mistral", "qwen3"), "segmentation": ("segformer", "upernet", "beit")}
    of_task["embedding"] = "bert", "roberta", "distilbert", "mpnet"
    types = of_task.get(task, ("vit", "deit", "dinov2", "swin", "convnext"))
    return ", ".join(_PREFIX + model_type for model_type in types)


def _classes_of(model_type: str, modeling_auto: Any) -> str:
    """The names of the classes of a model type, whatever they are for."""
    found: dict[str, None] = {}
    for name, mapping in vars(modeling_auto).items():
        if name.startswith("MODEL_") and name.endswith("_MAPPING_NAMES") and model_type in mapping:
            classes = mapping[model_type]
            found |= dict.fromkeys((classes,) if isinstance(classes, str) else filter(None, classes))
    return ", ".join(found) or "none"
