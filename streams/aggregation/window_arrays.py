"""The windows of one family in arrays: the sums of each key, and a calendar of what leaves which window at which midnight.

An *entry* has the sums of one key on one race day. Entries of a race day leave a window together, at one local midnight; those
of a key are linked in order of their days. Entry 0 is no entry: its day is after all others.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from velo.racing.clock import LocalDays
from velo.streams.aggregation.delta_batch import NULL, Groups, Integers
from velo.streams.aggregation.key_codes import Codes, grown

NEVER: Final = 2**30
"""The day of no entry."""
BEFORE: Final = -1
"""The place in a run of what was there before it."""
_GONE: Final = -1
"""The key of an entry whose starts were all retracted."""
_MOST_DAYS: Final = 64
_TABLE_DAYS: Final = 1500


class Midnights:
    """The first instant of many local days, in µs."""

    def __init__(self, days: LocalDays) -> None:
        self._days = days
        self._first = 0
        self._table = np.zeros(0, np.int64)

    def of(self, days: Integers) -> Integers:
        """The midnight that begins each day; `NULL` for days from `NEVER` on."""
        if not len(days):
            return np.zeros(0, np.int64)
        never = days >= NEVER
        if never.all():
            return np.full(len(days), NULL, np.int64)
        known = days[~never] if never.any() else days
        first, last = int(known.min()), int(known.max())
        if first < self._first or last >= self._first + len(self._table):
            if last - first >= _TABLE_DAYS:
                made = np.full(len(days), NULL, np.int64)
                made[~never] = [self._days.midnight_us(day) for day in known.tolist()]
                return made
            self._first = first
            self._table = np.array(
                [self._days.midnight_us(day) for day in range(first, first + _TABLE_DAYS)], dtype=np.int64
            )
        if len(known) == len(days):
            return self._table[days - self._first]
        return np.where(never, NULL, self._table[np.where(never, 0, days - self._first)])


class Leaving(NamedTuple):
    """Entries that leave a window on some days, in order of the days: of each its key, its window's place, itself and the day."""

    slots: Codes
    windows: Integers
    entries: Integers
    days: Integers


class WindowArrays:
    """The sums of each key within each window as of a day, `sums` (keys, windows, lanes); the first lane counts starts.

    `_heads` has each key's oldest entry in each window and `_newest` its newest entry of all; `_by_day` the entries of each
    race day that is in any window.
    """

    def __init__(self, windows: tuple[int, ...], lanes: int) -> None:
        self._windows = np.array(windows, np.int64)
        self._by_length = np.sort(self._windows)
        self._longest, self._shortest = max(windows), min(windows)
        self._longest_at = windows.index(self._longest)
        self.sums = np.zeros((0, len(windows), lanes), np.int64)
        self._heads = np.zeros((0, len(windows)), np.int32)
        self._newest = np.zeros(0, np.int32)
        self._slot = np.full(1, _GONE, np.int32)
        self._day = np.full(1, NEVER, np.int32)
        self._next = np.zeros(1, np.int32)
        self._made_at = np.full(1, BEFORE, np.int64)
        self._sums = np.zeros((1, lanes), np.int64)
        self._free = np.zeros(0, np.int32)
        self._used = 1
        self._by_day: dict[int, list[NDArray[np.int32]]] = {}

    def __len__(self) -> int:
        """The number of keys with a start in a window."""
        return int(np.count_nonzero(self._heads[:, self._longest_at]))

    def grow(self, keys: int) -> None:
        """Make room for this many keys."""
        self.sums, self._heads, self._newest = (grown(each, keys) for each in (self.sums, self._heads, self._newest))

    def until_days(self, slots: Codes) -> Integers:
        """The next day on which a window of each key loses a start; `NEVER` or later where none does."""
        days: Integers = (self._day[self._heads[slots]] + self._windows).min(axis=1)
        return days

    def due_days(self, after: int, until: int) -> list[int]:
        """The days after one and up to another on which any window loses starts, in order."""
        days = self._by_day
        if until == after:
            return []
        if until - after <= _MOST_DAYS:
            windows = self._windows.tolist()
            return [day for day in range(after + 1, until + 1) if any(day - window in days for window in windows)]
        return sorted(
            {day + window for day in days for window in self._windows.tolist() if after < day + window <= until}
        )

    def expire(self, day: int, of: NDArray[np.bool_] | None = None) -> Codes:
        """Take out of each window what leaves it at the midnight that begins `day`; returns the keys that lost a start.

        To be called for every one of `due_days`, in order, and followed by `forget`. `of` says for each key whether it is
        meant; by default all are.
        """
        leaving = self.leaving([day], of)
        for place in range(len(self._windows)):
            some = leaving.windows == place
            # a key has one entry a day, so no key is twice among those that leave a window
            self.sums[leaving.slots[some], place] -= self._sums[leaving.entries[some]]
        self._advance_heads(leaving)
        return np.unique(leaving.slots)

    def leaving(self, days: Sequence[int], of: NDArray[np.bool_] | None = None) -> Leaving:
        """The entries that leave a window on some days; `of` says for each key whether it is meant."""
        entries: list[NDArray[np.int32]] = []
        found: list[tuple[int, int, int]] = []
        for day in days:
            for place, window in enumerate(self._windows.tolist()):
                parts = self._by_day.get(day - window)
                if parts is not None:
                    if len(parts) > 1:
                        parts[:] = [np.concatenate(parts)]
                    entries.append(parts[0])
                    found.append((len(parts[0]), place, day))
        if not found:
            none = np.zeros(0, np.int64)
            return Leaving(none, none, none, none)
        count, places, of_day = np.array(found).T
        every = np.concatenate(entries).astype(np.int64)
        slots = self._slot[every].astype(np.int64)
        left = Leaving(slots, np.repeat(places, count), every, np.repeat(of_day, count))
        meant = slots >= 0
        if of is not None:
            meant &= of[slots]
        return left if meant.all() else Leaving(*(each[meant] for each in left))

    def forget(self, days: Sequence[int]) -> None:
        """Drop the entries that left the longest window on these days."""
        for day in days:
            parts = self._by_day.pop(day - self._longest, None)
            if parts is not None:
                self._free = np.concatenate((self._free, *parts))

    def runs(self, days: Sequence[int]) -> list[tuple[int, int]]:
        """Cut days into runs, (begin, end): no start of a day, or of the day before it, leaves a window within its run."""
        cuts = [0]
        for place, day in enumerate(days):
            if place > cuts[-1] and day - days[cuts[-1]] > self._shortest - 2:
                cuts.append(place)
        return list(pairwise([*cuts, len(days)])) if days else []

    def apart(self, groups: Groups, sign: Integers, days: Integers, last_day: int) -> NDArray[np.bool_] | None:
        """Which keys must be taken day by day in a run that ends on `last_day`; None where none must.

        They lose a start by retraction, or get one of a day before another's, or one that leaves a window within the run.
        """
        found = self._irregular(groups, sign, days, last_day - days, late=True)
        if found is None:
            return None
        apart = np.zeros(len(self._newest), np.bool_)
        apart[groups.slots[groups.key_first[found]]] = True
        return apart

    def update_run(
        self, groups: Groups, added: tuple[Codes, Integers, Integers], leaving: Leaving, at: Integers
    ) -> tuple[Integers, Integers]:
        """Apply the changes of a run: starts that are `added` (keys, race days, lanes), then the entries that are `leaving`.

        `at` is the place of each change in the run, and `groups` has all by key and place. Returns each row's sums and next
        expiry, as `update` does.
        """
        slots, days, lanes = added
        changes = np.zeros((len(at), *self.sums.shape[1:]), np.int64)
        changes[: len(slots)] = lanes[:, None, :]
        changes[np.arange(len(slots), len(at)), leaving.windows] = -self._sums[leaving.entries]
        flat = self.sums.reshape(len(self.sums), -1)
        sums = groups.summed(flat, changes.reshape(len(at), flat.shape[1])[groups.deltas])
        by_key = groups.deltas[groups.deltas < len(slots)]
        made = self._append(slots[by_key], days[by_key], lanes[by_key], int(days.max(initial=0)), at[by_key])
        until = self._until_of_run(groups, leaving, at)
        self._made_at[made] = BEFORE
        self._advance_heads(leaving)
        return sums.reshape(len(groups.row_last), *self.sums.shape[1:]), until

    def _until_of_run(self, groups: Groups, leaving: Leaving, at: Integers) -> Integers:
        """The next expiry as of each row: by its key's oldest entry in each window, if that was made by then.

        That is the entry after the last one that left the window in the run, else the oldest before the run, else the first
        that the run adds.
        """
        starts = len(at) - len(leaving.slots)
        entry = np.concatenate((np.zeros(starts, np.int64), leaving.entries))[groups.deltas]
        window_of = np.concatenate((np.full(starts, -1), leaving.windows))[groups.deltas]
        places = np.arange(len(at))
        key_first, slots = groups.key_first[groups.row_key], groups.slots[groups.row_last]
        row_at = at[groups.deltas[groups.row_last]]
        until = np.full(len(slots), 2 * NEVER, np.int64)
        for place, window in enumerate(self._windows.tolist()):
            left = np.maximum.accumulate(np.where(window_of == place, places, -1))[groups.row_last]
            head = np.where(left >= key_first, self._next[entry[left]], self._heads[slots, place])
            days = np.where(self._made_at[head] <= row_at, self._day[head], NEVER)
            until = np.minimum(until, days + window)
        return until

    def _advance_heads(self, leaving: Leaving) -> None:
        """Make the entry after each that left a window its key's oldest in it."""
        # of several values for one index the last is kept: here the latest day's
        self._heads[leaving.slots, leaving.windows] = self._next[leaving.entries]
        last = leaving.windows == self._longest_at
        slots = leaving.slots[last]
        self._newest[slots[self._newest[slots] == leaving.entries[last]]] = 0

    def update(
        self, groups: Groups, lanes: Integers, sign: Integers, days: Integers, today: int, *, rows: bool = True
    ) -> tuple[Integers, Integers]:
        """Apply deltas, each with its `lanes`, `sign` and race day; returns each row's sums and next expiry.

        The sums are (rows, windows, lanes) and the days of the expiry as `until_days`, both in the order of the groups' rows.
        Without `rows` only the state is right, not what is returned.
        """
        age = today - days
        in_window = age[:, None] < self._windows
        of_windows = np.where(in_window[:, :, None], lanes[:, None, :], 0).reshape(len(days), -1)
        flat = self.sums.reshape(len(self.sums), -1)
        sums = groups.summed(flat, of_windows).reshape(len(groups.row_last), *self.sums.shape[1:])
        irregular = self._irregular(groups, sign, days, age, rows=rows)
        live = age < self._longest
        if irregular is None:
            self._append(
                *((groups.slots, days, lanes) if live.all() else (groups.slots[live], days[live], lanes[live])), today
            )
            return sums, self.until_days(groups.slots[groups.row_last])
        of_key = np.repeat(irregular, np.diff(np.append(groups.key_first, len(days))))
        regular = live & ~of_key
        self._append(groups.slots[regular], days[regular], lanes[regular], today)
        until = self.until_days(groups.slots[groups.row_last])
        for row in np.flatnonzero(irregular[groups.row_key]).tolist():
            for place in range(groups.row_first[row], groups.row_last[row] + 1):
                if live[place]:
                    self._change(int(groups.slots[place]), int(days[place]), lanes[place], today)
            until[row] = self.until_days(groups.slots[groups.row_last[row : row + 1]])[0]
        return sums, until

    def _irregular(
        self, groups: Groups, sign: Integers, days: Integers, age: Integers, *, late: bool = False, rows: bool = True
    ) -> NDArray[np.bool_] | None:
        """Which keys lose a start, or get one of a day before another's; None where none does.

        Where `rows` are wanted also those whose first start is outside a window that a later one is in: their next expiry changes
        between their rows. With `late` also those that get any start outside a window.
        """
        newest = self._newest[groups.slots[groups.key_first]]
        bad = (sign < 0) | (age >= self._shortest) if late else sign < 0
        bad[groups.key_first] |= (newest > 0) & (days[groups.key_first] < self._day[newest])
        if not groups.one_each:
            same_key = np.ones(len(days), np.bool_)
            same_key[groups.key_first] = False
            other_day = same_key[1:] & (days[1:] != days[:-1])
            outside = np.searchsorted(self._by_length, age, side="right")
            bad[1:] |= other_day & ((days[1:] < days[:-1]) | (rows & (outside[1:] != outside[:-1])))
        if not bad.any():
            return None
        found: NDArray[np.bool_] = np.logical_or.reduceat(bad, groups.key_first)
        return found

    def _append(
        self, slots: Codes, days: Integers, lanes: Integers, today: int, at: Integers | None = None
    ) -> NDArray[np.int32]:
        """Add starts to entries, given by key and in order of their days, none before its key's newest entry.

        Returns the new entries; `at` is each start's place in its run.
        """
        if not len(slots):
            return np.zeros(0, np.int32)
        same_day = (slots[1:] == slots[:-1]) & (days[1:] == days[:-1])
        if same_day.any():
            first = np.append(0, (~same_day).nonzero()[0] + 1)
            slots, days, lanes = slots[first], days[first], np.add.reduceat(lanes, first, axis=0)
            at = None if at is None else at[first]
        newest = self._newest[slots]
        same = self._day[newest] == days
        entries = newest.copy()
        if same.any():
            self._sums[newest[same]] += lanes[same]
            made = ~same
            if not made.any():
                return np.zeros(0, np.int32)
            entries[made] = self._allocate(slots[made], days[made], lanes[made])
        else:
            made = np.ones(len(slots), np.bool_)
            entries = self._allocate(slots, days, lanes)
        before = newest
        before[1:] = np.where(slots[1:] == slots[:-1], entries[:-1], before[1:])
        linked = made & (before > 0)
        self._next[before[linked]] = entries[linked]
        # of several values for one index the last is kept: here the newest entry, below the oldest
        self._newest[slots] = entries
        heads = (self._heads[slots] == 0) & made[:, None] & ((today - days)[:, None] < self._windows)
        if heads.any():
            for place in range(len(self._windows)):
                first_of = heads[:, place]
                self._heads[slots[first_of][::-1], place] = entries[first_of][::-1]
        if at is not None:
            self._made_at[entries[made]] = at[made]
        appended: NDArray[np.int32] = entries[made]
        return appended

    def _allocate(self, slots: Codes, days: Integers, lanes: Integers) -> NDArray[np.int32]:
        """New entries, last of their keys, in the calendar."""
        count = len(slots)
        again = self._free[max(0, len(self._free) - count) :]
        self._free = self._free[: len(self._free) - len(again)]
        fresh = count - len(again)
        entries = np.concatenate((again, np.arange(self._used, self._used + fresh, dtype=np.int32)))
        self._used += fresh
        self._slot, self._day, self._next, self._sums = (
            grown(each, self._used) for each in (self._slot, self._day, self._next, self._sums)
        )
        self._made_at = grown(self._made_at, self._used, BEFORE)
        self._slot[entries], self._day[entries], self._next[entries], self._sums[entries] = slots, days, 0, lanes
        low, high = int(days.min()), int(days.max())
        for day in [low] if low == high else np.unique(days).tolist():
            self._by_day.setdefault(day, []).append(entries if low == high else entries[days == day])
        return entries

    def _change(self, slot: int, day: int, lanes: Integers, today: int) -> None:
        """Add one start's lanes to the entry of its key and day, or subtract them; an entry without starts is removed."""
        before, entry = 0, int(self._heads[slot, self._longest_at])
        while entry and self._day[entry] < day:
            before, entry = entry, int(self._next[entry])
        if self._day[entry] != day:
            [made] = self._allocate(np.array([slot]), np.array([day]), lanes[None]).tolist()
            self._next[made] = entry
            self._link(slot, before, made)
            if not entry:
                self._newest[slot] = made
            for place, window in enumerate(self._windows.tolist()):
                head = self._heads[slot, place]
                if today - day < window and self._day[head] > day:
                    self._heads[slot, place] = made
            return
        self._sums[entry] += lanes
        # every start counts in the first lane, so that it is 0 only where no start of the day is left
        if not self._sums[entry, 0]:
            after = int(self._next[entry])
            self._link(slot, before, after)
            if not after:
                self._newest[slot] = before
            self._heads[slot][self._heads[slot] == entry] = after
            self._slot[entry] = _GONE

    def _link(self, slot: int, before: int, entry: int) -> None:
        """Make an entry the one after `before`; the first of a key is found by its heads instead."""
        if before:
            self._next[before] = entry
