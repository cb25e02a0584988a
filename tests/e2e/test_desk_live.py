"""How soon the desk shows what is sent: the log, a live stream, the service and a real browser, from `known_at` to the screen."""

import re
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from tests.support.desks import RACE
from tests.support.live_services import up
from tests.support.services import NOW, OFF, RUNNERS, a_service
from tests.support.services import RACE as RACE_TO_COME
from velo.commands.live_demo import run_day
from velo.racing.messages import FINISHED, NON_RUNNER, Market, Message, NonRunner, Result
from velo.simulator.live_day import live_day
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.dataflow.metrics import Telemetry, position
from velo.streams.dataflow.runtime import StreamOptions, plan, run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AT_ONCE_MS = 10
"""How long the page waits after an event about its race, by its own clock, before it asks for the race again."""
EVENTS = """window.events = [];
window.EventSource = class extends EventSource {
  constructor(address) {
    super(address);
    for (const kind of ["market", "non_runner"]) this.addEventListener(kind, () => events.push(kind));
  }
};"""
SHOWN = """horse => { const row = document.querySelector(`tr[data-horse="${horse}"]`);
  return row ? row.className + row.querySelector(".market, .gone").textContent : null; }"""


@pytest.fixture(scope="module")
def store(browser: "Browser", streamed_store: Store) -> Store:
    return streamed_store


def until(condition: Callable[[], bool], page: "Page", what: str) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < 60.0, what
        page.wait_for_timeout(10)


def seconds_to_be_seen(page: "Page", writer: LogWriter, horse: str, message: Message) -> float:
    """From the instant that a message is stamped with to a page that shows it.

    The clock of the page goes on by `AT_ONCE_MS` once it has the event, and else stands still: nothing that the page asks for
    from time to time can show the message.
    """
    shown, events = page.evaluate(SHOWN, horse), page.evaluate("events.length")
    begun = time.time()
    writer.append(message)
    writer.sync()
    until(lambda: page.evaluate("events.length") > events, page, "the page had no event")
    assert page.evaluate(SHOWN, horse) == shown
    page.clock.run_for(AT_ONCE_MS)
    until(lambda: page.evaluate(SHOWN, horse) != shown, page, "the page never changed")
    return time.time() - begun


def test_what_is_sent_is_on_the_screen_as_soon_as_the_page_hears_of_it(
    browser: "Browser", store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Odds nine times, then a non-runner; each seen in the page, which is never loaded again."""
    begun, stop = time.monotonic(), threading.Event()

    def clock() -> datetime:
        return NOW + timedelta(seconds=time.monotonic() - begun)

    arguments = (plan(store), StreamOptions(snapshot_every=timedelta(seconds=5)), clock, Telemetry())
    stream = threading.Thread(target=run, args=arguments, kwargs={"stop": stop})
    stream.start()
    try:
        while (at := position(store.home)) is None or not at.at_end or at.next_seq != reader.end(store.home).next_seq:
            time.sleep(0.05)
        with up(a_service(store, clock)) as service, LogWriter.open(store, clock=clock) as writer:
            page = browser.new_page()
            page.add_init_script(EVENTS)
            page.clock.install()
            page.goto(f"http://127.0.0.1:{service.port}{RACE}")
            page.locator("#live:not(.lost)", has_text=re.compile("^live$")).wait_for()
            page.wait_for_selector('table.race tr[data-horse="horse 1"] .chance b')
            page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 1)
            odds = [
                seconds_to_be_seen(page, writer, "horse 1", Market("to come", {"horse 1": 5.0 + n}, "show"))
                for n in range(9)
            ]
            gone = seconds_to_be_seen(page, writer, "horse 2", NonRunner("to come", "horse 2", "lame"))
            left = page.locator("main tbody tr:not(.out) .chance b").all_inner_texts()
            assert sum(float(each.split()[0]) for each in left) == pytest.approx(100.0, abs=0.5)
            page.close()
    finally:
        stop.set()
        stream.join()
    with capsys.disabled():
        sys.stdout.write(
            f"\nfrom known_at to the browser: odds median {1000 * statistics.median(odds):.0f} ms, "
            f"longest {1000 * max(odds):.0f} ms; a non-runner's changed chances {1000 * gone:.0f} ms\n"
        )


def test_a_simulated_race_day_is_seen_from_its_prices_to_an_amended_result(browser: "Browser", store: Store) -> None:
    """As `velo demo --live` runs it, 90 times as fast: the desk, the stream and paper trading by one clock."""
    ran = [
        replace(runner, status=NON_RUNNER if place == 7 else FINISHED, position=None if place == 7 else min(place, 7),
                sp_decimal=None if place == 7 else 2.5 + place)
        for place, runner in enumerate(RUNNERS, start=1)
    ]  # fmt: skip
    out = StringIO()
    whole = live_day([Result(RACE_TO_COME, tuple(ran))], 1)
    day = [message for message in whole if message.at > OFF - timedelta(minutes=7)]
    arguments = (store, day, 0, 90.0, Console(file=out, width=200), timedelta(minutes=15))
    running = threading.Thread(target=run_day, args=arguments)
    running.start()
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", out.getvalue())):
            assert running.is_alive(), out.getvalue()
            time.sleep(0.05)
        page = browser.new_page()
        page.goto(found[0] + RACE)
        row = page.locator('tr[data-horse="horse 1"]')
        row.locator(".spark").wait_for(timeout=30_000)
        page.locator('tr[data-horse="horse 1"] .came', has_text="1st").wait_for(timeout=30_000)
        page.locator('tr[data-horse="horse 2"] .came', has_text="1st").wait_for(timeout=30_000)
        page.close()
    finally:
        running.join()
    printed = out.getvalue()
    assert "Ascot, race to come: Horse 1 at 3.5" in printed
    assert "Ascot, race to come amended: Horse 2 at 4.5" in printed
