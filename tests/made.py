"""Directories of runs and studies as the commands write them, made by hand: small, and no network is trained.

They have no checksums, so that tests can change their files.
"""

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from stimulative.config import Recipe, load_recipe
from stimulative.config.settings import MethodSettings
from stimulative.methods import METHODS
from stimulative.residual import Subnet
from stimulative.runs import (
    CHECKSUMS,
    COSTS,
    METRICS,
    Conditions,
    Cost,
    Environment,
    Epoch,
    Family,
    FamilySummary,
    Latency,
    MainScore,
    Member,
    MetricsFile,
    RunDirectory,
    Score,
    Summary,
)
from stimulative.studies import (
    ComparedMethods,
    ComparedRun,
    Comparison,
    ComparisonRow,
    DeletedRow,
    DestroyedRun,
    Destruction,
    DrawsRow,
    Failed,
    Loafing,
    LoafingPair,
    LoafingRow,
    Matrix,
    MatrixCell,
    SingleRow,
    Study,
    SwappedRow,
    Sweep,
    SweepRow,
    SweepRun,
)

VERSIONS = {"python": "3.11.7", "torch": "2.15.0"}
DEVICE = "a processor (1 threads)"


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
    made = RunDirectory(directory)
    family = _family(method, seed, depths, latency)
    content = _summary(family, method, seed, model, len(depths), latency)
    made.write_recipe(_recipe(method or "common", seed, model, settings))
    made.write_environment(
        Environment(
            started="2024-05-06T07:08:09+00:00",
            command=("stimulative", "train", "my recipe"),
            device=DEVICE,
            platform="a system",
            threads=1,
            seed=seed,
            versions=VERSIONS,
            git="abc",
        )
    )
    made.write_family(family)
    made.write_summary(Summary.from_mapping(content.to_mapping() | summary))
    if method is not None:
        log = MetricsFile(made.file(METRICS), 0)
        for number in (1, 2):
            log.add(epoch(number, seed))
    made.file(CHECKSUMS).unlink()
    return directory


def _recipe(method: str, seed: int, model: str, settings: str) -> Recipe:
    """A recipe with these names, which need not be known ones, and with these settings as they are given."""
    known = {"method.name": method} if method in METHODS else {}
    recipe = load_recipe("digits", {**known, "schedule.epochs": 2, "seed": seed})
    given = MethodSettings(method, {**recipe.method.settings, **(yaml.safe_load(settings) or {})})
    return replace(recipe, method=given, model=replace(recipe.model, name=model))


def _family(method: str | None, seed: int, depths: tuple[int, ...], latency: bool) -> Family:
    low, slope = (60, 4.0) if method == "common" else (90, 0.9)
    members = []
    for kept in itertools.product(*(range(1, depth + 1) for depth in depths)):
        blocks = sum(kept)
        score = Score(low + slope * (blocks - len(depths)) + 0.3 * kept[0] + 0.1 * seed, 1.0)
        cost = Cost(10_000 * blocks, 1_000_000 * blocks + 1_000 * kept[-1])
        subnet = Subnet(tuple(tuple(range(depth)) for depth in kept))
        members.append(Member(subnet, score, cost, Latency(0.1 * blocks, 0.01) if latency else None))
    return Family(tuple(members))


def _summary(family: Family, method: str | None, seed: int, model: str, stages: int, latency: bool) -> Summary:
    main = list(family)[-1]
    trained = {"steps": 24, "train_seconds": 12.5, "peak_memory_mib": 100.0}
    return Summary(
        task="images",
        method=method,
        model=model,
        data="digits",
        seed=seed,
        epochs=2,
        **(trained if method is not None else {}),
        parameters=main.cost.parameters,
        main=MainScore(main.score.quality, main.score.loss),
        subnets=FamilySummary(
            space="ordered",
            count=len(family),
            evaluated=len(family),
            **vars(family.spread()),
            calibration_images=808,
        ),
        device=DEVICE,
        versions=VERSIONS,
        latency=Conditions(1, "a processor", 1, 20) if latency else None,
        frontier={cost: tuple(str(member.subnet) for member in family.frontier(cost)) for cost in COSTS},
        by_blocks=family.by_blocks(),
        by_stage=family.by_stage([f"layer{number + 1}" for number in range(stages)]),
    )


def epoch(number: int, seed: int) -> Epoch:
    """A row of a log."""
    return Epoch(
        epoch=number,
        step=12 * number,
        lr=0.1,
        balance=1.0,
        loss=3 / number,
        main_ce=2 / number,
        subnet_kl=1 / number,
        auxiliary=0.0,
        train_quality=40.0 * number,
        validation_quality=45.0 * number - seed,
        validation_loss=1.0,
        images_per_second=1000.0,
        train_seconds=float(number),
    )


def age_run(directory: Path) -> None:
    """Leave in a run what the first versions wrote there: no latencies, no auxiliary losses, no tables of spreads."""
    path = directory / "summary.json"
    new = ("format", "task", "steps", "latency", "frontier", "by_blocks", "by_stage")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in new}))
    for name, new in (("subnets.csv", ("latency_ms", "latency_iqr_ms")), ("metrics.csv", ("auxiliary",))):
        with (directory / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        with (directory / name).open("w", newline="") as file:
            kept = [column for column in rows[0] if column not in new]
            writer = csv.DictWriter(file, kept, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def comparison(directory: Path, methods: tuple[str, ...] = ("common", "stimulative"), *, old: bool = False) -> Path:
    """Methods or variants with two seeds each; as older versions wrote it, if asked."""
    runs = []
    for seed, method in itertools.product((0, 1), methods):
        name, _, settings = method.partition(":")
        lines = "".join(f"  {pair.replace('=', ': ')}\n" for pair in settings.split(":") if pair)
        path = run(directory / f"{method.replace(':', '-')}-seed{seed}", name, seed, settings=lines)
        runs.append(ComparedRun(RunDirectory(path).summary, path.name, method))
    study = Comparison(
        task="images",
        rows=tuple(_compared_row(method) for method in methods),
        runs=tuple(runs),
        model="cifar/resnet20",
        data="digits",
        epochs=2,
        seeds=(0, 1),
        methods=methods,
        reference=methods[0],
        differences=tuple(
            _difference(method, methods[0], measure)
            for method, measure in itertools.product(methods[1:], ("main", "all"))
        ),
    )
    study.write(directory)
    (directory / CHECKSUMS).unlink()
    if old:
        _age(study.file(directory))
    return directory


def _compared_row(method: str) -> ComparisonRow:
    return ComparisonRow(
        method=method,
        seeds=2,
        main_mean=90.5,
        main_std=0.1,
        all_mean=75.2,
        all_std=3.0,
        all_mean_spread=0.2,
        all_min=60.0,
        n=2,
        seeds_used=(0, 1),
        main_values=(90.4, 90.6),
        all_values=(75.1, 75.3),
        train_seconds=12.5,
        peak_memory_mib=100.0,
        time_ratio=1.0,
        memory_ratio=1.0,
    )


def _difference(method: str, reference: str, measure: str) -> ComparedMethods:
    return ComparedMethods(
        method=method,
        reference=reference,
        measure=measure,
        n=2,
        seeds=(0, 1),
        values=(1.0, 2.0),
        mean=1.5,
        std=0.5,
        low=1.5 - 4.5,
        high=1.5 + 4.5,
        level=0.95,
        distinguishable=False,
        sentence="+1.50 points",
    )


def _age(path: Path) -> None:
    """Leave in the file of a comparison what older versions wrote there."""
    content = json.loads(path.read_text())
    rows = ("method", "seeds", "main_mean", "main_std", "all_mean", "all_std")
    new = ("format", "task", "run", "variant")
    content = {
        "rows": [{key: row[key] for key in rows} for row in content["rows"]],
        "runs": [{key: value for key, value in one.items() if key not in new} for one in content["runs"]],
        "failed": [],
    }
    path.write_text(json.dumps(content, indent=2))


def loafing(directory: Path) -> Path:
    """Three main nets, two methods."""
    pairs, rows = [], []
    for method, (main, blocks) in itertools.product(("common", "stimulative"), (("3-3", 6), ("1-2", 3), ("2-2", 4))):
        gap = blocks * (1.0 if method == "common" else 0.1)
        pairs += [
            LoafingPair(
                method=method,
                main=main,
                main_blocks=blocks,
                subnet="1-1",
                blocks=2,
                seed=seed,
                in_group=80.0 - gap,
                alone=80.0 + seed,
                gap=gap + seed,
            )
            for seed in (0, 1)
        ]
        rows.append(
            LoafingRow(
                method=method,
                main=main,
                blocks=blocks,
                main_quality=90.0,
                subnets=1,
                in_group_mean=80.0 - gap,
                in_group_std=0.0,
                alone_mean=80.5,
                alone_std=0.5,
                gap_mean=gap + 0.5,
                gap_std=0.5,
            )
        )
    study = Loafing(
        task="images",
        model="cifar/resnet20",
        data="digits",
        epochs=2,
        seeds=(0, 1),
        rows=tuple(rows),
        subnets=tuple(pairs),
        failed=(Failed("alone-1-1-seed1", "killed"),),
    )
    return _written(study, directory)


def matrix(directory: Path) -> Path:
    """The numbers of Table 3."""
    nets = ("121", "169", "201", "264")
    values = {"121": [78.84, 43.64, 31.51, 10.01], "169": [79.64, 70.78, 48.41], "201": [79.77, 62.29], "264": [79.81]}
    cells = [
        MatrixCell(subnet=subnet, main=main, seeds=1, mean=mean, std=0.0)
        for subnet, row in values.items()
        for main, mean in zip(nets[-len(row) :], row, strict=True)
    ]
    study = Matrix(
        task="images",
        model="densenet",
        data="cifar100",
        method="common",
        epochs=2,
        seeds=(0,),
        nets=nets,
        cells=tuple(cells),
    )
    return _written(study, directory)


def sweep(directory: Path, values: list[Any], key: str = "method.balance") -> Path:
    """A value after the other."""
    rows = [
        SweepRow(
            value=value,
            seeds=2,
            main_mean=90.0 + number,
            main_std=0.5,
            all_mean=80.0 + number,
            all_std=2.0,
            all_mean_spread=0.2,
            all_min=70.0,
        )
        for number, value in enumerate(values)
    ]
    runs = [SweepRun(f"value-{n}-seed{seed}", value, seed) for n, value in enumerate(values) for seed in (0, 1)]
    study = Sweep(
        task="images", key=key, model="cifar/resnet20", data="digits", epochs=2, rows=tuple(rows), runs=tuple(runs)
    )
    return _written(study, directory)


def destruction(directory: Path, runs: tuple[str, ...] = ("common-seed0", "stimulative-seed0")) -> Path:
    """Two runs, with recalibrated statistics and without."""
    single, deletions, swaps, delete_rows, swap_rows = [], [], [], [], []
    for (number, name), recalibrated in itertools.product(enumerate(runs), (True, False)):
        of: dict[str, Any] = {"run": name, "recalibrated": recalibrated}
        for block in (1, 2):
            place = {"stage": 0, "block": block, "name": f"layer1.{block}", "subnet": "[0.1]-3-3"}
            single.append(SingleRow(**of, **place, quality=80.0 + number - block, loss=1.0))
        for k in (0, 1, 2):
            top1 = 90.0 - 10 * k / (1 + number) - 5 * k * (not recalibrated)
            spread = {"draws": 2 if k else 1, "mean": top1, "std": 1.0 * k, "min": top1 - k, "max": top1 + k}
            delete_rows.append(DrawsRow(**of, k=k, exhaustive=not k, **spread))
            swap_rows.append(DrawsRow(**of, k=k, exhaustive=not k, **spread, tau=1 - 0.2 * k))
            for draw in range(2 if k else 0):
                one = {**of, "k": k, "draw": draw, "subnet": "[0.2.1]-3-3", "quality": top1 + draw, "loss": 1.0}
                deletions.append(DeletedRow(**one))
                swaps.append(SwappedRow(**one, tau=1 - 0.2 * k + 0.1 * draw))
    study = Destruction(
        task="images",
        images=899,
        test_images=899,
        calibration_images=808,
        draws=2,
        seed=0,
        runs=tuple(_destroyed(name) for name in runs),
        single=tuple(single),
        deletions=tuple(deletions),
        swaps=tuple(swaps),
        delete_rows=tuple(delete_rows),
        swap_rows=tuple(swap_rows),
    )
    return _written(study, directory)


def _destroyed(name: str) -> DestroyedRun:
    return DestroyedRun(
        run=name,
        directory=f"runs/{name}",
        model="cifar/resnet20",
        data="digits",
        method=name.partition("-")[0],
        main=90.0,
        images=899,
        test_images=899,
        calibration_images=808,
    )


def _written(study: Study, directory: Path) -> Path:
    directory.mkdir(parents=True)
    study.write(directory)
    (directory / CHECKSUMS).unlink()
    return directory
