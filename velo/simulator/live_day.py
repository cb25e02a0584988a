"""A simulated race day as messages in the order in which they become known: prices, withdrawals, a going change, results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from velo.racing.messages import FINISHED, NON_RUNNER, GoingChange, Market, Message, NonRunner, Race, Result, Runner

PRICED_BEFORE: timedelta = timedelta(minutes=40)
"""How long before its off a race has its first prices."""
EVERY: timedelta = timedelta(minutes=2)
RESULT_AFTER: timedelta = timedelta(minutes=4)
AMENDED_AFTER: timedelta = timedelta(minutes=12)
WITHDRAWN_BEFORE: timedelta = timedelta(minutes=25)
SOURCE: str = "simulated ring"
_WALK: float = 0.06
"""Standard deviation of the log of the odds from one price to the next."""
_OTHER_GOINGS = ("Good to Soft", "Good", "Standard to Slow", "Standard")
_LEAST_RUNNERS = 5


@dataclass(frozen=True, slots=True)
class LiveMessage:
    """A message, and when it becomes known (UTC)."""

    at: datetime
    message: Message


def live_day(results: Sequence[Result], seed: int) -> list[LiveMessage]:
    """The messages of a day from its results of version 1, in order of their instants.

    Prices walk at random to the starting prices. Non-runners are withdrawn before the off; one is made where the day has none. The
    going changes at the course of the first race, before its last race. One result is amended: its first two change places.
    """
    rng = np.random.default_rng([seed, 19])
    races = sorted(
        (result for result in results if any(runner.started for runner in result.runners)),
        key=lambda result: result.race.off_time,
    )
    if not races:
        return []
    races = _with_withdrawal(races)
    changed = _later_at_first_course(races)
    amended = next((at for at, result in enumerate(races) if _placed(result, 2)), None)
    found: list[LiveMessage] = []
    for at, result in enumerate(races):
        if result.race_id in changed:
            going = next(name for name in _OTHER_GOINGS if name != result.race.going)
            found.append(LiveMessage(races[0].race.off_time + timedelta(minutes=6), GoingChange(result.race_id, going)))
            result = replace(result, race=replace(result.race, going=going))
        found += _before_off(result, rng)
        found.append(LiveMessage(result.race.off_time + RESULT_AFTER, replace(result, result_version=1, known_at=None)))
        if at == amended:
            found.append(LiveMessage(result.race.off_time + RESULT_AFTER + AMENDED_AFTER, _amended(result)))
    return sorted(found, key=lambda message: message.at)


def _before_off(result: Result, rng: np.random.Generator) -> list[LiveMessage]:
    """The withdrawals and prices of a race."""
    off = result.race.off_time
    found = [
        LiveMessage(off - WITHDRAWN_BEFORE, NonRunner(result.race_id, runner.horse_id, "vet's certificate"))
        for runner in result.runners
        if runner.status == NON_RUNNER
    ]
    priced = [
        runner
        for runner in result.runners
        if runner.started and runner.sp_decimal is not None and runner.sp_decimal > 1.0
    ]
    if not priced:
        return found
    steps = int(PRICED_BEFORE / EVERY)
    logs = np.log([float(runner.sp_decimal or 0.0) - 1.0 for runner in priced])
    # backwards from the starting prices
    walk = logs + np.cumsum(rng.normal(0.0, _WALK, (steps, len(priced))), axis=0)
    for step in range(steps):
        prices = {
            runner.horse_id: round(1.0 + float(np.exp(value)), 2)
            for runner, value in zip(priced, walk[step], strict=True)
        }
        shown = {horse: max(price, 1.01) for horse, price in prices.items()}
        found.append(LiveMessage(off - EVERY * (step + 1), Market(result.race_id, shown, SOURCE)))
    return found


def _with_withdrawal(races: Sequence[Result]) -> list[Result]:
    """The races, in one of which a horse that was far back is a non-runner instead, if the day has no non-runner."""
    if any(runner.status == NON_RUNNER for result in races for runner in result.runners):
        return list(races)
    at = next(
        (at for at, result in enumerate(races) if sum(runner.started for runner in result.runners) >= _LEAST_RUNNERS),
        None,
    )
    if at is None:
        return list(races)
    last = max((runner for runner in races[at].runners if runner.started), key=lambda runner: runner.position or 0)
    others = [_did_not_run(runner) if runner is last else runner for runner in races[at].runners]
    return [replace(result, runners=tuple(others)) if place == at else result for place, result in enumerate(races)]


def _did_not_run(runner: Runner) -> Runner:
    return replace(runner, status=NON_RUNNER, position=None, beaten_lengths=None, finish_time_s=None, sp_decimal=None)


def _later_at_first_course(races: Sequence[Result]) -> set[str]:
    """The last two races at the course of the first race."""
    first: Race = races[0].race
    here = [result.race_id for result in races[1:] if result.race.course == first.course]
    return set(here[-2:])


def _placed(result: Result, places: int) -> bool:
    return all(
        sum(runner.position == place and runner.status == FINISHED for runner in result.runners) == 1
        for place in range(1, places + 1)
    )


def _amended(result: Result) -> Result:
    """The second version of a result: the stewards have put the second first."""
    swapped = {1: 2, 2: 1}
    margins = {runner.position: runner.beaten_lengths for runner in result.runners if runner.status == FINISHED}
    runners = tuple(
        replace(runner, position=swapped[runner.position], beaten_lengths=margins[swapped[runner.position]])
        if runner.status == FINISHED and runner.position in swapped
        else runner
        for runner in result.runners
    )
    return replace(result, runners=runners, result_version=2, known_at=None)
