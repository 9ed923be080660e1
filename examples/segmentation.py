"""A segmenter of one's own at every depth: a class for each pixel, of digits on pieces of photographs (scikit-learn's).

Run it, or use the commands, in this folder:

    python segmentation.py --write digits-on-photos
    stimulative compare segmentation.yaml --methods common,stimulative --seeds 3 --out runs/segmentation
"""

import argparse
import tempfile
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn

from stimulative.analysis import evaluate
from stimulative.training import load_recipe, train

SIDE, DIGITS = 32, 5


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


class Segmenter(nn.Module):
    """A small residual net whose three stages each give scores of the classes; their sum has half the resolution."""

    def __init__(self, num_classes: int, in_chans: int = 3, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        before = (in_chans, *widths[:-1])
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(before, widths, strict=True))
        self.stages = nn.ModuleList(nn.Sequential(*[Block(wide) for _ in range(blocks)]) for wide in widths)
        self.heads = nn.ModuleList(nn.Conv2d(wide, num_classes, 1) for wide in widths)

    def forward(self, x: Tensor) -> Tensor:
        scores = []
        for down, stage, head in zip(self.downs, self.stages, self.heads, strict=True):
            x = stage(torch.relu(down(x)))
            scores.append(head(x))
        size = scores[0].shape[2:]
        fine, *coarse = scores
        return fine + sum(F.interpolate(score, size=size, mode="bilinear") for score in coarse)


def write(root: Path) -> None:
    """Images and masks as `segmentation:PATH` wants them. Training and test share no digit, and no piece of a photo."""
    digits, labels = load_digits(n_class=DIGITS, return_X_y=True)
    photos = load_sample_images().images
    half = photos[0].shape[1] // 2
    generator = numpy.random.default_rng(0)
    for split, count, kept, columns in (
        ("train", 1000, slice(0, 600), slice(0, half)),
        ("val", 400, slice(600, None), slice(half, None)),
    ):
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            photo = photos[number % 2][:, columns]
            image, mask = compose(photo, digits[kept], labels[kept], generator)
            Image.fromarray(image).save(root / split / "images" / f"{number:04}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number:04}.png")
    (root / "classes.txt").write_text("\n".join(["background", *map(str, range(DIGITS))]))


def compose(photo, digits, labels, generator) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Two light digits on a piece of a photo, and the mask: 0, or 1 + the digit; the second hides the first."""
    top, left = (int(generator.integers(side - SIDE)) for side in photo.shape[:2])
    image = photo[top : top + SIDE, left : left + SIDE].astype(float)
    mask = numpy.zeros((SIDE, SIDE), dtype=numpy.uint8)
    for chosen in generator.integers(len(digits), size=2):
        side = int(generator.integers(14, 25))
        drawn = Image.fromarray((digits[chosen].reshape(8, 8) * 15.9).astype(numpy.uint8))
        ink = numpy.asarray(drawn.resize((side, side), Image.Resampling.BICUBIC)) / 255
        top, left = generator.integers(SIDE - side + 1, size=2)
        place = slice(top, top + side), slice(left, left + side)
        colour = generator.integers(160, 256, size=3)
        image[place] += ink[..., None] * (colour - image[place])
        mask[place][ink > 0.4] = 1 + labels[chosen]
    return image.round().astype(numpy.uint8), mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--write", type=Path, metavar="PATH", help="write the images there, and train nothing")
    options = parser.parse_args()
    if options.write is not None:
        write(options.write)
        return
    with tempfile.TemporaryDirectory() as out:
        write(Path(out, "images"))
        settings = {"data.name": f"segmentation:{out}/images", "schedule.epochs": options.epochs}
        train(load_recipe(Path(__file__).with_suffix(".yaml"), settings), f"{out}/run")
        evaluate(f"{out}/run", subnets=["3-3-3", "2-2-2", "2-1-1", "1-1-1"], latency=False)
        for line in Path(f"{out}/run/subnets.csv").read_text().splitlines()[1:]:
            subnet, _, miou, *_ = line.split(",")
            print(f"{subnet}: {float(miou):.1f} %")


if __name__ == "__main__":
    main()
