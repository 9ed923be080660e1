"""A model of Transformers as it lies in a directory: `config.json`, weights, and how an encoder pools.

That is what ``save_pretrained`` writes and what is published on hubs. sentence-transformers adds `modules.json`, which
says what stands behind the model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stimulative.errors import UsageError
from stimulative.extension import HOW_TO_TRUST, is_trusting
from stimulative.files import regular, user_path
from stimulative.models.catalog import find
from stimulative.models.foreign_arguments import foreign_problem
from stimulative.tasks import TaskName

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_TOKENIZERS = "tokenizer.json", "tokenizer_config.json"
_MODULES = "modules.json"
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_NOT_OF_THE_NET = {
    *("dtype", "torch_dtype", "use_cache", "output_attentions", "attn_implementation"),
    *("architectures", "transformers_version"),
}


@dataclass(frozen=True)
class SavedModel:
    """A directory with a model of Transformers.

    Args:
        path: The directory.
    """

    path: Path

    @classmethod
    def at(cls, path: str | Path) -> SavedModel | None:
        """The model in a directory; None if there is none."""
        path = user_path(path)
        return cls(path) if (path / _CONFIG).is_file() else None

    @property
    def weights(self) -> Path:
        """The file of its weights.

        Raises:
            UsageError: If there is none, or they are in several.
        """
        for name in _WEIGHTS:
            if (self.path / name).is_file():
                return self.path / name
        raise UsageError(
            f"{self.path} has a {_CONFIG}, but none of {', '.join(_WEIGHTS)}; weights in several files are not read: "
            "save them in one, model.save_pretrained(FOLDER, max_shard_size='100GB')"
        )

    @property
    def tokenizer(self) -> str | None:
        """The directory as the path of its tokenizer; None if it has none."""
        return str(self.path) if any((self.path / name).is_file() for name in _TOKENIZERS) else None

    def settings(self, task: TaskName, *, dropout: bool = True) -> dict[str, Any]:
        """Its name and its arguments, as the model part of a recipe has them; what is usual of its type is left out.

        Args:
            task: What it is to be for.
            dropout: Whether it keeps its dropout; False puts 0 for every probability of it.

        Raises:
            UsageError: If the config cannot be read, or no such model can be built by name.
        """
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(str(self.path), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # Transformers raises almost anything on files that are not its own
            raise UsageError(f"{self.path / _CONFIG} cannot be read as a config of Transformers: {error}") from error
        name = f"transformers/{config.model_type}"
        factory = find(name, task)
        taken = (factory.known or frozenset()) - factory.reserved.keys() - _NOT_OF_THE_NET
        taken -= {factory.classes_keyword or "", factory.channels_keyword or ""}
        own, usual = config.to_dict(), type(config)().to_dict()
        said = {key: own[key] for key in own if key in taken and own[key] != usual.get(key)}
        if "vocab_size" in taken:
            said["vocab_size"] = config.vocab_size  # which may be more than the tokenizer has
        if not dropout:
            said |= {key: 0.0 for key, value in own.items() if key in taken and _is_dropout(key, value)}
        foreign = foreign_problem(said)
        if foreign is not None and not is_trusting():
            raise UsageError(f"{self.path / _CONFIG}: {foreign}. Where you trust it, {HOW_TO_TRUST}")
        return {"name": name, "arguments": {**said, **(self._pooling() if task == "embedding" else {})}}

    def _pooling(self) -> dict[str, Any]:
        """How an encoder pools, where the directory says it.

        Raises:
            UsageError: If that is another way than those of ``SentenceEncoder``.
        """
        if not (self.path / _MODULES).is_file():
            return {}
        modules = [(str(one["type"]).rpartition(".")[2], one["path"]) for one in _read(self.path / _MODULES)]
        strange = [kind for kind, _ in modules if kind not in ("Transformer", "Pooling", "Normalize")]
        if strange:
            raise UsageError(
                f"{self.path / _MODULES} puts {', '.join(strange)} behind the encoder, which is not built here; build "
                "the whole model in a factory of your own, package.module:factory"
            )
        pooling = "mean"
        for kind, place in modules:
            if kind == "Pooling":
                file = self.path / place / _CONFIG
                modes = [key for key, on in _read(file).items() if key.startswith("pooling_mode") and on]
                if len(modes) != 1 or modes[0] not in _POOLINGS:
                    raise UsageError(
                        f"{file} pools by {' and '.join(modes) or 'nothing'}; known: {', '.join(_POOLINGS)}"
                    )
                pooling = _POOLINGS[modes[0]]
        return {"pooling": pooling, "normalise": any(kind == "Normalize" for kind, _ in modules)}


def _is_dropout(key: str, value: Any) -> bool:
    return ("dropout" in key or "pdrop" in key) and isinstance(value, float) and value > 0


def _read(file: Path) -> Any:
    try:
        return json.loads(regular(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}; copy it again") from error
