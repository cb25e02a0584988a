"""The log beyond the tables gives a race's first result, however much else is in the log about it."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tests.support.logs import NOON, a_store, fixed, logged
from tests.support.services import RACE, RUNNERS
from velo.racing.messages import Market, Racecard, Result
from velo.streams.unbuilt_log import UnbuiltLog

MINUTE = timedelta(minutes=1)
RAN = tuple(
    type(runner)(runner.horse_id, status="FINISHED", position=place) for place, runner in enumerate(RUNNERS, start=1)
)


def test_a_races_first_result_is_its_first_in_the_log_whatever_comes_before_and_after_it(tmp_path: Path) -> None:
    """Seen as each message arrives; the second version and later odds change nothing, and another race has none."""
    store = a_store(tmp_path / "home")
    log = UnbuiltLog(store.home)
    messages: list[Racecard | Market | Result] = [
        Racecard(RACE, RUNNERS),
        *(Market(RACE.race_id, {"horse 1": 2.0 + price}, "load") for price in range(50)),
        Result(RACE, RAN, 1),
        Market(RACE.race_id, {"horse 1": 9.0}, "late"),
        Result(RACE, RAN, 2),
    ]
    for number, message in enumerate(messages):
        logged(store, replace(message, known_at=NOON + number * MINUTE), clock=fixed(NOON + number * MINUTE))
        seen = log.seen(RACE.race_id)
        assert seen.log_end == NOON + number * MINUTE
        assert seen.first_result == (None if number < 51 else NOON + 51 * MINUTE)
        assert log.seen("another").first_result is None
    assert [type(message) for message in log.messages(RACE.race_id, 50)] == [Market, Result, Market, Result]
    assert [(result.result_version, earlier) for result, earlier in log.results(0, 100)] == [(1, False), (2, True)]
