"""Images twice as large at every depth: a small EDSR (Lim et al. 2017) with loaders of one's own, on a photograph.

Run it, or use the commands, in this folder:

    stimulative compare super_resolution.yaml --methods common,stimulative --seeds 3 --out runs/super-resolution
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from stimulative.analysis import evaluate
from stimulative.data import Data, DataSettings, from_loaders
from stimulative.training import load_recipe, train

SIDE = 32
TRAINING, VALIDATION, TEST = (0, 1, 2, 5, 6, 7), (3, 8), (4, 9)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Enlarger(nn.Module):
    """Residual blocks without norms between two convolutions, the last of which makes four pixels of one (EDSR)."""

    def __init__(self, in_chans: int = 3, width: int = 24, blocks: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_chans, width, 3, padding=1)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.last = nn.Sequential(nn.Conv2d(width, 4 * in_chans, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 + self.last(self.blocks(self.first(x - 0.5)))


def bicubic(x: Tensor, scale: float = 2) -> Tensor:
    """The images enlarged, or reduced, without learning anything."""
    return F.interpolate(x, scale_factor=scale, mode="bicubic", antialias=True)


def patches(strips: tuple[int, ...], count: int | None = None) -> TensorDataset:
    """Patches at half the size and as they are, from some of the strips of 64 columns that the photo is cut into.

    Patches without detail (sky: a deviation of brightness below 0.1) are left out. There bicubic interpolation leaves
    nothing to learn (54 dB), and the mean would show little else.

    Args:
        strips: Which of the ten strips, counted from the left.
        count: How many patches at random places; all that lie beside each other if None.
    """
    photo = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1).float() / 255
    parts = [photo[..., 64 * strip : 64 * (strip + 1)] for strip in strips]
    high, wide = parts[0].shape[-2:]
    draw = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    while count is not None and len(found) < count:
        number, top, left = (
            int(torch.randint(most, (), generator=draw)) for most in (len(parts), high - SIDE, wide - SIDE)
        )
        found += detailed(parts[number][:, top : top + SIDE, left : left + SIDE])
    if count is None:
        for part in parts:
            for top, left in itertools.product(range(0, high - SIDE + 1, SIDE), range(0, wide, SIDE)):
                found += detailed(part[:, top : top + SIDE, left : left + SIDE])
    large = torch.stack(found)
    return TensorDataset(bicubic(large, 0.5).clamp(0, 1), large)


def detailed(patch: Tensor) -> list[Tensor]:
    """The patch, if it shows more than sky."""
    return [patch] if patch.mean(0).std() >= 0.1 else []


def photographs(settings: DataSettings, *, seed: int, training_patches: int = 1000) -> Data:
    """A photo of a temple: of every five strips three to train on, the fourth to validate, and the fifth to test."""
    train = DataLoader(
        patches(TRAINING, training_patches),
        settings.batch_size,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),
    )
    validation, test = (DataLoader(patches(strips), 32) for strips in (VALIDATION, TEST))
    return from_loaders(train, validation, test, classes=3, task="image_to_image")


def decibels(enlarged: Tensor, images: Tensor) -> float:
    """The peak signal-to-noise ratio of values from 0 to 1, the mean over images."""
    return float((-10 * (enlarged - images).square().mean((1, 2, 3)).log10()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    recipe = load_recipe(Path(__file__).with_suffix(".yaml"), {"schedule.epochs": parser.parse_args().epochs})
    small, large = patches(TEST).tensors
    with tempfile.TemporaryDirectory() as out:
        train(recipe, f"{out}/run")
        evaluate(f"{out}/run", latency=False)
        print(f"bicubic: {decibels(bicubic(small).clamp(0, 1), large):.2f} dB")
        for line in Path(f"{out}/run/subnets.csv").read_text().splitlines()[1:]:
            subnet, _, psnr, *_ = line.split(",")
            print(f"{subnet}: {float(psnr):.2f} dB")


if __name__ == "__main__":
    main()
