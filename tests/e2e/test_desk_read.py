"""The desk is read by everybody: on a screen, a phone and paper, by the keyboard alone, by day and night, and in words."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import CONTRAST, FAINT, screenshots, violations
from tests.support.desks import RACE, ROWS, Desk, page_of, served
from tests.support.services import HOSTILE, RUNNERS, tell
from velo.feature_repo.catalogue import columns
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.racing.messages import JockeyChange, Market, NonRunner
from velo.resampling import Figure
from velo.serving.monitoring.report import MonitorAlarm, MonitorReport, WatchedFeature
from velo.serving.monitoring.score_quality import ScoreQuality
from velo.serving.ui import pages
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.jsonl import plain
from velo.storage.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PHONE = {"width": 360, "height": 740}
BROKEN = """names => {
  for (const one of document.querySelectorAll(".people bdi, .horse bdi")) one.textContent = names[one.closest(".horse") ? 1 : 0];
  const found = [];
  for (const row of document.querySelectorAll("table.race tbody tr:not(.out)")) {
    for (const name of row.querySelectorAll("bdi")) {
      const text = name.firstChild;
      for (const word of text.data.matchAll(/\\S+/g)) {
        const range = document.createRange();
        range.setStart(text, word.index);
        range.setEnd(text, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map(one => Math.round(one.top))).size > 1) found.push(word[0]);
      }
    }
    const boxes = [...row.querySelectorAll(".no small, .horse a, .people a, .chance b, .chance small, .why li")]
      .flatMap(one => [...one.getClientRects()].map(box => [one, box]));
    for (const [one, a] of boxes) for (const [two, b] of boxes)
      if (one !== two && one.closest("td, th") !== two.closest("td, th") && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
        found.push(`${one.textContent} over ${two.textContent}`);
  }
  return found; }"""
"""Puts long names in place of those there; what is broken within a word, and what runs into another cell."""


def a_report() -> MonitorReport:
    """What `velo monitor` writes of a model that drifted: alarms that last and that are over, scores, more features than are listed."""
    day = date(2023, 5, 20)
    names = sorted(columns.COLUMNS)[:30]
    alarms = (
        MonitorAlarm(
            "mean", names[0], day, day + timedelta(days=4), "0.41 standard deviations above the training set", 0.41
        ),
        MonitorAlarm("null share", names[1], day, day + timedelta(days=2), "nulls rose from 2 % to 31 %", 0.29, day),
    )
    features = tuple(
        WatchedFeature(
            name,
            0.01,
            0.05,
            0.02,
            -1.5,
            12345.678,
            -1.0,
            9000.0,
            at == 0,
            0.4,
            0.5,
            0.2 / (at + 1),
            0.1 / (at + 1),
            3.0,
        )
        for at, name in enumerate(names)
    )
    figure = Figure(0.912, 0.801, 1.023, 40)
    score = ScoreQuality("blend", 40, figure, figure, figure, figure, figure, None, overconfident=False)
    days = tuple(day + timedelta(days=at) for at in range(5))
    return MonitorReport(
        "20230528T000000Z-1a2b3c4d", datetime(2023, 5, 28, tzinfo=UTC), "written in training", day, day, 40, 380, 5, days, 0, 0, 0,
        alarms, features, (score,), ("the training set has few race days",),
    )  # fmt: skip


def name_of(path: str) -> str:
    return re.sub(r"\W.*", "", path[1:]) or "day"


@pytest.fixture(scope="module")
def desk(browser: "Browser", streamed_store: Store) -> Iterator[Desk]:
    """A race that has seen something: a withdrawal, odds sent since for one horse alone, a jockey of a hostile name.

    Asks for the browser first, so that nothing is computed where there is none.
    """
    make_folder(streamed_store.home.monitor)
    write_atomically(streamed_store.home.monitor_report, json.dumps(plain(a_report())).encode())
    with served(streamed_store) as up:
        odds = Market("to come", {"horse 1": 9.5}, "show")
        change = JockeyChange("to come", "horse 2", "jockey 5", HOSTILE)
        tell(streamed_store, NonRunner("to come", "horse 8", "coughing"), odds, change, at=up.clock())
        yield up


def test_the_model_and_its_gate_are_in_sight_wherever_one_looks(browser: "Browser", desk: Desk) -> None:
    """Also far down a page; and a model that has not passed is for paper only."""
    for path in ("/", RACE, "/trainer?id=trainer%201"):
        with page_of(browser, desk, path) as page:
            page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
            model = page.locator("#model")
            assert "gate: not run" in model.inner_text()
            assert "paper only" in model.inner_text().lower()
            box = model.bounding_box()
            assert box is not None
            assert 0 <= box["y"] <= 60


def test_who_trains_rides_and_runs_has_a_page_with_curves(browser: "Browser", desk: Desk, tmp_path: Path) -> None:
    """From the race, by the links of its runners; a chart says in words what it shows."""
    with page_of(browser, desk, RACE) as page:
        for kind, name in (("trainer", "Trainer 1"), ("jockey", "Jockey 1"), ("horse", "Horse 1")):
            page.locator(f'tr[data-horse="horse 1"] a[href^="/{kind}?"]').click()
            page.wait_for_selector(".charts svg path.line")
            assert page.get_by_role("heading", level=1).inner_text() == name
            charts = page.locator(".charts").get_by_role("img")
            assert charts.count() == (5 if kind == "horse" else 4)
            for each in charts.all():
                ids = (each.get_attribute("aria-labelledby") or "").split()
                assert all(page.locator(f"#{at}").text_content() for at in ids)
                assert len(ids) == 2
            assert page.locator("table.plain tbody tr").count() > 5
            page.screenshot(path=screenshots(tmp_path) / f"desk-{kind}.png", full_page=True)
            page.go_back()
            page.wait_for_selector("table.race")


@pytest.mark.parametrize("path", ["/", RACE, "/trainer?id=trainer%201", "/horse?id=horse%201", "/monitor"])
def test_nothing_leaves_the_screen_of_a_phone(browser: "Browser", desk: Desk, tmp_path: Path, path: str) -> None:
    with page_of(browser, desk, path, PHONE) as page:
        page.wait_for_selector("table")
        page.screenshot(path=screenshots(tmp_path) / f"desk-phone-{name_of(path)}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        wide = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(one => !one.closest('.wide, dialog, .heard, thead, caption')"
            " && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 90))"
        )
        assert wide == []


def test_a_phone_shows_a_course_of_any_name_and_a_void_race(
    browser: "Browser", desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PROMPT_S", 0.0)
    with page_of(browser, desk, "/monitor", PHONE) as page:
        day = page.request.get(desk.address + "/v1/races").json()
        void = day["races"][0] | {"race_id": "void", "course": 20 * "verylong", "status": "run", "winners": []}
        day["races"].append(void)
        page.route("**/v1/races", lambda route: route.fulfill(json=day))
        page.goto(desk.address)
        row = page.locator("table.day tbody tr", has_text="verylong")
        assert row.locator(".state").inner_text().strip() == "void"
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_page_without_a_race_to_come_has_no_link_to_one(browser: "Browser", desk: Desk) -> None:
    # the console of this page alone says that its date is refused
    with page_of(browser, replace(desk, heard=[]), "/?date=2023-13-45") as page:
        assert page.get_by_role("alert").count() == 1
        assert not page.locator("#next").is_visible()


def test_paper_has_the_race_and_none_of_what_only_a_screen_can_do(
    browser: "Browser", desk: Desk, tmp_path: Path
) -> None:
    with page_of(browser, desk, RACE) as page:
        page.wait_for_selector("table.race")
        page.emulate_media(media="print")
        assert not page.locator(".controls-fold").is_visible()
        assert not page.locator("#rail").is_visible()
        assert "gate: not run" in page.locator("table.race caption").inner_text()
        assert page.locator("table.race caption").is_visible()
        page.set_viewport_size({"width": 703, "height": 1000})
        assert page.evaluate("document.documentElement.scrollWidth") <= 703
        page.screenshot(path=screenshots(tmp_path) / "desk-print.png", full_page=True)
        assert page.pdf(path=screenshots(tmp_path) / "desk-race.pdf", format="A4").startswith(b"%PDF")


def test_what_is_served_is_printed_whole(browser: "Browser", desk: Desk, tmp_path: Path) -> None:
    """Also the features and alarms that a screen folds away."""
    with page_of(browser, desk, "/monitor") as page:
        assert not page.locator("details tbody tr").first.is_visible()
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 703, "height": 1000})
        assert page.locator("tbody tr").count() == page.locator("tbody tr").filter(visible=True).count() == 33
        assert page.evaluate("document.documentElement.scrollWidth") <= 703
        page.screenshot(path=screenshots(tmp_path) / "desk-monitor-print.png", full_page=True)


def test_the_keyboard_is_enough(browser: "Browser", desk: Desk) -> None:
    """A line by j and the arrows, a race by Enter, the day by d, help by ?, and the first Tab skips to the races."""
    with page_of(browser, desk, "/") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_selector("table.race")
        names = page.locator(f"{ROWS} th a").all_inner_texts()
        for key, at in (("j", 0), ("ArrowDown", 1), ("j", 2), ("k", 1), ("ArrowUp", 0)):
            page.keyboard.press(key)
            assert page.evaluate("document.activeElement.innerText") == names[at]
        page.keyboard.press("o")
        numbers = [int(text) for text in page.locator(f"{ROWS} .no b").all_inner_texts()]
        assert numbers == sorted(numbers)
        assert page.evaluate("document.activeElement.innerText") == names[0], "what has the focus keeps it"
        page.keyboard.press("?")
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#help").is_visible()
        page.keyboard.press("d")
        page.wait_for_selector("table.day")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(browser: "Browser", desk: Desk, scheme: str, tmp_path: Path) -> None:
    """WCAG's contrast of every piece of text with the background it stands on, by day and by night."""
    for path in (RACE, "/trainer?id=trainer%201", "/monitor"):
        with page_of(browser, desk, path, color_scheme=scheme) as page:
            page.wait_for_selector("table")
            if scheme == "dark":
                page.screenshot(path=screenshots(tmp_path) / f"desk-dark-{name_of(path)}.png", full_page=True)
            assert page.evaluate(FAINT, CONTRAST) == []


@pytest.mark.parametrize("width", [390, 768, 1024, 1280, 1440])
def test_names_are_not_broken_within_a_word_nor_run_into_what_stands_beside_them(
    browser: "Browser", desk: Desk, width: int
) -> None:
    """Names as long as real ones are; figures stay in their own columns."""
    with page_of(browser, desk, RACE, {"width": width, "height": 900}) as page:
        page.wait_for_selector(ROWS)
        assert page.evaluate(BROKEN, ["Bartholomew Lambington", "Velnessa Brackenborough (IRE)"]) == []


def test_how_long_is_left_is_in_sight_wherever_one_looks(browser: "Browser", desk: Desk) -> None:
    """Of the race that is open, or comes next; and it leads there."""
    for path in (RACE, "/trainer?id=trainer%201"):
        with page_of(browser, desk, path) as page:
            page.wait_for_selector("table")
            page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
            left = page.locator("#next")
            assert re.fullmatch(r"15:00 Ascot in (1 h 00|\d+) min", left.inner_text())
            box = left.bounding_box()
            assert box is not None
            assert 0 <= box["y"] <= 60
            left.click()
            page.wait_for_selector("table.race")
            assert page.evaluate("scrollY") == 0


def test_a_page_asks_only_its_own_service_runs_only_its_own_files_and_complains_of_nothing(
    browser: "Browser", desk: Desk
) -> None:
    """After all the pages above: nothing on the console, nothing asked of another origin; nothing inline may run."""
    with page_of(browser, desk, RACE) as page:
        page.wait_for_selector("table.race")
        policy = page.request.get(desk.address + "/").headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (
            page.locator("script:not([src], [type='application/json']), style, [style]:not(html), [onclick]").count()
            == 0
        )
    assert desk.heard == []
    assert {url for url in desk.asked if not url.startswith(desk.address + "/")} == set()


def test_every_runner_has_a_name_for_its_link_and_every_choice_a_label(browser: "Browser", desk: Desk) -> None:
    with page_of(browser, desk, RACE) as page:
        page.wait_for_selector("table.race")
        table = page.get_by_role("table", name=re.compile("gate: not run"))
        assert table.get_by_role("columnheader").count() == 9
        assert table.get_by_role("rowheader").count() == len(RUNNERS)
        assert page.get_by_role("radio").count() == 9
        assert page.evaluate("[...document.querySelectorAll('input')].every(one => one.labels.length === 1)")
        assert page.evaluate("[...document.links].every(one => one.innerText.trim())")


def test_every_feature_view_has_words_of_its_own() -> None:
    """A flag names what is stale or unknown in a reader's words: a view that the catalogue gains needs some."""
    text = (files("velo.serving.ui") / "words.js").read_text(encoding="utf-8")
    listed = re.search(r"const VIEWS = \{(.*?)\};", text, re.DOTALL)
    assert listed is not None
    words = dict(re.findall(r'(\w+): "([^"]+)"', listed[1]))
    assert words.keys() == set(BY_VIEW)
    assert len(set(words.values())) == len(words)


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_axe_finds_nothing_wrong_with_any_page(
    browser: "Browser", desk: Desk, width: int, scheme: str, tmp_path: Path
) -> None:
    """Rules of WCAG 2.2 A and AA and best practices, at a desk by day and on a phone by night."""
    size = {"width": width, "height": 844}
    for path, shown in (
        ("/", "table.day"),
        (RACE, f"{ROWS} .finishes"),
        ("/horse?id=horse%201", ".records"),
        ("/trainer?id=trainer%201", ".records"),
        ("/monitor", "table"),
    ):
        with page_of(browser, desk, path, size, color_scheme=scheme) as page:
            page.wait_for_selector(shown)
            page.evaluate("document.querySelectorAll('#simulated').forEach(one => { one.hidden = false; })")
            assert violations(page) == [], path
            if path == "/monitor":
                page.screenshot(path=screenshots(tmp_path) / f"desk-monitor-{width}.png", full_page=True)


def test_twelve_runners_take_two_screens_of_a_phone(browser: "Browser", desk: Desk) -> None:
    """By the height that a runner's lines take, and that of the page above them."""
    with page_of(browser, desk, RACE, {"width": 390, "height": 844}) as page:
        page.wait_for_selector(f"{ROWS} .finishes")
        page.evaluate(BROKEN, ["Fiona Quenington", "Garmira Buccaneer (IRE)"])
        rows = page.locator(ROWS)
        heights = rows.evaluate_all("rows => rows.map(row => row.getBoundingClientRect().height)")
        above = rows.first.evaluate("row => row.getBoundingClientRect().top + scrollY")
        assert above + 12 * max(heights) <= 2 * 844
        smallest = page.evaluate(
            "Math.min(...[...document.querySelectorAll('main *')].filter(one => one.checkVisibility() && one.textContent.trim())"
            ".map(one => parseFloat(getComputedStyle(one).fontSize)))"
        )
        assert smallest >= 12
