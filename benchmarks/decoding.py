"""Reading, decoding and preparing JPEGs in one process, beside the plain way of torchvision.

Photographs of 500x375 pixels are made of scikit-learn's two samples and written as JPEGs of quality 92 into a temporary
folder. Both ways read as many of them in batches, without worker processes, so that what is measured is what one core
does. They take turns; each round is an epoch of each.

  training     crop in random scale and shape to 224, mirror, normalise: this library over
               ImageFolder + RandomResizedCrop + RandomHorizontalFlip + ToTensor + Normalize
  evaluation   shorter side to 256, centre of 224, normalise, likewise
  cpu_…        the same of the processor time of this process, which other processes disturb less

A ratio above 1 says that this library gives more images per second. Beside the time are exact counts: the operators of
PyTorch that an epoch calls, and the bytes of an image that go through collating, between processes and to the device.

    python benchmarks/decoding.py --json
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from common import Dispatched, arguments, report, spread, surroundings
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision import transforms as T

from stimulative.data import DataSettings, load

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ("china", "flower")


def main() -> None:
    options = arguments(__doc__ or "", rounds=24, images=64, batch=16)
    if options.device != "cpu":
        raise SystemExit("decoding is the work of processors: --device cpu")
    torch.set_num_threads(1)
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        encoded = make_photographs(Path(folder), options.images)
        parts = {
            part: race(ways, options.rounds) for part, ways in contenders(folder, options.batch, options.images).items()
        }
    result: dict[str, Any] = {
        **{part: round(figures["ratio"]["median"], 4) for part, figures in parts.items()},
        **{f"cpu_{part}": round(figures["cpu_ratio"]["median"], 4) for part, figures in parts.items()},
        "parts": parts,
        "jpeg_bytes": spread(encoded),
        "images": options.images,
        "batch": options.batch,
        "pillow": PIL.__version__,
        **surroundings(device),
    }
    lines = [
        f"{part:<11} {figures['ratio']['median']:.3f} (by processor time {figures['cpu_ratio']['median']:.3f}), "
        f"{figures['ours']['images_per_second']['median']:.0f} images/s to "
        f"{figures['torchvision']['images_per_second']['median']:.0f}; operators an image "
        f"{figures['ours']['operators']:.1f} to {figures['torchvision']['operators']:.1f}"
        for part, figures in parts.items()
    ]
    report(options, result, lines)


def make_photographs(folder: Path, count: int) -> list[int]:
    """Write `count` JPEGs for training and for testing each, and return their sizes in bytes."""
    generator = np.random.default_rng(0)
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    sizes = []
    for split in ("train", "val"):
        for number in range(count):
            source = sources[number % 2]
            width = int(generator.integers(400, source.height * 4 // 3))
            height = width * 3 // 4
            left, top = (
                int(generator.integers(0, most + 1)) for most in (source.width - width, source.height - height)
            )
            image = source.resize((500, 375), box=(left, top, left + width, top + height))
            file = folder / split / CLASSES[number % 2] / f"{number:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file, quality=92)
            sizes.append(file.stat().st_size)
    return sizes


def contenders(folder: str, batch: int, count: int) -> dict[str, dict[str, Callable[[], int]]]:
    """By part, what reads an epoch of it and counts the images: this library's way and torchvision's."""
    settings = DataSettings(
        f"folder:{folder}", batch_size=batch, evaluation_batch_size=batch, validation=0.25, workers=0
    )
    data = load(settings, seed=0)
    normalised = [T.ToTensor(), T.Normalize(MEAN, STD)]
    augmented = T.Compose([T.RandomResizedCrop(224), T.RandomHorizontalFlip(), *normalised])
    prepared = T.Compose([T.Resize(256), T.CenterCrop(224), *normalised])
    training = datasets.ImageFolder(f"{folder}/train", augmented)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: data.train.images].tolist()
    loaders: dict[str, dict[str, Any]] = {
        "training": {"ours": data.train, "torchvision": DataLoader(Subset(training, shuffled), batch)},
        "evaluation": {
            "ours": data.test,
            "torchvision": DataLoader(datasets.ImageFolder(f"{folder}/val", prepared), batch),
        },
    }
    return {
        part: {name: lambda loader=loader: sum(len(y) for _, y in loader) for name, loader in ways.items()}
        for part, ways in loaders.items()
    }


def race(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, Any]:
    """Both ways in turn: images per second, ratios by round, and what is counted."""
    counted = {name: operators(read) for name, read in ways.items()}
    images = {name: read() for name, read in ways.items()}
    assert len(set(images.values())) == 1, images
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    taken: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in ways} for clock in clocks}
    for number in range(rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:  # nobody always goes first
            began = {clock: read_clock() for clock, read_clock in clocks.items()}
            ways[name]()
            for clock, read_clock in clocks.items():
                taken[clock][name].append(read_clock() - began[clock])
    ratio, cpu_ratio = (
        spread([b / a for a, b in zip(of["ours"], of["torchvision"], strict=True)]) for of in taken.values()
    )
    return {
        "ratio": ratio,
        "cpu_ratio": cpu_ratio,
        **{
            name: {
                "images_per_second": spread([images[name] / seconds for seconds in taken["wall"][name]]),
                "images_per_cpu_second": spread([images[name] / seconds for seconds in taken["cpu"][name]]),
                "operators": round(counted[name] / images[name], 2),
                # collated as bytes and normalised on the device, or as normalised float32
                "bytes_per_image": 3 * 224 * 224 * (1 if name == "ours" else 4),
            }
            for name in ways
        },
    }


def operators(read: Callable[[], int]) -> int:
    """How many operators of PyTorch an epoch calls."""
    with Dispatched() as dispatched:
        read()
    return dispatched.count


if __name__ == "__main__":
    main()
