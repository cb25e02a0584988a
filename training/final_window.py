"""The locked final window: declared once, with the fingerprint of its data, and every further look at it refused or counted.

A window looked at twice is a window chosen by its outcome. The record is one JSON line a look, in
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
    """One look at a final window: which days (both included), which data, which model, when (UTC), the how-many-th."""

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
            # A missing number has many bit patterns: one stands for all.
            known = np.where(np.isnan(values), np.nan, values) if values.dtype.kind == "f" else values
            content = np.ascontiguousarray(known).astype(known.dtype.newbyteorder("<")).tobytes()
        digest.update(f"{name}\0{values.dtype.kind}{values.dtype.itemsize}\0{values.size}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def looks(folder: Path) -> tuple[Look, ...]:
    """All looks on record, oldest first; raises `UserError` where the record is damaged."""
    return jsonl.read(folder / FILE, Look, "which windows were looked at")


def look(folder: Path, since: date, until: date, data: str, model: str, now: datetime, *, again: bool = False) -> Look:
    """Put a look at a window on record, before anything of it is shown; `data` is its fingerprint.

    Raises `UserError` where a day of it was looked at before, unless `again`: then the look is counted and its number told.
    Data that changed since is a look all the same.
    """
    if since > until:
        raise UserError(f"a window from {since} to {until} has no day: give the earlier day first")
    seen = looks(folder)
    before = [one for one in seen if one.overlaps(since, until)]
    if before and not again:
        last = before[-1]
        changed = "" if last.fingerprint == data else "; its data changed since"
        raise UserError(
            f"{since} to {until} was looked at on {last.at[:10]} with {last.model} ({last.since} to {last.until}){changed}: "
            "choose days that no look has touched, or ask for another look and have it counted"
        )
    number = max((one.number for one in before), default=0) + 1
    taken = Look(since.isoformat(), until.isoformat(), data, model, now.astimezone(UTC).isoformat(), number)
    jsonl.add(folder / FILE, seen, taken)
    return taken
