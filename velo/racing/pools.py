"""Pool bets: the combinations that win by the order of finish, their dividends, and the settlement of a bet by them.

A bet settles only where every winning combination of its pool has a dividend. A source that states the first one alone (Hong Kong's
file does, of PLACE the winner's) would else settle every loser and few of the winners.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final

from velo.errors import UserError
from velo.racing.messages import FINISHED, NON_RUNNER, VOID, Result
from velo.racing.place_bets import place_terms
from velo.racing.settlement import Outcome

PLACE: Final = "place"


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool on the first `runners` of a race, in their order of finish or in any order."""

    name: str
    runners: int
    ordered: bool


POOLS: Final[dict[str, Pool]] = {
    pool.name: pool
    for pool in (
        Pool(PLACE, 1, ordered=False),
        Pool("quinella", 2, ordered=False),
        Pool("exacta", 2, ordered=True),
        Pool("trifecta", 3, ordered=True),
        Pool("trio", 3, ordered=False),
        Pool("first four", 4, ordered=False),
        Pool("quartet", 4, ordered=True),
    )
}
"""The pools that are settled. First four is in any order, as in Hong Kong; the quartet is in order."""
_OTHER_NAMES: Final = {"tierce": "trifecta", "forecast": "exacta", "first 4": "first four"}
_COMMA: Final = re.compile(r"\s*,\s*")
_PART: Final = re.compile(r"(FIRST_4|first 4|[A-Za-z_ ]+?) +(\d.*)", re.IGNORECASE)
"""A pool's name, and from the first digit on its runners and what it paid; `first 4` has a digit of its own."""
_NUMBERS: Final = re.compile(r"\d+(,\d+)*")
_PAYS: Final = re.compile(r"\d+(\.\d+)?")

Dividends = Mapping[tuple[str, tuple[int, ...]], float]
"""What one unit pays, stake included, by pool and runner numbers: in order of finish, or ascending where any order wins."""


def dividends_of(text: str | None) -> Dividends:
    """Read the dividends of a race, such as `place 12 1.95; quinella 11,12 32.15; trifecta 12,11,1 369.7`.

    Each has the pool, the runner numbers and what one unit pays, stake included. Pools that are not settled are left out, whatever their
    form (a double names runners of two races). Raises ValueError for a dividend of a settled pool that cannot be read.
    """
    found = {}
    for part in filter(None, (part.strip() for part in (text or "").split(";"))):
        match = _PART.fullmatch(_COMMA.sub(",", part))
        name = "" if match is None else " ".join(match[1].casefold().replace("_", " ").split())
        pool = POOLS.get(_OTHER_NAMES.get(name, name))
        if match is None or pool is None:
            continue
        named, _, pays = match[2].partition(" ")
        if not (_NUMBERS.fullmatch(named) and _PAYS.fullmatch(pays.strip())):
            raise ValueError(f"{part!r} is not a dividend such as 'quinella 11,12 32.15'")
        numbers = tuple(int(number) for number in named.split(","))
        if len(numbers) != pool.runners or len(set(numbers)) < len(numbers):
            raise ValueError(
                f"{part!r} names {len(numbers)} runners, but a {pool.name} has {pool.runners} different ones"
            )
        found[pool.name, _key(pool, numbers)] = float(pays)
    return found


@dataclass(frozen=True, slots=True)
class PoolPayout:
    """A settled pool bet of one unit: what it returns, stake included (None if unsettled), and why."""

    outcome: Outcome
    returned: float | None
    reason: str = ""


def settle_pool(pool_name: str, horses: Sequence[str], result: Result) -> PoolPayout:
    """Settle one unit on a combination of horses, in order where the pool's is, by a race's first result that has dividends.

    A combination with a non-runner is refunded, and any bet on a void race. Raises `UserError` for an unknown pool and for another number
    of horses than the pool has.
    """
    pool = POOLS.get(pool_name)
    if pool is None:
        raise UserError(f"{pool_name!r} is not a pool: choose from {', '.join(POOLS)}")
    if len(horses) != pool.runners or len({*horses}) < len(horses):
        raise UserError(f"a {pool.name} has {pool.runners} different horses, got {', '.join(horses)}")
    runners = {runner.horse_id: runner for runner in result.runners}
    if not any(runner.started for runner in result.runners):
        return PoolPayout(Outcome.VOID, 1.0, "the race was void")
    if any(horse in runners and runners[horse].status in (NON_RUNNER, VOID) for horse in horses):
        return PoolPayout(Outcome.VOID, 1.0, "a horse of it did not run")
    missing = [horse for horse in horses if horse not in runners or runners[horse].runner_no is None]
    if missing:
        return PoolPayout(Outcome.UNSETTLED, None, f"the result has no runner number of {missing[0]}")
    winning = winning_combinations(pool, result)
    dividends = dividends_of(result.race.dividends)
    paid = {numbers: dividends.get((pool.name, numbers)) for numbers in winning}
    unknown = [numbers for numbers, pays in paid.items() if pays is None]
    if not winning or unknown:
        return PoolPayout(Outcome.UNSETTLED, None, _unknown(pool, unknown))
    chosen = _key(pool, tuple(runners[horse].runner_no or 0 for horse in horses))
    pays = paid.get(chosen)
    return PoolPayout(Outcome.LOST, 0.0) if pays is None else PoolPayout(Outcome.WON, pays)


def winning_combinations(pool: Pool, result: Result) -> list[tuple[int, ...]]:
    """The combinations of runner numbers that win; more than one in a dead heat, none where too few runners finished."""
    finished = [
        (runner.position, runner.runner_no)
        for runner in result.runners
        if runner.status == FINISHED and runner.position is not None and runner.runner_no is not None
    ]
    if pool.name == PLACE:
        places = place_terms(result.race, sum(runner.started for runner in result.runners)).places
        return sorted((number,) for position, number in finished if position <= places)
    first = [each for each in finished if each[0] <= pool.runners]
    found = set()
    for order in permutations(first, pool.runners):
        positions = [position for position, _ in order]
        # dead-heaters take either place, and nobody outside the combination finished before its last
        if positions == sorted(positions) and not any(each not in order and each[0] < positions[-1] for each in first):
            found.add(_key(pool, tuple(number for _, number in order)))
    return sorted(found)


def _key(pool: Pool, numbers: tuple[int, ...]) -> tuple[int, ...]:
    return numbers if pool.ordered else tuple(sorted(numbers))


def _unknown(pool: Pool, unknown: Sequence[tuple[int, ...]]) -> str:
    if not unknown:
        return f"too few runners finished for a {pool.name}"
    return f"the dividend of {pool.name} {','.join(map(str, unknown[0]))} is not known"
