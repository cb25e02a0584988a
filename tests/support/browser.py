"""A real Chromium without a head, Debian's own, for what only a browser can show."""

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CONTRAST = 4.5
"""WCAG's least contrast of text with what is behind it, and a script that finds the texts of a page that have less."""
FAINT = """least => {
  const light = rgb => rgb.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [.2126, .7152, .0722][at], 0);
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const behind = one => { for (; one; one = one.parentElement) {
    const rgba = parts(getComputedStyle(one).backgroundColor);
    if (rgba.length === 3 || rgba[3] > 0) return rgba.slice(0, 3); } return [255, 255, 255]; };
  return [...document.querySelectorAll('body *')]
    .filter(one => [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()) && one.checkVisibility())
    .map(one => [one, getComputedStyle(one)])
    .map(([one, style]) => [light(parts(one instanceof SVGElement ? style.fill : style.color).slice(0, 3)),
      light(behind(one)), one.textContent])
    .map(([a, b, text]) => [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), text])
    .filter(([ratio]) => ratio < least); }"""
AXE = Path(__file__).with_name("axe.min.js.gz")
"""axe-core 4.14.1 of the npm registry, under the Mozilla Public License 2.0 that stands at its head."""
SCREENSHOTS = "VELO_SCREENSHOTS"
"""Names the folder that screenshots are kept in; without it they are a test's own and go with it."""


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A browser; without one the test is skipped, or fails where CI=true or VELO_REQUIRE_BROWSER asks for it."""
    if not CHROMIUM.exists():
        found = f"no browser at {CHROMIUM}: what it shows is NOT checked; install Debian's chromium"
        if os.environ.get("CI") == "true" or os.environ.get("VELO_REQUIRE_BROWSER"):
            pytest.fail(found, pytrace=False)
        pytest.skip(found)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGS))
        try:
            yield browser
        finally:
            browser.close()


def violations(page: "Page") -> list[str]:
    """What axe-core finds wrong with a page: each rule with the elements that break it; targets of a pointer are 24 px at least."""
    page.evaluate(gzip.decompress(AXE.read_bytes()).decode())
    found: list[str] = page.evaluate(
        """async () => (await axe.run(document, { rules: { 'target-size': { enabled: true } } })).violations
          .map(one => `${one.id}: ${one.nodes.map(node => node.html.slice(0, 120)).slice(0, 4).join(' | ')}`)"""
    )
    return found


def style_of(page: "Page", selector: str, name: str) -> str:
    """A computed style of the first element that a selector finds, in one step: between two the page may be drawn again."""
    script = "([selector, name]) => getComputedStyle(document.querySelector(selector)).getPropertyValue(name)"
    return str(page.evaluate(script, [selector, name]))


def screenshots(otherwise: Path) -> Path:
    """The folder for screenshots, made where missing."""
    folder = Path(os.environ.get(SCREENSHOTS) or otherwise)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
