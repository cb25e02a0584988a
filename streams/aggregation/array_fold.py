"""The aggregation of all families in arrays: a batch of messages at a time, one row of state a key.

`window_state` is the plain twin, key by key: tests hold the two to the same rows, bit for bit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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


class Day(NamedTuple):
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

    def roll(self, batch: DeltaBatch, days: Sequence[Day]) -> Rows | None:
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
            for day in days:
                made += self.advance(day.day, day.message)
                groups = batch.groups(self.family.keys, codes, day.begin, day.end)
                made += [self._update(batch, groups)] if groups else []
        return Rows.joined(made) if made else None

    def advance(self, today: int, message: int = 0) -> list[Rows]:
        """Expire what has left a window by a day; returns the rows of each midnight, made by a message of this number."""
        made: list[Rows] = []
        if self._windows is not None and today > self.today:
            for day in self._windows.due_days(self.today, today):
                slots = self._windows.expire(day)
                if len(slots):
                    made.append(self._expired(slots, day, message))
        self.today = max(self.today, today)
        return made

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
        return self.apply(DeltaBatch.of(messages, self.measured, self.keys))

    def apply(self, batch: DeltaBatch) -> list[tuple[str, Rows]]:
        """`roll` of messages whose deltas are columns already."""
        days = self._days_of(batch)
        made = [(view, family.roll(batch, days)) for view, family in self.families.items()]
        return [(view, rows) for view, rows in made if rows is not None]

    def _days_of(self, batch: DeltaBatch) -> list[Day]:
        first: list[tuple[int, int]] = [(self._today, 0)]
        for number, known_at_us in enumerate(batch.known_at_us.tolist()):
            if known_at_us >= self._ends_us:
                self._today = self._days.day_of(known_at_us)
                self._ends_us = self._days.midnight_us(self._today + 1)
                first.append((self._today, number))
        begins = [*np.searchsorted(batch.message, [number for _, number in first]).tolist(), len(batch.message)]
        return [Day(day, begins[place], begins[place + 1], number) for place, (day, number) in enumerate(first)]
