"""Stimulative training of an existing LightningModule: one callback, on scikit-learn's digits."""

import argparse

import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, random_split

from stimulative.integrations.lightning import StimulativeCallback


class Classifier(LightningModule):
    """Knows nothing of subnets."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("resnet18", in_chans=1, num_classes=10, channels=(16, 32, 64, 128))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    digits = load_digits()
    images = F.interpolate(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, size=(32, 32))
    train, test = random_split(TensorDataset(images, torch.tensor(digits.target)), [1297, 500])
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)

    module = Classifier()
    stimulate = StimulativeCallback(balance=1.0)
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[stimulate],  # the added line
        accelerator="auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, DataLoader(test, batch_size=500))
    logged = trainer.callback_metrics
    print(f"accuracy {100 * logged['accuracy']:.1f} %, subnet's divergence {logged['subnet_kl']:.3f}")

    network = stimulate.network  # the model, unraveled
    subnets = ["2-2-2-2", "2-2-1-1", "1-1-1-1"]
    network.to("cpu")
    statistics = network.recalibrate(loader, subnets)
    x, y = test[:]
    network.eval()
    with torch.no_grad():
        for subnet in subnets:
            correct = network(x, subnet, statistics=statistics).argmax(1) == y
            print(f"{subnet}: {100 * correct.float().mean():.1f} %")


if __name__ == "__main__":
    main()
