"""Stimulative training with the Trainer of Transformers: a small vision transformer, on scikit-learn's digits."""

import argparse
import tempfile

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Subset
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

from stimulative.integrations.transformers import StimulativeTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    data = [{"pixel_values": x, "labels": y} for x, y in zip(images, digits.target, strict=True)]
    order = torch.randperm(len(data)).tolist()
    train, test = Subset(data, order[:1297]), order[1297:]

    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_labels=10,
    )
    model = ViTForImageClassification(config)
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out,
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            learning_rate=1e-3,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=100,
        )
        trainer = StimulativeTrainer(model, arguments, train_dataset=train, stimulative={"balance": 1.0})
        trainer.train()

    network = trainer.network.to("cpu").eval()  # the model, unraveled; without BatchNorm there are no statistics
    x, y = images[test], torch.tensor(digits.target)[test]
    with torch.no_grad():
        for subnet in ["6", "4", "2", "1"]:
            correct = network({"pixel_values": x}, subnet).logits.argmax(1) == y
            print(f"{subnet}: {100 * correct.float().mean():.1f} %")


if __name__ == "__main__":
    main()
