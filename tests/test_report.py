"""Pictures and the report say what the files of runs and studies say."""

import csv
import json
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import made
import pytest
from PIL import Image

from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.methods import METHODS
from stimulative.report import (
    draw_choice,
    draw_comparison,
    draw_destruction,
    draw_family,
    draw_loafing,
    draw_matrix,
    draw_sweep,
    write_report,
)
from stimulative.report.comparison import comparison_figures
from stimulative.report.contents import read_source
from stimulative.report.depth import depth_figure
from stimulative.report.family_pictures import family_figures
from stimulative.report.headline import headline
from stimulative.report.loafing import loafing_figures
from stimulative.report.matrix import colour, ink_on, luminance, matrix_figures
from stimulative.report.page import cell
from stimulative.report.reported_run import read_run
from stimulative.report.run_groups import groups_of
from stimulative.report.scatter import scatter_figure
from stimulative.report.sections import groups_in
from stimulative.report.style import COLOURS, Palette
from stimulative.report.sweep import sweep_figures, value_axis
from stimulative.report.trajectories import trajectory_figures
from stimulative.runs import MetricsFile, RunDirectory, frontier
from stimulative.studies import Comparison, Loafing, Matrix, Sweep


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def texts_of(picture: Path) -> list[str]:
    return [text for text in ET.parse(picture).getroot().itertext() if text.strip()]


def group_of(*directories: Path):
    (group,) = groups_of([read_run(directory) for directory in directories])
    return group


def figures_of(comparison: Path):
    return comparison_figures(Comparison.read(comparison), comparison)


class Page(HTMLParser):
    """What a page is made of: its tags, and its texts by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append((self.tags[-1][0] if self.tags else "", data))

    @property
    def prose(self) -> str:
        return " ".join(" ".join(text for tag, text in self.texts if tag not in ("script", "style")).split())


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A report on one of each."""
    root = tmp_path_factory.mktemp("studies")
    directories = [
        made.comparison(root / "comparison"),
        made.loafing(root / "loafing"),
        made.matrix(root / "matrix"),
        made.sweep(root / "sweep", [0.5, 1, 5, 10]),
        made.destruction(root / "destruction"),
    ]
    page = write_report(directories, root / "report")
    return directories, page, page.read_text()


# --- pictures --------------------------------------------------------------------------------------------------------


def test_every_picture_is_a_png_an_svg_and_its_numbers(everything):
    _, page, _ = everything
    figures = sorted(path.stem for path in (page.parent / "figures").glob("*.png"))
    assert figures == [
        *("comparison", "depth", "destruction-delete", "destruction-single", "destruction-swap"),
        *("differences-all", "differences-main", "family", "family-latency"),
        *("histogram", "loafing", "loafing-gap", "matrix", "stages", "sweep", "trajectory-loss"),
        "trajectory-validation",
    ]
    for name in figures:
        with Image.open(page.parent / "figures" / f"{name}.png") as picture:
            assert (
                picture.format == "PNG" and picture.width > 1000 and len(picture.convert("RGB").getcolors(2**24)) > 10
            )
        svg = ET.parse(page.parent / "figures" / f"{name}.svg").getroot()
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        marks = [node for node in svg.iter() if re.search(r"\bmark-(symbol|rect)\b", node.get("class", ""))]
        assert any(len(mark) for mark in marks), name
        assert table(page.parent / "figures" / f"{name}.csv")


def test_the_family_picture_has_the_mean_of_each_subnet_over_seeds(tmp_path):
    runs = [made.run(tmp_path / f"seed{seed}", "common", seed) for seed in (0, 1)]
    figure = scatter_figure(group_of(*runs), "flops")
    tables = [table(run / "subnets.csv") for run in runs]
    assert [row["subnet"] for row in figure.rows] == [row["subnet"] for row in tables[0]]
    for row, *measured in zip(figure.rows, *tables, strict=True):
        top1 = [float(one["top1"]) for one in measured]
        assert row["quality"] == pytest.approx(sum(top1) / 2) and row["seeds"] == 2
        assert row["quality_std"] == pytest.approx(abs(top1[1] - top1[0]) / 2**0.5)
        assert row["flops"] == int(measured[0]["flops"]) and row["blocks"] == int(measured[0]["blocks"])
        assert row["latency_ms"] == pytest.approx(float(measured[0]["latency_ms"]))
    assert "all 27 subnets, statistics of each recalibrated on 808 training images; seeds 0, 1." in figure.caption
    assert "median of 20 rounds" in scatter_figure(group_of(*runs), "latency_ms").caption


def test_no_subnet_beats_one_of_the_frontier(tmp_path):
    figure = scatter_figure(group_of(made.run(tmp_path / "run")), "flops")
    for row in figure.rows:
        beaten = any(
            other["flops"] <= row["flops"]
            and other["quality"] >= row["quality"]
            and (other["flops"], other["quality"]) != (row["flops"], row["quality"])
            for other in figure.rows
        )
        assert row["frontier"] is not beaten, row["subnet"]
    alike = [{"subnet": name, "flops": 1, "top1": 5.0} for name in "ab"] + [{"subnet": "c", "flops": 2, "top1": 5.0}]
    best = frontier(alike, lambda row: row["flops"], lambda row: row["top1"])
    assert [row["subnet"] for row in best] == ["a", "b"]


def test_a_large_family_is_thinned_in_the_chart_and_whole_in_the_table(tmp_path):
    figure = scatter_figure(group_of(made.run(tmp_path / "run", depths=(5, 5, 5))), "flops", points=30)
    assert len(figure.rows) == 125
    drawn = figure.spec()["data"]["values"]
    assert len(drawn) <= 30 and f"{len(drawn)} of 125 points are drawn." in figure.caption
    best = {row["subnet"] for row in figure.rows if row["frontier"]}
    assert best and best <= {row["subnet"] for row in drawn}


def test_histogram_depth_and_stages_are_counted_from_the_same_subnets(tmp_path):
    group = group_of(made.run(tmp_path / "c", "common"), made.run(tmp_path / "s", "stimulative"))
    figures = {figure.name: figure for figure in family_figures(group)}
    for series in ("common", "stimulative"):
        top1 = {str(one.member.subnet): one.quality for one in group.subnets if one.series == series}
        bins = [row for row in figures["histogram"].rows if row["series"] == series]
        assert sum(row["subnets"] for row in bins) == 27 and sum(row["share"] for row in bins) == pytest.approx(100)
        for row in bins:
            assert row["subnets"] == sum(row["from"] - 1e-6 <= value < row["to"] - 1e-6 for value in top1.values())
        four = [value for subnet, value in top1.items() if sum(map(int, subnet.split("-"))) == 4]
        row = next(row for row in figures["depth"].rows if (row["series"], row["blocks"]) == (series, 4))
        assert (row["subnets"], row["min"], row["max"]) == (3, min(four), max(four))
        assert row["mean"] == pytest.approx(sum(four) / 3)
        second = [value for subnet, value in top1.items() if subnet.split("-")[1] == "3"]
        row = next(
            row for row in figures["stages"].rows if (row["series"], row["stage"], row["depth"]) == (series, 1, 3)
        )
        assert (row["name"], row["subnets"]) == ("layer2", 9) and row["mean"] == pytest.approx(sum(second) / 9)


def test_older_runs_have_no_latencies_and_foreign_weights_no_log(tmp_path):
    old = made.run(tmp_path / "old", latency=False)
    made.age_run(old)
    stages = next(figure for figure in family_figures(group_of(old)) if figure.name == "stages")
    assert {row["name"] for row in stages.rows} == {"stage 1", "stage 2", "stage 3"}
    assert [epoch.auxiliary for epoch in RunDirectory(old).metrics] == [0, 0]
    assert {figure.name for figure in family_figures(group_of(old))} == {"family", "histogram", "depth", "stages"}
    foreign = made.run(tmp_path / "found", None, weights={"file": "resnet20.th", "sha256": "ff"})
    assert trajectory_figures(group_of(foreign), 100) == []
    text = Page(write_report([old, foreign], tmp_path / "report").read_text()).prose
    assert "resnet20.th (SHA-256 ff)" in text
    assert {row["series"] for row in table(tmp_path / "report" / "figures" / "family-latency.csv")} == {"found"}
    drawn = table(tmp_path / "report" / "figures" / "trajectory-loss.csv")
    assert {row["series"] for row in drawn} == {"common"}


def test_numbers_are_called_as_the_task_of_the_run_says(tmp_path):
    images, text = made.run(tmp_path / "images"), made.run(tmp_path / "text", task="text")
    assert "Top-1 accuracy on the test split" in scatter_figure(group_of(images), "flops").caption
    assert "Next-token accuracy on the test split" in scatter_figure(group_of(text), "flops").caption
    study = json.loads((made.sweep(tmp_path / "sweep", [1, 2]) / "sweep.json").read_text())
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({**study, "task": "text"}))
    assert "next-token accuracy" in Page(write_report([tmp_path / "sweep"]).read_text()).prose


@pytest.mark.parametrize(
    ("task", "column", "spread"),  # depths 1 to 3 with slopes of 4.3, 4 and 4: the variance is (4.3² + 4² + 4²) 2/3
    [
        ("images", "all subnets (%)", "72.60 ± 5.80"),
        ("image_to_image", "all subnets (dB)", "72.60 ± 5.80"),
        ("embedding", "all subnets", "72.6000 ± 5.8017"),
    ],
)
def test_numbers_have_the_unit_and_the_digits_of_their_task(tmp_path, task, column, spread):
    group = group_of(made.run(tmp_path / "run", task=task))
    (row,) = headline(group).rows
    assert row[column] == spread
    tooltips = json.dumps(depth_figure(group).chart.to_dict())
    assert ("(%)" in tooltips) == (task == "images") and ("(dB)" in tooltips) == (task == "image_to_image")


def test_trajectories_are_the_logs_of_all_runs(tmp_path):
    runs = [
        made.run(tmp_path / f"{method}{seed}", method, seed) for method in ("common", "stimulative") for seed in (0, 1)
    ]
    loss, accuracy = trajectory_figures(group_of(*runs), 100)
    logged = [row for run in runs for row in table(run / "metrics.csv")]
    assert [row["main_ce"] for row in loss.rows] == [float(row["main_ce"]) for row in logged]
    assert [row["validation_quality"] for row in accuracy.rows] == [float(row["validation_top1"]) for row in logged]
    assert [(row["series"], row["seed"], row["epoch"]) for row in loss.rows] == [
        (method, seed, epoch) for method in ("common", "stimulative") for seed in (0, 1) for epoch in (1, 2)
    ]


def test_trajectories_show_the_test_split_of_runs_that_were_measured_on_it(tmp_path):
    made.run(tmp_path / "plain", "common", 0)
    log = MetricsFile(made.run(tmp_path / "tested", "common", 1) / "metrics.csv", 0, tested=True)
    for epoch, quality in ((1, 31.5), (2, None), (3, 42.25)):
        log.add(replace(made.epoch(epoch, 1), test_quality=quality))
    figures = trajectory_figures(group_of(tmp_path / "plain", tmp_path / "tested"), 100)
    assert [figure.name for figure in figures] == ["trajectory-loss", "trajectory-validation", "trajectory-test"]
    shown = figures[-1]
    assert [(row["seed"], row["epoch"], row["test_quality"]) for row in shown.rows] == [(1, 1, 31.5), (1, 3, 42.25)]
    assert "on images of the test split, with the statistics of validation; it chose nothing" in shown.caption
    assert shown.title == "Test accuracy" and "test_top1" in shown.csv().splitlines()[0]
    alone = trajectory_figures(group_of(tmp_path / "plain"), 100)
    assert [figure.name for figure in alone] == ["trajectory-loss", "trajectory-validation"]
    assert "test_top1" not in alone[0].csv()


@pytest.mark.parametrize(
    ("kind", "make", "figures"),
    [
        (Loafing, made.loafing, lambda study, _: loafing_figures(study)),
        (Matrix, made.matrix, lambda study, _: matrix_figures(study)),
        (Sweep, lambda path: made.sweep(path, ["a", "b"]), lambda study, _: sweep_figures(study)),
        (Comparison, made.comparison, comparison_figures),
    ],
    ids=["loafing", "matrix", "sweep", "comparison"],
)
def test_captions_say_what_statistics_are_from(tmp_path, kind, make, figures):
    study = kind.read(make(tmp_path / "study"))

    def caption(**of: object) -> str:
        return figures(replace(study, **of), tmp_path / "study")[0].caption

    told = "recalibrated on 808 training images prepared as for evaluation"
    assert told in caption(calibration="evaluation", calibration_images=808)
    assert "recalibrated" not in caption(calibration=None, calibration_images=0)
    assert "recalibrated" in caption() and "training images" not in caption()  # of an older version


@pytest.mark.parametrize(
    ("make", "draw", "names", "rows"),
    [
        (made.loafing, draw_loafing, ["loafing", "loafing-gap"], {"loafing": "rows", "loafing-gap": "subnets"}),
        (made.matrix, draw_matrix, ["matrix"], {"matrix": "cells"}),
        (lambda path: made.sweep(path, ["a", None]), draw_sweep, ["sweep"], {"sweep": "rows"}),
        (
            made.destruction,
            draw_destruction,
            ["destruction-delete", "destruction-swap", "destruction-single"],
            {"destruction-delete": "delete_rows", "destruction-swap": "swaps", "destruction-single": "single"},
        ),
    ],
    ids=["loafing", "matrix", "sweep", "destruction"],
)
def test_the_numbers_of_a_study_are_those_of_its_file(tmp_path, make, draw, names, rows):
    directory = make(tmp_path / "study")
    paths = draw(directory)
    assert paths == [directory / f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")]
    study = json.loads(next(directory.glob("*.json")).read_text())
    words = {True: "recalibrated", False: "as trained"}
    for name, key in rows.items():
        written = table(directory / f"{name}.csv")
        assert len(written) == len(study[key]) > 0
        for row, expected in zip(written, study[key], strict=True):
            if "recalibrated" in expected:
                expected["statistics"] = words[expected.pop("recalibrated")]
            assert row == {column: "" if value is None else str(value) for column, value in expected.items()}


def test_runs_that_failed_are_mentioned(tmp_path):
    assert "Left out: 1 that failed." in Page(write_report([made.loafing(tmp_path / "x")]).read_text()).prose


def test_the_comparison_has_both_halves_and_keeps_its_name(tmp_path):
    paths = draw_comparison(made.comparison(tmp_path / "demo"))
    assert [path.name for path in paths] == ["comparison.png", "comparison.svg", "comparison-subnets.csv"]
    rows = table(paths[2])
    assert len(rows) == 2 * 27 and {row["method"] for row in rows} == {"common", "stimulative"}
    texts = texts_of(paths[1])
    assert texts.count("all 75.2 ± 3.0, main 90.5") == 2 and "blocks that run" in texts
    assert not (tmp_path / "demo" / "comparison.csv").exists()  # that is the table's


def test_a_comparison_of_many_names_all_of_them_and_gives_each_its_own_looks(tmp_path):
    long = "stimulative:objective=directional:normalise_main=true:smaller_inputs=0.43"
    methods = (*METHODS, "stimulative:every=2", "stimulative:every=3", long)
    directory = made.comparison(tmp_path / "many", methods)
    _, picture, _ = draw_comparison(directory)
    texts = " ".join(texts_of(picture))
    for method in methods[:-1]:
        assert method in texts
    assert long in texts.replace(": ", ":")  # on three lines
    with Image.open(directory / "comparison.png") as image:
        assert image.height > 1200  # rows of four lines find place
    figures = {figure.name: figure for figure in figures_of(directory)}
    assert list(figures) == ["comparison", "differences-main", "differences-all"]
    assert [row["method"] for row in figures["comparison"].rows] == list(methods)
    assert [row["method"] for row in figures["differences-main"].rows] == list(methods[1:])
    (group,) = groups_in([read_source(directory)])
    assert {name: len(runs) for name, runs in group.series.items()} == dict.fromkeys(methods, 2)
    assert list(group.series) == list(methods)
    palette = group.palette
    assert palette.colour_of("stimulative") == "#0072B2"
    marks = palette.shape.to_dict()["scale"]["range"]
    assert len({(palette.colour_of(name), mark) for name, mark in zip(palette.names, marks, strict=True)}) == 10


def test_a_distribution_is_of_the_subnets_of_all_seeds(tmp_path):
    directory = made.comparison(tmp_path / "demo")
    figure = figures_of(directory)[0]
    top1 = [float(row["top1"]) for seed in (0, 1) for row in table(directory / f"common-seed{seed}" / "subnets.csv")]
    row = figure.rows[0]
    assert (row["min"], row["max"], row["median"]) == (min(top1), max(top1), pytest.approx(statistics.median(top1)))
    layers = figure.spec()["layer"]
    outline = [one["quality"] for one in layers[0]["data"]["values"] if one["method"] == "common"]
    assert (min(outline), max(outline)) == (pytest.approx(min(top1)), pytest.approx(max(top1)))
    widths = {one["method"]: one["high"] - one["low"] for one in layers[0]["data"]["values"]}
    assert widths and all(0 < width < 1 for width in widths.values())  # rows stay apart


def test_a_report_of_images_made_of_images_speaks_of_decibels(tmp_path):
    root = made.comparison(tmp_path / "comparison")
    for file in [*root.glob("*.json"), *root.glob("*/*.json"), *root.glob("*/*.csv")]:
        text = file.read_text().replace("top1", "psnr").replace('"task": "images"', '"task": "image_to_image"')
        file.write_text(text.replace('"calibration_images": 808', '"calibration_images": 0'))
    page = write_report([root], tmp_path / "report").read_text()
    for said in (
        *("main net (dB)", "all subnets (dB)", "worst (dB)", "difference (dB)", "in dB: mean", "PSNR of all subnets"),
        *("PSNR by number of blocks", "PSNR by depth of each stage", "PSNR and computation", "Validation PSNR"),
        *("the best PSNR for each", "a method&#39;s PSNR less that of", "Mean squared error of the main net"),
    ):
        assert said in page, said
    for wrong in ("net (%)", "subnets (%)", "(points)", "in points", "ccuracy", "ross-entropy", "each subnet recalib"):
        assert wrong not in page.replace("share of subnets (%)", ""), wrong


def test_an_older_comparison_is_drawn_without_differences(tmp_path):
    directory = made.comparison(tmp_path / "old", old=True)
    assert [figure.name for figure in figures_of(directory)] == ["comparison"]
    assert draw_comparison(directory)[0].exists()
    assert "Comparison: cifar/resnet20 on digits" in write_report([directory]).read_text()


def test_a_comparison_with_one_seed_has_marks_without_intervals(tmp_path):
    directory = made.comparison(tmp_path / "one")
    study = json.loads((directory / "comparison.json").read_text())
    study["differences"][0] |= {"n": 1, "std": None, "low": None, "high": None}
    study["differences"][1] |= {"n": 0, "mean": None, "std": None, "low": None, "high": None}
    (directory / "comparison.json").write_text(json.dumps(study))
    names = [figure.name for figure in figures_of(directory)]
    assert names == ["comparison", "differences-main"]  # without a seed in common there is nothing to draw
    (figure,) = (figure for figure in figures_of(directory) if figure.name == "differences-main")
    assert "+1.50" in " ".join(ET.fromstring(figure.svg()).itertext())
    del study["differences"][0]["low"]
    (directory / "comparison.json").write_text(json.dumps(study))
    with pytest.raises(
        UsageError, match=r"comparison\.json is not as stimulative writes it: 'differences\[0\]\.low' is missing"
    ):
        figures_of(directory)


def test_a_run_draws_its_family_beside_itself(tmp_path):
    directory = made.run(tmp_path / "run")
    paths = draw_family(directory)
    assert {path.stem for path in paths} == {"family", "family-latency", "histogram", "depth", "stages"}
    assert all(path.parent == directory and path.stat().st_size for path in paths)


# --- looks -----------------------------------------------------------------------------------------------------------


def test_methods_keep_their_colours_and_nothing_is_told_by_colour_alone():
    palette = Palette(["other", "stimulative", "common"])
    assert (palette.colour_of("common"), palette.colour_of("stimulative")) == ("#D55E00", "#0072B2")
    assert palette.colour_of("other") not in ("#D55E00", "#0072B2")
    many = Palette([f"run {number}" for number in range(14)])
    marks = many.shape.to_dict()["scale"]["range"]
    looks = list(zip(map(many.colour_of, many.names), marks, strict=True))
    assert len(set(looks)) == 14 and {look[0] for look in looks} == set(COLOURS) - {"#D55E00", "#0072B2"}
    assert len({colour for colour, _ in looks[:5]}) == len({mark for _, mark in looks[:5]}) == 5
    assert ("#D55E00", "circle") not in looks and ("#0072B2", "square") not in looks


def test_several_runs_of_a_method_are_told_apart_by_what_differs(tmp_path):
    runs = [
        made.run(tmp_path / f"{balance}-{seed}", "stimulative", seed, settings=f"  balance: {balance}\n")
        for balance in (1, 5)
        for seed in (0, 1)
    ]
    group = group_of(made.run(tmp_path / "common"), *runs)
    assert {name: len(members) for name, members in group.series.items()} == {
        "common": 1,
        "stimulative, balance 1": 2,
        "stimulative, balance 5": 2,
    }
    assert group.palette.colour_of("common") == "#D55E00"
    assert len({group.palette.colour_of(name) for name in group.series} | {"#0072B2"}) == 4  # of no single one of them


def test_numbers_in_cells_stand_out_from_every_colour():
    for step in range(101):
        fill = colour(step / 100)
        light, ink = luminance(fill), luminance(ink_on(fill))
        assert (max(light, ink) + 0.05) / (min(light, ink) + 0.05) >= 4.5, fill
    assert luminance("#ffffff") == pytest.approx(1) and luminance("#000000") == 0
    assert colour(-1) == colour(0) != colour(1) == colour(2)


@pytest.mark.parametrize(
    ("values", "kind", "scale"),
    [
        ([0.5, 1, 5, 10], "quantitative", "log"),
        ([1, 5, 10], "quantitative", None),
        ([0, 1, 100], "quantitative", None),
        (["cosine", "linear"], "nominal", None),
        ([True, False], "nominal", None),
        ([1, None], "nominal", None),
    ],
)
def test_the_axis_of_a_sweep_suits_its_values(values, kind, scale):
    axis = value_axis(values, "key").to_dict()
    assert axis["type"] == kind and axis.get("scale", {}).get("type") == scale


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (12345, "12,345"),
        (95.2169, "95.22"),
        (0.01234, "0.0123"),
        (0.0, "0.00"),
        ("a", "a"),
        ([1], "[1]"),
    ],
)
def test_values_in_tables(value, text):
    assert cell(value) == text


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_but_itself(everything):
    _, _, text = everything
    page = Page(text)
    assert len(text.encode()) < 3_000_000
    fetching = {"src", "srcset", "data", "poster", "background", "action", "xlink:href"}
    assert not [(tag, attrs) for tag, attrs in page.tags if fetching & attrs.keys()]
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"link", "iframe", "img", "object", "embed", "base", "video", "audio"}
    )
    links = [attrs["href"] for _, attrs in page.tags if "href" in attrs]
    assert links and all(link.startswith(("#", "figures/")) for link in links)
    style = "".join(data for tag, data in page.texts if tag == "style")
    assert style and not re.search(r"url\(|@import|https?:", style)
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "connect-src" not in policy


def test_every_link_of_the_page_leads_somewhere(everything):
    _, path, text = everything
    page = Page(text)
    names = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    for _, attrs in page.tags:
        link = attrs.get("href")
        if link:
            assert link[1:] in names if link.startswith("#") else (path.parent / link).is_file(), link
        for key in ("aria-labelledby", "aria-describedby"):
            assert attrs.get(key) is None or attrs[key] in names


def test_the_page_says_what_was_measured_and_how_it_was_made(everything):
    directories, _, text = everything
    prose = Page(text).prose
    tops = [json.loads((directories[0] / f"common-seed{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    assert f"{sum(top['main']['top1'] for top in tops) / 2:.2f} ± 0.07" in prose
    assert f"{sum(top['subnets']['min'] for top in tops) / 2:.2f}" in prose
    for part in (
        "statistics of each recalibrated on 808 training images",
        "top-1 accuracy on 899 test images, statistics recalibrated on 808 training images and statistics as training",
        "Outlined: the net trained alone.",
        "2024-05-06T07:08:09+00:00",
        "stimulative train 'my recipe'",
        "torch 2.15.0",
        "name: cifar/resnet20",
        "seeds 0; 1",
    ):
        assert part in prose, part
    assert not {"format", "task"} & {text.strip() for tag, text in Page(text).texts if tag == "dt"}


def test_a_table_stands_behind_each_picture(everything):
    _, path, text = everything
    figures = re.findall(r'<figure id="(.*?)">(.*?)</figure>', text, re.DOTALL)
    assert len(figures) == 17
    for name, content in figures:
        rows = len(table(path.parent / "figures" / f"{name}.csv"))
        assert f"Numbers ({rows:,} row" in content
        assert content.count("<tr>") - 1 == min(rows, 117)


def test_the_same_files_give_the_same_page(everything, tmp_path):
    directories, page, text = everything
    again = write_report(directories, tmp_path / "again")
    assert again.read_text() == text
    for name in ("family.svg", "matrix.png", "loafing.csv"):
        assert (again.parent / "figures" / name).read_bytes() == (page.parent / "figures" / name).read_bytes()


def test_what_files_say_cannot_become_a_part_of_the_page(tmp_path):
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" & '"
    folder = tmp_path / "<img src=x onerror=alert(3)>"
    run = made.run(folder, "<b>method</b>", model=bad, weights={"file": bad, "sha256": bad}, device=bad)
    (run / "recipe.yaml").write_text(f"# {bad}\nmodel:\n  name: x\n")
    compared = made.comparison(tmp_path / "c")
    (compared / "comparison.json").write_text(
        (compared / "comparison.json").read_text().replace('"stimulative"', json.dumps(bad))
    )
    sources = [run, made.sweep(tmp_path / "s", [bad, "b"], key=bad), made.destruction(tmp_path / "d", (bad, "b"))]
    sources.append(compared)
    text = write_report(sources, tmp_path / "report", bad).read_text()
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert "img" not in tags and "b" not in tags and sum(tag == "script" for tag, _ in page.tags) == 2
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert bad in page.prose and "<b>method</b>" in page.prose
    charts = json.loads(next(data for tag, data in page.texts if tag == "script" and data.startswith("{")))
    assert any(row["value"] == bad for row in charts["sweep"]["data"]["values"])
    ET.parse(tmp_path / "report" / "figures" / "sweep.svg")
    assert "alert(1)" in " ".join(texts_of(tmp_path / "report" / "figures" / "comparison.svg"))


def test_studies_of_several_models_have_sections_and_names_of_their_own(tmp_path):
    runs = [made.run(tmp_path / "a"), made.run(tmp_path / "b", model="timm/resnet50")]
    page = write_report(runs, tmp_path / "report")
    assert {"family.png", "family-2.png"} <= {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    text = page.read_text()
    assert "<h2>cifar/resnet20 on digits</h2>" in text and "<h2>timm/resnet50 on digits</h2>" in text
    ids = [attrs["id"] for _, attrs in Page(text).tags if "id" in attrs]
    assert len(ids) == len(set(ids))


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_into_the_only_directory_or_into_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made.run(Path("runs/a"))
    made.run(Path("runs/b"), "stimulative")
    assert main(["report", "runs", "--title", "My nets"]) == 0
    assert "report: runs/report.html" in capsys.readouterr().out
    assert "<title>My nets</title>" in Path("runs/report.html").read_text()
    assert {row["series"] for row in table(Path("runs/figures/family.csv"))} == {"common", "stimulative"}
    assert main(["report", "runs/a", "runs/b", "runs"]) == 0
    rows = table(Path("report/figures/family.csv"))
    assert len(rows) == 54 and {row["seeds"] for row in rows} == {"1"}  # a run given twice counts once


def test_runs_that_have_not_finished_are_named(tmp_path):
    made.run(tmp_path / "runs" / "a")
    (made.run(tmp_path / "runs" / "b") / "summary.json").unlink()
    assert read_source(tmp_path / "runs").unfinished == ["b"]
    assert "Not in it, because they have not finished: b in" in write_report([tmp_path / "runs"]).read_text()


def unfinished(path):
    (made.run(path) / "summary.json").unlink()


def empty(path):
    path.mkdir()


def something_else(path):
    path.mkdir()
    for name in "abcdefghij":
        (path / name).touch()


def broken(name: str, text: str):
    def make(path):
        (made.run(path) / name).write_text(text)

    return make


def study(kind: str, text: str):
    def make(path):
        path.mkdir()
        (path / f"{kind}.json").write_text(text)

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "study is not there; a report is made of run directories"),
        (lambda path: path.touch(), "study is not a directory; a report is made of"),
        (empty, "nothing to report in .*study: it holds nothing; a report is made of run directories"),
        (something_else, "it holds a, b, c, d, e, f, g, h and 2 more; a report is made of .*destruction.json"),
        (
            unfinished,
            r"has not finished: continue it with stimulative train \.\.\. --resume \(it has no summary\.json yet\)",
        ),
        (broken("summary.json", "{"), r"summary.json is not JSON"),
        (broken("summary.json", "{}"), r"summary.json is not as stimulative writes it: 'method' is missing"),
        (
            broken("subnets.csv", "subnet,top1\n1-1,5\n"),
            r"subnets.csv is not as stimulative writes it: 'blocks' is missing",
        ),
        (broken("metrics.csv", "epoch,loss\n1,2\n"), None),
        (broken("recipe.yaml", "a: [1"), r"recipe.yaml is not as stimulative writes it: line 1"),
        (study("loafing", "[]"), r"loafing.json is not as stimulative writes it"),
        (study("matrix", '{"model": "m"}'), r"matrix.json is not as stimulative writes it: 'data' is missing"),
        (study("sweep", "not JSON"), r"sweep.json is not JSON"),
    ],
)
def test_what_cannot_be_reported_is_said(tmp_path, capsys, make, message):
    make(tmp_path / "study")
    code = main(["report", str(tmp_path / "study"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    if message is None:  # the rows of a log that were cut short are left out
        assert code == 0 and not list((tmp_path / "out" / "figures").glob("trajectory*"))
        return
    assert code == 2 and re.search(message, error), error
    assert not (tmp_path / "out" / "report.html").exists()


def test_studies_without_rows_have_no_picture(tmp_path):
    for kind, content in (
        ("loafing", {"seeds": [0], "rows": [], "subnets": []}),
        ("matrix", {"seeds": [0], "nets": [], "cells": []}),
    ):
        directory = tmp_path / kind
        directory.mkdir()
        (directory / f"{kind}.json").write_text(json.dumps({"model": "m", "data": "d", "epochs": 1, **content}))
        draw = {"loafing": draw_loafing, "matrix": draw_matrix}[kind]
        assert draw(directory) == []


def test_a_picture_that_cannot_be_written_is_said(tmp_path, capsys):
    made.run(tmp_path / "run")
    (tmp_path / "file").touch()
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "file" / "below")]) == 2
    assert "choose another directory with --out" in capsys.readouterr().err


def test_reading_says_which_file_is_missing(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*loafing\.json"):
        draw_loafing(tmp_path)
    with pytest.raises(UsageError, match="has not finished"):
        draw_family(tmp_path)
    (tmp_path / "choice.json").write_text("{}")
    with pytest.raises(UsageError, match=r"choice\.json is not as stimulative writes it: 'measured' is missing"):
        draw_choice(tmp_path)


def test_the_room_is_light_until_something_is_drawn():
    look = "import stimulative.report as room, sys; print('altair' in sys.modules, room.draw_loafing.__name__)"
    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "draw_loafing"]
    with pytest.raises(ImportError, match="draw_everything"):
        from stimulative.report import draw_everything  # type: ignore # noqa: F401


def test_files_of_a_later_version_and_unreadable_ones_are_named(tmp_path):
    later, unreadable, study = made.run(tmp_path / "later"), made.run(tmp_path / "unreadable"), tmp_path / "sweep"
    for file in (later / "summary.json", made.sweep(study, [1, 2]) / "sweep.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(UsageError, match=r"later.summary\.json: this summary is of format 2, .* update stimulative"):
        write_report([later], tmp_path / "report")
    with pytest.raises(UsageError, match=r"sweep\.json: this sweep is of format 2, .* update stimulative"):
        write_report([study], tmp_path / "report")
    (unreadable / "recipe.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"recipe\.yaml cannot be read as a recipe: "):
        write_report([unreadable], tmp_path / "report")
    assert not (tmp_path / "report").exists()
