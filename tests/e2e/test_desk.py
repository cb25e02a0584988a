"""The desk in a real browser: new messages show without a reload, and what cannot be shown is said."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import drawn
from tests.support.browser import screenshots, style_of
from tests.support.desks import RACE, ROWS, Desk, chances, page_of, served, settled, shows_live
from tests.support.services import HOSTILE, NOW, OFF, RUNNERS, a_service, tell
from tests.support.services import RACE as RACE_TO_COME
from tests.support.stores import formulas_of
from velo.racing.messages import FINISHED, GoingChange, JockeyChange, Market, NonRunner, Reinstated, Result
from velo.serving.ui import pages
from velo.storage.store import Store
from velo.training import bundle
from velo.training.market.calibration import CalibrationInterval
from velo.training.registry import bundle_writing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BOUNDS = """rows => [...document.querySelectorAll(rows)].map(one =>
  [".chance b", ".bounds"].flatMap(of => one.querySelector(of).innerText.match(/[\\d.]+/g).map(Number)))"""
"""Of each runner its chance and the bounds below it, in per cent."""


@pytest.fixture(scope="module")
def store(browser: "Browser", streamed_store: Store) -> Store:
    """Asks for the browser first, so that nothing is computed where there is none."""
    return streamed_store


@pytest.fixture(scope="module")
def desk(store: Store) -> Iterator[Desk]:
    with served(store) as up:
        yield up


def test_a_race_is_picked_and_a_non_runner_changes_its_chances_without_a_reload(
    browser: "Browser", desk: Desk, tmp_path: Path
) -> None:
    """Sent to the log, taken by the stream, seen by the page: the others' chances sum to all there is again."""
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
        assert "line-through" in style_of(page, 'tr[data-horse="horse 8"] th s', "text-decoration-line")
        assert "odds from before a withdrawal" in page.locator("p.state").inner_text()
        moved = page.locator(".moved").first.inner_text()
        assert re.fullmatch(r"[+−]\d+\.\d since", moved), moved
        assert "non-runner" in page.locator("#said").inner_text()
        assert page.evaluate("window.same") is True
        for row in page.locator(ROWS).all():
            stories = row.locator(".why li").all_inner_texts()
            assert len(set(stories)) == len(stories) <= 5, "the market, three stories, all else"
        page.screenshot(path=screenshots(tmp_path) / "desk-race.png", full_page=True)

        tell(desk.store, Reinstated("to come", "horse 8"), at=desk.clock())
        page.locator('tr[data-horse="horse 8"]:not(.out) .chance b').wait_for(timeout=20_000)
        assert chances(page).keys() == before.keys()
        assert sum(chances(page).values()) == pytest.approx(100.0, abs=0.5)
        assert "Horse 8 runs after all" in page.locator("details.changes").inner_text()


def test_a_message_about_nobody_is_shown_with_the_nearest_declared_name(
    browser: "Browser", desk: Desk, tmp_path: Path
) -> None:
    """A horse that is misspelt on the page of its race, a race that nobody declared on the page of the day."""
    with page_of(browser, desk, "/") as page:
        shows_live(page)
        messages = (NonRunner("to come", "hors 2", "lame"), GoingChange("to comme", "Heavy"))
        tell(desk.store, *messages, at=desk.clock())
        section = page.locator("section.undeclared")
        section.filter(has_text="to comme").wait_for(timeout=20_000)
        said = " ".join(section.inner_text().split())
        assert "non-runner: hors 2 in race to come, not declared; nearest declared name: horse 2" in said
        assert "change of going: race to comme, not declared; nearest declared name: to come" in said
        page.screenshot(path=screenshots(tmp_path) / "desk-nobody.png", full_page=True)
        page.locator("table.day").get_by_role("link", name="Ascot").click()
        page.wait_for_selector("table.race")
        said = " ".join(page.locator("section.undeclared").inner_text().split())
        assert "hors 2" in said
        assert "to comme" not in said


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
        # the only runner with odds now and then: its share of both is 1
        drifts = " ".join(row.locator(".market .over").all_inner_texts()).split()
        assert drifts == [f"{minutes}\u2032" if name else "0%" for minutes in (60, 30, 10, 5) for name in (True, False)]
        assert row.locator(".market").evaluate("cell => cell.scrollWidth - cell.clientWidth") <= 0
        assert page.locator("main img").count() == 0
        assert page.locator('tr[data-horse="horse 2"] .jockey bdi').inner_text() == HOSTILE
        assert page.locator('tr[data-horse="horse 2"] .market').inner_text() == "–"
        assert page.locator('tr[data-horse="horse 2"] .edge').inner_text() == "–"
        chance = chances(page)["horse 1"] / 100
        for commission in (0.02, 0.05):
            page.get_by_label(f"{commission:.0%}".replace("%", " %")).check()
            shown = float(row.locator(".edge").inner_text().replace("−", "-").split()[0])
            assert shown == pytest.approx(100 * (chance * (1 + 8.5 * (1 - commission)) - 1), abs=0.6)
        assert "old odds" not in page.locator("p.state").inner_text()


def scores_made(page: "Page", desk: Desk) -> float:
    counted = page.request.get(f"{desk.address}/metrics").text()
    return sum(map(float, re.findall(r"^velo_serve_score_seconds_count\S* (\S+)$", counted, re.MULTILINE)))


def test_a_page_scores_its_race_once_as_it_opens(
    browser: "Browser", desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with its answers, and hears of every message after them, so nothing is asked for again once it is live."""
    monkeypatch.setattr(pages, "PROMPT_S", 60.0)
    before = len(desk.asked)
    with page_of(browser, desk, "/monitor") as page:
        made = scores_made(page, desk)
        page.goto(desk.address + RACE)
        shows_live(page)
        page.wait_for_selector(ROWS)
        page.wait_for_timeout(1000)
        assert scores_made(page, desk) == made + 1
    asked = [request.removeprefix(desk.address) for request in desk.asked[before:]]
    assert [request for request in asked if request.startswith("/v1/races")] == []
    assert len([request for request in asked if request.startswith("/v1/events?after=")]) == 1


@pytest.mark.parametrize("prompt_s", [60.0, 0.0], ids=["with its answers", "without"])
def test_a_message_between_a_page_and_its_events_is_shown(
    browser: "Browser", desk: Desk, monkeypatch: pytest.MonkeyPatch, prompt_s: float
) -> None:
    """Sent when the page has its chances and before it hears of anything."""
    monkeypatch.setattr(pages, "PROMPT_S", prompt_s)
    held: list[Any] = []
    with page_of(browser, desk, "/") as page:
        page.route("**/v1/events*", lambda route: held.append(route))
        page.goto(desk.address + RACE)
        page.wait_for_selector(f"{ROWS} .chance b")
        assert len(held) == 1
        price = f"{12 + (prompt_s > 0):.0f}.5"
        tell(desk.store, Market("to come", {"horse 4": float(price)}, "show"), at=desk.clock())
        assert price not in page.locator('tr[data-horse="horse 4"]').inner_text()
        held.pop().continue_()
        settled(page, "horse 4", price)


def test_the_bench_notes_when_a_race_is_fully_drawn(
    browser: "Browser", desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is there before its table, and both after what they are made of; every request is counted."""
    monkeypatch.setattr(drawn, "WARM_UP", 0)
    first, again = drawn.measure(browser, desk.port, {7: "to come"}, 1)
    assert (first.visit, again.visit, first.runners, first.loads) == ("first visit", "visited before", 7, 1)
    assert 0 < first.html_ms < first.drawn_ms
    asked = {path.rpartition("/")[2] for _, _, path in first.timeline}
    assert {"desk.css", "desk.js"} <= asked
    assert first.requests == len(first.timeline) + 1


def test_who_runs_is_shown_while_the_chances_are_being_worked_out(browser: "Browser", desk: Desk) -> None:
    """A score out of the history may take seconds."""
    held: list[Any] = []
    with page_of(browser, desk, "/") as page:
        page.route("**/score?*", lambda route: held.append(route))
        page.locator("table.day").get_by_role("link", name="Ascot").click()
        page.wait_for_selector("table.race")
        rows = page.locator(f"{ROWS} .chance")
        assert set(rows.all_inner_texts()) == {"being scored…"}
        assert page.get_by_role("alert").count() == 0
        held.pop().continue_()
        page.wait_for_selector(f"{ROWS} .chance b")
        assert sum(chances(page).values()) == pytest.approx(100.0, abs=0.5)
        assert not held


def test_what_came_by_itself_made_no_page_complain(browser: "Browser", desk: Desk) -> None:
    """After the pages above, that were open while messages came."""
    with page_of(browser, desk, RACE) as page:
        page.wait_for_selector("table.race")
    assert desk.heard == []


def test_a_chance_has_its_interval_where_the_model_has_one(browser: "Browser", store: Store, tmp_path: Path) -> None:
    """And what the interval covers; with the market put to it the chance has one of its own."""
    held = bundle.load(store.home, formulas_of(store.home))
    half, third = (CalibrationInterval((0.1,), (low,), (2.0 - low,), 800, 90, 100.0) for low in (0.5, 0.7))
    model = replace(held.model, bands={bundle.OWN: half, bundle.BLEND: third})
    bundle_writing.write(store.home, model, dict(held.metadata), held.metrics, NOW)
    try:
        with served(store) as up, page_of(browser, up, RACE) as page:
            page.wait_for_selector(f"{ROWS} .bounds")
            # two non-runners: one by the card, and one of another test, which by this service's clock may still be to come, unscored
            found = page.evaluate(BOUNDS, f"{ROWS}:has(.bounds)")
            assert len(found) >= len(RUNNERS) - 2
            for chance, low, high in found:
                assert low == pytest.approx(0.5 * chance, abs=0.11)
                assert high == pytest.approx(1.5 * chance, abs=0.16)
            assert "do not cover what sets this runner apart" in page.locator(".foot").inner_text()
            page.screenshot(path=screenshots(tmp_path) / "desk-interval.png", full_page=True)
    finally:
        bundle_writing.rollback(store.home)


def test_a_day_without_races_and_a_store_without_a_model_say_so(
    browser: "Browser", store: Store, desk: Desk, tmp_path: Path
) -> None:
    with page_of(browser, desk, "/?date=2023-12-25") as page:
        assert "Monday, 25 December 2023" in page.locator("h1").inner_text()
        assert "no race" in page.locator("main").inner_text().lower()
        page.screenshot(path=screenshots(tmp_path) / "desk-empty.png")
    pointer = store.home.serving_model
    aside = pointer.rename(pointer.with_suffix(".aside"))
    try:
        with served(store) as up, page_of(browser, up, RACE) as page:
            page.locator("#model", has_text="none").wait_for()
            printed = page.locator("[role=alert]").inner_text()
            assert "Not scored: there is no model" in printed
            assert "velo train" in printed
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
        assert all(mark.startswith("stale: trainer, jockey") for mark in marks)
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
        printed = page.locator("#live").inner_text()
        assert re.match(r"not live since 14:\d\d: the service does not answer", printed), printed
        assert style_of(page, f"{ROWS} .chance", "font-style") == "italic", "figures that may be old show it"
        assert page.locator(ROWS).count() > 0
        page.screenshot(path=screenshots(tmp_path) / "desk-lost.png", full_page=True)
        tell(store, Market("to come", {"horse 3": 17.5}, "show"), at=up.clock())
        with served(store, up.port, up.began):
            shows_live(page)
            settled(page, "horse 3", "17.5")
            assert style_of(page, f"{ROWS} .chance", "font-style") == "normal"
            assert page.evaluate("window.same") is True


def test_a_stream_that_catches_up_is_said_by_the_clock_of_the_page_and_the_figures_show_it(
    browser: "Browser", store: Store, tmp_path: Path
) -> None:
    """Nothing is scored meanwhile, and nobody reads an instant of another zone; then it goes on by itself."""
    # later than all messages of other tests
    with served(store, began=time.monotonic() - 600) as up:
        redis: Any = a_service(store).scorer.online.redis.client
        redis.hset("{velo}:head", "live", "0")
        try:
            with page_of(browser, up, RACE) as page:
                printed = page.locator("[role=alert]").inner_text()
                assert re.search(r"holds the log up to 1\d:\d\d:\d\d, ask again", printed), printed
                assert set(page.locator(f"{ROWS} .chance").all_inner_texts()) == {"not scored"}
                page.screenshot(path=screenshots(tmp_path) / "desk-catching-up.png", full_page=True)
                redis.hset("{velo}:head", "live", "1")
                page.wait_for_selector(f"{ROWS} .chance b")
                shows_live(page)
        finally:
            redis.hset("{velo}:head", "live", "1")


def test_a_result_shows_as_it_is_sent_and_the_chances_stay_those_of_the_decision_time(
    browser: "Browser", store: Store, tmp_path: Path
) -> None:
    """Starting prices come with the result: nobody is shown an edge on them that nobody could have had."""
    with served(store, began=time.monotonic() - (OFF - NOW + timedelta(minutes=12)).total_seconds()) as up:
        tell(store, NonRunner("to come", "horse 8"), at=up.clock())
        with page_of(browser, up, RACE) as page:
            shows_live(page)
            assert "off 12 min ago" in page.locator("p.facts").inner_text()
            came = [
                replace(
                    runner, status=FINISHED, position=place, beaten_lengths=float(place - 1), sp_decimal=2.0 + place
                )
                for place, runner in enumerate(RUNNERS[:6], start=1)
            ]
            tell(store, Result(RACE_TO_COME, tuple(came)), at=up.clock())
            settled(page, "horse 1", "1st")
            page.get_by_text("these are the chances of its decision time, 14:55:00").wait_for(timeout=30_000)
            assert [text.split()[0] for text in page.locator(f"{ROWS} th").all_inner_texts()][:3] == [
                "1st",
                "2nd",
                "3rd",
            ]
            assert "Chances as of 14:55:00" in page.locator("p.state").inner_text()
            assert page.locator("p.facts b").inner_text() == "result"
            page.screenshot(path=screenshots(tmp_path) / "desk-result.png", full_page=True)
