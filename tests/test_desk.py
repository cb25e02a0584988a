"""The desk in a real browser: what is told shows without a reload, on a screen, a phone and paper, and in words."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from feature_repo.catalogue.families import BY_VIEW
from feature_repo.stores.embedded_redis import down
from serving.api.app import app_of
from tests.browser import chromium, screenshots
from tests.services import NOW, OFF, RUNNERS, a_service, a_streamed_store, tell
from tests.services import RACE as RACE_TO_COME
from training import bundle
from training.bands import Band
from velo.racing.messages import FINISHED, JockeyChange, Market, NonRunner, Result
from velo.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE, SCREEN = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
RACE = "/race?id=to%20come"
HOSTILE = "<img src=x onerror=alert(1)>\u202eJ. O'Key"
BOUNDS = """rows => [...document.querySelectorAll(rows)].map(one =>
  [".chance b", ".bounds"].flatMap(of => one.querySelector(of).innerText.match(/[\\d.]+/g).map(Number)))"""
"""Of each runner its chance and the bounds below it, in per cent."""
CONTRAST = 4.5
ROWS = "main tbody tr:not(.out)"


@dataclass(slots=True)
class Desk:
    """A service that is up, the instant it thinks it is, and what its browser said and asked for."""

    store: Store
    port: int
    began: float
    stop: Callable[[], None]
    heard: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def clock(self) -> datetime:
        return NOW + timedelta(seconds=time.monotonic() - self.began)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def store(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Asks for the browser first, so that nothing is computed where there is none."""
    made = a_streamed_store(tmp_path_factory.mktemp("desk") / "home")
    yield made
    down(made.home)


@pytest.fixture(scope="module")
def desk(store: Store) -> Iterator[Desk]:
    with served(store) as up:
        yield up


@contextmanager
def served(store: Store, port: int = 0, began: float | None = None) -> Iterator[Desk]:
    """The service on a port of its own; its clock goes on from an hour before the off."""
    listening = socket.create_server(("127.0.0.1", port))

    def stop() -> None:
        server.should_exit = True
        thread.join()
        listening.close()

    desk = Desk(store, listening.getsockname()[1], began or time.monotonic(), stop)
    app = app_of(a_service(store, desk.clock), "a token")
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield desk
    finally:
        stop()


@contextmanager
def page_of(
    browser: "Browser", desk: Desk, path: str, size: dict[str, int] = SCREEN, **context: Any
) -> "Iterator[Page]":
    """A page with nothing kept from another; what it says on the console and asks for is noted."""
    opened = browser.new_context(viewport={"width": size["width"], "height": size["height"]}, **context)
    page = opened.new_page()
    page.on("console", lambda said: desk.heard.append(said.text))
    page.on("pageerror", lambda broken: desk.heard.append(str(broken)))
    page.on("request", lambda asked: desk.asked.append(asked.url))
    try:
        page.goto(desk.address + path)
        page.wait_for_selector("main h1")
        yield page
    finally:
        opened.close()


def chances(page: "Page") -> dict[str, float]:
    """The chance of each runner as the page has it, in per cent."""
    rows = page.locator(ROWS)
    told = [(row.get_attribute("data-horse") or "", row.locator(".chance b").inner_text()) for row in rows.all()]
    return {horse: float(text.split()[0]) for horse, text in told}


def settled(page: "Page", horse: str, text: str) -> None:
    page.locator(f'tr[data-horse="{horse}"]').filter(has_text=text).wait_for(timeout=20_000)


def shows_live(page: "Page") -> None:
    page.locator("#live:not(.lost)", has_text=re.compile("^live$")).wait_for(timeout=20_000)


def test_a_race_is_picked_and_a_non_runner_changes_its_chances_without_a_reload(
    browser: "Browser", desk: Desk, tmp_path: Path
) -> None:
    """Told to the log, taken by the stream, seen by the page: the others' chances sum to all there is again."""
    with page_of(browser, desk, "/") as page:
        shows_live(page)
        row = page.locator("table.day tbody tr")
        assert row.count() == 1
        assert re.search(r"in (1 h 00|59) min next", row.inner_text())
        page.screenshot(path=screenshots(tmp_path) / "desk-day.png", full_page=True)
        page.evaluate("window.same = true")
        page.locator("table.day").get_by_role("link", name="Ascot").click()
        page.wait_for_selector("table.race")
        before = chances(page)
        assert len(before) == 7
        assert sum(before.values()) == pytest.approx(100.0, abs=0.5)
        page.screenshot(path=screenshots(tmp_path) / "desk-race-before.png", full_page=True)

        tell(desk.store, NonRunner("to come", "horse 8", "coughing"), at=desk.clock())
        settled(page, "horse 8", "non-runner")
        after = chances(page)
        assert after.keys() == before.keys() - {"horse 8"}
        assert sum(after.values()) == pytest.approx(100.0, abs=0.5)
        assert sum(after.values()) > sum(before[horse] for horse in after) + 1
        gone = page.locator('tr[data-horse="horse 8"]')
        assert "non-runner (coughing)" in gone.inner_text()
        assert "line-through" in gone.locator("th s").evaluate("one => getComputedStyle(one).textDecorationLine")
        assert "odds told before a withdrawal" in page.locator("p.stands").inner_text()
        moved = page.locator(".moved").first.inner_text()
        assert re.fullmatch(r"[+−]\d+\.\d since", moved), moved
        assert "non-runner" in page.locator("#said").inner_text()
        assert page.evaluate("window.same") is True
        for row in page.locator(ROWS).all():
            stories = row.locator(".why li").all_inner_texts()
            assert len(set(stories)) == len(stories) <= 3
        page.screenshot(path=screenshots(tmp_path) / "desk-race.png", full_page=True)


def test_odds_and_another_jockey_are_shown_as_they_come_and_edge_follows_the_commission(
    browser: "Browser", desk: Desk
) -> None:
    """What somebody calls a jockey is text, whatever is in it; odds that are missing are a dash, as is their edge."""
    with page_of(browser, desk, RACE) as page:
        shows_live(page)
        odds = Market("to come", {"horse 1": 9.5}, "show")
        change = JockeyChange("to come", "horse 2", "jockey 5", HOSTILE)
        tell(desk.store, odds, change, at=desk.clock())
        settled(page, "horse 2", "onerror=alert(1)")
        row = page.locator('tr[data-horse="horse 1"]')
        settled(page, "horse 1", "9.50")
        assert page.locator("main img").count() == 0
        assert page.locator('tr[data-horse="horse 2"] .jockey bdi').inner_text() == HOSTILE
        assert page.locator('tr[data-horse="horse 2"] .market').inner_text() == "–"
        assert page.locator('tr[data-horse="horse 2"] .edge').inner_text() == "–"
        chance = chances(page)["horse 1"] / 100
        for commission in (0.02, 0.05):
            page.get_by_label(f"{commission:.0%}".replace("%", " %")).check()
            shown = float(row.locator(".edge").inner_text().replace("−", "-").split()[0])
            assert shown == pytest.approx(100 * (chance * (1 + 8.5 * (1 - commission)) - 1), abs=0.6)
        assert "old odds" not in page.locator("p.stands").inner_text()


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
            assert charts.count() == 4
            for one in charts.all():
                ids = (one.get_attribute("aria-labelledby") or "").split()
                assert all(page.locator(f"#{at}").text_content() for at in ids)
                assert len(ids) == 2
            assert page.locator("table.plain tbody tr").count() > 5
            page.screenshot(path=screenshots(tmp_path) / f"desk-{kind}.png", full_page=True)
            page.go_back()
            page.wait_for_selector("table.race")


@pytest.mark.parametrize("path", ["/", RACE, "/trainer?id=trainer%201", "/horse?id=horse%201"])
def test_nothing_leaves_the_screen_of_a_phone(browser: "Browser", desk: Desk, tmp_path: Path, path: str) -> None:
    with page_of(browser, desk, path, PHONE) as page:
        page.wait_for_selector("table")
        name = re.sub(r"\W.*", "", path[1:]) or "day"
        page.screenshot(path=screenshots(tmp_path) / f"desk-phone-{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        wide = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(one => !one.closest('.wide, dialog, .heard, thead, caption')"
            " && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 90))"
        )
        assert wide == []


def test_paper_has_the_race_and_none_of_what_only_a_screen_can_do(
    browser: "Browser", desk: Desk, tmp_path: Path
) -> None:
    with page_of(browser, desk, RACE) as page:
        page.wait_for_selector("table.race")
        page.emulate_media(media="print")
        assert not page.locator(".controls").is_visible()
        assert not page.locator("#rail").is_visible()
        assert "gate: not run" in page.locator("table.race caption").inner_text()
        assert page.locator("table.race caption").is_visible()
        page.set_viewport_size({"width": 703, "height": 1000})
        assert page.evaluate("document.documentElement.scrollWidth") <= 703
        page.screenshot(path=screenshots(tmp_path) / "desk-print.png", full_page=True)
        assert page.pdf(path=screenshots(tmp_path) / "desk-race.pdf", format="A4").startswith(b"%PDF")


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
        numbers = [int(one) for one in page.locator(f"{ROWS} .no b").all_inner_texts()]
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
    for path in (RACE, "/trainer?id=trainer%201"):
        with page_of(browser, desk, path, color_scheme=scheme) as page:
            page.wait_for_selector("table")
            if scheme == "dark":
                page.screenshot(path=screenshots(tmp_path) / "desk-dark.png", full_page=True)
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


def test_a_page_scores_its_race_once_as_it_opens(browser: "Browser", desk: Desk) -> None:
    """It hears what is told before it asks, so nothing has to be asked for again once it is live."""
    before = len(desk.asked)
    with page_of(browser, desk, RACE) as page:
        shows_live(page)
        page.wait_for_selector(ROWS)
        page.wait_for_timeout(1000)
    asked = [one.removeprefix(desk.address) for one in desk.asked[before:]]
    assert [one for one in asked if "/score" in one] == ["/v1/races/to%20come/score?drivers=true"]
    assert asked.count("/v1/races/to%20come") == asked.count("/v1/events") == 1


def test_a_chance_has_its_interval_where_the_model_tells_one(browser: "Browser", store: Store, tmp_path: Path) -> None:
    """And what the interval covers; with the market put to it the chance has one of its own."""
    held = bundle.load(store.home, store.epochs[-1])
    half, third = (Band((0.1,), (low,), (2.0 - low,), 800, 90, 100.0) for low in (0.5, 0.7))
    model = replace(held.model, bands={bundle.OWN: half, bundle.BLEND: third})
    bundle.write(store.home, model, dict(held.metadata), held.metrics, NOW)
    try:
        with served(store) as up, page_of(browser, up, RACE) as page:
            page.wait_for_selector(f"{ROWS} .bounds")
            # two non-runners: one by the card, and one of another test, which by this service's clock may still be to come, unscored
            told = page.evaluate(BOUNDS, f"{ROWS}:has(.bounds)")
            assert len(told) >= len(RUNNERS) - 2
            for chance, low, high in told:
                assert low == pytest.approx(0.5 * chance, abs=0.11)
                assert high == pytest.approx(1.5 * chance, abs=0.16)
            assert "do not cover what sets this runner apart" in page.locator(".foot").inner_text()
            page.screenshot(path=screenshots(tmp_path) / "desk-interval.png", full_page=True)
    finally:
        bundle.rollback(store.home)


def test_a_day_without_races_and_a_store_without_a_model_say_so(
    browser: "Browser", store: Store, desk: Desk, tmp_path: Path
) -> None:
    with page_of(browser, desk, "/?date=2023-12-25") as page:
        assert "Monday, 25 December 2023" in page.locator("h1").inner_text()
        assert "no race" in page.locator("main").inner_text().lower()
        page.screenshot(path=screenshots(tmp_path) / "desk-empty.png")
    pointer = store.home.models / bundle.CURRENT
    aside = pointer.rename(pointer.with_suffix(".aside"))
    try:
        with served(store) as up, page_of(browser, up, RACE) as page:
            page.locator("#model", has_text="none").wait_for()
            told = page.locator("[role=alert]").inner_text()
            assert "Not scored: there is no model" in told
            assert "velo train" in told
            assert set(page.locator(f"{ROWS} .chance").all_inner_texts()) == {"not scored"}
            page.screenshot(path=screenshots(tmp_path) / "desk-no-model.png", full_page=True)
    finally:
        aside.rename(pointer)


def test_values_that_nobody_brought_up_to_date_are_flagged_on_their_runner_and_on_the_race(
    browser: "Browser", store: Store, tmp_path: Path
) -> None:
    """A day on without a tick: the windows have moved, and the page says whose."""
    yesterday = time.monotonic() - timedelta(days=1).total_seconds()
    with served(store, began=yesterday) as up, page_of(browser, up, RACE) as page:
        page.wait_for_selector(".mark.warn")
        assert "Stale values: trainer, jockey" in page.locator(".notices").inner_text()
        marks = page.locator(f"{ROWS} .mark.warn").all_inner_texts()
        assert len(marks) == page.locator(ROWS).count()
        assert all(one.startswith("stale: trainer, jockey") for one in marks)
        page.screenshot(path=screenshots(tmp_path) / "desk-stale.png", full_page=True)


def test_a_connection_that_is_lost_is_said_with_the_time_and_what_was_missed_is_caught_up_with(
    browser: "Browser", store: Store, tmp_path: Path
) -> None:
    """What was there stays, under that notice; once the service is back so is the page, without a reload."""
    with served(store) as up, page_of(browser, up, RACE) as page:
        shows_live(page)
        page.evaluate("window.same = true")
        up.stop()
        page.locator("#live.lost").wait_for(timeout=20_000)
        told = page.locator("#live").inner_text()
        assert re.match(r"not live since 14:\d\d: the service does not answer", told), told
        aslant = "one => getComputedStyle(one).fontStyle"
        assert page.locator(f"{ROWS} .chance").first.evaluate(aslant) == "italic", "figures that may be old show it"
        assert page.locator(ROWS).count() > 0
        page.screenshot(path=screenshots(tmp_path) / "desk-lost.png", full_page=True)
        tell(store, Market("to come", {"horse 3": 17.5}, "show"), at=up.clock())
        with served(store, up.port, up.began):
            shows_live(page)
            settled(page, "horse 3", "17.5")
            assert page.locator(f"{ROWS} .chance").first.evaluate(aslant) == "normal"
            assert page.evaluate("window.same") is True


def test_a_stream_that_catches_up_is_said_by_the_clock_of_the_page_and_the_figures_show_it(
    browser: "Browser", store: Store, tmp_path: Path
) -> None:
    """Nothing is scored meanwhile, and nobody reads an instant of another zone; then it goes on by itself."""
    with served(store) as up:
        redis: Any = a_service(store).scorer.wire.client
        redis.hset("{velo}:head", "live", "0")
        try:
            with page_of(browser, up, RACE) as page:
                told = page.locator("[role=alert]").inner_text()
                assert re.search(r"holds the log up to 1\d:\d\d:\d\d, ask again", told), told
                assert set(page.locator(f"{ROWS} .chance").all_inner_texts()) == {"not scored"}
                page.screenshot(path=screenshots(tmp_path) / "desk-catching-up.png", full_page=True)
                redis.hset("{velo}:head", "live", "1")
                page.wait_for_selector(f"{ROWS} .chance b")
                shows_live(page)
        finally:
            redis.hset("{velo}:head", "live", "1")


def test_a_result_shows_as_it_is_told_and_the_chances_stay_those_of_the_decision_time(
    browser: "Browser", store: Store, tmp_path: Path
) -> None:
    """Starting prices come with the result: nobody is shown an edge on them that nobody could have had."""
    with served(store, began=time.monotonic() - (OFF - NOW + timedelta(minutes=12)).total_seconds()) as up:
        tell(store, NonRunner("to come", "horse 8"), at=up.clock())
        with page_of(browser, up, RACE) as page:
            shows_live(page)
            assert "off 12 min ago" in page.locator("p.facts").inner_text()
            came = [
                replace(one, status=FINISHED, position=place, beaten_lengths=float(place - 1), sp_decimal=2.0 + place)
                for place, one in enumerate(RUNNERS[:6], start=1)
            ]
            tell(store, Result(RACE_TO_COME, tuple(came)), at=up.clock())
            settled(page, "horse 1", "1st")
            page.get_by_text("these are the chances of its decision time, 14:55:00").wait_for(timeout=30_000)
            assert [one.split()[0] for one in page.locator(f"{ROWS} th").all_inner_texts()][:3] == ["1st", "2nd", "3rd"]
            assert "Chances as of 14:55:00" in page.locator("p.stands").inner_text()
            assert page.locator("p.facts b").inner_text() == "result"
            page.screenshot(path=screenshots(tmp_path) / "desk-result.png", full_page=True)


def test_a_page_asks_only_its_own_service_runs_only_its_own_files_and_complains_of_nothing(
    browser: "Browser", desk: Desk
) -> None:
    """After all the pages above: nothing on the console, nothing asked of another origin; nothing inline may run."""
    with page_of(browser, desk, RACE) as page:
        page.wait_for_selector("table.race")
        policy = page.request.get(desk.address + "/").headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.locator("script:not([src]), style, [style]:not(html), [onclick]").count() == 0
    assert desk.heard == []
    assert {url for url in desk.asked if not url.startswith(desk.address + "/")} == set()


def test_every_runner_has_a_name_for_its_link_and_every_choice_a_label(browser: "Browser", desk: Desk) -> None:
    with page_of(browser, desk, RACE) as page:
        page.wait_for_selector("table.race")
        table = page.get_by_role("table", name=re.compile("gate: not run"))
        assert table.get_by_role("columnheader").count() == 8
        assert table.get_by_role("rowheader").count() == len(RUNNERS)
        assert page.get_by_role("radio").count() == 5
        assert page.evaluate("[...document.querySelectorAll('input')].every(one => one.labels.length === 1)")
        assert page.evaluate("[...document.links].every(one => one.innerText.trim())")


def test_every_feature_view_has_words_of_its_own() -> None:
    """A flag names what is stale or unknown in a reader's words: a view that the catalogue gains needs some."""
    text = (files("serving.desk") / "words.js").read_text(encoding="utf-8")
    listed = re.search(r"const VIEWS = \{(.*?)\};", text, re.DOTALL)
    assert listed is not None
    words = dict(re.findall(r'(\w+): "([^"]+)"', listed[1]))
    assert words.keys() == set(BY_VIEW)
    assert len(set(words.values())) == len(words)


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
