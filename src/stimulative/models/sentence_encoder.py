"""One vector for each text: an encoder of Transformers, and how the vectors of its tokens become one.

Reimers and Gurevych: Sentence-BERT, EMNLP 2019 (arXiv 1908.10084), section 3: the mean over all tokens, or the vector
of the first one ([CLS]). Most encoders that are published for it bring the vector to length 1.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from stimulative.errors import UsageError

Pooling = Literal["mean", "cls"]


class SentenceEncoder(nn.Module):
    """An encoder that gives one vector for each text.

    Args:
        backbone: A model that takes `input_ids` and `attention_mask` and returns `last_hidden_state`. A pooler that it
            has of its own is taken away, since nothing reads it.
        pooling: ``mean`` over the tokens that the mask counts, or ``cls``, the first one.
        normalise: Whether vectors have length 1.

    Raises:
        UsageError: There is no such pooling.
    """

    def __init__(self, backbone: nn.Module, pooling: Pooling = "mean", *, normalise: bool = True) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise UsageError(f"pooling is {' or '.join(get_args(Pooling))}, got {pooling!r}")
        if not isinstance(normalise, bool):
            raise UsageError(f"normalise is true or false, got {normalise!r}")
        if isinstance(getattr(backbone, "pooler", None), nn.Module):
            backbone.register_module("pooler", None)  # BERT and its kin leave the step out then
        self.backbone = backbone
        self.pooling: Pooling = pooling
        self.normalise = normalise

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map tokens and their mask (B, T) to vectors (B, features)."""
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            vectors = states[:, 0]
        else:
            counts = attention_mask.unsqueeze(-1).to(states.dtype)
            vectors = (states * counts).sum(1) / counts.sum(1)
        return F.normalize(vectors, dim=-1) if self.normalise else vectors


def sentence_encoder(
    auto_class: str,
    model_type: str,
    vocabulary: int,
    *,
    pooling: Pooling = "mean",
    normalise: bool = True,
    **arguments: Any,
) -> SentenceEncoder:
    """Builds an encoder from a config, with new parameters.

    Args:
        auto_class: The class of Transformers that finds the model.
        model_type: Its type.
        vocabulary: How many tokens the data have; the model may have more, as ``vocab_size``.
        pooling: As for ``SentenceEncoder``.
        normalise: As for ``SentenceEncoder``.
        **arguments: Fields of its config.

    Raises:
        UsageError: The model is made for fewer tokens.
    """
    import transformers

    size = arguments.setdefault("vocab_size", vocabulary)
    if isinstance(size, int) and size < vocabulary:
        raise UsageError(
            f"argument 'vocab_size' of 'transformers/{model_type}': the model has {size:,} tokens, but the data have "
            f"{vocabulary:,}; give the model's own tokenizer, data.tokenizer: DIRECTORY, or leave vocab_size out"
        )
    try:
        config = transformers.AutoConfig.for_model(model_type, **arguments)
    except Exception as error:  # the checks of configs have errors of their own, which span several lines
        raise ValueError(" ".join(str(error).split())) from error
    backbone = getattr(transformers, auto_class).from_config(config)
    return SentenceEncoder(backbone, pooling, normalise=normalise)
