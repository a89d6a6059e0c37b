"""The page in a browser: axe-core, sorting, filtering, keyboard, narrow windows, paper; skipped without Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, rendered: Path) -> Iterator[Any]:
    """Opens the rendered report; anything that it asks the network for, or that its script raises, fails the test."""
    contexts, faults = [], []

    def open_page(width: int = 1300, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or faults.append(request.url))
        page.goto((rendered / "index.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390])
def test_axe_finds_nothing(opened: Any, scheme: str, width: int) -> None:
    page = opened(width, color_scheme=scheme)
    for details in page.query_selector_all("details"):
        details.evaluate("node => { node.open = true }")
    found = axe.Axe().run(page)
    assert [
        (fault["id"], [node["target"] for node in fault["nodes"]][:3]) for fault in found.response["violations"]
    ] == []


def test_rows_are_sorted_within_their_block_with_the_mean_last_and_filtered_by_text(opened: Any) -> None:
    page = opened()
    table = page.locator("#table1_synthetic table")

    def rows() -> list[str]:
        return table.locator("tbody th").all_inner_texts()

    block = ["surprise", "fear", "disgust", "mean"]
    assert rows()[1:5] == block
    column = table.locator("thead tr").last.locator("th").nth(1)
    column.click()
    numbers = [float(text.split()[0]) for text in table.locator("tbody td:nth-of-type(1)").all_inner_texts()[:3]]
    assert numbers == sorted(numbers, reverse=True)
    assert rows()[4] == "mean"
    assert sum(text.startswith(("AUROC", "FPR")) for text in rows()) == 2  # the blocks' headings stay
    page.locator("#table1_synthetic input").fill("fear")
    assert set(rows()[1::2]) == {"fear"}


def test_a_number_is_reached_and_read_by_keyboard(opened: Any) -> None:
    page = opened()
    numbers = page.locator("#table1_synthetic .number")
    assert numbers.evaluate_all("all => all.filter(one => one.tabIndex == 0).length") == 1
    numbers.first.focus()
    tip = page.locator("#tip")
    first = tip.inner_text()
    assert "seed 0" in first
    page.keyboard.press("ArrowRight")
    second = tip.inner_text()
    assert second != first
    assert second.split(", ")[1].startswith("surprise")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert "fear" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_without_script_every_number_is_there_with_its_title(opened: Any) -> None:
    page = opened(java_script_enabled=False)
    numbers = page.locator("#table1_synthetic .number")
    assert numbers.count() > 10
    assert "seed 0" in numbers.first.get_attribute("title")
    assert page.locator("#table1_synthetic tr.heading").count() > 1


@pytest.mark.parametrize("width", [1300, 390])
def test_nothing_is_wider_than_the_window(opened: Any, width: int) -> None:
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unreachable = "all => all.filter(one => one.scrollWidth > one.clientWidth && one.tabIndex < 0).length"
    assert page.locator(".scroll").evaluate_all(unreachable) == 0
    if width == 1300:
        assert page.locator("#result .scroll").evaluate_all(
            "all => all.every(one => one.scrollWidth <= one.clientWidth)"
        )


def test_headings_go_down_one_at_a_time(opened: Any) -> None:
    levels = opened().locator("h1, h2, h3, h4").evaluate_all("all => all.map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_a_page_of_paper_is_as_wide_as_its_tables(opened: Any) -> None:
    # Letter and A4 less Chromium's margins of a centimetre: 19 cm upright, 25.9 cm for what is broad.
    page = opened(718)
    page.emulate_media(media="print")
    wide = (
        "all => all.filter(one => one.scrollWidth > (one.closest('.broad') ? 979 : 718))"
        ".map(one => one.innerText.slice(0, 40))"
    )
    assert page.locator("table").evaluate_all(wide) == []
    assert page.locator(".dt-search:visible, nav:visible").count() == 0
    pdf = page.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
