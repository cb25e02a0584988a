"""The aggregation of all families in arrays: a batch of messages at a time, one row of state a key.

`window_state` is the plain twin, key by key: tests hold the two to the same rows, bit for bit.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.families import Family
from velo.racing.clock import LocalDays
from velo.streams.aggregation.delta_batch import NULL, DeltaBatch, Groups, Integers, Measured
from velo.streams.aggregation.history_arrays import HistoryArrays
from velo.streams.aggregation.key_codes import Codes, KeyCodes, grown
from velo.streams.aggregation.layout import HORSE, REMEMBERED_FROM, Columns, DeltaLayout
from velo.streams.aggregation.result_delta import ResultDelta
from velo.streams.aggregation.spill import Spill
from velo.streams.aggregation.vectorized import Rows
from velo.streams.aggregation.window_arrays import Midnights, WindowArrays
from velo.streams.aggregation.window_state import BEGINNING

_PLACES: Final = 2**20
"""The places of a run that belong to one message."""


class DayOfBatch(NamedTuple):
    """The messages of a batch that are of one local day: the deltas from `begin` to before `end`, the first message's number."""

    day: int
    begin: int
    end: int
    message: int


class FamilyArrays:
    """The state of one family as of the local day `today`, and how it changes."""

    def __init__(self, family: Family, keys: KeyCodes, measured: Measured, midnights: Midnights, spill: Spill) -> None:
        self.family, self.layout = family, DeltaLayout.of(family)
        self._keys, self._midnights = keys, midnights
        self.today = BEGINNING
        self._career = np.zeros((0, len(self.layout.career)), np.int64)
        self._windows = WindowArrays(family.windows, len(self.layout.windowed)) if self.layout.windowed else None
        self._history = None
        if family.recent:
            looked_back_on = [place - REMEMBERED_FROM for place in Columns.of(family).looked_back_on]
            whole = [measured.whole[name] for name in self.layout.remembered]
            self._history = HistoryArrays(self.layout, looked_back_on, whole, spill, keys.columns[HORSE].texts)

    def __len__(self) -> int:
        """The number of keys with a start: of a family of windows alone, in one of them."""
        if self.family.career:
            return int(np.count_nonzero(self._career[:, 0]))
        if self._history is not None:
            return len(self._history)
        return 0 if self._windows is None else len(self._windows)

    def roll(self, batch: DeltaBatch, days: Sequence[DayOfBatch]) -> Rows | None:
        """The rows of a batch's messages in order of time; None where it makes none.

        A message first makes the expiry rows of every local midnight since the message before it, each at its midnight,
        then one row for each key it changes, at its `known_at`.
        """
        codes = self._keys.of(self.family.keys, batch.codes)
        self._grow(self._keys.count(self.family.keys))
        made: list[Rows] = []
        if self._windows is None:
            groups = batch.groups(self.family.keys, codes, 0, len(codes))
            made += [self._update(batch, groups)] if groups else []
        else:
            days = [day for day in days if day.begin < day.end or day.day > self.today]
            for begin, end in self._windows.runs([day.day for day in days]):
                made += self._roll_days(batch, codes, days[begin:end])
        return Rows.joined(made) if made else None

    def restore(self, batch: DeltaBatch) -> None:
        """Apply a batch as of `today` without making rows."""
        codes = self._keys.of(self.family.keys, batch.codes)
        self._grow(self._keys.count(self.family.keys))
        groups = batch.groups(self.family.keys, codes, 0, len(codes))
        if groups is None:
            return
        if self.layout.career:
            groups.summed(self._career, batch.lanes(self.layout.career)[groups.deltas])
        if self._history is not None:
            self._history.update(groups, batch)
        if self._windows is not None:
            lanes, sign = batch.lanes(self.layout.windowed)[groups.deltas], batch.sign[groups.deltas]
            self._windows.update(groups, lanes, sign, batch.race_day[groups.deltas], self.today, rows=False)

    def _roll_days(self, batch: DeltaBatch, codes: Codes, days: Sequence[DayOfBatch]) -> list[Rows]:
        """The rows of a run of days: of most keys all days at once, of the others day by day."""
        assert self._windows is not None
        begun, ended = self.today, days[-1].day
        groups = batch.groups(self.family.keys, codes, days[0].begin, days[-1].end)
        if len(days) == 1:
            made = self._advance(days[0])
            self._windows.forget(self._windows.due_days(begun, ended))
            return [*made, self._update(batch, groups)] if groups else made
        apart = None
        if groups is not None:
            apart = self._windows.apart(groups, batch.sign[groups.deltas], batch.race_day[groups.deltas], ended)
        made = self._run(batch, codes, days, apart)
        if apart is not None:
            for day in days:
                made += self._advance(day, apart)
                deltas = np.arange(day.begin, day.end)
                deltas = deltas[(codes[deltas] >= 0) & apart[codes[deltas]]]
                if len(deltas):
                    made.append(self._update(batch, Groups.of(deltas, codes[deltas], batch.message[deltas])))
        self._windows.forget(self._windows.due_days(begun, ended))
        self.today = ended
        if apart is None or len(made) < 2:
            return made
        rows = Rows.joined(made)
        return [rows.take(np.argsort(rows.event_us, kind="stable"))]

    def _advance(self, day: DayOfBatch, of: NDArray[np.bool_] | None = None) -> list[Rows]:
        """Expire what has left a window by a day; returns the rows of each midnight. `of` says for each key whether it is meant."""
        assert self._windows is not None
        made: list[Rows] = []
        for each in self._windows.due_days(self.today, day.day):
            slots = self._windows.expire(each, of)
            if len(slots):
                made.append(self._expired(slots, each, day.message))
        self.today = day.day
        return made

    def _run(
        self, batch: DeltaBatch, codes: Codes, days: Sequence[DayOfBatch], apart: NDArray[np.bool_] | None
    ) -> list[Rows]:
        """The rows of all days of a run at once, of the keys that are not `apart`."""
        windows = self._windows
        assert windows is not None
        deltas = np.arange(days[0].begin, days[-1].end)
        meant = codes[deltas] >= 0
        if apart is not None:
            meant &= ~apart[codes[deltas]]
        deltas = deltas[meant]
        due = windows.due_days(self.today, days[-1].day)
        leaving = windows.leaving(due, None if apart is None else ~apart)
        if not len(deltas) and not len(leaving.slots):
            return []
        # the place of a change: its message, and of those the midnights before it come first
        message = np.array([day.message for day in days])[
            np.searchsorted(np.array([day.day for day in days]), leaving.days)
        ]
        at = np.concatenate(
            (batch.message[deltas] * _PLACES + _PLACES - 1, message * _PLACES + leaving.days - self.today)
        )
        slots = np.concatenate((codes[deltas], leaving.slots))
        event_us = np.concatenate((batch.known_at_us[batch.message[deltas]], self._midnights.of(leaving.days)))
        by_time = np.argsort(at, kind="stable")
        groups = Groups.of(by_time, slots[by_time], at[by_time])
        career = newest = last = None
        if self.layout.career:
            lanes = np.zeros((len(at), len(self.layout.career)), np.int64)
            lanes[: len(deltas)] = batch.lanes(self.layout.career)[deltas]
            career = groups.summed(self._career, lanes[groups.deltas])
        if self._history is not None:
            newest, last = self._history_of_run(batch, codes, deltas, groups)
        added = codes[deltas], batch.race_day[deltas], batch.lanes(self.layout.windowed)[deltas]
        within, until_days = windows.update_run(groups, added, leaving, at)
        order = groups.order
        rows = groups.deltas[groups.row_last[order]]
        until_us = self._midnights.of(until_days[order])
        made = (None if each is None else each[order] for each in (career, newest, last, within))
        return [self._rows(len(rows), at[rows] // _PLACES, slots[rows], event_us[rows], until_us, *made)]

    def _history_of_run(
        self, batch: DeltaBatch, codes: Codes, deltas: Integers, groups: Groups
    ) -> tuple[Integers, Integers]:
        """`newest` and `last` as of each row of a run: after its start, or after that of its key's row before it."""
        history = self._history
        assert history is not None
        row_slots = groups.slots[groups.row_last]
        newest, last = history.newest[row_slots], history.last[row_slots]
        if len(deltas):
            changed = Groups.of(deltas, codes[deltas], batch.message[deltas])
            newest_changed, last_changed = history.update(changed, batch)
            # the rows of both groups are in order of their keys, then of time
            before = np.cumsum(groups.deltas[groups.row_last] < len(deltas)) - 1
            of_key = (before >= 0) & (changed.slots[changed.row_last[before]] == row_slots)
            newest[of_key], last[of_key] = newest_changed[before[of_key]], last_changed[before[of_key]]
        return newest, last

    def _grow(self, keys: int) -> None:
        self._career = grown(self._career, keys)
        if self._windows is not None:
            self._windows.grow(keys)
        if self._history is not None:
            self._history.grow(keys)

    def _update(self, batch: DeltaBatch, groups: Groups) -> Rows:
        count, layout, order = len(groups.row_last), self.layout, groups.order
        career = newest = last = within = until_us = None
        if layout.career:
            career = groups.summed(self._career, batch.lanes(layout.career)[groups.deltas])[order]
        if self._history is not None:
            newest, last = (each[order] for each in self._history.update(groups, batch))
        if self._windows is not None:
            lanes, sign = batch.lanes(layout.windowed)[groups.deltas], batch.sign[groups.deltas]
            days = batch.race_day[groups.deltas]
            sums, until_days = self._windows.update(groups, lanes, sign, days, self.today)
            within, until_us = sums[order], self._midnights.of(until_days[order])
        rows = groups.row_last[order]
        message = batch.message[groups.deltas[rows]]
        slots, event_us = groups.slots[rows], batch.known_at_us[message]
        return self._rows(count, message, slots, event_us, until_us, career, newest, last, within)

    def _expired(self, slots: Codes, day: int, message: int) -> Rows:
        count = len(slots)
        assert self._windows is not None
        history = self._history
        return self._rows(
            count,
            np.full(count, message, np.int64),
            slots,
            np.full(count, self._midnights.of(np.array([day]))[0], np.int64),
            self._midnights.of(self._windows.until_days(slots)),
            self._career[slots],
            None if history is None else history.newest[slots],
            None if history is None else history.last[slots],
            self._windows.sums[slots],
        )

    def _rows(
        self,
        count: int,
        message: Integers,
        slots: Codes,
        event_us: Integers,
        until_us: Integers | None,
        career: Integers | None,
        newest: Integers | None,
        last: Integers | None,
        within: Integers | None,
    ) -> Rows:
        none = np.zeros((count, 0), np.int64)
        return Rows(
            self._keys,
            self.family.keys,
            message,
            slots,
            event_us,
            np.full(count, NULL, np.int64) if until_us is None else until_us,
            none if career is None else career,
            none[:, :, None] if newest is None else newest,
            none if last is None else last,
            none[:, :, None] if within is None else within,
        )


class ArrayFold:
    """The state of all families. `roll` is called with the messages in log order, each once."""

    def __init__(self, families: Sequence[Family], days: LocalDays, spill: Spill) -> None:
        self._days = days
        self.keys = KeyCodes([*(family.keys for family in families), (HORSE,)])
        self.measured = Measured(families)
        midnights = Midnights(days)
        self.families = {
            family.view: FamilyArrays(family, self.keys, self.measured, midnights, spill) for family in families
        }
        self._today = BEGINNING
        self._ends_us = BEGINNING

    def count(self, view: str) -> int:
        """The number of a view's keys with a start."""
        return len(self.families[view])

    def roll(self, messages: Sequence[tuple[int, ResultDelta]]) -> list[tuple[str, Rows]]:
        """The rows that messages make, each given as (`known_at` in µs, what it changes), by view; a tick changes nothing."""
        batch = self.batch(messages)
        days = self._days_of(batch)
        made = [(view, family.roll(batch, days)) for view, family in self.families.items()]
        return [(view, rows) for view, rows in made if rows is not None]

    def batch(self, messages: Sequence[tuple[int, ResultDelta]]) -> DeltaBatch:
        """The columns of messages as `roll` takes them."""
        return DeltaBatch.of(messages, self.measured, self.keys)

    def restore(self, batch: DeltaBatch) -> None:
        """Apply starts as of the last message that was rolled, in any order, without making rows.

        An empty state that gets the starts of every race's current version becomes that of a full replay: so the stream
        takes over from a batch build.
        """
        for family in self.families.values():
            family.restore(batch)

    def _days_of(self, batch: DeltaBatch) -> list[DayOfBatch]:
        first: list[tuple[int, int]] = [(self._today, 0)]
        for number, known_at_us in enumerate(batch.known_at_us.tolist()):
            if known_at_us >= self._ends_us:
                self._today = self._days.day_of(known_at_us)
                self._ends_us = self._days.midnight_us(self._today + 1)
                first.append((self._today, number))
        begins = [*np.searchsorted(batch.message, [number for _, number in first]).tolist(), len(batch.message)]
        return [DayOfBatch(day, begins[place], begins[place + 1], number) for place, (day, number) in enumerate(first)]
