"""Killed, starved of its Redis, or asked to stop: the stream loses nothing and doubles nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from benchmarks.crash_test import replay
from tests.support import forked
from tests.support.live_services import free_port
from tests.support.logs import a_store
from tests.support.made_once import copied
from tests.support.stores import Conformance
from tests.support.streaming import NOW, streamed, tell
from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.embedded_redis import executable
from velo.feature_repo.stores.redis_client import connect
from velo.racing.messages import Tick
from velo.settings import Settings
from velo.storage.log import reader
from velo.storage.store import Store
from velo.streams.audit import AuditReport, audit
from velo.streams.dataflow import redis_sink, redis_view
from velo.streams.dataflow.metrics import Telemetry, position
from velo.streams.dataflow.runtime import StreamOptions, plan, run, sole_stream

pytestmark = pytest.mark.usefixtures("fresh_batches")

PATIENCE_S = 120.0
TOLD = 500


@pytest.fixture
def london(conformance: Conformance, tmp_path: Path) -> Iterator[Store]:
    """The first messages of London's log, not streamed yet."""
    store = a_store(tmp_path / "home")
    tell(store, [message for _, message in islice(reader.messages(conformance("london").store.home), TOLD)])
    yield store
    embedded_redis.down(store.home)


@pytest.fixture
def built(conformance: Conformance, tmp_path: Path) -> Iterator[Store]:
    """All of London's log and its tables, as the build left them."""
    store = a_store(copied(conformance("london").store.home.root, tmp_path / "built"))
    yield store
    embedded_redis.down(store.home)


def looked(store: Store) -> AuditReport:
    return audit(store, NOW, client=connect(store.home, store.redis_url))


def until(true: Callable[[], Any]) -> None:
    """Wait for something that another process or thread does."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def test_killed_at_random_moments_it_ends_where_it_would_have(london: Store) -> None:
    """Real SIGKILLs; offline and Redis as a batch of the whole log."""
    embedded_redis.ensure(london.home)
    assert replay(london, 6, random.Random(1)).total() > 2
    report = looked(london)
    assert (report.found, report.next_seq) == (0, TOLD)


def redis_at(port: int, folder: Path) -> "subprocess.Popen[bytes]":
    """A Redis that keeps nothing: after a restart it has forgotten all."""
    folder.mkdir(exist_ok=True)
    command = [executable(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    client = Redis(port=port)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except RedisError:
            return False

    until(answers)
    return server


def test_it_waits_while_redis_is_away_and_fills_one_that_has_forgotten(
    london: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages go on arriving meanwhile; when Redis is back, every key is there, also of long before."""
    port = free_port()
    store = Store.open(Settings(london.home.root, redis_url=f"redis://127.0.0.1:{port}/0"))
    server = redis_at(port, tmp_path / "redis")
    messages = [message for _, message in reader.messages(store.home)]
    away = a_store(tmp_path / "live")
    live = Store.open(Settings(away.home.root, redis_url=store.redis_url))
    tell(live, messages[:250])
    streamed(live, online=True)
    stop, telemetry = Event(), Telemetry()
    options = StreamOptions(snapshot_every=timedelta(milliseconds=50))
    caplog.set_level("INFO", "velo.stream")
    last, began = max(message.known_at for message in messages if message.known_at), time.monotonic()

    def clock() -> datetime:
        return last + timedelta(seconds=time.monotonic() - began)

    thread = Thread(target=run, args=(plan(live), options, clock, telemetry), kwargs={"stop": stop})
    thread.start()
    try:
        until(lambda: "stream.begins" in caplog.text)
        server.kill()
        server.wait()
        tell(live, messages[250:])
        until(lambda: "store.unavailable" in caplog.text)
        server = redis_at(port, tmp_path / "redis")
        until(lambda: (where := position(live.home)) and where.sealed_seq == len(messages) and where.at_end)
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    try:
        assert "store.available" in caplog.text
        report = looked(live)
        assert (report.found, report.next_seq) == (0, TOLD)
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("how", ["emptied", "restarted from an old snapshot"])
def test_a_redis_that_forgets_while_the_stream_runs_is_filled_again(
    london: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """In the middle of an epoch, when no table has yet what Redis lost: noticed at the next write or snapshot."""
    port = free_port()
    server = redis_at(port, tmp_path / "redis")
    live = Store.open(Settings(a_store(tmp_path / "live").home.root, redis_url=f"redis://127.0.0.1:{port}/0"))
    messages = [message for _, message in reader.messages(london.home)]
    tell(live, messages[:250])
    stop, client = Event(), Redis(port=port)
    # of the day of the last message known, so that no midnight has passed for which the stream would append a tick
    found, begun = messages[249].known_at or NOW, time.monotonic()

    def clock() -> datetime:
        return found + timedelta(seconds=time.monotonic() - begun)

    def read(count: int) -> None:
        until(lambda: (where := position(live.home)) and where.next_seq == count and where.at_end)

    options = StreamOptions(snapshot_every=timedelta(minutes=10))
    caplog.set_level("INFO", "velo.stream")
    thread = Thread(target=run, args=(plan(live), options, clock, Telemetry()), kwargs={"stop": stop})
    thread.start()
    try:
        read(250)
        if how == "emptied":
            client.flushall()
        else:
            client.save()
        tell(live, messages[250:310])
        read(310)
        if how != "emptied":
            server.kill()
            server.wait()
            server = redis_at(port, tmp_path / "redis")
        tell(live, messages[310:])
        read(len(messages))
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    try:
        assert any(getattr(record, "fields", {}).get("forgot") for record in caplog.records)
        report = looked(live)
        assert (report.found, report.next_seq) == (0, TOLD)
    finally:
        server.kill()
        server.wait()


def test_a_redis_that_forgets_more_than_was_kept_ends_the_stream_with_one_line(
    london: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start fills Redis from the tables and goes on; a stream without tables asks for a build."""
    embedded_redis.ensure(london.home)
    client: Any = connect(london.home)
    monkeypatch.setattr(redis_view, "ROWS_KEPT", 50)
    flushed = redis_sink.RedisPartition.snapshot

    def emptied_first(partition: redis_sink.RedisPartition) -> int:
        client.flushall()
        return flushed(partition)

    with monkeypatch.context() as broken:
        broken.setattr(redis_sink.RedisPartition, "snapshot", emptied_first)
        broken.setattr(redis_sink, "ROWS_HELD", 10)
        with pytest.raises(UserError, match="start the stream again"):
            streamed(london, online=True, snapshot_every=timedelta(minutes=10))
    streamed(london, online=True)
    report = looked(london)
    assert (report.found, report.next_seq) == (0, TOLD)


def test_a_build_is_in_redis_before_any_message_comes(built: Store) -> None:
    """A stream that takes over has nothing to do yet, and serving has everything."""
    streamed(built, online=True)
    report = looked(built)
    assert (report.found, report.next_seq) == (0, 1140)


def test_sigterm_seals_what_was_read_and_ends_well(london: Store) -> None:
    """Exit code 0, the lock is free, and nothing is left for the next start."""
    environ = {**os.environ, "VELO_HOME": str(london.home.root)}
    command = [sys.executable, "-m", "velo.cli", "stream", "--no-online"]
    process = forked.Popen(command, env=environ, stderr=subprocess.PIPE)
    try:
        until(lambda: (where := position(london.home)) and where.at_end)
        with pytest.raises(UserError, match="another stream"), sole_stream(london.home):
            pass
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert b'"event": "stream.stopping"' in said
    report = audit(london, NOW, client=None)
    assert report.found == 0
    assert report.next_seq >= TOLD


def test_sigterm_before_the_first_record_is_read_ends_well_too(built: Store) -> None:
    """While the state is laid and Redis filled by threads that are in DuckDB's code: it ends them, then itself."""
    embedded_redis.ensure(built.home)
    command = [sys.executable, "-m", "velo.cli", "stream"]
    environ = {**os.environ, "VELO_HOME": str(built.home.root)}
    process = forked.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        assert b'"stream.begins"' in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert b'"stream.prepared"' not in said
    streamed(built, online=True)
    report = looked(built)
    assert (report.found, report.next_seq) == (0, 1140)


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--once",), 1)])
def test_stopped_while_redis_is_away_it_does_not_claim_that_both_stores_hold_everything(
    built: Store, options: tuple[str, ...], code: int
) -> None:
    """A build alone is in the tables, and nothing is in Redis; `--once` did not do what it was asked for."""
    port = free_port()
    environ = {**os.environ, "VELO_HOME": str(built.home.root), "REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    command = [sys.executable, "-m", "velo.cli", "stream", *options]
    process = forked.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if b'"store.unavailable"' in line:
                break
        process.send_signal(signal.SIGTERM)
        found, said = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == code, said
    assert found.startswith(b"stopped while a store was unavailable: not all of 1,140 messages are in both stores"), (
        found
    )
    assert found.count(b"\n") == 1


def is_read(store: Store, seq: int) -> bool:
    return reader.end(store.home).next_seq >= seq


def test_local_midnight_is_appended_where_nobody_else_does_it(london: Store) -> None:
    """Once a day, by an injected clock, on the 23- and the 25-hour day too; not while a writer holds the log."""
    end = reader.end(london.home)
    assert end.known_at is not None
    now = [datetime(2026, 3, 28, 23, 59, tzinfo=UTC)]
    stop = Event()
    options = StreamOptions(online=False, snapshot_every=timedelta(milliseconds=50))
    thread = Thread(
        target=run, args=(plan(london), options, lambda: now[0], Telemetry()), kwargs={"stop": stop}, daemon=True
    )
    thread.start()
    try:
        # the day before the clock goes forward, that day, the day after, the day it goes back, and the day after that
        for tick, at in enumerate(
            [
                now[0],
                datetime(2026, 3, 29, 0, 0, 1, tzinfo=UTC),
                datetime(2026, 3, 29, 23, 0, 1, tzinfo=UTC),
                datetime(2026, 10, 24, 23, 0, 1, tzinfo=UTC),
                datetime(2026, 10, 26, 0, 0, 1, tzinfo=UTC),
            ]
        ):
            now[0] = at
            until(partial(is_read, london, end.next_seq + 1 + tick))
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    ticks = [message for _, message in reader.messages(london.home, end.next_seq)]
    assert [each.midnight for each in ticks if isinstance(each, Tick)] == [
        datetime(2026, 3, 28, 0, tzinfo=UTC),
        datetime(2026, 3, 29, 0, tzinfo=UTC),
        datetime(2026, 3, 29, 23, tzinfo=UTC),
        datetime(2026, 10, 24, 23, tzinfo=UTC),
        datetime(2026, 10, 26, 0, tzinfo=UTC),
    ]
    assert audit(london, NOW, client=None).found == 0
