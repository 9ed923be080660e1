"""A method, a sampler, an objective and a data set of your own, named in a recipe like those of the library.

Run it, or use them on the command line, in this folder:

    stimulative compare extension.yaml --methods common,extension:Halved --seeds 1 --out runs/extension
"""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from stimulative.analysis import evaluate
from stimulative.data import Data, DataSettings, from_loaders
from stimulative.methods import StimulativeTraining
from stimulative.residual import Subnet, SubnetSpace
from stimulative.training import load_recipe, train


class Halved(StimulativeTraining):
    """Stimulative training whose subnets count half as much in every other step."""

    @property
    def current_balance(self) -> float:
        return super().current_balance * (0.5 if self.step % 2 else 1.0)


def shallow(space: SubnetSpace, generator: torch.Generator, *, most: int = 2) -> Subnet:
    """A depth of at most so many blocks in each stage."""
    depths = [(low, max(low, min(high, most))) for low, high in space.ranges]
    return space.at([int(torch.randint(low, high + 1, (), generator=generator)) for low, high in depths])


def squared(subnet: torch.Tensor, main: torch.Tensor, targets: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
    """The mean squared difference of logits, shape (B, classes) each."""
    return scale * F.mse_loss(subnet, main)


def noisy_digits(settings: DataSettings, *, seed: int, noise: float = 0.0) -> Data:
    """scikit-learn's digits with noise."""
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    generator = torch.Generator().manual_seed(seed)
    x = (x.float().view(-1, 1, 8, 8) / 8 - 1) + noise * torch.randn(len(x), 1, 8, 8, generator=generator)
    train, validation, test = (
        list(zip(x[a:b].split(settings.batch_size), y[a:b].split(settings.batch_size), strict=True))
        for a, b in ((0, 1200), (1200, 1400), (1400, 1797))
    )
    return from_loaders(train, validation, test, classes=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    recipe = load_recipe(Path(__file__).with_suffix(".yaml"), {"schedule.epochs": parser.parse_args().epochs})
    with tempfile.TemporaryDirectory() as out:
        train(recipe, f"{out}/run")
        evaluate(f"{out}/run", subnets=["3-3-3", "2-2-2", "2-1-1", "1-1-1"], latency=False)
        for line in Path(f"{out}/run/subnets.csv").read_text().splitlines()[1:]:
            subnet, _, top1, *_ = line.split(",")
            print(f"{subnet}: {float(top1):.1f} %")


if __name__ == "__main__":
    main()
