"""How many times a period was tried: every backtest is put on record before its figures are shown.

The best of many tries is not what it seems. One JSON line a backtest, in `$VELO_HOME/models/trials.ndjson`; nothing in it is
ever edited.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from velo.errors import UserError
from velo.files import make_folder, write_atomically

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
    path = folder / FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    try:
        return tuple(Trial(**json.loads(line)) for line in lines)
    except (ValueError, TypeError) as damaged:
        raise UserError(f"{path} is damaged ({damaged}): restore it, it says how often a period was tried") from damaged


def tried(folder: Path, trial: Trial, now: datetime) -> int:
    """Put a trial on record; returns how many different ones have tested any of its days, itself among them."""
    record = trials(folder)
    lines = [json.dumps(asdict(one), ensure_ascii=False) for one in record]
    if not any(trial.is_again(one) for one in record):
        at = now.astimezone(UTC).isoformat()
        record = (*record, trial)
        lines.append(json.dumps(asdict(trial) | {"at": at}, ensure_ascii=False))
        make_folder(folder)
        write_atomically(folder / FILE, ("\n".join(lines) + "\n").encode())
    return sum(one.since <= trial.until and trial.since <= one.until for one in record)
