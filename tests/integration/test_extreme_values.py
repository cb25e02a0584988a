"""Values that no race has but a file can hold: they stop no build, and batch and stream read them alike."""

from datetime import UTC, date, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.feeds import Listed, drained, encoded, sent_result
from tests.support.logs import a_store, logged
from tests.support.streaming import NOW, all_rows, assert_same, batch_twin, streamed
from velo.racing.messages import Race, Result, Runner
from velo.racing.race_values import inverse_odds
from velo.racing.starts import starts_of
from velo.streams.batch.build import build
from velo.streams.importers.columns import COLUMNS, RUNNER_COLUMNS

OFF = datetime(2024, 5, 1, 12, tzinfo=UTC)
OF_RUNNERS: tuple[dict[str, Any], ...] = (
    {"sp_decimal": 1e300},
    {"sp_decimal": 1.7e308},
    {"sp_decimal": 9.3e15},
    {"sp_decimal": 1.000001},
    {"beaten_lengths": -1e300},
    {"beaten_lengths": 1e300},
    {"weight_lbs": 1e300},
    {"body_weight_lbs": 1e300},
    {"finish_time_s": 1e300},
    {"official_rating": -(2**31) + 1, "position": 2**31 - 1, "draw": 2**31 - 1},
)
OF_RACES: tuple[dict[str, Any], ...] = (
    {"distance_m": 1.6},
    {"distance_m": 8.0},
    {"distance_m": 1e300},
    {"distance_m": -1.0},
    {"race_class": 2**31 - 1, "rating_band": "999-0"},
    {"rating_band": "99999999999999999999"},
)


def a_race(day: int, of_runners: dict[str, Any], of_race: dict[str, Any]) -> Result:
    off = OFF + timedelta(days=day)
    of_all: dict[str, Any] = {"distance_m": 1200.0, "rating_band": "80-60"}
    race = Race(f"R{day:03}", off.date(), off, "Ascot", **of_all | of_race)
    fields: dict[str, Any] = {
        "status": "FINISHED",
        "trainer_id": "t",
        "jockey_id": "j",
        "sp_decimal": 3.0,
        "weight_lbs": 126.0,
    }
    runners = (
        Runner("arkle", **fields | {"position": 1, "beaten_lengths": 0.0, "draw": 1}),
        Runner(
            "mill house",
            **fields | {"position": 2, "beaten_lengths": 99.0, "draw": 2, "finish_time_s": 71.0} | of_runners,
        ),
        Runner("flyingbolt", **fields | {"position": 3, "beaten_lengths": 120.0, "draw": 3, "finish_time_s": 72.0}),
    )
    return Result(race, runners, known_at=off + timedelta(minutes=15))


def test_no_value_of_a_file_stops_a_build_and_the_stream_says_the_same(tmp_path: Path) -> None:
    """Distances in miles or furlongs, odds and lengths beyond 64 bits: one such race would stop every later build."""
    each: list[tuple[dict[str, Any], dict[str, Any]]] = [(runner, {}) for runner in OF_RUNNERS] + [
        ({}, race) for race in OF_RACES
    ]
    store = a_store(tmp_path / "home")
    logged(store, *(a_race(day, *item) for day, item in enumerate(each)))
    streamed(store)
    twin = batch_twin(store, tmp_path / "twin")
    assert_same(all_rows(store), all_rows(twin))
    assert sum(build(twin, NOW).rows.values()) > 10 * len(each)


NUMBERS = [name for name, kind in COLUMNS.items() if kind in ("number", "whole number")]
ABSURD = (
    "9223372036854775808",
    "1" + 30 * "0",
    "1e400",
    "NaN",
    "2147483647",
    "1e308",
    "-1e308",
    "5e-324",
    "-1",
    "2.5",
    "true",
)


def test_no_number_of_a_feed_stops_the_log_or_a_build_and_the_stream_says_the_same(tmp_path: Path) -> None:
    """Each is a dead letter, or a value that log, build and stream can hold; the log is opened again by what it holds."""
    bodies = []
    for name, value in product(NUMBERS, ABSURD):
        message = sent_result(f"{name} {value}")
        (message["runners"][0] if name in RUNNER_COLUMNS else message)[name] = "@"
        bodies.append(orjson.dumps(message).replace(b'"@"', value.encode()))
    store = a_store(tmp_path / "home")
    report = drained(store, Listed(bodies))
    refused = sum(report.refused.values())
    assert report.taken == len(bodies) == report.appended + refused
    assert report.dead_letters == refused > 80
    assert report.appended > 40
    elsewhere = Listed([*bodies, *encoded(sent_result("after all"))])
    elsewhere.name = "elsewhere"
    again = drained(store, elsewhere)
    assert (again.appended, again.identical, again.refused) == (1, report.appended, report.refused)
    streamed(store)
    twin = batch_twin(store, tmp_path / "twin")
    assert_same(all_rows(store), all_rows(twin))


@pytest.mark.parametrize(("odds", "inverse"), [(1e9, 1), (2e9, 0), (9.3e15, 0), (1.7e308, 0), (1.0, None)])
def test_odds_beyond_a_billion_expect_nothing(odds: float, inverse: int | None) -> None:
    assert inverse_odds(odds) == inverse


def test_a_market_that_expects_nothing_of_anyone_is_none() -> None:
    runners = [Runner(name, status="FINISHED", position=at, sp_decimal=1e300) for at, name in enumerate("ab", 1)]
    starts = starts_of(Race("R", date(2024, 5, 1), OFF, "Ascot"), runners)
    assert [start.exp_e9 for start in starts] == [None, None]
