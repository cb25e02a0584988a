"""The batch build is the contract's function of time: the oracle's values, however the log was cut into builds."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.agreement import differences
from tests.support.builders import a_field, a_log, a_result, a_runner, a_tick
from tests.support.engine import reading
from tests.support.logs import a_store, fixed, logged
from tests.support.replay import MemorySpill, RaceState, apply_version
from tests.support.stores import (
    NOW,
    Conformance,
    Row,
    a_season,
    changelogs_of,
    columns_of,
    rows_apart,
    tables_of,
    twin_of,
)
from tests.support.strategies import RandomLog, busy_logs
from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.racing.jurisdiction import DEFAULT
from velo.racing.messages import Message, Result, from_record
from velo.racing.starts import Start, starts_of
from velo.storage.log import reader
from velo.storage.log.format import segments
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.aggregation.ratings import Elo
from velo.streams.batch import changed_rows, staging, start_table
from velo.streams.batch.build import BEGINNING, MEMORY_LIMIT, build, write_family
from velo.streams.batch.formulas import view_formulas

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("VELO_EXAMPLES", "12"))
"""How many random logs the build is tried on, about half of them in pieces too; VELO_EXAMPLES=300 for a long look."""
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


def messages_of(log: RandomLog) -> list[Message]:
    return [from_record(record) for record in log.records]


@settings(max_examples=EXAMPLES, suppress_health_check=SLOW)
@given(busy_logs(), st.data())
def test_the_build_is_the_oracle_at_every_change_and_just_before_it_and_so_is_one_in_pieces(
    log: RandomLog, data: st.DataObject
) -> None:
    """All views, all features, `valid_until`; no key the oracle has not, no row outside the log's time.

    Late results, results out of order and amendments may come in any piece; rows are equal to the last column.
    """
    assume(len(log.records) > 1)
    messages = messages_of(log)
    cuts = data.draw(st.none() | st.sets(st.integers(1, len(messages) - 1), min_size=1, max_size=3))
    with TemporaryDirectory() as folder:
        store = whole = a_store(Path(folder) / "home", log.timezone)
        if cuts is None:
            logged(store, *messages)
        else:
            for begun, ended in pairwise((0, *sorted(cuts), len(messages))):
                logged(store, *messages[begun:ended])
                report = build(store, NOW)
                assert report.whole == (begun == 0)
            whole = twin_of(store, Path(folder) / "whole")
        build(whole, NOW)
        assert list(differences(whole)) == []
        assert whole is store or rows_apart(store, whole) == []


def test_results_out_of_order_late_and_amended_at_later_builds_are_the_oracle_s(tmp_path: Path) -> None:
    """Results of April and of years ago that become known in May between others, an amendment in June, a void in July, each in its own build."""
    known = {
        "2024-05-01": "2024-05-01 15:00",
        "2024-05-20": "2024-05-20 15:00",
        "2024-04-02": "2024-05-20 18:00",
        "2019-04-02": "2024-05-20 19:00",
        "2024-05-21": "2024-05-21 15:00",
    }
    runs = [race(f"R{number}", on, found) for number, (on, found) in enumerate(known.items())]
    amended = race("R2", "2024-04-02", "2024-06-01 10:00", version=2, winner=3)
    voided = a_result(
        a_runner("Horse 1", status="VOID"),
        race_id="R0",
        race_date="2024-05-01",
        off_time="2024-05-01 14:00",
        known_at="2024-07-01 10:00",
        result_version=2,
    )
    log = a_log(*runs, amended, a_tick("2024-06-30 23:00"), voided, a_tick("2024-08-31 23:00"))
    store = a_store(tmp_path / "pieces")
    for record in log:
        logged(store, from_record(record))
        build(store, NOW)
    assert list(differences(store)) == []
    form = changelogs_of(store, FAMILIES[3])["horse 1",]
    in_may = [row["starts"] for row in form if row["event_timestamp"] < datetime(2024, 5, 22, tzinfo=UTC)]
    assert in_may == [1, 2, 3, 4, 5]
    assert form[-1]["starts"] == 4
    # each of nine builds added a part to this view, which the eighth merged
    assert len(list((store.home.offline / "trainer_velocity").glob("*.parquet"))) < staging.MERGED_AT_ONCE < len(log)
    twin = twin_of(store, tmp_path / "whole")
    build(twin, NOW)
    assert rows_apart(store, twin) == []


def test_the_rows_of_arrays_are_those_of_the_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every view of a season with amended results, some keys at a time, row by row and in order of key and instant."""
    store = a_store(tmp_path / "arrays")
    logged(store, *a_season(days=40))
    monkeypatch.setattr(changed_rows, "STARTS_AT_ONCE", 50)
    build(store, NOW)
    made = tables_of(store)
    span = {"$after": BEGINNING, "$until": reader.end(store.home).known_at or NOW, "$created": NOW}
    with staging.scratch_connection(store.home, MEMORY_LIMIT) as connection:
        results, starts = (staging.parts_of(store.home, kind) for kind in ("results", "starts"))
        start_table.lay_out_parts(connection, results, starts, store.timezone, FAMILIES)
        for family in FAMILIES:
            part = tmp_path / f"{family.view}.parquet"
            write_family(connection, family, part, span)
            columns = ", ".join(columns_of(family))
            order = ", ".join((*family.keys, "event_timestamp"))
            by_sql = connection.execute(f"SELECT {columns} FROM '{part}' ORDER BY {order}").fetchall()
            assert made[family.view] == by_sql, family.view
            of_store = store.home.offline / family.view / "*.parquet"
            assert connection.execute(f"SELECT {columns} FROM '{of_store}'").fetchall() == by_sql, family.view


def test_an_amended_race_in_another_segment_of_the_log_is_rated_as_in_the_same(tmp_path: Path) -> None:
    """Segments are rated as they are measured: what the version before earned is read from the part that has it."""
    messages = a_season(days=20)
    results = [message for message in messages if isinstance(message, Result)]
    known_at = results[-1].known_at
    assert known_at is not None
    for number, result in enumerate(results[:12], 1):
        # at other odds, a race is rated again; with the starters in another order, it earns what it did
        first = replace(result.runners[0], sp_decimal=3.5)
        runners = (first, *result.runners[1:]) if number % 2 else result.runners[::-1]
        at = known_at + timedelta(minutes=number)
        messages.append(replace(result, result_version=9, runners=runners, known_at=at))
    one, several = a_store(tmp_path / "one"), a_store(tmp_path / "several")
    logged(one, *messages)
    with LogWriter.open(several, clock=fixed(), segment_bytes=100_000) as writer:
        writer.load(messages, late=True)
    races = [{message.race.race_id for message in of} for of in segments_of(several)]
    assert any(before & after for before, after in combinations(races, 2))
    for store in (one, several):
        build(store, NOW)
    assert rows_apart(one, several) == []


def test_races_are_rated_in_the_log_s_order_whatever_the_order_of_the_measured_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQL may give a race's starts apart from each other: the rows are those of a build that got them together."""
    one, shuffled = a_store(tmp_path / "one"), a_store(tmp_path / "shuffled")
    measure = staging.measure_segment

    def measure_and_shuffle(*arguments: Any) -> None:
        measure(*arguments)
        part = arguments[-2] / f"starts-{arguments[-1]}.parquet"
        rows = pq.ParquetFile(part).read()
        assert rows.num_rows > 1
        pq.write_table(rows.take(np.random.default_rng(7).permutation(rows.num_rows)), part)

    for store in (one, shuffled):
        logged(store, *a_season(days=10))
        build(store, NOW)
        monkeypatch.setattr(staging, "measure_segment", measure_and_shuffle)
    assert rows_apart(one, shuffled) == []


def segments_of(store: Store) -> list[list[Result]]:
    """The results of each segment of a log."""
    every = [segment.path.read_bytes().splitlines() for segment in segments(store.home)]
    found = [[from_record(orjson.loads(line)) for line in lines] for lines in every]
    return [[message for message in of if isinstance(message, Result)] for of in found]


def test_a_build_with_nothing_new_publishes_nothing(tmp_path: Path) -> None:
    """The same generation stands, and no row is called new; read as a whole, it is made again with the same values."""
    store = a_store(tmp_path)
    logged(store, *(from_record(record) for record in a_log(race("R1", "2024-05-01", "2024-05-01 15:00"))))
    first = build(store, NOW)
    before = tables_of(store)
    again = build(store, NOW + timedelta(days=1))
    assert (again.generation, set(again.added.values()), again.rows) == (first.generation, {0}, first.rows)
    anew = build(store, NOW + timedelta(days=1), whole=True)
    assert anew.generation != first.generation
    assert tables_of(store) == before


RULES: tuple[dict[str, Any], ...] = (
    {"distance_bands": (("dash", 1000), ("mile", 3000))},
    {"going_groups": (("good", ("good", "soft")),)},
    {"par_times_ms": ((0, 0), (1000, 60_000))},
    {"place_terms": ((3, 1),)},
)


def test_each_rule_of_the_jurisdiction_is_part_of_the_formulas() -> None:
    formulas = [view_formulas(jurisdiction=replace(DEFAULT, **changed)) for changed in ({}, *RULES)]
    for family in FAMILIES:
        assert len({of[family.view].fingerprint for of in formulas}) == len(formulas)


def test_a_changed_rule_of_the_jurisdiction_rebuilds_the_tables_under_a_new_epoch(tmp_path: Path) -> None:
    """The rules are part of the formulas: no old row is kept beside rows of the new kind."""
    store = a_store(tmp_path)
    log = a_log(race("R1", "2024-05-01", "2024-05-01 15:00"), race("R2", "2024-05-02", "2024-05-02 15:00"))
    logged(store, from_record(log[0]))
    first = build(store, NOW)
    logged(store, from_record(log[1]))
    second = build(a_store(tmp_path), NOW, jurisdiction=replace(DEFAULT, **RULES[0]))
    assert (second.epoch, second.whole) == (first.epoch + 1, True)


@pytest.mark.parametrize("name", ["hk_amended", "london"])
def test_the_sql_measures_of_every_start_are_those_of_plain_python(name: str, conformance: Conformance) -> None:
    """Every field of every start of every known version, lower ones too, of `starts_of`, rated where it took effect."""
    store = conformance(name).store
    asked = Start._fields[:-1]
    with reading() as connection:
        measured = connection.execute(
            f"SELECT seq, {', '.join(asked)} FROM {staging.parquet(staging.parts_of(store.home, 'starts'))}"
        ).fetchall()
    by_sql = {(row[0], row[1 + asked.index("horse_id")]): row[1:] for row in measured}
    by_python: dict[tuple[int, str], tuple[object, ...]] = {}
    elo, races = Elo(MemorySpill()), dict[str, RaceState]()
    for seq, message in reader.messages(store.home):
        if isinstance(message, Result):
            starts = starts_of(message.race, message.runners)
            before = races.get(message.race_id)
            races[message.race_id], change = apply_version(before, message, elo.rate)
            by_python |= {(seq, start.horse_id): tuple(start[:-1]) for start in change.added or starts}
    assert len(by_sql) == len(measured) > 5_000
    assert by_sql == by_python


def test_a_build_that_finds_no_room_to_rate_says_so_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, with its remedy; what was measured before it is measured again."""
    store = a_store(tmp_path)
    logged(store, from_record(a_log(a_result(*a_field(3)))[0]))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pyarrow.parquet.write_table", full)
        with pytest.raises(UserError, match=r"No space left on device.*: make room there and repeat the build"):
            build(store, NOW)
    assert build(store, NOW).added["horse_elo"] == 3


def race(race_id: str, on: str, known_at: str, version: int = 1, winner: int = 1) -> Row:
    """Four finishers in order of their number, but for the winner, who changes places with the first."""
    runners = a_field(4)
    runners[0], runners[winner - 1] = (
        runners[0] | {"position": winner},
        runners[winner - 1] | {"position": 1},
    )
    return a_result(
        *runners, race_id=race_id, race_date=on, off_time=f"{on} 14:00", known_at=known_at, result_version=version
    )
