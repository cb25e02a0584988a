"""The ledger of trials: every backtest is recorded before its figures are shown.

The best of many tries looks better than it is. One JSON line per backtest, in `$VELO_HOME/models/trials.ndjson`; nothing in it is
ever edited.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from velo.training import jsonl

FILE: Final = "trials.ndjson"


@dataclass(frozen=True, slots=True)
class Trial:
    """A backtest: its first and last day (both included), the SHA-256 of its recipe and of its data, and the instant it ran (UTC)."""

    backtest: str
    since: str
    until: str
    recipe: str
    data: str
    at: str

    def is_again(self, other: "Trial") -> bool:
        """Whether it repeats the other: the same days, recipe and data give the same figures."""
        return (self.since, self.until, self.recipe, self.data) == (other.since, other.until, other.recipe, other.data)


def trials(folder: Path) -> tuple[Trial, ...]:
    """All trials, oldest first; raises `UserError` if the ledger is damaged."""
    return jsonl.read(folder / FILE, Trial, "how often a period was tried")


def tried(folder: Path, trial: Trial, now: datetime) -> int:
    """Record a trial; returns the number of different trials that tested any of its days, itself included."""
    before = trials(folder)
    recorded = [*before, trial]
    if any(trial.is_again(earlier) for earlier in before):
        recorded.pop()
    else:
        jsonl.add(folder / FILE, before, replace(trial, at=now.astimezone(UTC).isoformat()))
    return sum(other.since <= trial.until and trial.since <= other.until for other in recorded)
