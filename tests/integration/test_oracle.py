"""The oracle agrees with the conformance files, with races worked by hand, and with itself."""

import json
import math
import os
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.builders import a_field, a_log, a_race, a_result, a_runner, a_tick
from tests.support.oracle import JOIN_KEYS, Oracle
from tests.support.oracle_starts import local_date, local_midnight, starts_of
from tests.support.runner_table_oracle import load, read_parquet
from tests.support.shared import shared_file
from tests.support.strategies import TIMEZONES, RandomLoad, RandomLog, random_loads, random_logs

pytestmark = pytest.mark.slow

FILES = [("london", "Europe/London"), ("hk_amended", "Asia/Hong_Kong")]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PROBES = 10**9 if os.environ.get("VELO_ALL_PROBES") else 600
"""How many probes of each file are asked; VELO_ALL_PROBES=1 asks them all (a minute and a half)."""


@pytest.mark.parametrize(("name", "timezone"), FILES)
def test_the_plain_reader_refuses_exactly_what_the_conformance_files_refuse(name: str, timezone: str) -> None:
    """Every dead letter, with its version and reason, and no other."""
    found = load([read_parquet(shared_file(f"conformance/{name}.parquet"))], timezone)
    expected = json.loads(shared_file(f"conformance/{name}_refused.json").read_text())
    assert sorted(found.refused) == sorted(tuple(entry) for entry in expected)


@pytest.mark.parametrize(("name", "timezone"), [FILES[0], pytest.param(*FILES[1], marks=pytest.mark.prove)])
def test_the_oracle_agrees_with_the_conformance_probes(name: str, timezone: str) -> None:
    """Rows, their absence, every feature and `valid_until`, ratios to 1e-12; the log is the plain reader's own."""
    import pyarrow.parquet as pq

    probes = pq.read_table(shared_file(f"conformance/{name}_probes.parquet")).to_pylist()
    oracle = Oracle(load([read_parquet(shared_file(f"conformance/{name}.parquet"))], timezone).records, timezone)
    asked = probes[:: max(1, len(probes) // PROBES)]
    wrong = []
    for probe in asked:
        got = oracle.value(probe["view"], json.loads(probe["entity"]), probe["as_of"])
        expected = None if probe["features"] is None else json.loads(probe["features"])
        if not same_row(got, expected):
            wrong.append((probe, got))
    assert len(asked) >= 600
    assert wrong == []


def same_row(got: dict[str, Any] | None, expected: dict[str, Any] | None) -> bool:
    if got is None or expected is None:
        return got is expected
    if got.keys() != expected.keys():
        return False
    for name, value in expected.items():
        mine = got[name]
        if isinstance(mine, datetime):
            mine = (mine - EPOCH) // timedelta(microseconds=1)
        if (mine is None) != (value is None):
            return False
        if value is not None and not math.isclose(mine, value, rel_tol=1e-12, abs_tol=1e-12):
            return False
    return True


def test_the_measures_of_a_race_worked_by_hand() -> None:
    """A dead heat for first of four with one faller: contract 5's integers."""
    heat = [a_runner("A", 1, sp_decimal=2.0), a_runner("B", 1, sp_decimal=4.0)]
    rest = [a_runner("C", 3, sp_decimal=4.0), a_runner("D", status="F", sp_decimal=1.5)]
    a, b, c, d = starts_of(a_result(*heat, *rest, a_runner("E", status="NR")))
    assert [start.win for start in (a, b, c, d)] == [1, 1, 0, 0]
    assert [start.place for start in (a, b, c, d)] == [1, 1, 0, 0]
    assert [start.prb_e9 for start in (a, b, c, d)] == [833_333_333, 833_333_333, 333_333_333, 0]
    inverse = [10**12 // 2000, 10**12 // 4000, 10**12 // 4000, 10**12 // 1500]
    assert [start.exp_e9 for start in (a, b, c, d)] == [each * 10**9 // sum(inverse) for each in inverse]
    assert {start.uni_e9 for start in (a, b, c, d)} == {250_000_000}
    assert {start.field_size for start in (a, b, c, d)} == {4}


def test_of_a_start_without_a_place_only_the_win_is_known() -> None:
    """A finisher second of three beat the one whose place is unknown; a winner known without placings has no PRB."""
    found = [a_runner("A", 1, status="RAN"), a_runner("B", 2), a_runner("C", 3, status="RAN")]
    a, b, c = starts_of(a_result(*found))
    assert [(each.win, each.place, each.prb_e9, each.position, each.field_size) for each in (a, b, c)] == [
        (1, None, None, None, 3),
        (0, 0, 500_000_000, 2, 3),
        (0, None, None, None, 3),
    ]
    row = Oracle(a_log(a_result(*found)), "Europe/London").value(
        "trainer_velocity", {"trainer_id": "a trainer"}, datetime(2024, 5, 2, tzinfo=UTC)
    )
    assert row is not None
    assert [row[f"{name}_14d"] for name in ("runs", "wins", "places", "place_rate", "prb")] == [3, 1, 0, 0.0, 0.5]


def test_a_walkover_beats_nobody() -> None:
    """One starter: PRB is unknown, not 0 or 1; the market expects exactly its one win."""
    (alone,) = starts_of(a_result(a_runner("A", 1)))
    assert (alone.win, alone.place, alone.prb_e9, alone.exp_e9) == (1, 1, None, 10**9)


def test_a_position_beyond_the_field_beats_nobody_but_not_less() -> None:
    """12th of 2 is 0, never negative."""
    assert [start.prb_e9 for start in starts_of(a_result(a_runner("A", 1), a_runner("B", 12)))] == [10**9, 0]


def test_a_start_leaves_its_window_at_the_local_midnight() -> None:
    """A race of 20 March leaves the 14 days at the midnight of 3 April, which is 23:00 UTC in British summer."""
    race = a_result(*a_field(2), race_date="2024-03-20", off_time="2024-03-20 14:00", known_at="2024-03-20 14:15")
    oracle = Oracle(a_log(race, a_tick("2024-04-04 23:00")), "Europe/London")
    who, midnight = {"trainer_id": "a trainer"}, datetime(2024, 4, 2, 23, tzinfo=UTC)
    before = oracle.value("trainer_velocity", who, midnight - timedelta(microseconds=1))
    after = oracle.value("trainer_velocity", who, midnight)
    assert before is not None
    assert after is not None
    assert (before["runs_14d"], before["valid_until"]) == (2, midnight)
    assert (after["runs_14d"], after["runs_30d"]) == (0, 2)
    assert after["valid_until"] == datetime(2024, 4, 18, 23, tzinfo=UTC)
    assert midnight in oracle.change_points("trainer_velocity", who)


def test_past_the_end_of_the_log_its_last_row_stands() -> None:
    """Without a tick the clock has passed no midnight: nothing has left a window yet."""
    oracle = Oracle(a_log(a_result(*a_field(2))), "Europe/London")
    row = oracle.value("trainer_velocity", {"trainer_id": "a trainer"}, datetime(2030, 1, 1, tzinfo=UTC))
    assert row is not None
    assert row["runs_14d"] == 2


def test_an_amendment_retracts_from_its_own_instant_and_a_late_lower_version_changes_nothing() -> None:
    """Version 3 voids the race; version 2, known after it, is in the log and applied nowhere."""
    messages = a_result(a_runner("A", 1), known_at="2024-05-01 14:15")
    void = a_result(a_runner("A", status="VOID"), known_at="2024-05-03 10:00", result_version=3)
    late = a_result(a_runner("A", 1), a_runner("B", 2), known_at="2024-05-04 10:00", result_version=2)
    oracle = Oracle(a_log(messages, void, late), "Europe/London")
    voided = datetime(2024, 5, 3, 10, tzinfo=UTC)
    just_before = oracle.value("horse_form", {"horse_id": "a"}, voided - timedelta(microseconds=1))
    at_last = oracle.value("horse_form", {"horse_id": "a"}, datetime(2024, 5, 5, tzinfo=UTC))
    assert just_before is not None
    assert at_last is not None
    assert (just_before["starts"], at_last["starts"]) == (1, 0)
    assert at_last["sr"] is None
    assert at_last["valid_until"] is None
    assert oracle.value("horse_form", {"horse_id": "b"}, datetime(2024, 5, 5, tzinfo=UTC)) is None


@pytest.mark.parametrize("timezone", [*TIMEZONES, "America/Sao_Paulo"])
def test_a_local_midnight_is_the_first_instant_of_its_date(timezone: str) -> None:
    """Also where the clock jumps over 00:00, as São Paulo's did in 2018."""
    zone, day = ZoneInfo(timezone), date(2018, 1, 1)
    while day.year == 2018:
        midnight = local_midnight(day, zone)
        assert local_date(midnight, zone) == day
        assert local_date(midnight - timedelta(microseconds=1), zone) == day - timedelta(days=1)
        day += timedelta(days=1)


def test_the_same_version_again_is_counted_and_other_content_refused() -> None:
    """Sent by a second file of the same load: the first stands, and neither takes a place in the log."""
    first = a_race(*a_field(2))
    again = load([first, first], "Europe/London")
    other = load([first, [{**row, "going": "Firm"} for row in first]], "Europe/London")
    assert (len(again.records), again.identical_versions, again.refused) == (1, 1, [])
    assert (len(other.records), other.refused) == (1, [("R1", 1, "raise result_version")])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(random_loads())
def test_nothing_of_a_load_is_lost_and_its_clock_strictly_increases(said: RandomLoad) -> None:
    """Each version of each file is a record, a dead letter or a counted repetition; no message sits on a midnight."""
    result, zone = said.told(), ZoneInfo(said.timezone)
    versions = [len({(row["race_id"], row["result_version"]) for row in rows}) for rows in said.files]
    assert sum(versions) == len(result.records) + len(result.refused) + result.identical_versions
    instants = [datetime.fromisoformat(record["known_at"]) for record in result.records]
    assert all(earlier < later for earlier, later in pairwise(instants))
    assert all(at != local_midnight(local_date(at, zone), zone) for at in instants)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(random_logs(), st.data())
def test_a_value_changes_only_at_its_change_points(log: RandomLog, data: st.DataObject) -> None:
    """At any instant the row is that of the last change point at or before it; before the first there is none."""
    oracle = Oracle(log.records, log.timezone)
    views = [view for view in JOIN_KEYS if oracle.entities(view)]
    assume(views)
    view = data.draw(st.sampled_from(views))
    entity = data.draw(st.sampled_from(oracle.entities(view)))
    points = oracle.change_points(view, entity)
    instants = [datetime.fromisoformat(record["known_at"]) for record in log.records]
    midnights = [local_midnight(local_date(at, oracle.zone), oracle.zone) for at in instants]
    for at in {*instants, *midnights, *points}:
        for beside in (at - timedelta(microseconds=1), at):
            last = max((point for point in points if point <= beside), default=None)
            expected = None if last is None else oracle.value(view, entity, last)
            assert oracle.value(view, entity, beside) == expected


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(random_logs(), st.data())
def test_what_is_known_later_changes_no_earlier_value(log: RandomLog, data: st.DataObject) -> None:
    """The log cut after any record gives the same rows, up to that record's instant, as the whole log."""
    whole = Oracle(log.records, log.timezone)
    cut = Oracle(log.until(data.draw(st.integers(0, len(log.records)))).records, log.timezone)
    assume(cut.end is not None)
    assert cut.end is not None
    for view in JOIN_KEYS:
        for entity in whole.entities(view):
            assert cut.value(view, entity, cut.end) == whole.value(view, entity, cut.end)
