"""Files of weights of which bytes were changed, or which hold strange things, read and fitted to a model."""

import argparse
import copy
import io
import pickle
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuzz.changing import STRANGE, changed_bytes
from fuzz.judging import Wrong
from fuzz.kinds import Input
from stimulative import files
from stimulative.models import build
from stimulative.weights import load_weights, read_weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # quantised tensors are on their way out, and in files still
    QUANTISED = torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.quint8)
TENSORS: list[Any] = [
    *(torch.zeros(0), torch.zeros(3, 3), torch.full((2,), float("nan")), torch.tensor(1), torch.ones(2).long()),
    *(torch.zeros(2, dtype=torch.complex64), torch.zeros(2, 2).to_sparse(), torch.zeros(2, device="meta")),
    *(torch.zeros(2).to(torch.float8_e4m3fn), QUANTISED, torch.zeros(1).expand(10**7)),
    *(np.float32(1.0), Path("x"), argparse.Namespace(a=1)),
]


class Runs:
    """A pickle that would print, were it run."""

    def __reduce__(self) -> Any:
        return print, ("run",)


class WeightFiles:
    """Of a small ResNet, as safetensors and as pickles."""

    def __init__(self, place: Path) -> None:
        torch.manual_seed(0)
        model = self._model()
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.file = place / "weights"
        with files.replacing(place / "sealed.safetensors") as temporary:
            files.save_model(model, temporary)
        self.sealed = (place / "sealed.safetensors").read_bytes()
        self.pickled = self._pickle(self.state)

    def _model(self) -> torch.nn.Module:
        return build("cifar/resnet20", classes=10, channels=1, arguments={"width": 1}).eval()

    @staticmethod
    def _pickle(content: Any) -> bytes:
        out = io.BytesIO()
        torch.save(content, out)
        return out.getvalue()

    def input(self, draw: random.Random) -> Input:
        how = draw.random()
        if how < 0.3:
            content = changed_bytes(self.sealed, draw)
            return "sealed safetensors with other bytes", lambda: self._load(content, ".safetensors", wrong=True)
        if how < 0.6:
            content = changed_bytes(self.pickled, draw)
            return "a pickle with other bytes", lambda: self._load(content, ".pth")
        if how < 0.7:
            content = draw.choice([b"PK", b"\x80\x02", b"{", b"", b"\x89PNG", bytes(8)]) + draw.randbytes(
                draw.choice([0, 10, 1000])
            )
            return f"bytes {content[:20]!r}", lambda: self._load(content, draw.choice([".pth", ".safetensors", ".bin"]))
        if how < 0.75:
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as archive:
                archive.writestr(draw.choice(["archive/data.pkl", "x", "../x"]), pickle.dumps(draw.choice(STRANGE)))
            return "another archive", lambda: self._load(out.getvalue(), ".pth")
        state = self._state(draw)
        try:
            content = self._pickle(state)
        except Exception:  # not even torch.save takes it
            content = self.pickled
        return f"a state dict of {list(state) if isinstance(state, dict) else state!r:.80}", lambda: self._load(content)

    def _state(self, draw: random.Random) -> Any:
        state: dict[Any, Any] = copy.copy(self.state)
        for _ in range(draw.choice([1, 2, 5])):
            name = draw.choice(list(state) or ["x"])
            how = draw.random()
            if how < 0.3:
                state[name] = draw.choice([*TENSORS, *STRANGE, Runs()])
            elif how < 0.5:
                state.pop(name, None)
            elif how < 0.7:
                state[draw.choice([*map(str, STRANGE), "conv1.weight", 0, None, ("a",)])] = state.get(name)
            elif how < 0.8:
                value = state.get(name)
                state[name] = value[..., :1] if isinstance(value, Tensor) and value.dim() else value
            else:
                state = {draw.choice(["state_dict", "model", "x", "", "optimizer", 1]): state}
        return state if draw.random() < 0.95 else draw.choice([*TENSORS, *STRANGE])

    def _load(self, content: bytes, suffix: str = ".pth", *, wrong: bool = False) -> None:
        file = self.file.with_suffix(suffix)
        file.write_bytes(content)
        model = self._model()
        load_weights(model, read_weights(file), file=file, name="cifar/resnet20")
        if wrong and not all(torch.equal(value, self.state[name]) for name, value in model.state_dict().items()):
            raise Wrong("damaged weights are taken")
