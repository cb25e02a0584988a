"""How many times a period was tried: every backtest is put on record before its figures are shown.

The best of many tries is not what it seems. One JSON line a backtest, in `$VELO_HOME/models/trials.ndjson`; nothing in it is
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
    """A backtest that was run: its days (both included), the recipe and the data by their SHA-256, and when (UTC)."""

    backtest: str
    since: str
    until: str
    recipe: str
    data: str
    at: str

    def is_again(self, other: "Trial") -> bool:
        """Whether it is the other repeated: the same days, recipe and data come to the same figures."""
        return (self.since, self.until, self.recipe, self.data) == (other.since, other.until, other.recipe, other.data)


def trials(folder: Path) -> tuple[Trial, ...]:
    """All trials on record, oldest first; raises `UserError` where the record is damaged."""
    return jsonl.read(folder / FILE, Trial, "how often a period was tried")


def tried(folder: Path, trial: Trial, now: datetime) -> int:
    """Put a trial on record; returns how many different ones have tested any of its days, itself among them."""
    before = trials(folder)
    told = [*before, trial]
    if any(trial.is_again(one) for one in before):
        told.pop()
    else:
        jsonl.add(folder / FILE, before, replace(trial, at=now.astimezone(UTC).isoformat()))
    return sum(one.since <= trial.until and trial.since <= one.until for one in told)
