"""Deleting and swapping blocks: which nets are left, how good they are, and what is kept of it."""

import copy
import csv
import json
import shutil
import statistics
from dataclasses import dataclass
from itertools import permutations, product
from math import comb
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import SequentialNet, images, randomised
from safetensors.torch import load_model, save_file
from torch import nn

from stimulative import Subnet, unravel
from stimulative.analysis import draw_images
from stimulative.cli import main
from stimulative.data import from_loaders
from stimulative.errors import UsageError
from stimulative.residual import Stage
from stimulative.runs import RunDirectory
from stimulative.studies import damage as damage_room
from stimulative.studies import destroy
from stimulative.studies import destroying as destroying_room
from stimulative.studies.damage import damage, numbers_of_orders, skippable, swappable, tau
from stimulative.studies.finished import finished_runs
from stimulative.training import calibration as calibration_room
from stimulative.training import load_recipe, prepare, train

TINY = {"model.arguments": {"width": 4}, "schedule.epochs": 1, "schedule.warmup_epochs": 0, "training.threads": 1}
VIT = {
    "model.name": "timm/vit_tiny_patch16_224",
    "model.arguments": {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "optimizer.lr": 0.01,
}


def stage(blocks: int, fixed: bool, name: str = "stage") -> Stage:
    return Stage(name, tuple(f"{name}.{block}" for block in range(blocks)), fixed)


STAGES = st.lists(st.builds(stage, st.integers(2, 6), st.booleans()), min_size=1, max_size=4)


# --- which nets are left ----------------------------------------------------------------------------------------


def test_the_numbers_of_nets_by_hand():
    network = unravel(randomised(SequentialNet()), images())  # 3 blocks, and 3 after an entry block
    done = damage(network.stages, draws=10, seed=0)
    assert str(done.main) == "3-4"
    assert {place: str(net) for place, net in done.singles.items()} == {
        (0, 0): "[1.2]-4",
        (0, 1): "[0.2]-4",
        (0, 2): "2-4",
        (1, 1): "3-[0.2.3]",
        (1, 2): "3-[0.1.3]",
        (1, 3): "3-3",
    }
    counts = [(draws.k, len(draws.subnets), draws.exhaustive) for draws in done.deletions]
    # of 6 blocks there are 6, 15, 20, 15, 6 and 1 choices
    assert counts == [(1, 6, True), (2, 10, False), (3, 10, False), (4, 10, False), (5, 6, True), (6, 1, True)]
    assert str(done.deletions[-1].subnets[0]) == "0-1"
    counts = [(draws.k, len(draws.subnets), draws.exhaustive) for draws in done.swaps]
    # the orders of 3 blocks: 1 + 3 swaps + 2 rotations; (1 + 3x + 2x²)² = 1 + 6x + 13x² + 12x³ + 4x⁴
    assert counts == [(1, 6, True), (2, 10, False), (3, 10, False), (4, 4, True)]
    assert {str(net) for net in done.swaps[0].subnets} == {
        *("[1.0.2]-4", "[2.1.0]-4", "[0.2.1]-4"),
        *("3-[0.2.1.3]", "3-[0.3.2.1]", "3-[0.1.3.2]"),
    }
    for net in done.subnets:
        assert network.resolve(net) == net


def cycles(order) -> int:
    seen: set[int] = set()
    number = 0
    for start in range(len(order)):
        number += start not in seen
        while start not in seen:
            seen.add(start)
            start = order[start]
    return number


@pytest.mark.parametrize("sizes", [[], [2], [4], [5], [2, 3], [3, 3, 2]])
def test_the_numbers_of_orders_are_those_counted_one_by_one(sizes):
    distances = [
        sum(len(order) - cycles(order) for order in orders)
        for orders in product(*(permutations(range(size)) for size in sizes))
    ]
    assert numbers_of_orders(sizes) == [distances.count(k) for k in range(max(distances) + 1)]


@settings(max_examples=60, deadline=None)
@given(STAGES, st.integers(1, 12), st.integers(-(2**70), 2**70))
def test_draws_are_different_as_many_as_asked_for_and_never_touch_a_fixed_block(stages, draws, seed):
    done = damage(stages, draws, seed)
    free = skippable(stages)
    full = [tuple(range(one.blocks)) for one in stages]
    assert list(done.main.stages) == full
    for net in done.subnets:
        for one, kept in zip(stages, net.stages, strict=True):
            assert not one.fixed_entry or kept[0] == 0
    for net in [*done.singles.values(), *(net for some in done.deletions for net in some.subnets)]:
        assert all(list(kept) == sorted(kept) for kept in net.stages)
    assert [some.k for some in done.deletions] == list(range(1, len(free) + 1))
    for some in done.deletions:
        there_are = comb(len(free), some.k)
        assert some.exhaustive == (there_are <= draws)
        assert len(set(some.subnets)) == len(some.subnets) == min(there_are, draws)
        assert all(net.blocks == done.main.blocks - some.k for net in some.subnets)
    orders = numbers_of_orders([len(places) for places in swappable(stages)])
    assert [some.k for some in done.swaps] == list(range(1, len(orders)))
    for some in done.swaps:
        assert some.exhaustive == (orders[some.k] <= draws)
        assert len(set(some.subnets)) == len(some.subnets) == min(orders[some.k], draws)
        for net in some.subnets:
            assert [tuple(sorted(kept)) for kept in net.stages] == full
            assert sum(len(kept) - cycles(kept) for kept in net.stages) == some.k


def test_the_same_seed_draws_the_same_nets_and_another_one_others():
    stages = [stage(8, False), stage(8, True)]
    assert damage(stages, 5, 1) == damage(stages, 5, 1)
    assert damage(stages, 5, 1).deletions != damage(stages, 5, 2).deletions
    assert damage(stages, 5, 1).swaps != damage(stages, 5, 2).swaps
    # all there are do not depend on it
    assert damage([stage(3, False)], 9, 1) == damage([stage(3, False)], 9, 2)


def test_every_choice_is_drawn_about_as_often():
    stages = [stage(5, True)]
    seen = [str(net) for seed in range(400) for net in damage_room.deletions(stages, 1, seed)[1].subnets]
    assert len(set(seen)) == 6 and all(35 < seen.count(net) < 105 for net in set(seen))  # 67 expected, 5 deviations
    seen = [str(net) for seed in range(400) for net in damage_room.swaps(stages, 1, seed)[0].subnets]
    assert len(set(seen)) == 6 and all(35 < seen.count(net) < 105 for net in set(seen))


def test_kendalls_tau_by_hand():
    stages = [stage(3, False), stage(2, True), stage(4, True)]  # 3 and 3 blocks in 15 pairs may be swapped
    assert tau(stages, Subnet.parse("3-2-4")) == 1
    assert tau(stages, Subnet.parse("[2.1.0]-2-4")) == pytest.approx((12 - 3) / 15)
    assert tau(stages, Subnet.parse("[0.2.1]-2-[0.2.3.1]")) == pytest.approx((12 - 3) / 15)
    assert tau([stage(4, True)], Subnet.parse("[0.3.2.1]")) == pytest.approx(-1)


def test_blocks_that_concatenate_are_not_swapped():
    @dataclass(frozen=True)
    class Dense(Stage):
        concatenates: bool = True

    dense = Dense("dense", ("a", "b", "c"), False)
    assert damage([dense], 3, 0).swaps == []
    mixed = damage([dense, stage(3, False)], 3, 0)
    assert len(mixed.deletions) == 6 and len(mixed.swaps) == 2
    assert all(net.stages[0] == (0, 1, 2) for some in mixed.swaps for net in some.subnets)


# --- how good they are ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    for method in ("common", "stimulative"):
        train(
            load_recipe("digits", {**TINY, "method.name": method, "evaluation.calibration": "training"}),
            directory / method,
            progress=False,
        )
    return directory


@pytest.fixture(scope="module")
def destroyed(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("destroyed")
    return out, destroy([runs / "common", runs / "stimulative"], out, draws=3)


def opened(run):
    prepared = prepare(load_recipe(run / "recipe.yaml"))
    load_model(prepared.network.model, run / "model.safetensors")
    return prepared.network.model.eval(), prepared.data


def score(model: nn.Module, batches) -> tuple[float, float]:
    logits, labels = [], []
    with torch.no_grad():
        for x, y in batches:
            logits.append(model(x))
            labels.append(y)
    z, y = torch.cat(logits), torch.cat(labels)
    return 100 * float((z.argmax(-1) == y).float().mean()), float(F.cross_entropy(z, y))


def recalibrated_by_hand(model: nn.Module, data) -> nn.Module:
    """Each layer's mean and biased variance, averaged over batches, while every layer normalises by its batch."""
    sums: dict[Any, list] = {}

    def look(layer, args):
        x = args[0].double()
        seen = sums.setdefault(layer, [0.0, 0.0, 0])
        seen[0] = seen[0] + len(x) * x.mean((0, 2, 3))
        seen[1] = seen[1] + len(x) * x.var((0, 2, 3), unbiased=False)
        seen[2] += len(x)

    model = copy.deepcopy(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    model.train()
    with torch.no_grad():
        for x, _ in data.calibration:
            model(x)
    for handle in handles:
        handle.remove()
    for norm, (mean, var, count) in sums.items():
        norm.running_mean.copy_(mean / count)
        norm.running_var.copy_(var / count)
    return model.eval()


def rows_of(table, run, recalibrated):
    return [row for row in table if (row.run, row.recalibrated) == (run, recalibrated)]


def test_a_deletion_is_a_plain_model_with_an_identity_in_the_blocks_place(runs, destroyed):
    _, found = destroyed
    model, data = opened(runs / "common")
    rows = rows_of(found.single, "common", False)
    assert [(row.stage, row.block) for row in rows] == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    recalibrated = rows_of(found.single, "common", True)
    for row, other in zip(rows, recalibrated, strict=True):
        plain = copy.deepcopy(model)
        plain.set_submodule(row.name, nn.Identity())
        top1, loss = score(plain, data.test)
        assert row.quality == pytest.approx(top1, abs=1e-4) and row.loss == pytest.approx(loss, rel=1e-4)
        assert other.subnet == row.subnet and other.name == row.name
        top1, loss = score(recalibrated_by_hand(plain, data), data.test)
        assert other.quality == pytest.approx(top1, abs=0.12) and other.loss == pytest.approx(loss, rel=1e-4)
    assert rows[0].loss != pytest.approx(recalibrated[0].loss, rel=1e-3)


def test_all_that_can_go_is_gone_in_the_last_deletion(runs, destroyed):
    _, found = destroyed
    model, data = opened(runs / "stimulative")
    for name in ("layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"):
        model.set_submodule(name, nn.Identity())
    row = rows_of(found.deletions, "stimulative", False)[-1]
    assert (row.k, row.subnet) == (7, "0-1-1")
    top1, loss = score(model, data.test)
    assert row.quality == pytest.approx(top1, abs=1e-4) and row.loss == pytest.approx(loss, rel=1e-4)


def test_a_swap_is_a_plain_model_with_exchanged_modules(runs, destroyed):
    _, found = destroyed
    model, data = opened(runs / "stimulative")
    pairs = {
        *(("[1.0.2]-3-3", 0, 0, 1), ("[2.1.0]-3-3", 0, 0, 2), ("[0.2.1]-3-3", 0, 1, 2)),
        *(("3-[0.2.1]-3", 1, 1, 2), ("3-3-[0.2.1]", 2, 1, 2)),
    }
    swapped = {pair[0]: pair[1:] for pair in pairs}
    for recalibrated in (False, True):
        rows = [row for row in rows_of(found.swaps, "stimulative", recalibrated) if row.k == 1]
        assert len(rows) == 3
        for row in rows:
            number, a, b = swapped[row.subnet]
            plain = copy.deepcopy(model)
            layer: Any = plain.get_submodule(f"layer{number + 1}")
            layer[a], layer[b] = layer[b], layer[a]
            plain = recalibrated_by_hand(plain, data) if recalibrated else plain
            top1, loss = score(plain, data.test)
            assert row.quality == pytest.approx(top1, abs=0.12) and row.loss == pytest.approx(loss, rel=1e-4)
            # 7 blocks in 21 pairs, of which a swap of neighbours turns round one, one over a block in between three
            assert row.tau == pytest.approx((21 - 2 * (2 * (b - a) - 1)) / 21)


def test_no_operation_is_the_main_net(runs, destroyed):
    _, found = destroyed
    for run in found.runs:
        top1 = json.loads((runs / run.run / "summary.json").read_text())["main"]["top1"]
        assert run.main == pytest.approx(top1, abs=1e-4)
        for rows in ("delete_rows", "swap_rows"):
            row = rows_of(getattr(found, rows), run.run, False)[0]
            assert (row.k, row.draws, row.std) == (0, 1, 0)
            assert row.mean == run.main
            # the statistics that a run leaves are those of its main net, recalibrated
            assert rows_of(getattr(found, rows), run.run, True)[0].mean == pytest.approx(top1, abs=0.12)
        assert rows_of(found.swap_rows, run.run, False)[0].tau == 1


def test_rows_are_means_and_spreads_of_the_draws(destroyed):
    _, found = destroyed
    rows = [row for name in ("delete", "swap") for row in getattr(found, f"{name}_rows") if row.k]
    assert len(rows) == 2 * 2 * (7 + 4)
    for name, table in (("delete_rows", "deletions"), ("swap_rows", "swaps")):
        for row in getattr(found, name):
            if row.k == 0:
                continue
            of = [one for one in rows_of(getattr(found, table), row.run, row.recalibrated) if one.k == row.k]
            top1 = [one.quality for one in of]
            assert [one.draw for one in of] == list(range(row.draws))
            assert (row.min, row.max) == (min(top1), max(top1))
            assert row.mean == pytest.approx(statistics.fmean(top1))
            assert row.std == pytest.approx(statistics.pstdev(top1))
            if name == "swap_rows":
                assert row.tau == pytest.approx(statistics.fmean(one.tau for one in of))
    # 7, 21, 35, 35, 21, 7 and 1 choices of blocks, 5, 9, 7 and 2 orders
    assert [row.exhaustive for row in rows_of(found.delete_rows, "common", True)] == [True, *6 * [False], True]
    assert [row.exhaustive for row in rows_of(found.swap_rows, "common", True)] == [True, *3 * [False], True]


def test_runs_of_one_structure_get_the_same_draws(destroyed):
    _, found = destroyed
    for table in ("single", "deletions", "swaps"):
        nets = [[row.subnet for row in rows_of(getattr(found, table), run, True)] for run in ("common", "stimulative")]
        assert nets[0] == nets[1] and nets[0] == [row.subnet for row in rows_of(getattr(found, table), "common", False)]
        scores = [[row.loss for row in rows_of(getattr(found, table), run, True)] for run in ("common", "stimulative")]
        assert scores[0] != scores[1]


def test_the_files_say_what_was_measured(runs, destroyed):
    out, found = destroyed
    assert json.loads((out / "destruction.json").read_text()) == found.to_mapping()
    assert {key: getattr(found, key) for key in ("images", "test_images", "calibration_images", "draws", "seed")} == {
        "images": 899,
        "test_images": 899,
        "calibration_images": 808,
        "draws": 3,
        "seed": 0,
    }
    assert [run.run for run in found.runs] == ["common", "stimulative"]
    assert found.runs[1].directory == str(runs / "stimulative")
    assert (found.runs[1].model, found.runs[1].data, found.runs[1].method) == (
        *("cifar/resnet20", "digits"),
        "stimulative",
    )
    for table in ("single", "deletions", "swaps"):
        with (out / f"{table}.csv").open() as file:
            written = list(csv.DictReader(file))
        assert len(written) == len(getattr(found, table))
        for text, row in zip(written, getattr(found, table), strict=True):
            assert list(text) == list(row.to_mapping())
            assert text["subnet"] == row.subnet and float(text["top1"]) == pytest.approx(row.quality, abs=1e-5)
            assert text["recalibrated"] == ("true" if row.recalibrated else "false")


def test_the_same_seed_gives_the_same_numbers_and_another_one_other_draws(runs, tmp_path):
    first = destroy([runs / "common"], tmp_path / "a", draws=2, images=100, seed=3)
    assert destroy([runs / "common"], tmp_path / "b", draws=2, images=100, seed=3) == first
    other = destroy([runs / "common"], tmp_path / "c", draws=2, images=100, seed=4)
    for table in ("deletions", "swaps"):
        assert [row.subnet for row in getattr(other, table)] != [row.subnet for row in getattr(first, table)]


def test_subnets_recalibrated_in_groups_score_the_same(runs, tmp_path, monkeypatch):
    whole = destroy([runs / "common"], tmp_path / "a", draws=1, images=100)
    monkeypatch.setattr(calibration_room, "STATISTICS_BYTES", 30_000)  # 4 nets
    steps = []
    parts = destroy([runs / "common"], tmp_path / "b", draws=1, images=100, progress=lambda *step: steps.append(step))
    assert len(steps) > 2 * (1 + 3) and steps[-1] == ("common", steps[-1][2], steps[-1][2])
    assert [done for _, done, _ in steps] == list(range(1, len(steps) + 1))
    for table in ("single", "deletions", "swaps"):
        for a, b in zip(getattr(whole, table), getattr(parts, table), strict=True):
            assert a.subnet == b.subnet and a.loss == pytest.approx(b.loss, rel=1e-5)


def test_a_net_without_statistics_is_measured_once(tmp_path):
    train(load_recipe("digits", {**TINY, **VIT}), tmp_path / "vit", progress=False)
    found = destroy([tmp_path / "vit"], tmp_path / "out", draws=2, images=50)
    for table in ("single", "deletions", "swaps", "delete_rows", "swap_rows"):
        assert {row.recalibrated for row in getattr(found, table)} == {False}
    assert found.calibration_images == 0
    assert any(note.startswith("no layer keeps running statistics") for note in found.runs[0].notes)
    assert [row.subnet for row in found.single] == ["[1.2]", "[0.2]", "2"]
    assert [row.k for row in found.delete_rows] == [0, 1, 2, 3] and found.deletions[-1].subnet == "0"


# --- test images ------------------------------------------------------------------------------------------------


def loader_of(batch_size: int):
    y = torch.arange(100) // 10  # sorted by class
    x = torch.arange(100.0).reshape(100, 1, 1, 1)
    batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
    return from_loaders(batches, batches, batches, classes=10).test


def test_test_images_are_a_seeded_mix_that_does_not_depend_on_batches():
    def drawn(batch_size, count, seed):
        batches = draw_images(loader_of(batch_size), count, seed)
        assert all(len(x) == len(y) == batch_size for x, y in batches[:-1])
        x, y = (torch.cat(part) for part in zip(*batches, strict=True))
        assert torch.equal(x.flatten() // 10, y)
        return [int(number) for number in x.flatten()]

    first = drawn(7, 30, 0)
    assert len(set(first)) == len(first) == 30
    assert len({number // 10 for number in first}) >= 8
    assert drawn(50, 30, 0) == first != drawn(50, 30, 1)
    assert drawn(7, 500, 0) == list(range(100))


def test_scores_are_those_of_the_images_drawn(runs, tmp_path):
    found = destroy([runs / "common"], tmp_path, draws=1, images=60, seed=5)
    model, data = opened(runs / "common")
    batches = draw_images(data.test, 60, 5)
    assert sum(len(y) for _, y in batches) == 60
    assert (found.images, found.test_images) == (60, 899)
    assert found.runs[0].main == pytest.approx(score(model, batches)[0], abs=1e-4)


# --- what is kept -----------------------------------------------------------------------------------------------


def test_runs_measured_before_are_not_measured_again(runs, tmp_path):
    told = []

    def call(*names, **more):
        told.clear()
        directories = [runs / name for name in names]
        return destroy(
            directories, tmp_path, after_run=lambda *said: told.append(said), **{"draws": 1, "images": 50, **more}
        )

    one = call("common")
    assert told == [("common", False)]
    both = call("common", "stimulative")
    assert told == [("common", True), ("stimulative", False)]
    assert rows_of(both.deletions, "common", True) == list(one.deletions[len(one.deletions) // 2 :])
    again = call("stimulative", "common")
    assert told == [("stimulative", True), ("common", True)]
    assert [run.run for run in again.runs] == ["stimulative", "common"]
    assert len(again.deletions) == len(both.deletions)
    changed: list[dict[str, Any]] = [{"draws": 2}, {"seed": 1}, {"images": 51}]
    for more in changed:
        call("common", **more)
        assert told[-1] == ("common", False)


def test_other_weights_in_the_same_place_are_measured(runs, tmp_path):
    told = []
    shutil.copytree(runs / "common", tmp_path / "run")
    for name in ("common", "common", "stimulative"):
        with RunDirectory(tmp_path / "run").writing("model.safetensors") as file:
            shutil.copy(runs / name / "model.safetensors", file)
        destroy([tmp_path / "run"], tmp_path / "out", draws=1, images=50, after_run=lambda *said: told.append(said[1]))
    assert told == [False, True, False]


def test_what_is_done_is_kept_when_the_next_run_fails(runs, tmp_path):
    shutil.copytree(runs / "stimulative", tmp_path / "broken")
    with RunDirectory(tmp_path / "broken").writing("model.safetensors") as file:
        save_file({"other": torch.zeros(1)}, file)
    with pytest.raises(UsageError, match=r"broken/model\.safetensors"):
        destroy([runs / "common", tmp_path / "broken"], tmp_path / "out", draws=1, images=50)
    kept = json.loads((tmp_path / "out" / "destruction.json").read_text())
    assert [run["run"] for run in kept["runs"]] == ["common"]
    told = []
    destroy([runs / "common"], tmp_path / "out", draws=1, images=50, after_run=lambda *said: told.append(said))
    assert told == [("common", True)]


def test_runs_of_one_name_are_told_apart_by_their_parents(runs, tmp_path):
    for parent in ("a", "b"):
        shutil.copytree(runs / "common", tmp_path / parent / "run")
    found = destroy(
        [tmp_path / "a" / "run", tmp_path / "b" / "run", runs / "stimulative"], tmp_path / "out", draws=1, images=50
    )
    assert [run.run for run in found.runs] == ["a/run", "b/run", "stimulative"]
    assert len({row.run for row in found.single}) == 3


# --- what cannot be ---------------------------------------------------------------------------------------------


def test_unusable_runs_are_all_named_before_any_work(runs, tmp_path, capsys):
    shutil.copytree(runs / "common", tmp_path / "unfinished")
    (tmp_path / "unfinished" / "summary.json").unlink()
    shutil.copytree(runs / "common", tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").unlink()
    given = [tmp_path / "nothing", tmp_path / "unfinished", runs / "common", tmp_path / "empty"]
    with pytest.raises(UsageError) as caught:
        destroy(given, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "nothing is not a run directory: there is no such directory" in lines[0]
    assert "unfinished has not finished: continue it with stimulative train" in lines[1]
    assert f"there is no {tmp_path / 'empty' / 'model.safetensors'}" in lines[2]
    assert not (tmp_path / "out").exists()
    for run, message in (("unfinished", "has not finished"), ("empty", "there is no"), ("nothing", "is not a run")):
        assert main(["destroy", str(tmp_path / run), "--out", str(tmp_path / "out")]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("stimulative: error: ") and message in captured.err and captured.out == ""
    assert not (tmp_path / "out").exists()


def test_data_of_ones_own_with_other_arguments_are_other_data(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "days.py").write_text("def photos(settings, day='a'):\n    raise RuntimeError\n")
    for day in "ab":
        shutil.copytree(runs / "common", tmp_path / day)
        recipe = load_recipe(tmp_path / day / "recipe.yaml", {"data.name": "days:photos", "data.arguments.day": day})
        RunDirectory(tmp_path / day).write_recipe(recipe)
    with pytest.raises(UsageError, match=r"a is of days:photos with \{day: a\}, b is of days:photos with \{day: b\}"):
        finished_runs([tmp_path / "a", tmp_path / "b"])


def test_runs_of_different_data_are_not_put_side_by_side(runs, tmp_path):
    shutil.copytree(runs / "common", tmp_path / "other")
    recipe = (tmp_path / "other" / "recipe.yaml").read_text()
    assert "name: digits" in recipe
    (tmp_path / "other" / "recipe.yaml").write_text(recipe.replace("name: digits", "name: cifar10"))
    with pytest.raises(UsageError, match=r"different data sets, .*: common is of digits, other is of cifar10"):
        destroy([runs / "common", tmp_path / "other"], tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--draws", "0"], "the number of draws is from 1 to 100,000, got 0"),
        (["RUN", "--images", "0"], "the number of test images is 1 or more, got 0"),
        (["RUN", "RUN"], "each run may be given once"),
        (["RUN", "--bogus"], "unknown option '--bogus'"),
        (["RUN", "--model", "cifar/resnet20"], "got both RUN"),
        ([], "give a run directory, or --model, --weights and --data"),
        (["--model", "cifar/resnet20", "--data", "digits"], "--model, --data without --weights"),
    ],
)
def test_bad_input_is_one_clear_message_and_status_2(runs, tmp_path, capsys, arguments, message):
    given = [str(runs / "common") if word == "RUN" else word for word in arguments]
    assert main(["destroy", *given, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("stimulative: error: ") and message in captured.err
    assert "Traceback" not in captured.err and captured.out == ""
    assert not (tmp_path / "out").exists()


# --- the command line -------------------------------------------------------------------------------------------


def test_the_command_prints_tables_and_goes_on_with_what_is_there(runs, tmp_path, capsys):
    command = ["destroy", str(runs / "common"), "--out", str(tmp_path / "out"), "--draws", "2", "--images", "50"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "common: measured" in captured.err
    assert "k random blocks deleted" in captured.out and "k random pairs of blocks swapped" in captured.out
    assert "as trained" in captured.out and "recalibrated" in captured.out and "worst single block" in captured.out
    assert "on 50 test images of digits" in captured.out
    written = json.loads((tmp_path / "out" / "destruction.json").read_text())
    for name in ("delete", "swap", "single"):
        assert (tmp_path / "out" / f"destruction-{name}.png").read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / "out" / f"destruction-{name}.png") in captured.out
    row = written["delete_rows"][1]
    assert f"{row['mean']:.2f} ± {row['std']:.2f}" in captured.out
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert "common: measured before" in captured.err and json.loads(captured.out) == written


def test_weights_found_anywhere_are_destroyed_too(runs, tmp_path, capsys):
    command = ["destroy", "--model", "cifar/resnet20", "--model.arguments.width=4", "--data", "digits"]
    command += ["--weights", str(runs / "common" / "model.safetensors"), "--training.threads=1"]
    assert main([*command, "--out", str(tmp_path / "out"), "--draws", "1", "--images", "50"]) == 0
    assert "model: cifar/resnet20, from a weights file" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "destruction.json").read_text())
    of_run = destroy([runs / "common"], tmp_path / "again", draws=1, images=50)
    written = [row for row in found["single"] if (row["run"], row["recalibrated"]) == ("model", False)]
    assert [row["loss"] for row in written] == pytest.approx(
        [row.loss for row in rows_of(of_run.single, "common", False)], rel=1e-5
    )


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on with what is in"),
        (RuntimeError("out of memory"), 1, "stopped: out of memory; what was measured of other runs is kept in"),
    ],
)
def test_a_command_that_stops_goes_on_after_the_runs_that_are_done(
    runs, tmp_path, capsys, monkeypatch, error, status, message
):
    out = tmp_path / "out"
    command = ["destroy", str(runs / "common"), str(runs / "stimulative"), "--out", str(out), "--draws", "1"]
    command += ["--images", "50"]
    measure, calls = destroying_room.measure, []

    def failing(*arguments, **more):
        calls.append(arguments)
        if len(calls) > 2:  # the first run is measured twice: without and with recalibration
            raise error
        return measure(*arguments, **more)

    monkeypatch.setattr(destroying_room, "measure", failing)
    assert main(command) == status
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err and captured.out == ""
    assert [run["run"] for run in json.loads((out / "destruction.json").read_text())["runs"]] == ["common"]
    monkeypatch.setattr(destroying_room, "measure", measure)
    assert main(command) == 0
    assert "common: measured before\nstimulative: measured\n" in capsys.readouterr().err
    assert [run["run"] for run in json.loads((out / "destruction.json").read_text())["runs"]] == [
        "common",
        "stimulative",
    ]
