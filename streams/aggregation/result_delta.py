"""One race's versions: what each result takes back of the one before it, and what it adds (contract 3)."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import orjson

from velo.racing.clock import to_us
from velo.racing.messages import Result
from velo.racing.starts import Start, starts_of

FASTEST: Final = 1
"""zlib level: a race's starts repeat themselves, so the quickest level already keeps a third of the bytes."""


@dataclass(frozen=True, slots=True)
class RaceState:
    """The version of a race that holds, with its starts packed: a long history is millions of them.

    `off_us` is the off in µs since 1970; a void version has no starts.
    """

    result_version: int
    off_us: int
    packed: bytes

    @classmethod
    def of(cls, result_version: int, off_us: int, starts: tuple[Start, ...]) -> "RaceState":
        """The state that holds these starts."""
        rows = [list(start) for start in starts]
        return cls(result_version, off_us, zlib.compress(orjson.dumps(rows), FASTEST))

    @property
    def starts(self) -> tuple[Start, ...]:
        """The starts it holds, as they were measured."""
        return tuple(Start(*row) for row in orjson.loads(zlib.decompress(self.packed)))

    def dump(self) -> tuple[int, int, bytes]:
        """Plain values from which `load` makes an equal state."""
        return self.result_version, self.off_us, self.packed

    @classmethod
    def load(cls, dumped: tuple[int, int, bytes]) -> "RaceState":
        """The state of `dump`."""
        return cls(*dumped)


@dataclass(frozen=True, slots=True)
class ResultDelta:
    """What one result does to its race: the starts it takes back and those it adds, each with the off of its version.

    Both are empty for a result that changes nothing (a lower or equal version), so that every message of the log has
    exactly one change.
    """

    race_id: str
    retracted_off_us: int = 0
    retracted: tuple[Start, ...] = ()
    added_off_us: int = 0
    added: tuple[Start, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.retracted or self.added)


def replacing(result: Result, before: Result | None = None) -> ResultDelta:
    """What a result changes where `before`, of a lower version, held; nothing held where that is None."""
    off_us, added = to_us(result.race.off_time), tuple(starts_of(result.race, result.runners))
    if before is None:
        return ResultDelta(result.race_id, added_off_us=off_us, added=added)
    retracted = tuple(starts_of(before.race, before.runners))
    return ResultDelta(result.race_id, to_us(before.race.off_time), retracted, off_us, added)


def apply_version(
    state: RaceState | None, result: Result, rate: Callable[[ResultDelta], ResultDelta] = lambda change: change
) -> tuple[RaceState, ResultDelta]:
    """The race's state after a result, and what the result changed; a lower or equal version changes nothing.

    `rate` fills in the measures that rest on other races.
    """
    if state is not None and result.result_version <= state.result_version:
        return state, ResultDelta(result.race_id)
    off_us, added = to_us(result.race.off_time), tuple(starts_of(result.race, result.runners))
    change = ResultDelta(result.race_id, added_off_us=off_us, added=added)
    if state is not None:
        change = replace(change, retracted_off_us=state.off_us, retracted=state.starts)
    change = rate(change)
    return RaceState.of(result.result_version, off_us, change.added), change
