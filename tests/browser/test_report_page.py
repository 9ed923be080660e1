"""The report in a real browser: a stranger opens the file on a phone, in the dark, or prints it.

Run with ``pytest -m browser -n 0``. Chromium is looked for in the environment variable ``CHROMIUM``, then in
``/usr/bin/chromium`` (Debian's package ``chromium``); without one these tests fail.
"""

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import made
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from stimulative.report import write_report

pytestmark = pytest.mark.browser

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
BAD = "<img src=x onerror='window.broken=1'>"
FIGURES = 18
MARKS = "svg .mark-symbol.role-mark path, svg .mark-rect.role-mark path"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("report")
    directories = [
        made.comparison(root / "comparison"),
        made.loafing(root / "loafing"),
        made.matrix(root / "matrix"),
        made.sweep(root / "sweep", [0.5, 1, 5, 10]),
        made.sweep(root / "names", [BAD, "another name"], key=BAD),
        made.destruction(root / "destruction"),
    ]
    return write_report(directories, root / "report", "Subnets")


class Watched:
    """A page, with what it said and asked for since it was opened."""

    def __init__(self, page: Page, report: Path) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_function("[...document.querySelectorAll('.chart')].every((chart) => chart.querySelector('svg'))")


@pytest.fixture
def open_page(browser, report) -> Iterator[object]:
    contexts = []

    def open_it(width: int = 1280, scheme: str = "light") -> Watched:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        return Watched(contexts[-1].new_page(), report)

    yield open_it
    for context in contexts:
        context.close()


def overflowing(page: Page) -> list[str]:
    """Elements that reach beyond the page, other than inside boxes that scroll."""
    return page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((node) => !node.closest(".scroll > *") && !node.closest("noscript"))
            .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
            .map((node) => node.outerHTML.slice(0, 80))"""
    )


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_drawn_inside_its_place(open_page, width, scheme):
    watched = open_page(width, scheme)
    marks = watched.page.evaluate(
        """(marks) => Object.fromEntries([...document.querySelectorAll("figure")].map((figure) => [
            figure.id, figure.querySelectorAll(marks).length
        ]))""",
        MARKS,
    )
    assert len(marks) == FIGURES and all(marks.values()), marks
    # texts and marks of a chart are inside it: nothing is clipped at the right or below
    outside = watched.page.evaluate(
        """() => [...document.querySelectorAll(".chart svg")].flatMap((svg) => {
            const place = svg.getBoundingClientRect();
            return [...svg.querySelectorAll("text, path")].filter((node) => {
                const box = node.getBoundingClientRect();
                const [left, right, below] = [place.left - 2, place.right + 2, place.bottom + 2];
                return box.width && (box.left < left || box.right > right || box.bottom > below);
            }).map((node) => `${svg.closest("figure").id}: ${node.textContent || node.outerHTML.slice(0, 60)}`);
        })"""
    )
    assert outside == []
    assert overflowing(watched.page) == []
    assert watched.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert watched.said == []
    assert watched.asked == [watched.page.url] and watched.page.url.startswith("file://")


def test_hovering_over_a_subnet_names_it_and_its_cost(open_page):
    page = open_page().page
    mark = page.locator("#family svg .mark-symbol.role-mark path").first
    mark.scroll_into_view_if_needed()
    assert not page.locator("#vg-tooltip-element").is_visible()
    mark.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    text = tooltip.inner_text()
    assert re.search(r"subnet\s*\d-\d-\d", text) and re.search(r"top-1 \(%\)\s*\d\d\.\d\d", text)
    assert all(word in text for word in ("blocks", "parameters", "FLOPs", "latency (ms)", "trained"))
    box = tooltip.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 1280


def test_every_kind_of_figure_answers_hovering(open_page):
    page = open_page().page
    for figure in page.locator("figure").all():
        name = figure.get_attribute("id")
        mark = figure.locator(MARKS).first
        mark.scroll_into_view_if_needed()
        mark.hover(force=True)
        page.locator("#vg-tooltip-element.visible").wait_for(timeout=5000)
        assert page.locator("#vg-tooltip-element").inner_text().strip(), name
        page.mouse.move(0, 0)
        page.locator("#vg-tooltip-element:not(.visible)").wait_for(state="attached", timeout=5000)


def test_what_files_say_stays_text(open_page):
    watched = open_page()
    page = watched.page
    marks = page.locator("#sweep-2 svg .mark-symbol.role-mark path")
    assert marks.count() == 4
    marks.first.scroll_into_view_if_needed()
    marks.first.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert BAD in tooltip.inner_text()
    assert page.evaluate("window.broken") is None and page.locator("img").count() == 0
    assert watched.asked == [page.url]


def contrast(page: Page, selector: str) -> float:
    """Of the first such element's text with the page's background."""
    colours = page.evaluate(
        """(selector) => {
            const node = document.querySelector(selector);
            const style = getComputedStyle(node);
            return [node.ownerSVGElement ? style.fill : style.color, getComputedStyle(document.body).backgroundColor];
        }""",
        selector,
    )

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_light_and_dark(open_page, scheme):
    page = open_page(scheme=scheme).page
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    texts = ("h1", "figcaption", "a", "summary", "td")
    for selector in (*texts, "#family svg .role-axis-label text", "#family svg .role-legend text"):
        assert contrast(page, selector) >= 4.5, selector


def test_charts_follow_a_change_of_scheme(open_page):
    page = open_page(scheme="light").page
    before = page.evaluate("getComputedStyle(document.querySelector('#family svg text')).fill")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.querySelector('#family svg text')).fill") != before


def test_print_is_light_and_splits_no_chart(open_page):
    page = open_page(scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert contrast(page, "#family svg .role-axis-label text") >= 4.5
    assert set(page.locator(".chart").evaluate_all("nodes => nodes.map((n) => getComputedStyle(n).breakInside)")) == {
        "avoid"
    }
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_tables_open_and_scroll_in_their_own_box(open_page):
    page = open_page(360).page
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.locator("figure table").first.is_visible()
    assert overflowing(page) == []
    boxes = page.locator("figure .scroll:has(table)")
    wide = boxes.evaluate_all("nodes => nodes.map((node) => node.scrollWidth > node.clientWidth)")
    assert any(wide)


def test_headings_lead_through_the_page(open_page):
    page = open_page().page
    levels = page.locator("h1, h2, h3").evaluate_all("nodes => nodes.map((node) => Number(node.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for chart in page.locator(".chart").all():
        assert chart.get_attribute("role") == "img"
    page.get_by_role("navigation").get_by_text("How it was made").click()
    assert page.url.endswith("#made")
    assert page.get_by_role("img", name="Accuracy and computation").count() == 1
