"""A feed followed into the log: once each, in order, whatever crashes; a server that goes away; bad messages put aside."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support import forked
from tests.support import killed as killed_work
from tests.support.feeds import Listed, a_day, drained, encoded, said, sent_result, ticking
from tests.support.logs import NOON, a_store, fixed, held, told
from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect_url
from velo.racing.messages import Tick
from velo.storage.log import reader
from velo.storage.log.rebuild import rebuild
from velo.storage.log.turns import SharedWriter
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home, Store
from velo.streams.feeds import source as offsets
from velo.streams.feeds.follow import follow, opened
from velo.streams.feeds.redis_stream import RedisFeed
from velo.streams.feeds.redis_stream import put as put_on_stream
from velo.streams.importers import dead_letters

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)


@pytest.fixture
def stream(redis_url: str, request: pytest.FixtureRequest) -> Callable[[], RedisFeed]:
    """A way to a stream of the test's own, as each run takes it."""
    return lambda: RedisFeed(connect_url(redis_url), request.node.name)


def puts(feed: RedisFeed, bodies: list[bytes]) -> None:
    put_on_stream(feed._client, "redis://", feed._key, bodies)


# Once


def test_a_result_before_its_scheduled_off_is_appended_and_said_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Off at 13:45 in London, here at noon; sent again it is identical."""
    early = sent_result(off_time="2024-05-01T12:45:00Z")
    report = drained(store, Listed(encoded(early, early)), fixed(NOON))
    assert (report.appended, report.identical, report.refused) == (1, 1, {})
    assert report.warnings["result before its scheduled off"] == 2
    said_of_it = [record.getMessage() for record in caplog.records if "feed.early" in record.getMessage()]
    assert said_of_it == [
        "feed.early seq=0 race=R1 off=2024-05-01T12:45:00.000000Z: taken, the race is decided before its first result"
    ]


def test_a_feed_is_taken_in_its_order_and_every_message_is_accounted_for(store: Store, stream: Any) -> None:
    puts(stream(), a_day())
    report = drained(store, stream())
    assert report.taken == len(a_day()) == report.appended + report.identical + sum(report.refused.values())
    assert report.refused == {"unknown schema_version": 12, "raise result_version": 12}
    assert (report.identical, report.ticks, report.dead_letters) == (12, 1, 24)
    kinds = [(record["type"], record.get("going")) for record in said(store) if record.get("race_id") == "R3"]
    goings = [("going_change", "Good"), ("going_change", "Soft"), ("going_change", "Good")]
    assert kinds[:6] == [*goings, ("market", None), ("market", None), ("non_runner", None)]
    assert reader.check(store.home) == []


def test_the_next_run_goes_on_where_the_last_one_ended(store: Store, stream: Any) -> None:
    puts(stream(), encoded(sent_result("R1")))
    assert drained(store, stream()).appended == 1
    assert drained(store, stream()).taken == 0
    puts(stream(), encoded(sent_result("R2")))
    assert drained(store, stream()).appended == 1


def test_a_feed_delivered_again_from_its_start_adds_nothing(tmp_path: Path, stream: Any) -> None:
    """The settled place is lost: the log itself says how far the feed was taken."""
    store = a_store(tmp_path / "home")
    puts(stream(), a_day())
    first = drained(store, stream())
    before = said(store)
    for path in store.home.feeds.iterdir():
        path.unlink()
    again = drained(store, stream())
    assert (again.taken, again.appended, again.dead_letters) == (first.taken, 0, 0)
    assert again.refused == first.refused
    assert said(store) == before


@pytest.mark.parametrize("crash", ["append", "sync", "letters", "settle"])
def test_a_run_that_fails_at_any_step_of_a_batch_loses_and_doubles_nothing(
    tmp_path: Path, crash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every place of the feed: the step raises, and the next run ends in the log of an uninterrupted one."""
    bodies = a_day()[:22]
    whole = a_store(tmp_path / "whole")
    drained(whole, Listed(bodies))
    monkeypatch.setattr("velo.streams.feeds.follow.BATCH", 5)
    steps: dict[str, tuple[Any, str]] = {
        "append": (LogWriter, "append"),
        "sync": (LogWriter, "sync"),
        "letters": (dead_letters, "write"),
        "settle": (offsets, "settle"),
    }
    owner, name = steps[crash]
    real = getattr(owner, name)
    for fails_at in range(1, 12):
        cut = a_store(tmp_path / f"cut {fails_at}")
        calls = count(1)

        def failing(*args: Any, calls: Iterator[int] = calls, fails_at: int = fails_at, **named: Any) -> Any:
            if next(calls) == fails_at:
                raise KeyboardInterrupt
            return real(*args, **named)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, failing)
            try:
                drained(cut, Listed(bodies))
            except KeyboardInterrupt:
                pass
            else:
                assert next(calls) <= fails_at
        drained(cut, Listed(bodies))
        assert said(cut) == said(whole)
        assert {message.letter for message in dead_letters.read(cut.home)} == {
            message.letter for message in dead_letters.read(whole.home)
        }


def test_a_follower_killed_in_mid_feed_again_and_again_ends_in_the_log_of_an_uninterrupted_one(
    tmp_path: Path, redis_url: str, stream: Any
) -> None:
    """kill -9 of a real process on a real Redis, each at another moment, the log's last write torn besides."""
    puts(stream(), a_day())
    whole, cut = a_store(tmp_path / "whole"), a_store(tmp_path / "cut")
    drained(whole, stream())
    killed = torn = code = 0
    for kill_at in (8, 30, 37, 60, 71, 10_000):
        code = forked.called(killed_work.follow, cut.home.root, redis_url, stream()._key, kill_at)
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        at = offsets.read(cut.home, stream().name)
        if code and at.appended and at.appended[""] != at.settled:
            # the last write was not synced yet, so a power cut may have torn it
            last = max(cut.home.log.glob("*.ndjson"))
            os.truncate(last, last.stat().st_size - 9)
            torn += 1
    assert killed >= 3
    assert torn >= 1
    assert code == 0
    assert said(cut) == said(whole)
    assert len(dead_letters.read(cut.home)) == len(dead_letters.read(whole.home)) == 24
    assert reader.check(cut.home) == []


def test_a_rebuilt_log_is_followed_on_without_taking_the_feed_again(store: Store, stream: Any) -> None:
    """Its records have other places and no word of the feed: the settled place alone says where to go on."""
    puts(stream(), a_day())
    drained(store, stream())
    rebuild(store, [told("R77", NOON - HOUR)], clock=ticking())
    before = len(held(store))
    puts(stream(), encoded(sent_result("R99")))
    report = drained(store, stream())
    assert (report.taken, report.appended, report.identical) == (1, 1, 0)
    assert len(held(store)) == before + 1


def test_a_bad_message_is_put_aside_and_the_next_one_is_taken(store: Store, stream: Any) -> None:
    client = stream()._client
    client.xadd(stream()._key, {"another field": b"{}"})
    puts(stream(), [b"{", *encoded(sent_result(course=None), sent_result("R2"))])
    report = drained(store, stream())
    assert report.refused == {"no message": 1, "no JSON": 1, "no course": 1}
    assert [message.race_id for message in held(store) if not isinstance(message, Tick)] == ["R2"]
    assert [message.reason for message in dead_letters.read(store.home)] == ["no message", "no JSON", "no course"]
    letters = dead_letters.read(store.home)
    assert orjson.loads(letters[2].rows[0]["message"])["race_id"] == "R1"


# The servers


def test_a_redis_that_goes_away_is_waited_for_and_it_is_said_once(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is stopped while the follower waits, and started again on the same port with what it kept."""
    home = Home(tmp_path / "redis")
    feed = RedisFeed(connect_url(embedded_redis.ensure(home)), "racing")
    puts(feed, encoded(sent_result("R1")))
    pid = int(feed._client.info("server")["process_id"])  # type: ignore[index]
    stop = threading.Event()
    waits: list[float] = []
    servers: list[subprocess.Popen[bytes]] = []

    class Stop:
        def is_set(self) -> bool:
            return stop.is_set()

        def wait(self, timeout: float) -> bool:
            waits.append(timeout)
            if len(waits) == 2:
                configuration = str(home.redis / "redis.conf")
                started = [embedded_redis.executable(), configuration]
                servers.append(subprocess.Popen(started, cwd=home.redis, start_new_session=True))
            return stop.wait(0.3)

    def taken(so_far: int) -> None:
        if so_far == 1:
            os.kill(pid, signal.SIGTERM)
        else:
            stop.set()

    sending = threading.Thread(target=_put_when_back, args=(home, stop))
    sending.start()
    try:
        report = follow(store, feed, clock=ticking(), stop=Stop(), progress=taken)
    finally:
        stop.set()
        sending.join(30)
        embedded = connect_url((home.redis / "address").read_text().strip())
        embedded.shutdown()
        servers[0].wait(30)
    assert (report.appended, report.away) == (2, 1)
    assert len(waits) >= 2
    messages = [record.getMessage() for record in caplog.records if record.name == "velo.streams.feeds.follow"]
    assert [message.split()[0] for message in messages] == ["feed.away", "feed.back"]
    assert "waiting for it, nothing is lost" in messages[0]


def _put_when_back(home: Home, stop: threading.Event) -> None:
    """Send a second result as soon as the server, gone meanwhile, takes it."""
    away = False
    while not stop.wait(0.05):
        try:
            client = connect_url((home.redis / "address").read_text().strip())
            if away:
                put_on_stream(client, "redis://", "racing", encoded(sent_result("R2")))
                return
        except UserError:
            away = True


def test_a_key_that_is_no_stream_is_reported(store: Store, stream: Any) -> None:
    stream()._client.set(stream()._key, "text")
    with pytest.raises(UserError, match="holds a string, not a stream: name a stream's key"):
        drained(store, stream())


# Other writers


def test_other_processes_append_between_two_batches_of_a_feed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has every message of both, each once, and the stream beside may read all of it between the batches."""
    monkeypatch.setattr("velo.streams.feeds.follow.BATCH", 2)
    other = SharedWriter.of(store, fixed(NOON))
    bodies = encoded(*(sent_result(f"R{number}") for number in range(4)))
    with opened(store, Listed(bodies), clock=fixed(NOON)) as following:
        for number in range(2):
            assert following.step() == "taken"
            other.append(told(f"theirs {number}"))
            with following.durable() as before:
                assert before is None
    races = [record["race_id"] for record in said(store) if record["type"] == "result"]
    assert races == ["R0", "R1", "theirs 0", "R2", "R3", "theirs 1"]
    assert reader.check(store.home) == []


def test_a_batch_waits_for_another_writer_of_the_log_and_is_not_lost(store: Store) -> None:
    with opened(store, Listed(encoded(sent_result("R1"))), clock=fixed(NOON)) as following:
        following.turns.wait_s = 0.0
        with LogWriter.open(store, clock=fixed(NOON)):
            assert following.step() == "away"
        assert following.step() == "taken"
        assert following.report().appended == 1
        assert following.report().away == 1


def test_a_feed_has_one_follower(store: Store) -> None:
    """Two would each append what the other did: the second one says who follows it."""
    said_of_it = rf"listed is followed by process {os.getpid()} already: stop it"
    with opened(store, Listed([]), clock=fixed(NOON)), pytest.raises(UserError, match=said_of_it):
        drained(store, Listed([]))
    assert drained(store, Listed([])).taken == 0
