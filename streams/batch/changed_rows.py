"""The rows that new messages add to views, computed in arrays from the starts of the keys that change.

A view gets a row for each instant at which a key's values change. So a build that continues earlier tables needs only the keys
of starts that became known, were retracted, or left a window since then, and of those keys only the starts that a later value
can depend on: all of them where a view has career totals or recent values, else those that its longest window still holds.
The rows are those of `render`'s queries, to the bit. Instants are in µs since 1970 UTC (`*_us`), local dates in days since then.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from velo.feature_repo.catalogue.aggregates import Floats
from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.catalogue.recent_aggregates import KnownNumbers
from velo.racing.clock import LocalDays, to_us
from velo.storage.store import Home
from velo.streams.batch.arrow_numbers import Flags, Numbers, column_of_numbers, in_one_chunk, known_in, numbers_of
from velo.streams.batch.measured_starts import ELSEWHERE, FOREVER, Keys, MeasuredStarts, applied
from velo.streams.batch.newest_known import RecentValues
from velo.streams.batch.render import Span, spans
from velo.streams.batch.staging import parts_of
from velo.streams.dataflow.arrow_rows import column_of, schema_of

MOST_STARTS: Final = 50_000
"""The most changed starts for which arrays are used: SQL takes no longer for more, and it spills."""


class ChangedStarts:
    """The starts of a store, those that became known or were retracted after an instant, and the local days begun since."""

    def __init__(self, home: Home, timezone: ZoneInfo, after: datetime, until: datetime) -> None:
        results = applied(parts_of(home, "results"))
        self.starts = MeasuredStarts(parts_of(home, "starts"))
        self.after_us, self.until_us = to_us(after), to_us(until)
        self.days = LocalDays(timezone)
        self.today = self.days.day_of(self.after_us)
        self.begun = range(self.today + 1, self.days.day_of(self.until_us) + 1)
        self.in_force, places = results.of(self.starts.numbers("seq"))
        self.known_us, self.retracted_us = results.known_us[places], results.retracted_us[places]
        self.race_day = self.starts.numbers("race_day")
        self._changed = self.in_force & (self.is_new(self.known_us) | self.is_new(self.retracted_us))

    @property
    def are_few(self) -> bool:
        """Whether arrays are to compute their rows."""
        return bool(np.count_nonzero(self._changed) <= MOST_STARTS)

    def is_new(self, at_us: Numbers) -> Flags:
        """Which instants are among those of the rows to make."""
        return (at_us > self.after_us) & (at_us <= self.until_us)

    def tables(self, families: Collection[Family], created: datetime) -> Iterator[tuple[Family, pa.Table]]:
        """The new rows of each family; `created` becomes their `created_timestamp`."""
        concerned = {family.view: np.flatnonzero(self._changed | self._leaving(family)) for family in families}
        changing = self._union(concerned.values())
        names = dict.fromkeys(key for family in families for key in family.keys)
        keys = Keys(self.starts, self.starts.take(changing, [*names]))
        for group in _groups(families):
            found = [(family, *self._of_keys(family, keys, concerned[family.view])) for family in group]
            every = self._union(rows for _, rows, _ in found)
            columns = self.starts.take(every, sorted({name for family in group for name in _columns(family)}))
            for family, rows, codes in found:
                known, key = np.unique(codes, return_inverse=True)
                own = columns.select([*_columns(family)]).take(column_of_numbers(np.searchsorted(every, rows)))
                starts = _FamilyStarts(self, family, rows, key, own)
                yield family, starts.table(keys.values(family.keys, known), to_us(created))

    def _union(self, several: Iterable[Numbers]) -> Numbers:
        chosen = np.zeros(self.race_day.size, np.bool_)
        for rows in several:
            chosen[rows] = True
        return np.flatnonzero(chosen)

    def _leaving(self, family: Family) -> Flags:
        """The starts that leave a window of a family on one of the days."""
        ended = [day - window for window in family.windows for day in self.begun]
        return self.in_force & np.isin(self.race_day, np.array(ended, np.int64))

    def _of_keys(self, family: Family, keys: Keys, concerned: Numbers) -> tuple[Numbers, Numbers]:
        """The starts of the keys of the concerned ones that a new row can depend on, and a number for the key of each."""
        codes = np.unique(keys.codes(family.keys, concerned))
        needed = self.in_force
        if not family.career and not family.recent:
            needed = self._changed | (needed & (self.race_day > self.today - max(family.windows)))
        rows = np.flatnonzero(needed)
        code = keys.codes(family.keys, rows)
        of_keys = np.isin(code, codes[codes != ELSEWHERE])
        return rows[of_keys], code[of_keys]


def _groups(families: Collection[Family]) -> list[list[Family]]:
    """Families that read much the same rows: those of horses, and the others by the days of their longest window."""
    found: dict[tuple[bool, int], list[Family]] = {}
    for family in families:
        days = 0 if family.career or family.recent else max(family.windows)
        found.setdefault(("horse_id" in family.keys, days), []).append(family)
    return [*found.values()]


def _columns(family: Family) -> dict[str, None]:
    return dict.fromkeys((*sorted(family.used_measures), *(family.start_order if family.recent else ())))


class _FamilyStarts:
    """The starts of some keys of a family; `key` numbers the key of each from 0, and `columns` has their measures."""

    def __init__(self, changed: ChangedStarts, family: Family, rows: Numbers, key: Numbers, columns: pa.Table) -> None:
        self._changed, self._family, self._key, self._columns = changed, family, key, columns
        self._known_us, self._retracted_us = changed.known_us[rows], changed.retracted_us[rows]
        self._race_day, self._keys = changed.race_day[rows], int(key.max(initial=-1)) + 1
        self._numbers: dict[str, KnownNumbers] = {}
        leaves_us = [self._leaves_us(span.days) for span in spans(family)]
        moves = [(at_us, changed.is_new(at_us)) for at_us in (self._known_us, *leaves_us)]
        self._instants = np.unique(np.concatenate([at_us[new] for at_us, new in moves]))
        # one row for each key and instant at which a span of it gains or loses
        self._codes = np.unique(np.concatenate([self._code(key[new], at_us[new]) for at_us, new in moves]))
        self._row_key, rank = np.divmod(self._codes, self._instants.size + 1)
        self._row_us = self._instants[rank - 1]

    def table(self, keys: Sequence[pa.Array], created_us: int) -> pa.Table:
        """The rows, by key and instant; `keys` has the values that the numbers of keys stand for."""
        schema, created = schema_of(self._family), np.full(self._codes.size, created_us)
        instants = (column_of_numbers(self._row_us), column_of_numbers(created), self._valid_until())
        columns = [
            *(values.take(column_of_numbers(self._row_key)) for values in keys),
            *(column.view(pa.timestamp("us", "UTC")) for column in instants),
        ]
        features = zip(self._features(), [*schema][len(columns) :], strict=True)
        return pa.Table.from_arrays(
            [*columns, *(column_of(values, field.type) for values, field in features)], schema=schema
        )

    def _code(self, key: Numbers, at_us: Numbers) -> Numbers:
        """A number that orders by key and instant; instants before the first row's are equal."""
        return key * (self._instants.size + 1) + np.searchsorted(self._instants, at_us, side="right")

    def _leaves_us(self, window: int | None) -> Numbers:
        """When each start leaves a span, never before it entered; exact among the instants of the rows."""
        if window is None:
            return self._retracted_us
        ends = np.clip(self._race_day + window, self._changed.today, self._changed.begun.stop)
        return np.maximum(self._known_us, np.minimum(self._retracted_us, self._midnights_us(ends)))

    def _midnights_us(self, days: Numbers) -> Numbers:
        distinct, place = np.unique(days, return_inverse=True)
        return np.array([*map(self._changed.days.midnight_us, distinct.tolist())], np.int64)[place]

    def _number(self, measure: str) -> KnownNumbers:
        found = self._numbers.get(measure)
        if found is None:
            column = in_one_chunk(self._columns[measure])
            found = self._numbers[measure] = numbers_of(column), known_in(column)
        return found

    def _features(self) -> Iterator[Floats]:
        """The values of each feature in order: (rows,), NaN for null."""
        for span in spans(self._family):
            if span.days is None:
                yield from self._totals(span)
                yield from self._recents()
            else:
                yield from self._totals(span)

    def _totals(self, span: Span) -> Iterator[Floats]:
        """The values of a span's aggregates: sums of the starts that entered it, less those that left, as of each row."""
        leaves_us = self._leaves_us(span.days)
        before = np.flatnonzero((self._known_us <= self._changed.after_us) & (leaves_us > self._changed.after_us))
        entered = np.flatnonzero(self._known_us > self._changed.after_us)
        left = np.flatnonzero(self._changed.is_new(leaves_us))
        moved = np.concatenate([entered, left])
        codes = self._code(self._key[moved], np.concatenate([self._known_us[entered], leaves_us[left]]))
        order = np.argsort(codes)
        begins = np.searchsorted(codes[order], self._row_key * (self._instants.size + 1))
        ends = np.searchsorted(codes[order], self._codes, side="right")
        totals = {}
        for measure in dict.fromkeys(name for aggregate in span.aggregates for name in aggregate.measures):
            values = np.where(self._number(measure)[1], self._number(measure)[0], 0)
            held = np.zeros(self._keys, np.int64)
            np.add.at(held, self._key[before], values[before])
            running = np.append(0, np.cumsum(np.concatenate([values[entered], -values[left]])[order]))
            totals[measure] = held[self._row_key] + running[ends] - running[begins]
        for aggregate in span.aggregates:
            yield aggregate.arrays(totals)

    def _valid_until(self) -> pa.Array:
        """The next midnight at which a window of a row's key loses a start known by then; null where none does."""
        order = np.lexsort((self._race_day, self._key))
        key, day, known_us = self._key[order], self._race_day[order], self._known_us[order]
        # the earliest instant at which this start of the key or one of a later day became known
        rank = np.argsort(np.argsort(known_us, kind="stable"))
        least = np.minimum.accumulate((key * key.size + rank)[::-1])[::-1] - key * key.size
        first_known_us = np.sort(known_us)[least]
        first, span = (int(day.min()), int(np.ptp(day)) + 2) if day.size else (0, 1)
        by_day = key * span + day - first
        today = self._days_of(self._row_us)
        soonest = np.full(self._codes.size, FOREVER)
        for window in self._family.windows:
            place = np.searchsorted(by_day, self._row_key * span + np.clip(today - window + 1 - first, 0, span - 1))
            waiting = np.arange(self._codes.size)
            while waiting.size:
                # until a start that is known and not retracted, or no later start of the key is known
                waiting = waiting[place[waiting] < key.size]
                at, at_us = place[waiting], self._row_us[waiting]
                more = (key[at] == self._row_key[waiting]) & (first_known_us[at] <= at_us)
                waiting, at, at_us = waiting[more], at[more], at_us[more]
                held = (known_us[at] <= at_us) & (self._retracted_us[order[at]] > at_us)
                soonest[waiting[held]] = np.minimum(soonest[waiting[held]], day[at[held]] + window)
                waiting = waiting[~held]
                place[waiting] += 1
        known = soonest < FOREVER
        return column_of_numbers(self._midnights_us(np.where(known, soonest, today)), known)

    def _days_of(self, at_us: Numbers) -> Numbers:
        distinct, place = np.unique(at_us, return_inverse=True)
        return np.array([*map(self._changed.days.day_of, distinct.tolist())], np.int64)[place]

    def _recents(self) -> Iterator[Floats]:
        """The values of the recent features: of the starts known as of each row, in their order."""
        if not self._family.recent:
            return
        starts, firsts, lasts = self._known_starts()

        def numbers(measure: str) -> KnownNumbers:
            values, known = self._number(measure)
            return np.append(values, 0)[starts], np.append(known, False)[starts]

        yield from RecentValues(self._family, numbers).of(lasts, firsts)

    def _known_starts(self) -> tuple[Numbers, Numbers, Numbers]:
        """Starts in groups, each in order, and the first and the last place of each row's in them.

        A key that learned of its starts in their order, and lost none, has one group: its rows end at different places of it. Any
        other has a group for each row. A row without a known start ends at a start after all others, which has no values.
        """
        order = np.lexsort((*self._start_order()[::-1], self._key))
        key, known_us, retracted_us = self._key[order], self._known_us[order], self._retracted_us[order]
        late = retracted_us < FOREVER
        late[1:] |= (key[1:] == key[:-1]) & (known_us[1:] < known_us[:-1])
        is_late = np.isin(key, key[late])
        settled = order[~is_late]
        firsts = np.searchsorted(key[~is_late], self._row_key)
        lasts = np.searchsorted(self._code(key[~is_late], known_us[~is_late]), self._codes, side="right") - 1
        # each row of the other keys, with each start of its key
        begins, ends = (np.searchsorted(key, self._row_key, side=side) for side in ("left", "right"))
        several = np.flatnonzero(np.isin(self._row_key, key[is_late]))
        counts = (ends - begins)[several]
        row = np.repeat(several, counts)
        start = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + begins[row]
        held = (known_us[start] <= self._row_us[row]) & (retracted_us[start] > self._row_us[row])
        ended = settled.size + np.cumsum(np.bincount(row[held], minlength=self._codes.size))
        firsts[several] = settled.size + np.searchsorted(row[held], several)
        lasts[several] = ended[several] - 1
        starts = np.concatenate([settled, order[start[held]], [order.size]])
        nothing = lasts < firsts
        firsts[nothing] = lasts[nothing] = starts.size - 1
        return starts, firsts, lasts

    def _start_order(self) -> list[Numbers]:
        """The columns that order a key's starts, each as numbers of the same order."""
        off, *names = self._family.start_order
        ranks = [numbers_of(self._columns[off])]
        for name in names:
            texts = np.array(self._columns[name].to_pylist(), np.object_)
            ranks.append(np.unique(texts, return_inverse=True)[1])
        return ranks
