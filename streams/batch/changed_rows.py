"""The rows that new messages add to views, or all rows of views, computed in arrays from the starts of the keys concerned.

A view gets a row for each instant at which a key's values change. A build that continues earlier tables needs only the keys
of starts that became known, were retracted, or left a window since then, and of those keys only the starts that a later value
can depend on: all of them where a view has career totals or recent values, else those that its longest window still holds.
A whole build takes every key, some hundred thousand starts at a time. The rows are those of `render`'s queries, to the bit.

Instants are in µs since 1970 UTC (`*_us`), local dates in days since then. The instants of the rows are numbered in order from 1
(their *ranks*): 0 is any instant before them, `never` any after them. A start enters a key's spans when it is known, and leaves
each at a rank. Entries and exits of all starts of a key are sorted by rank, so totals as of a row are differences of two running
sums: of the starts that entered by then, and of those that left.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from velo.feature_repo.catalogue.aggregates import Floats
from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.catalogue.recent_aggregates import KnownNumbers
from velo.racing.clock import LocalDays, to_us
from velo.storage.store import Home
from velo.streams.batch.arrow_numbers import (
    Flags,
    Numbers,
    column_of_numbers,
    distinct,
    in_one_chunk,
    known_in,
    numbers_of,
    running,
)
from velo.streams.batch.measured_starts import Keys, MeasuredStarts, WholeColumns, applied
from velo.streams.batch.newest_known import ROWS_AT_ONCE, RecentValues
from velo.streams.batch.render import Span, spans
from velo.streams.batch.staging import parts_of
from velo.streams.dataflow.arrow_rows import column_of, schema_of

STARTS_AT_ONCE: Final = 2**17
"""Starts whose rows are in memory at a time, or those of one key if they are more."""
FEW_STARTS: Final = 50_000
"""With more changed starts, the columns of one view are in memory at a time, not those of all views that share rows."""
_NO_DAY: Final = np.iinfo(np.int64).max // 2
_DAYS: Final = 2**18
"""More days than lie between any two race days."""


class ChangedStarts:
    """The starts of a store, those that became known or were retracted after an instant, and the local days begun since.

    `after` is None for all rows. `columns` has those of all starts that were read before.
    """

    def __init__(
        self,
        home: Home,
        timezone: ZoneInfo,
        after: datetime | None,
        until: datetime,
        columns: WholeColumns | None = None,
    ) -> None:
        results = applied(parts_of(home, "results"))
        self.starts = MeasuredStarts(parts_of(home, "starts"), columns)
        seq = self.starts.numbers("seq")
        self.race_day = self.starts.numbers("race_day")
        self.in_force, places = results.of(seq)
        self._log_order = np.argsort(seq, kind="stable")
        self._place_in_log = np.argsort(self._log_order, kind="stable")
        until_us = to_us(until)
        after_us = int(results.known_us.min(initial=until_us)) - 1 if after is None else to_us(after)
        self.days = LocalDays(timezone)
        self.today = self.days.day_of(after_us)
        self.begun = range(self.today + 1, self.days.day_of(until_us) + 1)
        midnights_us = np.array([*map(self.days.midnight_us, self.begun)], np.int64)
        every_us = np.sort(np.concatenate([results.known_us, midnights_us]))
        self.instants_us = distinct(every_us[(every_us > after_us) & (every_us <= until_us)])
        self.never = self.instants_us.size + 1
        self.day_of_rank = self.today + np.append(0, np.searchsorted(midnights_us, self.instants_us, side="right"))

        def ranks(at_us: Numbers) -> Numbers:
            found = np.searchsorted(self.instants_us, at_us, side="right")
            return np.where(at_us > until_us, self.never, found).astype(np.int64, copy=False)

        self.midnight_ranks = np.concatenate([[0], ranks(midnights_us), [self.never]])
        self.known, self.retracted = ranks(results.known_us)[places], ranks(results.retracted_us)[places]
        self._changed = self.in_force & (self._is_new(self.known) | self._is_new(self.retracted))

    def _is_new(self, rank: Numbers) -> Flags:
        return (rank > 0) & (rank < self.never)

    def all_keys(self, families: Collection[Family]) -> Keys:
        """Every value of the keys of some families."""
        names = dict.fromkeys(key for family in families for key in family.keys)
        with ThreadPoolExecutor(max(len(names), 1)) as pool:
            return Keys(self.starts, dict(zip(names, pool.map(self.starts.values, names), strict=True)))

    def all_tables(self, family: Family, keys: Keys, created: datetime) -> Iterator[pa.Table]:
        """Every row of a family, in order of key and instant; `created` becomes their `created_timestamp`."""
        rows, codes = keys.codes(family.keys)
        found = self.in_force[rows]
        columns = _Columns(self.starts.table([*_columns(family)]))
        yield from self._blocks(family, keys, rows[found], codes[found], columns.of, to_us(created))

    def tables(self, families: Collection[Family], created: datetime) -> Iterator[tuple[Family, Iterator[pa.Table]]]:
        """The new rows of each family; `created` becomes their `created_timestamp`."""
        concerned = {family.view: np.flatnonzero(self._changed | self._leaving(family)) for family in families}
        changing = self._union(concerned.values())
        names = dict.fromkeys(key for family in families for key in family.keys)
        keys = Keys.among(self.starts, self.starts.take(changing, [*names]))
        are_few = np.count_nonzero(self._changed) <= FEW_STARTS
        for group in _groups(families) if are_few else [[family] for family in families]:
            found = [(family, *self._of_keys(family, keys, concerned[family.view])) for family in group]
            every = self._union(rows for _, rows, _ in found)
            columns = _Columns(self.starts.take(every, sorted({name for family in group for name in _columns(family)})))

            def of(rows: Numbers, every: Numbers = every, columns: _Columns = columns) -> Callable[[str], KnownNumbers]:
                return columns.of(np.searchsorted(every, rows))

            for family, rows, codes in found:
                yield family, self._blocks(family, keys, rows, codes, of, to_us(created))

    def _blocks(
        self,
        family: Family,
        keys: Keys,
        rows: Numbers,
        codes: Numbers,
        columns: "Callable[[Numbers], Callable[[str], KnownNumbers]]",
        created_us: int,
    ) -> Iterator[pa.Table]:
        """The rows of some starts, whose keys are numbered by `codes`: a table of some keys at a time, one at least."""
        rows, codes = self._by_key(rows, codes)
        begins = np.flatnonzero(np.append(True, codes[1:] != codes[:-1])[: codes.size])
        bounds = np.append(begins, rows.size)
        cuts = distinct(np.searchsorted(bounds, [*range(0, rows.size, STARTS_AT_ONCE), rows.size])).tolist()
        for first, last in pairwise(cuts if rows.size else [0, 0]):
            some = rows[bounds[first] : bounds[last]]
            key = np.repeat(np.arange(last - first), np.diff(bounds[first : last + 1]))
            starts = _FamilyStarts(self, family, some, key, columns(some))
            yield starts.table(keys.values(family.keys, rows[begins[first:last]]), created_us)

    def _by_key(self, rows: Numbers, codes: Numbers) -> tuple[Numbers, Numbers]:
        """Some starts and their keys, in order of these and of the log."""
        # a sort of packed numbers is several times as fast as an argsort
        bits = self.in_force.size.bit_length()
        packed = np.sort((codes << bits) + self._place_in_log[rows])
        return self._log_order[packed & ((1 << bits) - 1)], packed >> bits

    def _union(self, several: Iterable[Numbers]) -> Numbers:
        chosen = np.zeros(self.race_day.size, np.bool_)
        for rows in several:
            chosen[rows] = True
        return np.flatnonzero(chosen)

    def _leaving(self, family: Family) -> Flags:
        """The starts that leave a window of a family on one of the days."""
        leaving = np.zeros(self.race_day.size, np.bool_)
        for window in family.windows:
            ends = self.race_day + window
            leaving |= (ends >= self.begun.start) & (ends < self.begun.stop)
        return self.in_force & leaving

    def _of_keys(self, family: Family, keys: Keys, concerned: Numbers) -> tuple[Numbers, Numbers]:
        """The starts of the keys of the concerned ones that a new row can depend on, and a number for the key of each."""
        needed = self.in_force
        if not family.career and not family.recent:
            needed = self._changed | (needed & (self.race_day > self.today - max(family.windows)))
        rows, code = keys.codes(family.keys)
        is_concerned = np.zeros(self.in_force.size, np.bool_)
        is_concerned[concerned] = True
        of_keys = needed[rows] & np.isin(code, distinct(np.sort(code[is_concerned[rows]])))
        return rows[of_keys], code[of_keys]

    def leaves(self, rows: Numbers, window: int | None) -> Numbers:
        """The ranks at which some starts leave a span, never before they entered."""
        if window is None:
            return self.retracted[rows]
        days = np.clip(self.race_day[rows] + window - self.today, 0, self.midnight_ranks.size - 1)
        leaves: Numbers = np.maximum(self.known[rows], np.minimum(self.retracted[rows], self.midnight_ranks[days]))
        return leaves

    def midnights_us(self, days: Numbers) -> Numbers:
        """The first instant of each of some days."""
        if not days.size:
            return days
        asked = np.zeros(int(np.ptp(days)) + 1, np.bool_)
        place = days - days.min()
        asked[place] = True
        found: Numbers = np.zeros(asked.size, np.int64)
        found[asked] = [*map(self.days.midnight_us, (np.flatnonzero(asked) + int(days.min())).tolist())]
        at_us: Numbers = found[place]
        return at_us


def _groups(families: Collection[Family]) -> list[list[Family]]:
    """Families that read much the same rows: those of horses, and the others by the days of their longest window."""
    found: dict[tuple[bool, int], list[Family]] = {}
    for family in families:
        days = 0 if family.career or family.recent else max(family.windows)
        found.setdefault(("horse_id" in family.keys, days), []).append(family)
    return [*found.values()]


def _columns(family: Family) -> dict[str, None]:
    return dict.fromkeys((*sorted(family.used_measures), *(family.start_order if family.recent else ())))


class _Columns:
    """Columns of starts in arrays: numbers, and the ranks of texts in their order."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._numbers: dict[str, KnownNumbers] = {}

    def of(self, rows: Numbers) -> Callable[[str], KnownNumbers]:
        """The values of a column in some rows of the table, 0 where unknown, and whether each is known."""

        def numbers(name: str) -> KnownNumbers:
            found = self._numbers.get(name)
            if found is None:
                found = self._numbers[name] = _arrays_of(self._table[name])
            values, known = found
            return values[rows], known[rows]

        return numbers


def _arrays_of(column: pa.ChunkedArray) -> KnownNumbers:
    if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
        encoded = in_one_chunk(column.cast(pa.string())).dictionary_encode()
        rank = np.argsort(np.asarray(pc.sort_indices(encoded.dictionary)))
        return rank[numbers_of(encoded.indices)], np.ones(len(column), np.bool_)
    known = known_in(column)
    return (numbers_of(column) if known.all() else np.where(known, numbers_of(column), 0)), known


class _FamilyStarts:
    """The starts of some keys of a family, in order of key and log; `key` numbers the key of each from 0."""

    def __init__(
        self,
        changed: ChangedStarts,
        family: Family,
        rows: Numbers,
        key: Numbers,
        numbers: Callable[[str], KnownNumbers],
    ) -> None:
        self._changed, self._family, self._key = changed, family, key
        self._known, self._retracted, self._day = changed.known[rows], changed.retracted[rows], changed.race_day[rows]
        self._begins = np.searchsorted(key, np.arange(int(key.max(initial=-1)) + 2))
        self._numbers = numbers
        self._of_measure: dict[str, KnownNumbers] = {}
        self._entering: dict[str, Numbers] = {}
        every = spans(family)
        leaves = [changed.leaves(rows, span.days) for span in every]
        bits, tags = int(changed.never).bit_length(), len(every).bit_length()
        code = key << bits
        # entries have tag 0, the exits from each span the next tag: one sort counts both as of every instant
        events = np.concatenate([(code + self._known) << tags, *self._tagged(code, leaves, tags)])
        # entries and exits are in order each, but for results that came late: a merge is several times as fast as a quicksort
        events.sort(kind="stable")
        at_code, tag = events >> tags, events & ((1 << tags) - 1)
        ends = np.flatnonzero(np.append(at_code[1:] != at_code[:-1], True)[: at_code.size])
        rank = at_code[ends] & ((1 << bits) - 1)
        ends = ends[(rank > 0) & (rank < changed.never)]
        # one row for each key and instant at which a span of it gains or loses
        self._row_key, self._rank = at_code[ends] >> bits, at_code[ends] & ((1 << bits) - 1)
        self._entered, *self._left = [np.cumsum(tag == each)[ends] for each in range(len(every) + 1)]
        self._exits = [self._exit_order(code + of_span) for of_span in leaves]

    @staticmethod
    def _tagged(code: Numbers, leaves: Sequence[Numbers], tags: int) -> Iterator[Numbers]:
        for tag, of_span in enumerate(leaves, 1):
            yield ((code + of_span) << tags) + tag

    @staticmethod
    def _exit_order(code: Numbers) -> Numbers | None:
        """The starts in the order in which they leave a span; None where it is that in which they entered."""
        return None if (code[1:] >= code[:-1]).all() else np.argsort(code, kind="stable")

    def table(self, keys: Sequence[pa.Array], created_us: int) -> pa.Table:
        """The rows, by key and instant; `keys` has the values that the numbers of keys stand for.

        Columns of keys are dictionaries, which Parquet stores as texts.
        """
        schema, created = schema_of(self._family), np.full(self._rank.size, created_us)
        at_us = self._changed.instants_us[self._rank - 1]
        instants = (column_of_numbers(at_us), column_of_numbers(created), self._valid_until())
        row_key = column_of_numbers(self._row_key)
        columns = []
        for values in keys:
            encoded = values.dictionary_encode()
            columns.append(pa.DictionaryArray.from_arrays(encoded.indices.take(row_key), encoded.dictionary))
        columns += [column.view(pa.timestamp("us", "UTC")) for column in instants]
        for values, field in zip(self._features(), [*schema][len(columns) :], strict=True):
            columns.append(column_of(values, field.type))
        return pa.Table.from_arrays(columns, names=schema.names)

    def _number(self, measure: str) -> KnownNumbers:
        found = self._of_measure.get(measure)
        if found is None:
            found = self._of_measure[measure] = self._numbers(measure)
        return found

    def _features(self) -> Iterator[Floats]:
        """The values of each feature in order: (rows,), NaN for null."""
        for place, span in enumerate(spans(self._family)):
            yield from self._totals(span, place)
            if span.days is None:
                yield from self._recents()

    def _totals(self, span: Span, place: int) -> Iterator[Floats]:
        """The values of a span's aggregates: sums of the starts that entered it, less those that left, as of each row."""
        exits, left = self._exits[place], self._left[place]
        totals = {}
        for measure in dict.fromkeys(name for aggregate in span.aggregates for name in aggregate.measures):
            values, _ = self._number(measure)
            entering = self._entering.get(measure)
            if entering is None:
                entering = self._entering[measure] = running(values)
            # of keys before, every start entered and left
            totals[measure] = entering[self._entered] - (entering if exits is None else running(values[exits]))[left]
        for aggregate in span.aggregates:
            yield aggregate.arrays(totals)

    def _valid_until(self) -> pa.Array:
        """The next midnight at which a window of a row's key loses a start known by then; null where none does."""
        soonest = np.full(self._rank.size, _NO_DAY)
        if not self._family.windows:
            return column_of_numbers(soonest, np.zeros(soonest.size, np.bool_))
        by_day = self._key * _DAYS + self._day - int(self._day.min(initial=_NO_DAY))
        # a start of the latest day known so far leaves each window after all such starts before it
        in_turn = (self._retracted == self._changed.never) & (by_day == np.maximum.accumulate(by_day))
        entered, day = running(in_turn)[self._entered], np.append(self._day[in_turn], 0)
        for place, span in enumerate(spans(self._family)):
            if span.days is None:
                continue
            exits = self._exits[place]
            first = running(in_turn if exits is None else in_turn[exits])[self._left[place]]
            ends = np.where(first < entered, day[first] + span.days, _NO_DAY)
            np.minimum(soonest, ends, out=soonest)
        if not in_turn.all():
            self._out_of_turn(np.flatnonzero(~in_turn), soonest)
        known = soonest < _NO_DAY
        return column_of_numbers(self._changed.midnights_us(np.where(known, soonest, self._changed.today)), known)

    def _out_of_turn(self, starts: Numbers, soonest: Numbers) -> None:
        """Lower `soonest`, the days of rows, to those of some starts."""
        key_of, day_of = self._key[starts], self._day[starts]
        starts = starts[np.lexsort((day_of, key_of))]
        key, day, known, retracted = self._key[starts], self._day[starts], self._known[starts], self._retracted[starts]
        # the earliest rank at which this start of the key or one of a later day became known
        first_known = np.minimum.accumulate((key * (self._changed.never + 1) + known)[::-1])[::-1]
        first_known -= key * (self._changed.never + 1)
        concerned = np.zeros(self._begins.size, np.bool_)
        concerned[key] = True
        rows = np.flatnonzero(concerned[self._row_key])
        first, span = int(day.min()), int(np.ptp(day)) + 2
        by_day = key * span + day - first
        row_key, rank = self._row_key[rows], self._rank[rows]
        today = self._changed.day_of_rank[rank]
        for window in self._family.windows:
            place = np.searchsorted(by_day, row_key * span + np.clip(today - window + 1 - first, 0, span - 1))
            waiting = np.arange(rows.size)
            while waiting.size:
                # until a start that is known and not retracted, or no later start of the key is known
                waiting = waiting[place[waiting] < key.size]
                at, at_rank = place[waiting], rank[waiting]
                more = (key[at] == row_key[waiting]) & (first_known[at] <= at_rank)
                waiting, at, at_rank = waiting[more], at[more], at_rank[more]
                held = (known[at] <= at_rank) & (retracted[at] > at_rank)
                found = rows[waiting[held]]
                soonest[found] = np.minimum(soonest[found], day[at[held]] + window)
                waiting = waiting[~held]
                place[waiting] += 1

    def _recents(self) -> Iterator[Floats]:
        """The values of the recent features: of the starts known as of each row, in their order."""
        if not self._family.recent:
            return
        starts, firsts, lasts = self._known_starts()

        def numbers(measure: str) -> KnownNumbers:
            values, known = self._number(measure)
            return np.append(values, 0)[starts], np.append(known, False)[starts]

        # rows at which a window lost a start have the values of a row before
        asked = np.zeros(starts.size, np.bool_)
        asked[lasts] = True
        begins = np.zeros(starts.size, np.int64)
        begins[lasts] = firsts
        points = np.flatnonzero(asked)
        values = RecentValues(self._family, numbers)
        pieces = [
            [*values.of(some, begins[some])]
            for some in np.split(points, range(ROWS_AT_ONCE, points.size, ROWS_AT_ONCE))
        ]
        place = (np.cumsum(asked) - 1)[lasts]
        for feature in zip(*pieces, strict=True):
            yield np.concatenate(feature)[place]

    def _known_starts(self) -> tuple[Numbers, Numbers, Numbers]:
        """Starts in groups, each in order, and the first and the last place of each row's in them.

        A key that learned of its starts in their order, and lost none, has one group: its rows end at different places of it. Any
        other has a group for each row. A row without a known start ends at a start after all others, which has no values.
        """
        order = self._in_start_order()
        known, retracted = self._known[order], self._retracted[order]
        late = retracted < self._changed.never
        late[1:] |= (self._key[1:] == self._key[:-1]) & (known[1:] < known[:-1])
        is_late = np.zeros(self._begins.size, np.bool_)
        is_late[self._key[late]] = True
        settled = ~is_late[self._key]
        before = running(settled)
        firsts, lasts = before[self._begins[self._row_key]], before[self._entered] - 1
        # each row of the other keys, with each start of its key
        several = np.flatnonzero(is_late[self._row_key])
        begins, counts = self._begins[self._row_key[several]], np.diff(self._begins)[self._row_key[several]]
        row = np.repeat(several, counts)
        start = np.arange(counts.sum()) + np.repeat(begins - np.cumsum(counts) + counts, counts)
        held = (known[start] <= self._rank[row]) & (retracted[start] > self._rank[row])
        ended = np.cumsum(np.bincount(row[held], minlength=self._rank.size))[several]
        firsts[several] = before[-1] + np.append(0, ended)[:-1]
        lasts[several] = before[-1] + ended - 1
        starts = np.concatenate([order[settled], order[start[held]], [order.size]])
        nothing = lasts < firsts
        firsts[nothing] = lasts[nothing] = starts.size - 1
        return starts, firsts, lasts

    def _in_start_order(self) -> Numbers:
        """The starts of each key in the order in which they were run."""
        off, *names = self._family.start_order
        off_us, _ = self._number(off)
        order = np.arange(self._key.size)
        unordered = (self._key[1:] == self._key[:-1]) & (off_us[1:] <= off_us[:-1])
        if unordered.any():
            of_key = np.zeros(self._begins.size, np.bool_)
            of_key[self._key[1:][unordered]] = True
            some = np.flatnonzero(of_key[self._key])
            texts = [self._number(name)[0][some] for name in names[::-1]]
            order[some] = some[np.lexsort((*texts, off_us[some], self._key[some]))]
        return order
