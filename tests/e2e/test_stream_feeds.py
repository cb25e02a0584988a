"""A feed as the stream's own source: one process takes it, appends it to the log, and keeps both stores by it.

Against a real Redis and librdkafka's own broker; what is left is held to a batch of the whole log, value by value.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import orjson
import pytest

from tests.support import forked
from tests.support.cli import velo
from tests.support.feeds import Listed, a_broker, drained, encoded, said, sent_result
from tests.support.logs import NOON, a_store, fixed
from tests.support.seasons import a_season
from tests.support.shared import REPO
from tests.support.streaming import all_rows, assert_same, batch_twin
from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect, connect_url
from velo.racing.messages import Tick, to_record
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home, Store
from velo.streams.audit import audit
from velo.streams.dataflow.background_ingest import background_ingest
from velo.streams.dataflow.metrics import Telemetry, is_streaming, position
from velo.streams.dataflow.runtime import StreamOptions, plan, run
from velo.streams.feeds.kafka_topic import put as put_on_topic
from velo.streams.feeds.redis_stream import put as put_on_stream
from velo.streams.feeds.source import Delivery, Feed, FeedAway

PATIENCE_S = 120.0
KILLS = 3


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store with a Redis of its own, which the feed is in too."""
    made = a_store(tmp_path / "home")
    embedded_redis.ensure(made.home)
    yield made
    embedded_redis.down(made.home)


@pytest.fixture(scope="module")
def bodies() -> list[bytes]:
    """A month and a half of everything that a producer sends, up to yesterday: cards, withdrawals, odds, results."""
    first_day = datetime.now(UTC).date() - timedelta(days=46)
    records = [to_record(message) for message in a_season(45, first_day=first_day)]
    return [orjson.dumps({name: record[name] for name in record if name != "known_at"}) for record in records]


class Streaming:
    """`velo stream` in a forked process, ended with the test whatever becomes of it."""

    def __init__(self, home: Path, *options: object) -> None:
        command = [sys.executable, "-m", "velo.cli", "stream", "--snapshot-seconds", "0.2", *map(str, options)]
        environ = {**os.environ, "PYTHONPATH": str(REPO), "VELO_HOME": str(home)}
        self.home = Home(home)
        self.told = home.with_name(f"told-{time.monotonic_ns()}")
        with self.told.open("wb") as err:
            self.process = forked.Popen(command, cwd=REPO, env=environ, stdout=subprocess.DEVNULL, stderr=err)

    def __enter__(self) -> "Streaming":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while is_streaming(self.home):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def until(self, true: Callable[[], Any]) -> None:
        """Wait for something that it does."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert self.process.poll() is None, self.told.read_text()
            assert time.monotonic() < deadline, self.told.read_text()
            time.sleep(0.01)

    def tells(self, word: str) -> None:
        """Wait until its log has a word."""
        self.until(lambda: word in self.told.read_text())

    def appends(self, store: Store, seq: int) -> None:
        """Wait until the log has a record of this seq."""
        self.until(lambda: reader.end(store.home).next_seq > seq)

    def stopped(self) -> None:
        """End it by SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0, self.told.read_text()


def everything_holds(store: Store, bodies: Sequence[bytes], tmp_path: Path) -> None:
    """Every message is in the log once, in the feed's order, and both stores are a batch of it."""
    whole = a_store(tmp_path / "whole")
    drained(whole, Listed(bodies), clock=lambda: datetime.now(UTC))
    found = [{key: value for key, value in record.items() if key not in ("seq", "digest")} for record in said(store)]
    wanted = [{key: value for key, value in record.items() if key not in ("seq", "digest")} for record in said(whole)]
    assert [each for each in found if each["type"] != "tick"] == [each for each in wanted if each["type"] != "tick"]
    assert reader.check(store.home) == []
    report = audit(store, datetime.now(UTC), client=connect(store.home))
    assert report.found == 0, report.differences
    assert report.next_seq == reader.end(store.home).next_seq


def sealed_all(store: Store, least: int) -> bool:
    where, last = position(store.home), reader.end(store.home).next_seq
    return where is not None and last >= least and where.sealed_seq == last and where.at_end


def test_a_redis_stream_streamed_and_killed_in_the_middle_loses_and_doubles_nothing(
    store: Store, bodies: list[bytes], tmp_path: Path
) -> None:
    """kill -9 while messages come in, KILLS times; what the last one leaves is the whole feed and its values."""
    client, chance = connect(store.home), random.Random(1)
    share = len(bodies) // (KILLS + 1) + 1
    options = ("--redis", "racing")
    for number in range(KILLS):
        with Streaming(store.home.root, *options) as streaming:
            streaming.tells("stream.follows")
            before = reader.end(store.home).next_seq
            put_on_stream(client, "redis://", "racing", bodies[number * share : (number + 1) * share])
            streaming.appends(store, before)
            time.sleep(chance.uniform(0, 0.5))
    with Streaming(store.home.root, *options) as streaming:
        put_on_stream(client, "redis://", "racing", bodies[KILLS * share :])
        streaming.until(lambda: sealed_all(store, len(bodies)))
        streaming.stopped()
    everything_holds(store, bodies, tmp_path)


def test_a_kafka_topic_is_streamed_by_the_same_promises(store: Store, bodies: list[bytes], tmp_path: Path) -> None:
    """One partition of a real broker; killed once on the way."""
    with a_broker() as brokers:
        options = ("--kafka", "day", "--brokers", brokers, "--partition", 1)
        put_on_topic(brokers, "day", bodies[:150], partition=1)
        with Streaming(store.home.root, *options) as streaming:
            streaming.appends(store, 0)
        put_on_topic(brokers, "day", bodies[150:], partition=1)
        with Streaming(store.home.root, *options) as streaming:
            streaming.until(lambda: sealed_all(store, len(bodies)))
            streaming.stopped()
    everything_holds(store, bodies, tmp_path)


def fed(store: Store, feed: Feed, clock: Callable[[], datetime] = lambda: NOON) -> None:
    """Stream a feed to its end in this process, into the tables alone."""
    stop, planned = Event(), plan(store)
    with background_ingest(planned.store, feed, clock, stop, once=True) as each:
        options = StreamOptions(once=True, online=False, snapshot_every=timedelta(0))
        run(planned, options, clock, Telemetry(), stop=stop, feeding=each)


def test_midnight_is_reported_and_the_values_expire_at_it(tmp_path: Path) -> None:
    """By the one clock that stamps the messages; the tables are those of a batch."""
    now = [NOON]

    class Days(Listed):
        def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
            given = super().take(1, wait_s)
            if given and self.place == 2:
                now[0] += timedelta(days=16)
            return given

    store = a_store(tmp_path / "home")
    days = ("2024-05-01", "2024-05-01", "2024-05-17")
    fed(store, Days(encoded(*(sent_result(f"R{at}", race_date=day) for at, day in enumerate(days)))), lambda: now[0])
    ticks = [message.midnight for _, message in reader.messages(store.home) if isinstance(message, Tick)]
    assert ticks == [datetime(2024, 4, 30, 23, 0, tzinfo=UTC), datetime(2024, 5, 16, 23, 0, tzinfo=UTC)]
    assert_same(all_rows(store), all_rows(batch_twin(store, tmp_path / "twin")))
    first = datetime(2024, 5, 14, 23, 0, tzinfo=UTC).timestamp() * 1e6
    assert any(row[-1] == first for row in all_rows(store)["trainer_velocity"]), (
        "no row at the midnight it left 14 days"
    )


def test_a_feed_that_is_away_is_waited_for_and_what_the_log_holds_takes_effect_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = a_store(tmp_path / "home")
    drained(store, Listed(encoded(sent_result("R0"))))

    class Away(Listed):
        looks = 0

        def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
            self.looks += 1
            if self.looks == 1:
                raise FeedAway("nobody answers")
            return super().take(limit, wait_s)

    feed = Away(encoded(sent_result("R1"), sent_result("R2")))
    feed.name = "another"
    fed(store, feed)
    assert sum("feed.away" in record.getMessage() for record in caplog.records) == 1
    assert len(all_rows(store)["horse_form"]) == 2 * 3
    assert_same(all_rows(store), all_rows(batch_twin(store, tmp_path / "twin")))


def test_nothing_takes_effect_that_the_disk_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log cannot be synced: the stream ends with its one line, and no table knows what was appended."""
    store = a_store(tmp_path / "home")
    fed(store, Listed(encoded(sent_result("R0"))))
    synced = LogWriter.sync

    def no_room(writer: LogWriter) -> None:
        if writer.next_seq > 1:
            raise UserError("cannot write to the log")
        synced(writer)

    with monkeypatch.context() as broken:
        broken.setattr(LogWriter, "sync", no_room)
        with pytest.raises(UserError, match="cannot write to the log"):
            fed(store, Listed(encoded(sent_result("R0"), sent_result("R1"))))
    assert reader.end(store.home).next_seq == 2
    assert len(all_rows(store)["horse_form"]) == 2
    fed(store, Listed(encoded(sent_result("R0"), sent_result("R1"))))
    assert len(all_rows(store)["horse_form"]) == 4


def test_a_log_that_another_process_writes_is_reported_in_one_line(store: Store) -> None:
    with LogWriter.open(store, clock=fixed()):
        velo("stream", "--redis", "racing", "--once", home=store.home.root).told("is being written by process")
    velo("stream", "--redis", "racing", "--kafka", "day", home=store.home.root).told("exclude each other")
    velo("stream", "--brokers", "127.0.0.1:1", home=store.home.root).told("need a feed: add --redis KEY")
    assert connect_url(embedded_redis.ensure(store.home)).ping()
