"""The past starts of a family's keys in arrays, for its recent features: the latest known values, and the starts spilled.

A new start normally comes after all others of its key, and then needs only the values in memory. The spilled starts are read
back where a start is amended, or becomes known after a later one.

On the spill a start is a record of 64-bit numbers: the place of its key's start before it, its off (µs), the place of its
race_id, the code of its horse, and its remembered values. Records of many starts are written as one block. The place of a record
is that of its block and its number there; 0 is no place. Records are never changed.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from velo.feature_repo.catalogue.recent_aggregates import RECENT_DEPTH
from velo.streams.aggregation.delta_batch import NAN_BITS, NULL, DeltaBatch, Groups, Integers
from velo.streams.aggregation.key_codes import Codes, grown
from velo.streams.aggregation.layout import DeltaLayout
from velo.streams.aggregation.spill import Spill

BLOCK_RECORDS: Final = 2**20
"""The most records of a block."""
_PLACE, _OFF, _RACE, _HORSE, _VALUES = range(5)
_BYTES: Final = 8
Order = tuple[int, str, int]


class PastStart(NamedTuple):
    """A start as it was spilled, and its order among its key's."""

    order: tuple[int, str, str]
    record: Integers


class HistoryArrays:
    """`newest` has each key's latest known values of the measures that are looked back on, newest first, (keys, measures,
    `RECENT_DEPTH`), and `last` its last start's values of all remembered measures, (keys, measures).

    An unknown value is `NULL`; in `last`, of a measure that is not whole, the bits of NaN.
    """

    def __init__(
        self,
        layout: DeltaLayout,
        looked_back_on: Sequence[int],
        whole: Sequence[bool],
        spill: Spill,
        horses: Sequence[str],
    ) -> None:
        self._measures, self._ordered_by_horse = layout.remembered, layout.several_a_race
        self._looked_back_on = list(looked_back_on)
        self._unknown = np.array([NULL if each else NAN_BITS for each in whole], np.int64)
        self._spill, self._horses = spill, horses
        self.newest = np.zeros((0, len(looked_back_on), RECENT_DEPTH), np.int64)
        self.last = np.zeros((0, len(whole)), np.int64)
        self._off_us = np.zeros(0, np.int64)
        self._places = np.zeros(0, np.int64)
        self._size = _BYTES * (_VALUES + len(whole))

    def __len__(self) -> int:
        """The number of keys with a start."""
        return int(np.count_nonzero(self._places))

    def grow(self, keys: int) -> None:
        """Make room for this many keys."""
        self.newest = grown(self.newest, keys, NULL)
        self.last = grown(self.last, keys, self._unknown)
        self._off_us = grown(self._off_us, keys, NULL)
        self._places = grown(self._places, keys)

    def update(self, groups: Groups, batch: DeltaBatch) -> tuple[Integers, Integers]:
        """Apply deltas; returns `newest` and `last` as of each of the groups' rows."""
        records = self._records(groups.deltas, batch)
        irregular = self._irregular(groups, batch, records[:, _OFF])
        if irregular is None and groups.one_each:
            return self._append(groups.slots, records)
        rows = len(groups.row_last)
        newest = np.empty((rows, *self.newest.shape[1:]), np.int64)
        last = np.empty((rows, self.last.shape[1]), np.int64)
        skipped = np.zeros(rows, np.bool_) if irregular is None else irregular[groups.row_key]
        # a regular row is one start: the first of each key at once, then the second of each, and so on
        key_first_row = np.append(0, groups.key_last_row[:-1] + 1)
        rank = np.arange(rows) - key_first_row[groups.row_key]
        for number in range(int(rank.max()) + 1):
            some = np.flatnonzero((rank == number) & ~skipped)
            if len(some):
                starts = groups.row_last[some]
                newest[some], last[some] = self._append(groups.slots[starts], records[starts])
        for row in np.flatnonzero(skipped).tolist():
            begin, end = int(groups.row_first[row]), int(groups.row_last[row]) + 1
            slot = int(groups.slots[begin])
            self._amend(slot, groups.deltas[begin:end], records[begin:end], batch)
            newest[row], last[row] = self.newest[slot], self.last[slot]
        return newest, last

    def _records(self, deltas: Integers, batch: DeltaBatch) -> Integers:
        """The record of each delta, without the place of the start before it."""
        records = np.empty((len(deltas), _VALUES + len(self._measures)), np.int64)
        records[:, _OFF] = batch.off_us[deltas]
        records[:, _RACE] = batch.race_places(self._spill)[batch.message[deltas]]
        records[:, _HORSE] = batch.codes["horse_id",][deltas]
        records[:, _VALUES:] = batch.bits(self._measures)[deltas]
        return records

    def _irregular(
        self, groups: Groups, batch: DeltaBatch, off_us: Integers
    ) -> "np.ndarray[tuple[int], np.dtype[np.bool_]] | None":
        """Which keys have a retracted start, several starts in one row, or a start that is not after all before it."""
        bad = batch.sign[groups.deltas] < 0 if batch.retracts else np.zeros(len(off_us), np.bool_)
        bad[groups.key_first] |= off_us[groups.key_first] <= self._off_us[groups.slots[groups.key_first]]
        if not groups.one_each:
            later = np.ones(len(off_us), np.bool_)
            later[1:] = off_us[1:] > off_us[:-1]
            later[groups.key_first] = True
            bad |= ~later
            bad[groups.row_last[groups.row_last > groups.row_first]] = True
        return np.logical_or.reduceat(bad, groups.key_first) if bad.any() else None

    def _append(self, slots: Codes, records: Integers) -> tuple[Integers, Integers]:
        """Add one start to each of these keys, after all before it; returns their `newest` and `last`."""
        records[:, _PLACE] = self._places[slots]
        self._places[slots] = self._put(records)
        self._off_us[slots] = records[:, _OFF]
        last = records[:, _VALUES:]
        self.last[slots] = last
        newest = self.newest[slots]
        values = last[:, self._looked_back_on, None]
        newest = np.where(values == NULL, newest, np.concatenate((values, newest[:, :, :-1]), axis=2))
        self.newest[slots] = newest
        return newest, last

    def _put(self, records: Integers) -> Integers:
        """Spill records; returns the place of each."""
        places = np.empty(len(records), np.int64)
        for begin in range(0, len(records), BLOCK_RECORDS):
            block = records[begin : begin + BLOCK_RECORDS]
            place = self._spill.put(block.astype("<i8", copy=False).tobytes())
            places[begin : begin + len(block)] = place * BLOCK_RECORDS + np.arange(len(block))
        return places

    def _past(self, place: int) -> PastStart:
        """The spilled start at a place."""
        block, number = divmod(place, BLOCK_RECORDS)
        record = np.frombuffer(self._spill.part(block, number * self._size, self._size), "<i8")
        return PastStart(self._order(record, self._spill.get(int(record[_RACE])).decode()), record)

    def _order(self, record: Integers, race_id: str) -> tuple[int, str, str]:
        return int(record[_OFF]), race_id, self._horses[int(record[_HORSE])] if self._ordered_by_horse else ""

    def _amend(self, slot: int, deltas: Integers, records: Integers, batch: DeltaBatch) -> None:
        """Remove starts from a key's history and add others: those from the earliest of them on are spilled again."""
        changes = [
            (PastStart(self._order(record, batch.race_ids[batch.message[delta]]), record), batch.sign[delta] < 0)
            for delta, record in zip(deltas.tolist(), records, strict=True)
        ]
        earliest = min(start.order for start, _ in changes)
        before, tail = int(self._places[slot]), list[PastStart]()
        while before:
            start = self._past(before)
            if start.order < earliest:
                break
            tail.append(start)
            before = int(start.record[_PLACE])
        tail.reverse()
        for start, removed in changes:
            at = bisect_left(tail, start.order, key=lambda each: each.order)
            if removed:
                # found by its order alone: a start is removed with the values that it was added with
                del tail[at]
            else:
                tail.insert(at, start)
        self._set(slot, before, tail)

    def _set(self, slot: int, before: int, tail: list[PastStart]) -> None:
        """Make the starts at `before` and before it, then those of `tail`, the history of a key."""
        place = before
        for start in tail:
            record = start.record.copy()
            record[_PLACE] = place
            [place] = self._put(record[None]).tolist()
        self._places[slot] = place
        newest: list[list[int]] = [[] for _ in self._looked_back_on]
        last: Integers | None = None
        while place and (last is None or any(len(values) < RECENT_DEPTH for values in newest)):
            record = self._past(place).record
            if last is None:
                last = record
            for values, measure in zip(newest, self._looked_back_on, strict=True):
                value = int(record[_VALUES + measure])
                if value != NULL and len(values) < RECENT_DEPTH:
                    values.append(value)
            place = int(record[_PLACE])
        self._off_us[slot] = NULL if last is None else last[_OFF]
        self.last[slot] = self._unknown if last is None else last[_VALUES:]
        self.newest[slot] = NULL
        for measure, values in enumerate(newest):
            self.newest[slot, measure, : len(values)] = values
