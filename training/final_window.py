"""The locked final window: declared once, with the fingerprint of its data; each further look is refused or counted.

A window that is looked at twice may have been chosen by its outcome. There is one JSON line per look, in
`$VELO_HOME/models/final_windows.jsonl`; nothing in it is ever edited.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from velo.errors import UserError
from velo.training import jsonl

FILE: Final = "final_windows.jsonl"


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a final window: its days (both included), data, model, instant (UTC) and number."""

    since: str
    until: str
    fingerprint: str
    model: str
    at: str
    number: int

    def overlaps(self, since: date, until: date) -> bool:
        """Whether any day is in both windows."""
        return self.since <= until.isoformat() and since.isoformat() <= self.until


def fingerprint(columns: Mapping[str, ArrayLike]) -> str:
    """SHA-256 of the window's data: names, lengths and bytes of the columns; texts by their UTF-8."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        values = np.asarray(columns[name])
        if values.dtype.kind in "OU":
            content = json.dumps([None if value is None else str(value) for value in values.tolist()]).encode()
        else:
            # NaN has many bit patterns: they all become one
            known = np.where(np.isnan(values), np.nan, values) if values.dtype.kind == "f" else values
            content = np.ascontiguousarray(known).astype(known.dtype.newbyteorder("<")).tobytes()
        digest.update(f"{name}\0{values.dtype.kind}{values.dtype.itemsize}\0{values.size}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def looks(folder: Path) -> tuple[Look, ...]:
    """All looks, oldest first; raises `UserError` if the record is damaged."""
    return jsonl.read(folder / FILE, Look, "which windows were looked at")


def look(folder: Path, since: date, until: date, data: str, model: str, now: datetime, *, again: bool = False) -> Look:
    """Record a look at a window before any of it is shown, and return it; `data` is the window's fingerprint.

    Raises `UserError` if one of its days was looked at before, unless `again`, which counts the look. Changed data does not make
    it a first look.
    """
    if since > until:
        raise UserError(f"a window from {since} to {until} has no day: give the earlier day first")
    seen = looks(folder)
    before = [earlier for earlier in seen if earlier.overlaps(since, until)]
    if before and not again:
        last = before[-1]
        changed = "" if last.fingerprint == data else "; its data changed since"
        raise UserError(
            f"{since} to {until} was looked at on {last.at[:10]} with {last.model} ({last.since} to {last.until}){changed}: "
            "choose days that no look has touched, or ask for another look and have it counted"
        )
    number = max((earlier.number for earlier in before), default=0) + 1
    taken = Look(since.isoformat(), until.isoformat(), data, model, now.astimezone(UTC).isoformat(), number)
    jsonl.add(folder / FILE, seen, taken)
    return taken
