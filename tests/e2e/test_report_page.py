"""The backtest's page in a real browser: nothing fetched, nothing said on the console, and it fits a phone and paper."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import CONTRAST, FAINT, screenshots, violations
from tests.support.made_once import made_once
from tests.support.short_backtest import short_backtest
from velo.training.reports.html import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def report(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Asks for the browser first, so that nothing is computed where there is none."""
    _, (tested, _) = made_once(tmp_path_factory, "short-backtest", short_backtest)
    return write_report(tested, tmp_path_factory.mktemp("report") / "report.html")


def opened(browser: "Browser", report: Path, size: dict[str, int], heard: list[str]) -> "Page":
    page = browser.new_page(viewport={"width": size["width"], "height": size["height"]})
    page.on("console", lambda said: heard.append(said.text))
    page.on("pageerror", lambda broken: heard.append(str(broken)))
    page.on("request", lambda asked: heard.append(asked.url) if asked.url != report.as_uri() else None)
    page.goto(report.as_uri())
    return page


def test_the_page_asks_for_nothing_and_complains_of_nothing(browser: "Browser", report: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    page = opened(browser, report, DESK, heard)
    assert page.title().startswith("gate: ")
    assert page.get_by_role("heading", level=1).inner_text() == page.title()
    page.screenshot(path=screenshots(tmp_path) / "report-desk.png", full_page=True)
    assert heard == []


def test_nothing_of_it_leaves_the_screen_of_a_phone(browser: "Browser", report: Path, tmp_path: Path) -> None:
    """Also with every part unfolded; letters in the charts stay as large as they were drawn, nearly."""
    page = opened(browser, report, PHONE, [])
    page.screenshot(path=screenshots(tmp_path) / "report-phone.png", full_page=True)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
        ".map(one => one.outerHTML.slice(0, 80))"
    )
    assert wide == []
    letters = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg text')].map(one => one.getBoundingClientRect().height))"
    )
    assert letters >= 9


def test_a_screen_reader_gets_what_the_charts_show(browser: "Browser", report: Path) -> None:
    page = opened(browser, report, DESK, [])
    charts = page.get_by_role("img")
    assert charts.count() == 9
    for at in range(charts.count()):
        named = charts.nth(at).get_attribute("aria-labelledby") or ""
        for name in named.split():
            assert page.locator(f"#{name}").count() == 1, name
            assert page.locator(f"#{name}").text_content()
    assert page.get_by_role("table").count() >= 4
    assert page.get_by_role("rowheader").count() > 20


def test_words_stand_out_from_what_is_behind_them(browser: "Browser", report: Path) -> None:
    """WCAG's contrast of every piece of text with the background it stands on."""
    page = opened(browser, report, DESK, [])
    assert page.evaluate(FAINT, CONTRAST) == []


def test_axe_finds_nothing_wrong_with_the_page(browser: "Browser", report: Path) -> None:
    page = opened(browser, report, DESK, [])
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert violations(page) == []


def test_paper_shows_what_a_screen_folds_away(browser: "Browser", report: Path, tmp_path: Path) -> None:
    page = opened(browser, report, DESK, [])
    folded = page.locator("details .stack, details p")
    assert not folded.first.is_visible()
    page.emulate_media(media="print")
    assert folded.count() > 3
    assert all(each.is_visible() for each in folded.all())
    assert page.pdf(path=screenshots(tmp_path) / "report.pdf", format="A4").startswith(b"%PDF")
