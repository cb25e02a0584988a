"""Pages of the desk in a real Chromium: milliseconds from the navigation until a race's page is fully drawn."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
from rich.table import Table

from velo.errors import UserError
from velo.text_tables import table_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
WARM_UP = 3
"""Loads before the first that is timed; a test uses none."""
SCREEN: Final = {"width": 1440, "height": 900}
FIRST, AGAIN = "first visit", "visited before"
_WATCH: Final = """
const rows = () => [...document.querySelectorAll("table.race tbody tr:not(.out)")];
const drawn = () => rows().length && rows().every((row) => row.querySelector(".chance b") && row.querySelector(".finishes"));
const watch = new MutationObserver(() => {
  if (!drawn()) return;
  watch.disconnect();
  const painted = new MessageChannel();
  painted.port1.onmessage = () => { window.drawnAt = performance.now(); };
  requestAnimationFrame(() => painted.port2.postMessage(null));
});
watch.observe(document, { childList: true, subtree: true });
"""
"""Notes when each runner's chance and form line are painted, in milliseconds since the navigation."""
_WAIT: Final = """() => new Promise((seen) => {
  const look = () => (window.drawnAt && performance.getEntriesByType("navigation")[0].loadEventEnd ? seen() : setTimeout(look, 10));
  look();
})"""
_READ: Final = """() => {
  const [page] = performance.getEntriesByType("navigation");
  const asked = performance.getEntriesByType("resource").filter((each) => each.startTime < window.drawnAt);
  return { html: page.responseEnd, load: page.loadEventEnd, drawn: window.drawnAt, requests: 1 + asked.length,
    slowest: asked.map((each) => [Math.round(each.startTime), Math.round(each.responseEnd), new URL(each.name).pathname]) };
}"""


@dataclass(frozen=True, slots=True)
class PageLoads:
    """A race's page, loaded `loads` times: medians and 95th percentiles of milliseconds since the navigation.

    `timeline` has the requests of the last load: begin, end and path of each.
    """

    runners: int
    visit: str
    loads: int
    requests: int
    html_ms: float
    load_ms: float
    load_p95_ms: float
    drawn_ms: float
    drawn_p95_ms: float
    timeline: list[Any]


@contextmanager
def chromium() -> Iterator["Browser"]:
    """The system's Chromium, without a window; raises `UserError` without one."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None or find_spec("playwright") is None:
        raise UserError("--pages needs Chromium and playwright: install chromium, and velo with its extra `dev`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def measure(browser: "Browser", port: int, races: Mapping[int, str], loads: int) -> list[PageLoads]:
    """Load the page of each race of a service, by its number of runners: with an empty browser cache, and with a filled one."""
    found = []
    for size, race_id in races.items():
        address = f"http://127.0.0.1:{port}/race?id={quote(race_id)}"
        first = [_loaded_alone(browser, address) for _ in range(WARM_UP + loads)]
        with browser.new_context(viewport=SCREEN) as context:  # type: ignore[arg-type]
            again = [_loaded(context, address) for _ in range(WARM_UP + loads)]
        found += [_figures(size, FIRST, first[WARM_UP:]), _figures(size, AGAIN, again[WARM_UP:])]
    return found


def _loaded_alone(browser: "Browser", address: str) -> dict[str, Any]:
    with browser.new_context(viewport=SCREEN) as context:  # type: ignore[arg-type]
        return _loaded(context, address)


def _loaded(context: "BrowserContext", address: str) -> dict[str, Any]:
    page = context.new_page()
    try:
        page.add_init_script(_WATCH)
        page.goto(address)
        page.evaluate(_WAIT)
        times: dict[str, Any] = page.evaluate(_READ)
    finally:
        page.close()
    return times


def _figures(size: int, visit: str, loads: list[dict[str, Any]]) -> PageLoads:
    def at(what: str, quantile: float = 0.5) -> float:
        return round(float(np.quantile([load[what] for load in loads], quantile)), 1)

    return PageLoads(
        size, visit, len(loads), int(at("requests")), at("html"), at("load"), at("load", 0.95), at("drawn"),
        at("drawn", 0.95), sorted(loads[-1]["slowest"]),
    )  # fmt: skip


def table(pages: list[PageLoads], machine: str) -> Table:
    """The figures for the terminal."""
    rows = [
        (page.visit, str(page.runners), page.loads, page.requests, page.html_ms, page.load_ms, page.load_p95_ms, page.drawn_ms,
         page.drawn_p95_ms)
        for page in pages
    ]  # fmt: skip
    columns = (
        "page of a race",
        "runners",
        "loads",
        "requests",
        "html ms",
        "load ms",
        "load p95",
        "drawn ms",
        "drawn p95",
    )
    return table_of(f"a race's page in Chromium, ms since the navigation ({machine})", columns, rows, left=columns[:1])
