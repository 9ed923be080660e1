"""Stimulative training in a plain PyTorch loop, with a network of one's own, on scikit-learn's digits."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import stimulative


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Sequential(*[Block(16) for _ in range(4)]),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Sequential(*[Block(32) for _ in range(4)]),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target))
    train, test = random_split(data, [1297, 500])
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)

    model = make_model()
    network = stimulative.unravel(model, torch.zeros(2, 1, 8, 8))  # finds the blocks; the model stays as it is
    method = stimulative.StimulativeTraining(network, total_steps=epochs * len(loader))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    model.train()
    for epoch in range(epochs):
        for x, y in loader:
            terms = method(x, y)  # the main net, and one sampled subnet
            terms.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: cross-entropy {terms.main_ce:.3f}, subnet's divergence {terms.subnet_kl:.3f}")

    # A subnet normalises by statistics of its own, estimated on training images.
    subnets = ["4-4", "2-4", "2-2", "1-1"]
    statistics = network.recalibrate(loader, subnets)
    x, y = test[:]
    model.eval()
    with torch.no_grad():
        for subnet in subnets:
            correct = network(x, subnet, statistics=statistics).argmax(1) == y
            print(f"{subnet}: {100 * correct.float().mean():.1f} %")


if __name__ == "__main__":
    main()
