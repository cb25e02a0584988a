"""The stream's fold gives, at every instant, what the plain oracle and the conformance files give."""

import json
import math
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builders import a_field, a_log, a_result, a_runner, a_tick
from tests.support.oracle import Oracle
from tests.support.replay import Replay, Row, apply_version, changelog, pack
from tests.support.runner_table_oracle import load, read_parquet
from tests.support.strategies import TIMEZONES, RandomLog, random_logs
from tests.support.streaming import agrees
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES, Family
from velo.feature_repo.catalogue.recent_aggregates import RECENT_DEPTH
from velo.racing.clock import LocalDays, from_us, to_us
from velo.racing.measures import unit
from velo.racing.messages import Message, Result, from_record
from velo.storage import compact_map
from velo.streams.aggregation.delta_batch import NAN_BITS, NULL
from velo.streams.aggregation.key_codes import KeyCodes
from velo.streams.aggregation.layout import REMEMBERED_FROM, Columns
from velo.streams.aggregation.vectorized import Rows, VectorizedColumns

pytestmark = pytest.mark.slow

LONDON = ZoneInfo("Europe/London")
SUMS = st.integers(0, 3 * 10**15)
FILES = [
    ("conformance/london.parquet", "london", "Europe/London"),
    pytest.param("conformance/hk_amended.parquet", "hk_amended", "Asia/Hong_Kong", marks=pytest.mark.prove),
    pytest.param(
        "data/hk/runners.parquet",
        "hk",
        "Asia/Hong_Kong",
        marks=pytest.mark.skipif(not os.environ.get("VELO_ALL_PROBES"), reason="a minute: set VELO_ALL_PROBES=1"),
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _packed_at_once() -> Iterator[None]:
    """A log of a test is small: what a shard would leave as it is, is packed here as soon as another key is touched."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compact_map, "LEAST_WHOLE", 1)
        patched.setattr(compact_map, "MOST_WHOLE", 1)
        yield


def messages_of(log: RandomLog | list[dict[str, Any]]) -> list[Message]:
    return [from_record(record) for record in (log.records if isinstance(log, RandomLog) else log)]


def as_of(rows: list[Row], instant: datetime) -> Row | None:
    """The row true at an instant."""
    place = bisect_right(rows, to_us(instant), key=lambda row: row[1])
    return rows[place - 1] if place else None


def as_row(family: Family, row: Row | None) -> dict[str, Any] | None:
    """A row as the oracle gives it."""
    if row is None:
        return None
    named = dict(zip((feature.name for feature in family.features), row[2], strict=True))
    return named | {"valid_until": None if row[3] is None else from_us(row[3])}


def differences(got: dict[str, Any] | None, expected: dict[str, Any] | None) -> list[str]:
    """The features that differ by more than contract 7 lets them."""
    if got is None or expected is None:
        return [] if got is expected else ["<row>"]
    assert got.keys() == expected.keys()
    return [name for name in got if not agrees(name, got[name], expected[name])]


@pytest.mark.parametrize(("table", "name", "timezone"), FILES)
def test_every_conformance_probe_agrees(shared: Path, table: str, name: str, timezone: str) -> None:
    """Rows, their absence, every feature and `valid_until`, from the fold alone."""
    log = load([read_parquet(shared / table)], timezone).records
    rows = changelog(Replay(ZoneInfo(timezone)), messages_of(log))
    probes = pq.read_table(shared / "conformance" / f"{name}_probes.parquet").to_pylist()
    wrong = []
    for probe in probes:
        family = BY_VIEW[probe["view"]]
        entity = json.loads(probe["entity"])
        expected = None if probe["features"] is None else json.loads(probe["features"])
        if expected is not None and expected["valid_until"] is not None:
            expected["valid_until"] = from_us(expected["valid_until"])
        of_key = rows[family.view].get(tuple(entity[key] for key in family.keys), [])
        if differences(as_row(family, as_of(of_key, probe["as_of"])), expected):
            wrong.append(probe)
    assert len(probes) >= 6400
    assert wrong == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(random_logs())
def test_the_fold_is_the_oracle_at_every_change_point_and_a_microsecond_before(log: RandomLog) -> None:
    """For every key of every view; and no key has a row that the oracle has not."""
    oracle = Oracle(log.records, log.timezone)
    rows = changelog(Replay(ZoneInfo(log.timezone), shards=2), messages_of(log))
    for family in FAMILIES:
        entities = oracle.entities(family.view)
        keys = {tuple(entity[key] for key in family.keys): entity for entity in entities}
        assert rows.get(family.view, {}).keys() <= keys.keys()
        for key, entity in keys.items():
            of_key = rows.get(family.view, {}).get(key, [])
            before = None
            for point in oracle.change_points(family.view, entity):
                # `test_oracle` shows that the oracle's values are the same between two changes
                after = oracle.value(family.view, entity, point)
                for at, expected in ((point - timedelta(microseconds=1), before), (point, after)):
                    assert differences(as_row(family, as_of(of_key, at)), expected) == [], (family.view, key, at)
                before = after


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(random_logs())
def test_a_key_has_one_row_an_instant_and_they_come_in_order(log: RandomLog) -> None:
    """The changelog is unique by key and event time, and never goes back."""
    for of_view in changelog(Replay(ZoneInfo(log.timezone), shards=2), messages_of(log)).values():
        for rows in of_view.values():
            instants = [row[1] for row in rows]
            assert instants == sorted(set(instants))


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(random_logs(), st.data())
def test_a_restart_anywhere_goes_on_as_if_nothing_had_happened(log: RandomLog, data: st.DataObject) -> None:
    """Shards dumped after any message and loaded again make the same rows, and end as the same bytes."""
    every, timezone = messages_of(log), ZoneInfo(log.timezone)
    cut = data.draw(st.integers(0, len(every)))
    first = Replay(timezone, shards=2)
    changelog(first, every[:cut])
    resumed = Replay(timezone, shards=2)
    resumed.load(first.dump(), first.races)
    assert resumed.dump() == first.dump()
    assert changelog(resumed, every[cut:]) == changelog(first, every[cut:])
    assert resumed.dump() == first.dump()


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(random_logs(), st.data())
def test_the_state_of_a_log_is_that_of_its_races_in_any_order(log: RandomLog, data: st.DataObject) -> None:
    """A stream that takes over from a build needs no replay: the races' latest versions give the same bytes."""
    every = messages_of(log)
    cut = data.draw(st.integers(0, len(every)))
    replayed = Replay(ZoneInfo(log.timezone), shards=2)
    changelog(replayed, every[:cut])
    if cut:
        races = dict(data.draw(st.permutations(list(replayed.races.items()))))
        known_at = every[cut - 1].known_at
        assert known_at is not None
        settled = Replay.settled(races, known_at, ZoneInfo(log.timezone), shards=2)
        assert settled.dump() == replayed.dump()
        assert changelog(settled, every[cut:]) == changelog(replayed, every[cut:])


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(random_logs(), st.sampled_from((1, 3, 16)))
def test_how_many_shards_there_are_changes_no_value(log: RandomLog, shards: int) -> None:
    every, timezone = messages_of(log), ZoneInfo(log.timezone)
    assert changelog(Replay(timezone, shards=shards), every) == changelog(Replay(timezone, shards=2), every)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.view)
@given(data=st.data())
def test_the_compiled_columns_are_the_catalogues_values_bit_for_bit(family: Family, data: st.DataObject) -> None:
    """The plain twin: each aggregate's own `value`, asked one by one."""
    columns = Columns.of(family)
    shape = columns.layout
    career = data.draw(st.lists(SUMS, min_size=len(shape.career), max_size=len(shape.career)))
    lanes = len(shape.windowed)
    windows = [data.draw(st.lists(SUMS, min_size=lanes, max_size=lanes)) for _ in family.windows]
    history = data.draw(
        st.lists(st.tuples(*(remembered(measure) for measure in shape.remembered)), max_size=2 * RECENT_DEPTH)
    )
    memories = [(off, "R1", "", *values) for off, values in enumerate(history)]
    expected: list[Any] = [aggregate.value(dict(zip(shape.career, career, strict=True))) for aggregate in family.career]
    for recent in family.recent:
        place = REMEMBERED_FROM + shape.remembered.index(recent.measure)
        known = [memory[place] for memory in reversed(memories) if memory[place] is not None][:RECENT_DEPTH]
        expected.append(recent.value(known, memories[-1][place] if memories else None))
    for sums in windows:
        expected += [aggregate.value(dict(zip(shape.windowed, sums, strict=True))) for aggregate in family.windowed]
    within = pack([value for sums in windows for value in sums])
    got = columns.values(pack(career), columns.recent_values(memories) if family.recent else (), within)
    assert [(type(value), value) for value in got] == [(type(value), value) for value in expected]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.view)
@given(data=st.data())
def test_the_columns_of_many_rows_are_those_of_each_bit_for_bit(family: Family, data: st.DataObject) -> None:
    """Made at once by `VectorizedColumns` for a sink, or row by row: the same doubles, NaN where the value is unknown."""
    columns, shape = Columns.of(family), Columns.of(family).layout

    def sums(measures: tuple[str, ...]) -> list[int]:
        return [data.draw(st.integers(0, 3 * 10**6) | st.just(0)) * unit(measure) for measure in measures]

    count, whole = data.draw(st.integers(1, 4)), [family.known_measures[name].whole for name in shape.remembered]
    career = np.array([sums(shape.career) for _ in range(count)], np.int64)
    within = np.array([[sums(shape.windowed) for _ in family.windows] for _ in range(count)], np.int64)
    newest = np.full((count, len(columns.looked_back_on), RECENT_DEPTH), NULL)
    last = np.tile(np.array([NULL if each else NAN_BITS for each in whole], np.int64), (count, 1))
    expected = []
    for at in range(count):
        memories: list[tuple[Any, ...]] = [
            ("", "", "", *(data.draw(remembered(measure)) for measure in shape.remembered))
        ]
        memories = memories if data.draw(st.booleans()) and family.recent else []
        for memory in memories:
            for place, value in enumerate(memory[REMEMBERED_FROM:]):
                if value is not None:
                    last[at, place] = value if whole[place] else np.array(float(value)).view(np.int64)
            for number, place in enumerate(columns.looked_back_on):
                newest[at, number, 0] = NULL if memory[place] is None else memory[place]
        of_recent = columns.recent_values(memories) if family.recent else ()
        of_windows = pack([value for each in within[at].tolist() for value in each]) if family.windows else 0
        expected.append(columns.values(pack(career[at].tolist()), of_recent, of_windows))
    numbers = np.arange(count)
    keys = KeyCodes([family.keys])
    rows = Rows(keys, family.keys, numbers, numbers, numbers, np.full(count, NULL), career, newest, last, within)
    got = VectorizedColumns(family).of(rows)
    assert got.shape == (len(family.features), count)
    assert [tuple(None if math.isnan(value) else value for value in values) for values in got.T.tolist()] == expected


def remembered(measure: str) -> st.SearchStrategy[Any]:
    """Values of a measure that a start may leave behind, unknown among them."""
    top = 30 * unit(measure)
    if measure in ("weight_lbs", "body_weight_lbs"):
        return st.none() | st.floats(80, 1800)
    return st.none() | st.integers(0, top)


def test_a_new_window_is_one_change_to_the_family() -> None:
    """Add 60 days to a family and its rows have the columns, with the values of the window."""
    trainer = BY_VIEW["trainer_velocity"]
    wider = replace(trainer, windows=(*trainer.windows, 60))
    race = a_result(*a_field(2), race_date="2024-03-20", off_time="2024-03-20 14:00", known_at="2024-03-20 14:15")
    every = messages_of(a_log(race, a_tick("2024-06-30 23:00")))
    rows = changelog(Replay(LONDON, [wider]), every)["trainer_velocity"]["a trainer",]
    got = [(as_row(wider, row) or {})["runs_60d"] for row in rows]
    assert got == [2, 2, 2, 0, 0]  # the result, then 14, 30, 60 and 90 days after it


def test_a_tick_moves_every_key_whose_window_loses_a_start_and_no_other() -> None:
    """One row a passed midnight at which the key lost something, each at that midnight."""
    race = a_result(*a_field(2), race_date="2024-03-20", off_time="2024-03-20 14:00", known_at="2024-03-20 14:15")
    rows = changelog(Replay(LONDON), messages_of(a_log(race, a_tick("2024-04-19 23:00"))))
    assert [from_us(row[1]) for row in rows["trainer_velocity"]["a trainer",][1:]] == [
        datetime(2024, 4, 2, 23, tzinfo=UTC),
        datetime(2024, 4, 18, 23, tzinfo=UTC),
    ]
    assert len(rows["horse_form"]["horse 1",]) == 1


def test_a_late_result_brings_the_next_expiry_forward() -> None:
    """An older race known after a newer one leaves first, and `valid_until` says so."""
    newer = a_result(
        *a_field(1), race_id="R2", race_date="2024-03-20", off_time="2024-03-20 14:00", known_at="2024-03-20 14:15"
    )
    older = a_result(
        *a_field(1), race_id="R1", race_date="2024-03-15", off_time="2024-03-15 14:00", known_at="2024-03-21 10:00"
    )
    rows = changelog(Replay(LONDON), messages_of(a_log(newer, older, a_tick("2024-03-30 00:00"))))
    first, second, expiry = (
        as_row(BY_VIEW["trainer_velocity"], row) or {} for row in rows["trainer_velocity"]["a trainer",]
    )
    assert [row["runs_14d"] for row in (first, second, expiry)] == [1, 2, 1]
    assert first["valid_until"] == datetime(2024, 4, 2, 23, tzinfo=UTC)
    assert second["valid_until"] == datetime(2024, 3, 29, tzinfo=UTC)
    assert expiry["valid_until"] == datetime(2024, 4, 2, 23, tzinfo=UTC)


def test_a_lower_or_equal_version_changes_nothing() -> None:
    """It leaves the race's state as it is, and its change is empty: still one for the message."""
    first = a_result(a_runner("A", 1), a_runner("B", 2), result_version=2)
    again = a_result(a_runner("B", 1), a_runner("A", 2), result_version=2, known_at="2024-05-02 10:00")
    lower = a_result(a_runner("B", 1), result_version=1, known_at="2024-05-03 10:00")
    first_message, *later = messages_of(a_log(first, again, lower))
    assert isinstance(first_message, Result)
    state, _ = apply_version(None, first_message)
    for message in later:
        assert isinstance(message, Result)
        after, change = apply_version(state, message)
        assert after is state
        assert not change


def test_a_voided_key_has_counts_of_zero_and_a_key_never_known_has_no_row() -> None:
    """What was retracted is known to be nothing; what was never known is not known."""
    result = a_result(a_runner("A", 1), known_at="2024-05-01 14:15")
    void = a_result(a_runner("A", status="VOID"), known_at="2024-05-03 10:00", result_version=2)
    rows = changelog(Replay(LONDON), messages_of(a_log(result, void)))
    family = BY_VIEW["horse_form"]
    last = as_row(family, rows["horse_form"]["a",][-1])
    assert last is not None
    assert {name for name, value in last.items() if value is not None} == {
        "starts",
        "wins",
        "places",
        "runs_90d",
        "runs_365d",
    }
    assert ("b",) not in rows["horse_form"]


@pytest.mark.parametrize("timezone", [*TIMEZONES, "America/Sao_Paulo"])
def test_a_local_day_begins_at_its_midnight_on_the_23_and_25_hour_days_too(timezone: str) -> None:
    days = LocalDays(ZoneInfo(timezone))
    for day in range(17_500, 17_900):
        midnight_us = days.midnight_us(day)
        assert (days.day_of(midnight_us - 1), days.day_of(midnight_us)) == (day - 1, day)
