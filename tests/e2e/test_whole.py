"""An online store that is not whole says so: no score is given of what it lost, and it is filled again at once.

A real Redis is emptied, restored from older data, robbed of keys or filled by another store, with a stream that has
nothing to do; whatever the service answers meanwhile is refused, or is what it answered before.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest

from tests.support import forked
from tests.support.cli import velo
from tests.support.seasons import BUILT_AT, a_season
from tests.support.services import NOW, RUNNERS, SCORE, a_client, a_service
from velo.errors import UserError
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES
from velo.feature_repo.stores import embedded_redis, whole
from velo.feature_repo.stores.race_cards import HEAD, race_key
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.racing.messages import Market, Result
from velo.serving.scoring.redis_reader import RedisReader
from velo.settings import Settings
from velo.storage.log.reader import end
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store, given_id, store_id
from velo.streams.audit import audit
from velo.streams.batch.build import build
from velo.streams.dataflow.keeper import Keeper
from velo.streams.dataflow.metrics import Telemetry, position
from velo.streams.dataflow.runtime import StreamOptions, plan, run
from velo.streams.rebuild_online import rebuild

pytestmark = pytest.mark.usefixtures("fresh_batches")

PATIENCE_S = 60.0
LAYOUTS = [Layout.of(family) for family in FAMILIES]


@pytest.fixture(scope="module")
def made(streamed_store: Store) -> Store:
    """A streamed season, a race to come and a model; its tests leave Redis whole."""
    return streamed_store


@pytest.fixture
def store(made: Store) -> Store:
    """The same, Redis as a rebuild fills it where a test before left it otherwise."""
    rebuild(made, connect(made.home), NOW, clear=True)
    return made


@pytest.fixture
def redis(store: Store) -> Any:
    return connect(store.home)


@contextmanager
def streaming(store: Store) -> Iterator[Flag]:
    """A stream that has read all there is, and waits for more."""
    stop, failed, began = Flag(), list[BaseException](), time.monotonic()

    def clock() -> datetime:
        return NOW + timedelta(seconds=time.monotonic() - began)

    def work() -> None:
        try:
            run(plan(store), StreamOptions(snapshot_every=timedelta(milliseconds=200)), clock, Telemetry(), stop=stop)
        except BaseException as broke:  # noqa: BLE001  told to the test
            failed.append(broke)

    thread = Thread(target=work)
    (store.home.stream / "position.json").unlink(missing_ok=True)
    thread.start()
    try:
        until(lambda: failed or ((where := position(store.home)) and where.at_end))
        yield stop
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def comes_back(client: Any, before: dict[str, Any]) -> int:
    """Ask until the service is ready and scores again; every answer meanwhile is a refusal or what it was before."""
    refusals, deadline = 0, time.monotonic() + PATIENCE_S
    while True:
        ready, answer = client.get("/readyz"), client.get(SCORE)
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 200:
            assert same(answer.json()) == same(before)
        else:
            refusals += 1
            assert answer.headers["Retry-After"] == "1"
            assert "\n" not in answer.json()["detail"]
        if ready.status_code == 503:
            assert ready.headers["Retry-After"] == "1"
        elif answer.status_code == 200:
            return refusals
        assert time.monotonic() < deadline, (ready.text, answer.text)
        time.sleep(0.04)


def same(score: dict[str, Any]) -> Any:
    """What a score stands on and comes to, but when it was made and how far the log was."""
    return (
        score["fingerprint"],
        score["missing"],
        [(runner["horse_id"], runner["probability"]) for runner in score["runners"]],
    )


def entities(redis: Any) -> list[bytes]:
    """Every key of an entity of any view."""
    return [key for key in redis.scan_iter(count=5000) if any(layout.owns(key) for layout in LAYOUTS)]


def values_of(redis: Any) -> dict[bytes, Any]:
    """What every key of an entity holds: packed, and as Feast reads it."""
    keys = sorted(entities(redis))
    pipe = redis.pipeline()
    for key in keys:
        pipe.hgetall(key)
    return dict(zip(keys, pipe.execute(), strict=True))


def differences_found(store: Store) -> int:
    return audit(store, NOW, client=connect(store.home, store.redis_url)).found


def emptied(redis: Any) -> None:
    redis.flushall()


def robbed_of_half(redis: Any) -> None:
    redis.delete(*sorted(entities(redis))[::2])


def robbed_of_a_runner(redis: Any) -> None:
    assert redis.delete(Layout.of(BY_VIEW["horse_form"]).redis_key([RUNNERS[0].horse_id])) == 1


def robbed_of_an_index(redis: Any) -> None:
    assert redis.delete(Layout.of(BY_VIEW["jockey_elo"]).index_key) == 1


def robbed_of_the_race(redis: Any) -> None:
    assert redis.delete(race_key("to come")) == 1


def robbed_of_the_position(redis: Any) -> None:
    assert redis.delete(HEAD) == 1


@pytest.mark.parametrize(
    "harm",
    [emptied, robbed_of_half, robbed_of_a_runner, robbed_of_an_index, robbed_of_the_race, robbed_of_the_position],
)
def test_what_an_idle_stream_finds_gone_it_fills_again_and_no_score_is_given_of_the_rest(
    store: Store, redis: Any, harm: Callable[[Any], None]
) -> None:
    """Nothing is sent meanwhile: the stream looks by itself."""
    with streaming(store):
        client = a_client(a_service(store))
        until(lambda: client.get("/readyz").status_code == 200)
        before = client.get(SCORE).json()
        held = values_of(redis)
        harm(redis)
        comes_back(client, before)
        until(lambda: sorted(entities(redis)) == [*held])
    assert values_of(redis) == held


@pytest.mark.parametrize("busy", [False, True])
def test_a_redis_with_older_data_is_found_by_an_idle_stream(
    store: Store, redis: Any, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """All keys as they were before the last message, as a server restarted from an older file has them; also where the
    keeper's first look after that finds the stream still writing."""
    restarted, looks, idle = Flag(), list[bool](), Keeper._idle

    def idle_later(keeper: Keeper) -> bool:
        if restarted.is_set():
            looks.append(True)
        return idle(keeper) and not (busy and len(looks) == 1)

    monkeypatch.setattr(Keeper, "_idle", idle_later)
    with streaming(store):
        client = a_client(a_service(store))
        until(lambda: client.get("/readyz").status_code == 200)
        before = client.get(SCORE).json()
        older = {key: redis.dump(key) for key in redis.scan_iter(count=5000)}
        messages = [message for message in a_season(88) if isinstance(message, Result)][-1]
        off = NOW - timedelta(hours=2 - busy)
        race = replace(messages.race, race_id=f"fresh {busy}", race_date=NOW.date(), off_time=off)
        with LogWriter.open(store, clock=lambda: NOW - timedelta(minutes=1)) as writer:
            writer.append(Result(race, messages.runners))
        until(lambda: whole.head_remembered(store.home) == (0, end(store.home).next_seq - 1))
        until(lambda: client.get("/readyz").status_code == 200 and client.get(SCORE).status_code == 200)
        before, earlier = client.get(SCORE).json(), before
        assert same(before) != same(earlier)
        restored = redis.pipeline(transaction=True)
        restored.flushall()
        for key, value in older.items():
            restored.restore(key, 0, value)
        restored.execute()
        restarted.set()
        assert comes_back(client, before) > 0
    assert differences_found(store) == 0


@pytest.mark.parametrize("harm", [emptied, robbed_of_half, robbed_of_a_runner])
def test_without_a_stream_it_is_refused_until_a_rebuild(store: Store, redis: Any, harm: Callable[[Any], None]) -> None:
    """Nothing is scored in between, and the line says what to do."""
    with streaming(store):
        client = a_client(a_service(store))
        until(lambda: client.get("/readyz").status_code == 200)
        before = client.get(SCORE).json()
        until(lambda: whole.head_remembered(store.home) == (0, end(store.home).next_seq - 1))
    held = values_of(redis)
    harm(redis)
    refused = client.get(SCORE)
    assert refused.status_code == 503
    assert "velo online rebuild" in refused.json()["detail"]
    assert client.get("/readyz").status_code == 503
    rebuild(store, redis, NOW)
    assert same(client.get(SCORE).json()) == same(before)
    assert client.get("/readyz").status_code == 200
    assert values_of(redis) == held


def test_what_the_tests_begin_with_has_no_difference(store: Store) -> None:
    """So that what comes back to it, bit for bit, is right."""
    assert differences_found(store) == 0


def test_another_stores_rows_are_refused_by_all_and_replaced_by_clear(store: Store, redis: Any, tmp_path: Path) -> None:
    """The same key names, log generation 0, the same Redis."""
    client, url = a_client(a_service(store)), embedded_redis.ensure(store.home)
    before = client.get(SCORE).json()
    theirs = Store.open(replace(Settings(tmp_path / "home", store.timezone), redis_url=url)).save()
    with LogWriter.open(theirs, clock=lambda: BUILT_AT) as writer:
        writer.load(a_season(30))
    build(theirs, BUILT_AT)
    words = ("another store", "velo online rebuild --clear")
    velo("online", "rebuild", home=theirs.home.root, REDIS_URL=url).told(*words)
    velo("audit", home=theirs.home.root, REDIS_URL=url).told(*words)
    with pytest.raises(UserError, match="another store"), streaming(theirs):
        pass
    assert client.get("/readyz").status_code == 200
    assert velo("online", "rebuild", "--clear", home=theirs.home.root, REDIS_URL=url).code == 0
    assert differences_found(theirs) == 0
    for answer in (client.get(SCORE), client.get("/readyz")):
        assert answer.status_code == 503
        assert all(word in answer.text for word in words), answer.text
    velo("audit", home=store.home.root).told(*words)
    velo("online", "rebuild", home=store.home.root).told(*words)
    with pytest.raises(UserError, match="another store"), streaming(store):
        pass
    rebuild(store, redis, NOW, clear=True)
    assert same(client.get(SCORE).json()) == same(before)
    assert differences_found(store) == 0


def test_a_running_stream_ends_where_another_store_takes_its_redis(store: Store, redis: Any, tmp_path: Path) -> None:
    """It does not fight for it: the operator learns which two use one Redis."""
    url = embedded_redis.ensure(store.home)
    theirs = Store.open(replace(Settings(tmp_path / "home", store.timezone), redis_url=url)).save()
    with LogWriter.open(theirs, clock=lambda: BUILT_AT) as writer:
        writer.load(a_season(10))
    build(theirs, BUILT_AT)

    def taken() -> None:
        with streaming(store) as stop:
            assert velo("online", "rebuild", "--clear", home=theirs.home.root, REDIS_URL=url).code == 0
            until(stop.is_set)

    with pytest.raises(UserError, match="another store"):
        taken()


def test_killed_while_it_fills_it_is_refused_until_the_next_has_filled_it(store: Store, redis: Any) -> None:
    """Real SIGKILLs at random moments of the filling; nothing half filled is ever scored."""
    with streaming(store):
        client = a_client(a_service(store))
        until(lambda: client.get("/readyz").status_code == 200)
        before = client.get(SCORE).json()
        until(lambda: whole.head_remembered(store.home) == (0, end(store.home).next_seq - 1))
    moments = random.Random(7)
    environ = {**os.environ, "VELO_HOME": str(store.home.root)}
    for _ in range(3):
        redis.flushall()
        process = forked.Popen(
            [sys.executable, "-m", "velo.cli", "online", "rebuild"],
            env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until(lambda: redis.dbsize() > 1)
            time.sleep(moments.random() / 4)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        answer = client.get(SCORE)
        assert answer.status_code == 503 or same(answer.json()) == same(before)
    with streaming(store):
        comes_back(client, before)
    assert differences_found(store) == 0


def test_a_store_and_a_redis_of_before_are_given_their_marks_and_lose_nothing(store: Store, redis: Any) -> None:
    """No identity, no index, the marks of an earlier version: as `velo:stream` has them."""
    before = a_client(a_service(store)).get(SCORE).json()
    mark = f"0:{len(store.epochs)}:{end(store.home).next_seq - 1}:0123456789abcdef"
    redis.delete(*(layout.index_key for layout in LAYOUTS))
    redis.hset("velo:stream", mapping={layout.view: mark for layout in LAYOUTS})
    (store.home.log / "store-id").unlink()
    shutil.rmtree(store.home.online)
    client = a_client(a_service(store))
    assert same(client.get(SCORE).json()) == same(before)
    with streaming(store):
        comes_back(client, before)
    assert store_id(store.home) is not None
    assert not redis.exists("velo:stream")
    assert differences_found(store) == 0


def test_an_identity_is_given_once_and_kept_with_the_log(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert velo("init", home=home).code == 0
    store = Store.open(Settings(home))
    given = store_id(store.home)
    assert given is not None
    assert len(given) == 16
    assert given_id(store.home) == given
    assert velo("init", home=home).code == 0
    assert store_id(store.home) == given
    assert velo("init", home=tmp_path / "other").code == 0
    assert store_id(Store.open(Settings(tmp_path / "other")).home) != given


def test_an_eviction_policy_is_reported(store: Store, redis: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "velo.stream")
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with streaming(store):
            until(lambda: any(record.message == "stream.redis_may_evict" for record in caplog.records))
        done = velo("status", home=store.home.root)
        assert "allkeys-lru" in done.out
        assert "noeviction" in done.out
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
    assert "allkeys-lru" not in velo("status", home=store.home.root).out


def test_a_read_that_a_later_one_overtakes_is_served(store: Store, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request has read Redis and not looked at it yet; the log goes on, and another request reads the later head."""
    answers: list[Any] = []
    has_read, go_on, ask = Flag(), Flag(), RedisReader.ask

    def held_up(reader: RedisReader, question: Any) -> Any:
        rows = ask(reader, question)
        if not has_read.is_set():
            has_read.set()
            assert go_on.wait(PATIENCE_S)
        return rows

    with streaming(store):
        # the log numbers its instants: the message below is known a microsecond after the one before it
        service = a_service(store, lambda: NOW + timedelta(minutes=1))
        first, second = a_client(service), a_client(service)
        until(lambda: first.get("/readyz").status_code == 200 and first.get(SCORE).status_code == 200)
        monkeypatch.setattr(RedisReader, "ask", held_up)
        overtaken = Thread(target=lambda: answers.append(first.get(SCORE)))
        overtaken.start()
        try:
            assert has_read.wait(PATIENCE_S)
            with LogWriter.open(store, clock=lambda: NOW) as writer:
                writer.append(Market("to come", {"horse 1": 4.0}, "show"))
            until(lambda: whole.head_remembered(store.home) == (0, end(store.home).next_seq - 1))
            later = second.get(SCORE)
        finally:
            go_on.set()
            overtaken.join()
    assert later.status_code == 200, later.text
    assert answers[0].status_code == 200, answers[0].text
