"""The audit is clean on a store that is right, and finds one wrong value in either store."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.support.stores import Conformance, twin_of
from tests.support.streaming import NOW, streamed
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES, Family
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.storage.store import Store
from velo.streams.audit import AuditReport, audit
from velo.streams.batch.build import build

pytestmark = pytest.mark.slow

HORSE = "horse_form"
SHARED_BATCH = pytest.mark.usefixtures("fresh_batches")
"""The first test has the audit build its batch itself."""


@pytest.fixture(scope="module")
def right(conformance: Conformance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """London, streamed into both stores."""
    store = twin_of(conformance("london").store, tmp_path_factory.mktemp("audit") / "home")
    streamed(store, online=True, batch=400)
    yield store
    embedded_redis.down(store.home)


def looked(store: Store, sample: int | None = None) -> AuditReport:
    return audit(store, NOW, client=connect(store.home, store.redis_url), sample=sample)


def _commands(client: Any) -> "Counter[str]":
    """How often a server was asked each command."""
    named = {name.removeprefix("cmdstat_"): said["calls"] for name, said in client.info("commandstats").items()}
    return Counter(named)


def keys_of(store: Store, family: Family) -> int:
    """How many keys the tables of a view hold, counted plainly."""
    table = pq.read_table(store.home.offline / family.view, columns=list(family.keys), partitioning=None)
    return len(set(zip(*(table.column(key).to_pylist() for key in family.keys), strict=True)))


def test_a_store_that_is_right_has_no_difference(right: Store) -> None:
    """Every key of every view was looked at, in both stores."""
    client: Any = connect(right.home, right.redis_url)
    begun = _commands(client)
    report = looked(right)
    asked = _commands(client) - begun
    assert (report.found, report.next_seq) == (0, 1140)
    # the keys are listed once for all views, and a key's hash is read once for all of its views
    assert asked["scan"] <= client.dbsize() // 1000 + 1
    assert asked["hgetall"] <= client.dbsize()
    assert report.compared["online"] == sum(keys_of(right, family) for family in FAMILIES) > 1880
    assert report.compared["offline"] > 60_000


@SHARED_BATCH
def test_one_wrong_value_in_a_part_is_found_with_its_history(right: Store) -> None:
    """The row, the feature, what it should be and what it was before."""
    part = sorted((right.home.offline / HORSE).glob("stream-*.parquet"))[1]
    kept = part.read_bytes()
    table = pq.read_table(part, partitioning=None)
    wins = table.column("wins").to_pylist()
    wins[100] += 1
    spoiled = table.set_column(table.column_names.index("wins"), "wins", pa.array(wins, pa.int32()))
    pq.write_table(spoiled, part)
    try:
        [first, *_] = looked(right).differences
        horse, at = table.column("horse_id")[100].as_py(), table.column("event_timestamp")[100].as_py()
        assert (first.store, first.view, first.key, first.at) == ("offline", HORSE, (horse,), at)
        assert (first.feature, first.expected, first.found) == ("wins", wins[100] - 1, wins[100])
        assert first.history[-1][1] == first.expected
    finally:
        part.write_bytes(kept)
    assert looked(right).found == 0


@SHARED_BATCH
def test_a_row_that_is_missing_or_there_twice_is_found(right: Store) -> None:
    """Also where the values would be right without it."""
    part = max((right.home.offline / HORSE).glob("stream-*.parquet"))
    kept = part.read_bytes()
    try:
        double = part.with_name("part-double.parquet")
        shutil.copy(part, double)
        assert {difference.feature for difference in looked(right).differences} == {"(rows)"}
        double.unlink()
        table = pq.read_table(part, partitioning=None)
        last = pc.equal(table.column("event_timestamp"), pc.max(table.column("event_timestamp")))
        pq.write_table(table.filter(pc.invert(last)), part)
        assert looked(right).found > 0
    finally:
        part.write_bytes(kept)


@SHARED_BATCH
@pytest.mark.parametrize("field", ["packed", "Feast's"])
def test_one_wrong_value_in_redis_is_found(right: Store, field: str) -> None:
    """In the packed row that serving reads, and in the fields that stock Feast reads."""
    client: Any = connect(right.home, right.redis_url)
    layout = Layout.of(BY_VIEW[HORSE])
    key = min(each for each in client.scan_iter() if layout.owns(each))
    name = layout.packed_field.encode() if field == "packed" else layout.value_fields[0]
    kept = client.hget(key, name)
    spoiled = bytearray(kept)
    spoiled[-1 if field != "packed" else 12 + 6] ^= 1
    client.hset(key, name, bytes(spoiled))
    try:
        report = looked(right)
        assert report.found
        assert {difference.store.split()[0] for difference in report.differences} == {"online"}
        assert {difference.feature for difference in report.differences} == {"starts"}
    finally:
        client.hset(key, name, kept)


@SHARED_BATCH
def test_a_key_lost_from_redis_is_found_and_so_is_one_that_never_was(right: Store) -> None:
    """A key without its row, and a row without its key: of both views of a draw cell."""
    client: Any = connect(right.home, right.redis_url)
    layout = Layout.of(BY_VIEW["draw_bias"])
    key = min(each for each in client.scan_iter() if layout.owns(each))
    never = layout.redis_key(["never|was"])
    client.copy(key, never)
    client.rename(key, b"aside")
    try:
        found = [(difference.view, difference.found) for difference in looked(right).differences]
        assert sorted(found) == [(view, each) for view in ("draw_bias", "draw_elo") for each in ("none", "one")]
    finally:
        client.rename(b"aside", key)
        client.delete(never)


@SHARED_BATCH
def test_a_sample_looks_at_as_many_keys_of_each_view(right: Store) -> None:
    assert looked(right, sample=5).compared["online"] == len(FAMILIES) * 5


@SHARED_BATCH
def test_tables_behind_the_log_are_compared_as_far_as_they_reach(conformance: Conformance, tmp_path: Path) -> None:
    """A build alone, without Redis: what was known since is no difference."""
    store = twin_of(conformance("london").store, tmp_path / "home")
    streamed(store, cut_after=3, batch=100)
    report = audit(store, NOW, client=None)
    assert report.found == 0
    build(store, NOW)
    assert audit(store, NOW, client=None).next_seq == 1140
