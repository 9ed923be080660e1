"""Directories of runs and studies as the commands write them, made by hand: small, and no network is trained."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

RECIPE = """model:
  name: cifar/resnet20
  arguments: {{}}
data:
  name: digits
  path: null
  workers: 4
method:
  name: {method}
{settings}schedule:
  epochs: 2
training:
  device: auto
seed: {seed}
"""


def run(
    directory: Path,
    method: str | None = "common",
    seed: int = 0,
    *,
    model: str = "cifar/resnet20",
    depths: tuple[int, ...] = (3, 3, 3),
    latency: bool = True,
    settings: str = "",
    **summary: Any,
) -> Path:
    """A finished run whose subnets have been measured; a method of None for weights trained elsewhere."""
    directory.mkdir(parents=True)
    low, slope = (60, 4.0) if method == "common" else (90, 0.9)
    family = []
    for subnet in itertools.product(*(range(1, depth + 1) for depth in depths)):
        blocks = sum(subnet)
        top1 = low + slope * (blocks - len(depths)) + 0.3 * subnet[0] + 0.1 * seed
        flops = 1_000_000 * blocks + 1_000 * subnet[-1]
        row = ["-".join(map(str, subnet)), blocks, f"{top1:.4f}", "1.000000", 10_000 * blocks, flops]
        family.append([*row, f"{0.1 * blocks:.4f}", "0.0100"] if latency else row)
    columns = ["subnet", "blocks", "top1", "loss", "parameters", "flops", "latency_ms", "latency_iqr_ms"]
    _table(directory / "subnets.csv", columns[: len(family[0])], family)
    top1 = [float(row[2]) for row in family]
    mean = sum(top1) / len(top1)
    of_all = {"count": len(top1), "evaluated": len(top1), "mean": mean, "std": 1.0, "min": min(top1), "max": max(top1)}
    content = {
        "method": method,
        "model": model,
        "data": "digits",
        "seed": seed,
        "epochs": 2,
        "train_seconds": None if method is None else 12.5,
        "peak_memory_mib": None if method is None else 100.0,
        "parameters": family[-1][4],
        "main": {"top1": top1[-1], "loss": 1.0},
        "subnets": {**of_all, "seed": None, "calibration_images": 808},
        "device": "a processor (1 threads)",
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
    }
    if latency:
        content["latency"] = {"batch": 1, "device": "a processor", "threads": 1, "rounds": 20}
        content["by_stage"] = [{"stage": number, "name": f"layer{number + 1}"} for number in range(len(depths))]
    _json(directory / "summary.json", content | summary)
    environment = {
        "started": "2024-05-06T07:08:09+00:00",
        "command": ["stimulative", "train", "my recipe"],
        "git": "abc",
    }
    _json(directory / "environment.json", environment)
    (directory / "recipe.yaml").write_text(RECIPE.format(method=method or "common", seed=seed, settings=settings))
    if method is not None:
        columns = "epoch,step,lr,balance,loss,main_ce,subnet_kl,train_top1,validation_top1,validation_loss"
        rows = [[e, 12 * e, 0.1, 1, 3 / e, 2 / e, 1 / e, 40 * e, 45 * e - seed, 1, 1000, e] for e in (1, 2)]
        _table(directory / "metrics.csv", [*columns.split(","), "images_per_second", "train_seconds"], rows)
    return directory


def comparison(directory: Path, methods: tuple[str, ...] = ("common", "stimulative"), *, old: bool = False) -> Path:
    """Methods or variants with two seeds each; as older versions wrote it, if asked."""
    runs = []
    for seed, method in itertools.product((0, 1), methods):
        name, _, settings = method.partition(":")
        lines = "".join(f"  {pair.replace('=', ': ')}\n" for pair in settings.split(":") if pair)
        path = run(directory / f"{method.replace(':', '-')}-seed{seed}", name, seed, settings=lines)
        named = {} if old else {"run": path.name, "variant": method}
        runs.append(json.loads((path / "summary.json").read_text()) | named)
    rows = [
        {"method": method, "seeds": 2, "main_mean": 90.5, "main_std": 0.1, "all_mean": 75.2, "all_std": 3.0}
        for method in methods
    ]
    differences = [
        {"method": method, "reference": methods[0], "measure": measure, "n": 2, "mean": 1.5, "std": 0.5}
        | {"low": 1.5 - 4.5, "high": 1.5 + 4.5, "sentence": "+1.50 points"}
        for method, measure in itertools.product(methods[1:], ("main", "all"))
    ]
    study = {"rows": rows, "runs": runs, "failed": []}
    compared = {"model": "cifar/resnet20", "data": "digits", "reference": methods[0], "differences": differences}
    _json(directory / "comparison.json", study if old else study | compared)
    return directory


def loafing(directory: Path) -> Path:
    """Three main nets, two methods."""
    pairs, rows = [], []
    for method, (main, blocks) in itertools.product(("common", "stimulative"), (("3-3", 6), ("1-2", 3), ("2-2", 4))):
        gap = blocks * (1.0 if method == "common" else 0.1)
        for seed in (0, 1):
            pair = {"method": method, "main": main, "main_blocks": blocks, "subnet": "1-1", "blocks": 2, "seed": seed}
            pairs.append({**pair, "in_group": 80.0 - gap, "alone": 80.0 + seed, "gap": gap + seed})
        row = {"method": method, "main": main, "blocks": blocks, "main_top1": 90.0, "subnets": 1}
        means = {"in_group_mean": 80.0 - gap, "alone_mean": 80.5, "gap_mean": gap + 0.5}
        rows.append({**row, **means, "in_group_std": 0.0, "alone_std": 0.5, "gap_std": 0.5})
    study = {"model": "cifar/resnet20", "data": "digits", "epochs": 2, "seeds": [0, 1], "rows": rows, "subnets": pairs}
    return _study(directory, "loafing", study | {"failed": [{"run": "alone-1-1-seed1", "error": "killed"}]})


def matrix(directory: Path) -> Path:
    """The numbers of Table 2."""
    nets = ["121", "169", "201", "264"]
    values = {"121": [78.84, 43.64, 31.51, 10.01], "169": [79.64, 70.78, 48.41], "201": [79.77, 62.29], "264": [79.81]}
    cells = [
        {"subnet": subnet, "main": main, "seeds": 1, "mean": mean, "std": 0.0}
        for subnet, row in values.items()
        for main, mean in zip(nets[-len(row) :], row, strict=True)
    ]
    study = {"model": "densenet", "data": "cifar100", "epochs": 2, "seeds": [0], "nets": nets, "cells": cells}
    return _study(directory, "matrix", study | {"failed": []})


def sweep(directory: Path, values: list[Any], key: str = "method.balance") -> Path:
    """A value after the other."""
    rows = [
        {"value": value, "seeds": 2, "main_mean": 90.0 + n, "main_std": 0.5, "all_mean": 80.0 + n, "all_std": 2.0}
        | {"all_mean_spread": 0.2, "all_min": 70.0}
        for n, value in enumerate(values)
    ]
    study = {"key": key, "model": "cifar/resnet20", "data": "digits", "epochs": 2, "rows": rows}
    return _study(directory, "sweep", study | {"runs": [], "failed": []})


def destruction(directory: Path, runs: tuple[str, ...] = ("common-seed0", "stimulative-seed0")) -> Path:
    """Two runs, with recalibrated statistics and without."""
    tables: dict[str, list[dict[str, Any]]] = {
        table: [] for table in ("single", "deletions", "swaps", "delete_rows", "swap_rows")
    }
    for (number, name), recalibrated in itertools.product(enumerate(runs), (True, False)):
        of = {"run": name, "recalibrated": recalibrated}
        for block in (1, 2):
            place = {"stage": 0, "block": block, "name": f"layer1.{block}", "subnet": "[0.1]-3-3"}
            tables["single"].append({**of, **place, "top1": 80.0 + number - block, "loss": 1.0})
        for k in (0, 1, 2):
            top1 = 90.0 - 10 * k / (1 + number) - 5 * k * (not recalibrated)
            spread = {"draws": 2 if k else 1, "mean": top1, "std": 1.0 * k, "min": top1 - k, "max": top1 + k}
            tables["delete_rows"].append({**of, "k": k, **spread})
            tables["swap_rows"].append({**of, "k": k, **spread, "tau": 1 - 0.2 * k})
            for draw in range(2 if k else 0):
                one = {**of, "k": k, "draw": draw, "subnet": "[0.2.1]-3-3", "top1": top1 + draw, "loss": 1.0}
                tables["deletions"].append(one)
                tables["swaps"].append({**one, "tau": 1 - 0.2 * k + 0.1 * draw})
    described = [
        {"run": name, "directory": f"runs/{name}", "model": "cifar/resnet20", "data": "digits"}
        | {"method": name.partition("-")[0], "main": 90.0}
        for name in runs
    ]
    facts = {"images": 899, "calibration_images": 808, "draws": 2, "seed": 0, "runs": described}
    return _study(directory, "destruction", facts | tables)


def _study(directory: Path, kind: str, content: dict[str, Any]) -> Path:
    directory.mkdir(parents=True)
    _json(directory / f"{kind}.json", content)
    return directory


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2))


def _table(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
