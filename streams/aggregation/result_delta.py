"""What each result changes in its race: the starts it retracts of the version before it, and those it adds (contract 3)."""

from dataclasses import dataclass

from velo.feature_repo.catalogue.families import OWN_MEASURES
from velo.racing.clock import to_us
from velo.racing.measures import Measure
from velo.racing.messages import Result
from velo.racing.starts import Start, starts_of


@dataclass(frozen=True, slots=True)
class ResultDelta:
    """The starts that a result retracts and those it adds, each with the off of its version in µs.

    Both are empty for a result that changes nothing (a lower or equal version), so that every message of the log has
    exactly one delta.
    """

    race_id: str
    retracted_off_us: int = 0
    retracted: tuple[Start, ...] = ()
    added_off_us: int = 0
    added: tuple[Start, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.retracted or self.added)


def replacing(result: Result, before: Result | None = None, own: tuple[Measure, ...] = OWN_MEASURES) -> ResultDelta:
    """The delta of a result that replaces `before`, of a lower version; None where it is the first result of its race.

    `own` are the measures that a user declared.
    """
    off_us, added = to_us(result.race.off_time), tuple(starts_of(result.race, result.runners, own=own))
    if before is None:
        return ResultDelta(result.race_id, added_off_us=off_us, added=added)
    retracted = tuple(starts_of(before.race, before.runners, own=own))
    return ResultDelta(result.race_id, to_us(before.race.off_time), retracted, off_us, added)
