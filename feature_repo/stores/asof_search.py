"""Find the latest row of a key at or before an instant, for many keys at once: sort, then bisect. Uses numpy alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from velo.feature_repo.stores.key_encoding import Whole

NONE: Final = -1
NEVER: Final = int(np.iinfo(np.int64).min)
"""A null instant: an entity row with it precedes all rows, and a row of the history with it is left out."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """Rows of a history sorted by key and instant; those of key k are `start[k]` to before `end[k]`.

    `row` is the original position of each. The last of several rows of one key and instant is the one created last.
    """

    start: Whole
    end: Whole
    event: Whole
    row: Whole

    @classmethod
    def of(cls, key: Whole, event: Whole, size: int, created: Callable[[], Whole]) -> "Ordered":
        """Sort rows by key and instant. Keys are below `size`; a row of key -1 is left out.

        Most tables are written key by key, each forward or backward in time, so this sorts runs of rows, and single
        rows only if that does not suffice. `created` is called only if two rows have one key and instant.
        """
        row = np.flatnonzero((key >= 0) & (event != NEVER))
        if len(row) < len(key):
            key, event = key[row], event[row]
        same = key[1:] == key[:-1]
        if np.count_nonzero(same & (event[1:] < event[:-1])) > np.count_nonzero(same & (event[1:] > event[:-1])):
            key, event, row = key[::-1], event[::-1], row[::-1]
        if not _in_order(key, event, size):
            order = _runs_in_order(key, event)
            key, event, row = key[order], event[order], row[order]
        if not _in_order(key, event, size):
            order = np.lexsort((event, key))
            key, event, row = key[order], event[order], row[order]
        if np.any((key[1:] == key[:-1]) & (event[1:] == event[:-1])):
            order = np.lexsort((row, created()[row], event, key))
            key, event, row = key[order], event[order], row[order]
        start, end = np.zeros(size, np.int64), np.zeros(size, np.int64)
        first = _changes(key)
        start[key[first]], end[key[first]] = first, np.append(first[1:], len(key))
        return cls(start, end, np.ascontiguousarray(event), row)

    def latest(self, key: Whole, instant: Whole) -> Whole:
        """Return the position of the latest row of each key at or before each instant, or -1."""
        known = key >= 0
        start, end = (np.where(known, bound[key], 0) for bound in (self.start, self.end))
        place = start - 1
        step = 1 << int((end - start).max(initial=0)).bit_length()
        last = len(self.event) - 1
        while step := step >> 1:
            ahead = place + step
            place = np.where((ahead < end) & (self.event[np.minimum(ahead, last)] <= instant), ahead, place)
        return np.where(place >= start, place, NONE)


def _changes(key: Whole) -> Whole:
    """Return where each run of one key begins."""
    if not len(key):
        return np.empty(0, np.int64)
    return np.concatenate([[0], np.flatnonzero(key[1:] != key[:-1]) + 1]).astype(np.int64)


def _in_order(key: Whole, event: Whole, size: int) -> bool:
    """Whether the rows of each key are adjacent and ascend in time."""
    if np.any((key[1:] == key[:-1]) & (event[1:] < event[:-1])):
        return False
    first = _changes(key)
    place = np.empty(size, np.int64)
    place[key[first]] = first
    return bool(np.all(place[key[first]] == first))


def _runs_in_order(key: Whole, event: Whole) -> Whole:
    """Return the order that sorts runs of rows (one key, ascending in time) by key and first instant."""
    breaks = (key[1:] != key[:-1]) | (event[1:] < event[:-1])
    first = np.concatenate([[0], np.flatnonzero(breaks) + 1]).astype(np.int64)
    rows = np.diff(np.append(first, len(key)))
    order = np.lexsort((event[first], key[first]))
    first, rows = first[order], rows[order]
    return np.repeat(first - np.cumsum(rows) + rows, rows) + np.arange(len(key))
