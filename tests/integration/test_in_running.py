"""In-running data: known with the result or with the amendment that adds it, of the right kind or unknown."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.builders import a_race, a_runner
from tests.support.feeds import sent_result
from tests.support.logs import NOON, a_store, logged
from tests.support.stores import NOW, changelogs_of
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.racing.messages import IN_RUNNING, Race, Result, Runner
from velo.racing.starts import starts_of
from velo.streams.batch.build import build
from velo.streams.feeds.validation import MessageValidator, ValidMessage
from velo.streams.importers.dead_letters import DeadLetter
from velo.streams.importers.sources.runners import parse_rows
from velo.testing import check

RUNNING = BY_VIEW["horse_running"]
OFF = datetime(2024, 5, 1, 14, tzinfo=UTC)


def started(horse: str, position: int, **columns: Any) -> Runner:
    return Runner(horse, status="FINISHED", position=position, **columns)


def measured(*runners: Runner) -> dict[str, Any]:
    """The starts of a race by horse."""
    starts = starts_of(Race("R1", date(2024, 5, 1), OFF, "Ascot", distance_m=1200.0), runners)
    return {start.horse_id: start for start in starts}


def test_the_measures_of_three_runners_are_those_worked_out_by_hand() -> None:
    """Of three, the second has one of two rivals behind it; times of 24, 25 and 26 s are 25 s on average."""
    found = measured(
        started("leader", 3, first_call_position=1, last_call_position=1, first_section_ms=24_000,
                last_section_ms=25_000, finish_time_s=72.0, slow_away=False, hampered=False, widest_path=1),
        started("stalker", 2, first_call_position=2, last_call_position=2, first_section_ms=25_000,
                last_section_ms=24_000, finish_time_s=72.0, slow_away=False, hampered=True),
        started("closer", 1, first_call_position=3, last_call_position=3, first_section_ms=26_000,
                last_section_ms=23_000, finish_time_s=72.0, slow_away=True),
    )  # fmt: skip
    leader, stalker, closer = found["leader"], found["stalker"], found["closer"]
    assert [each.early_e9 for each in (leader, stalker, closer)] == [10**9, 5 * 10**8, 0]
    assert [each.led for each in (leader, stalker, closer)] == [1, 0, 0]
    assert [each.held_up for each in (leader, stalker, closer)] == [0, 0, 1]
    assert [each.gained_e9 for each in (leader, stalker, closer)] == [0, 10**9, 2 * 10**9]
    assert [each.straight_e9 for each in (leader, stalker, closer)] == [0, 10**9, 2 * 10**9]
    assert leader.early_speed_e9 == 25_000 * 10**9 // 24_000
    assert closer.late_speed_e9 == 24_000 * 10**9 // 23_000
    assert closer.finishing_e9 == closer.late_speed_e9  # all finish in the same time
    assert [each.slow_away for each in (leader, stalker, closer)] == [0, 0, 1]
    assert [each.slow_away_known for each in (leader, stalker, closer)] == [1, 1, 1]
    assert [each.hampered for each in (leader, stalker, closer)] == [0, 1, None]
    assert [each.widest_path for each in (leader, stalker, closer)] == [1, None, None]


@pytest.mark.slow
@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"first_call_position": 0, "first_section_ms": 0, "last_section_ms": -1, "widest_path": 0},
        {"first_call_position": 3, "last_call_position": 9, "first_section_ms": 86_400_000},
        dict.fromkeys(IN_RUNNING, "1"),
        dict.fromkeys(IN_RUNNING, 1.5),
    ],
    ids=["missing", "too small", "too large", "text of an old log", "real numbers of an old log"],
)
def test_a_value_that_no_runner_can_have_is_unknown_to_python_and_to_sql(
    columns: Mapping[str, Any], tmp_path: Path
) -> None:
    """A log from before the columns may hold anything under their names: it opens, and what is no number is unknown."""
    runners = (started("arkle", 1, **columns), started("mill house", 2, first_call_position=1))
    arkle = measured(*runners)["arkle"]
    assert (arkle.early_e9, arkle.early_speed_e9, arkle.late_speed_e9, arkle.widest_path) == (None, None, None, None)
    assert (arkle.early_known, arkle.slow_away_known, arkle.hampered) == (0, 0, None)
    store = a_store(tmp_path)
    race = Race("R1", date(2024, 5, 1), OFF, "Ascot", distance_m=1200.0)
    logged(store, Result(race, runners, known_at=OFF + timedelta(minutes=15)))
    build(store, NOW)
    (row,) = changelogs_of(store, RUNNING)["arkle",]
    assert {name: value for name, value in row.items() if name in {feature.name for feature in RUNNING.features}} == {
        feature.name: 1 if feature.name == "runs" else None for feature in RUNNING.features
    }


def test_sections_that_arrive_as_an_amendment_count_from_its_own_instant_on() -> None:
    """By SQL, by the stream and by brute force."""
    check(
        RUNNING,
        """
        race version known_at         horse  position first_call_position last_section_ms slow_away
        R1   1       2024-05-01T15:00 Arkle  1        -                   -               -
        R1   1       2024-05-01T15:00 Enable 2        -                   -               -
        R1   2       2024-05-03T09:00 Arkle  1        2                   23000           true
        R1   2       2024-05-03T09:00 Enable 2        1                   24000           false
        R1   3       2024-05-05T09:00 Arkle  1        1                   24000           false
        R1   3       2024-05-05T09:00 Enable 2        2                   24000           false
        """,
        {
            ("Arkle",): {
                "2024-05-03T08:59": {"runs": 1, "early": None, "led": None, "slow_away": None, "late_speed_last": None},
                "2024-05-03T09:00": {"early": 0.0, "led": 0.0, "slow_away": 1.0, "late_speed_last": 1.021739130},
                "2024-05-05T09:00": {"early": 1.0, "led": 1.0, "slow_away": 0.0, "late_speed_last": 1.0},
            },
        },
    )


def test_a_file_and_a_feed_take_the_columns_typed_and_refuse_other_kinds(tmp_path: Path) -> None:
    """A CSV's text becomes numbers and truths; a card drops them, as every outcome."""
    store = a_store(tmp_path)
    given = {"first_call_position": "2", "last_section_ms": "23010", "slow_away": "yes", "hampered": "0"}
    rows = a_race(a_runner("Arkle", 1))
    (result,) = parse_rows([row | given for row in rows], store).messages
    arkle = result.runners[0]
    assert (arkle.first_call_position, arkle.last_section_ms, arkle.slow_away, arkle.hampered) == (
        2,
        23_010,
        True,
        False,
    )
    refused = parse_rows([row | {"first_section_ms": "13.28"} for row in rows], store).refused
    assert [letter.reason for letter in refused] == ["bad value"]
    door = MessageValidator.of(store)
    runner = {"horse": "Arkle", "status": "FINISHED", "position": 1, "widest_path": 3, "hampered": True}
    taken = door.take(orjson.dumps(sent_result() | {"runners": [runner]}), NOON)
    assert isinstance(taken, ValidMessage)
    assert (taken.message.runners[0].widest_path, taken.message.runners[0].hampered) == (3, True)  # type: ignore[union-attr]
    card = door.take(orjson.dumps(sent_result() | {"type": "racecard", "runners": [runner]}), NOON)
    assert isinstance(card, ValidMessage)
    assert card.message.runners[0].widest_path is None  # type: ignore[union-attr]
    letter = door.take(orjson.dumps(sent_result() | {"runners": [runner | {"widest_path": "wide"}]}), NOON)
    assert isinstance(letter, DeadLetter)
    assert letter.reason == "bad value"
