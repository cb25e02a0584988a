"""The messages of a simulated race day: in the order of a real one, and nothing of a result before it."""

from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

from velo.racing.messages import FINISHED, GoingChange, Market, NonRunner, Race, Result, Runner
from velo.simulator.live_day import PRICED_BEFORE, LiveMessage, live_day

DAY = date(2025, 6, 1)
M = TypeVar("M", GoingChange, Market, NonRunner, Result)


def a_result(number: int, runners: int = 6, course: str = "Harfield") -> Result:
    off = datetime(2025, 6, 1, 13, 0, tzinfo=UTC) + number * timedelta(minutes=30)
    came = [
        Runner(
            f"{number} {place}",
            runner_no=place,
            status=FINISHED,
            position=place,
            beaten_lengths=place - 1.0,
            sp_decimal=2.0 + place,
        )
        for place in range(1, runners + 1)
    ]
    return Result(Race(f"r{number}", DAY, off, course, going="Good"), tuple(came), 1, off + timedelta(minutes=10))


RESULTS = [a_result(0), a_result(1), a_result(2), a_result(3, course="Wexcombe")]


def of(day: list[LiveMessage], kind: type[M]) -> list[tuple[datetime, M]]:
    """The messages of a type, each with its instant."""
    return [(each.at, each.message) for each in day if isinstance(each.message, kind)]


def test_a_day_has_prices_a_withdrawal_a_change_of_going_results_and_an_amended_one() -> None:
    day = live_day(RESULTS, 1)
    assert [each.at for each in day] == sorted(each.at for each in day)
    assert {change.race_id for _, change in of(day, GoingChange)} == {"r1", "r2"}, "the last two at the first course"
    results = [result for _, result in of(day, Result)]
    named = sorted((result.race_id, result.result_version) for result in results)
    assert named == [("r0", 1), ("r0", 2), ("r1", 1), ("r2", 1), ("r3", 1)]
    winners = {
        result.result_version: [runner.horse_id for runner in result.runners if runner.won]
        for result in results
        if result.race_id == "r0"
    }
    assert winners == {1: ["0 1"], 2: ["0 2"]}
    assert live_day(RESULTS, 1) == day
    assert live_day([], 1) == []


def test_who_is_withdrawn_is_a_non_runner_of_the_result_and_priced_by_nobody() -> None:
    day = live_day(RESULTS, 1)
    [(_, gone)] = of(day, NonRunner)
    assert gone.horse_id == "0 6", "the last of the first race: nobody else is"
    results = [result for _, result in of(day, Result) if result.race_id == "r0"]
    assert [{runner.horse_id: runner.status for runner in result.runners}["0 6"] for result in results] == ["NR", "NR"]
    assert all("0 6" not in market.prices for _, market in of(day, Market))


def test_prices_end_near_the_starting_prices_and_nothing_of_a_race_is_known_before_its_time() -> None:
    day = live_day(RESULTS, 1)
    for result in RESULTS[1:]:
        off = result.race.off_time
        prices = [(at, market.prices) for at, market in of(day, Market) if market.race_id == result.race_id]
        assert prices[0][0] == off - PRICED_BEFORE
        assert prices[-1][0] < off
        for runner in result.runners:
            assert runner.sp_decimal is not None
            assert 0.7 < (prices[-1][1][runner.horse_id] - 1) / (runner.sp_decimal - 1) < 1.4
            assert len({each[runner.horse_id] for _, each in prices}) > 10
        assert min(at for at, each in of(day, Result) if each.race_id == result.race_id) > off
