"""Stimulative training in a loop like that of timm's train.py: Mixup, bfloat16, EMA, clipping, a schedule; on digits.

Of all of it two lines are new: ``with method.beside() as subnets`` around the forward pass, and ``+ subnets.term``.
"""

import argparse

import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, NativeScaler
from torch.utils.data import DataLoader, TensorDataset, random_split

import stimulative


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    digits = load_digits()
    images = F.interpolate(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, size=(32, 32))
    train, test = random_split(TensorDataset(images, torch.tensor(digits.target)), [1297, 500])
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model("resnet18", in_chans=1, num_classes=10, channels=(16, 32, 64, 128)).to(device)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=0.0, label_smoothing=0.1, num_classes=10)
    criterion = SoftTargetCrossEntropy()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=3e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=1)
    ema = ModelEmaV3(model, decay=0.98)
    scaler = NativeScaler(device)

    network = stimulative.unravel(model, torch.zeros(2, 1, 32, 32, device=device))
    method = stimulative.StimulativeTraining(network, total_steps=epochs * len(loader))

    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            x, target = mixup(x.to(device), y.to(device))
            with torch.autocast(device, torch.bfloat16), method.beside() as subnets:
                loss = criterion(model(x), target)
            loss = loss + subnets.term
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            ema.update(model, step=method.step)
        scheduler.step(epoch + 1)
        print(f"epoch {epoch + 1}: loss {loss:.3f}, of which subnets {subnets.term:.3f}")

    # The averaged model is a network of its own, with subnets of its own.
    network = stimulative.unravel(ema.module.to("cpu").eval(), torch.zeros(2, 1, 32, 32))
    subnets = ["2-2-2-2", "2-2-1-1", "1-1-1-1"]
    statistics = network.recalibrate(loader, subnets)
    x, y = test[:]
    with torch.no_grad():
        for subnet in subnets:
            correct = network(x, subnet, statistics=statistics).argmax(1) == y
            print(f"{subnet}: {100 * correct.float().mean():.1f} %")


if __name__ == "__main__":
    main()
