"""`velo online rebuild`: an empty Redis holds again what the tables say, and one that is ahead loses nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis

from tests.support.cli import velo
from tests.support.logs import a_store
from tests.support.redis_writer import table
from tests.support.stores import NOW, a_season
from tests.support.streaming import all_rows, assert_online, latest
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES
from velo.feature_repo.stores.embedded_redis import down, ensure
from velo.feature_repo.stores.race_cards import RaceCards
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_rows import RedisRows
from velo.feature_repo.stores.redis_writer import RowWriter
from velo.racing.messages import Race, Racecard, Runner
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.dataflow.runtime import sole_stream

FORM = BY_VIEW["horse_form"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A built season with a Redis of its own, which every test finds empty or fills itself."""
    store = a_store(tmp_path_factory.mktemp("home"), "Europe/London")
    with LogWriter.open(store, clock=lambda: NOW) as writer:
        writer.load(a_season(days=40))
    build(store, NOW)
    yield store
    down(store.home)


@pytest.fixture
def redis(built: Store) -> "Redis":
    client = Redis.from_url(ensure(built.home))
    client.flushall()
    return client


def test_an_empty_redis_holds_again_every_key_of_every_view(built: Store, redis: "Redis") -> None:
    ran = velo("online", "rebuild", "--json", home=built.home.root)
    tables = all_rows(built)
    assert ran.document["keys"] == {view: len(rows) for view, rows in latest(tables).items()}
    assert set(ran.document["keys"]) == {family.view for family in FAMILIES}
    assert_online(built, tables)


def test_a_newer_row_is_left_and_a_second_time_changes_nothing(built: Store, redis: "Redis") -> None:
    horse = next(iter(all_rows(built)["horse_form"]))[0]
    newer = datetime(2099, 1, 1, tzinfo=UTC)
    RowWriter(redis).write_rows(Layout.of(FORM), table(FORM, [((horse,), newer, 7.0)]), 1)
    for _ in range(2):
        assert velo("online", "rebuild", home=built.home.root).code == 0
        [rows] = RedisRows(redis).read_packed([(Layout.of(FORM), [horse])])
        assert rows.event_timestamp[0].astype("datetime64[us]").item() == newer.replace(tzinfo=None)


def test_clear_removes_what_another_log_left_and_nothing_that_is_not_ours(built: Store, redis: "Redis") -> None:
    elsewhere = datetime(2099, 1, 1, tzinfo=UTC) + timedelta(days=1)
    RowWriter(redis).write_rows(Layout.of(FORM), table(FORM, [(("of another log",), elsewhere, 7.0)]), 1)
    redis.set("not ours", "kept")
    assert velo("online", "rebuild", "--clear", "--json", home=built.home.root).document["cleared"] is True
    [rows] = RedisRows(redis).read_packed([(Layout.of(FORM), ["of another log"])])
    assert not rows.present[0]
    assert redis.get("not ours") == b"kept"
    assert_online(built, all_rows(built))


def test_clear_is_refused_while_a_stream_runs_and_a_plain_rebuild_is_not(built: Store, redis: "Redis") -> None:
    with sole_stream(built.home):
        velo("online", "rebuild", "--clear", home=built.home.root).told("a stream runs", "stop it")
        assert velo("online", "rebuild", "--json", home=built.home.root).document["streaming"] is True


def test_races_to_come_are_brought_back_from_the_log(built: Store, redis: "Redis") -> None:
    off = datetime.now(UTC) + timedelta(hours=3)
    card = Racecard(Race("to come", off.date(), off, "Ascot"), (Runner("arkle"),))
    with LogWriter.open(built, clock=lambda: datetime.now(UTC)) as writer:
        writer.append(card)
        writer.sync()
    assert velo("online", "rebuild", "--json", home=built.home.root).document["race_messages"] == 1
    assert RaceCards(redis).races(off, off + timedelta(hours=1)) == ["to come"]


def test_without_tables_it_says_what_to_run(tmp_path: Path) -> None:
    home = tmp_path / "empty"
    try:
        velo("online", "rebuild", home=home).told("no tables", "velo build")
    finally:
        velo("down", home=home)
