"""One shard of a family: running totals of its keys, and the rows that each message or passing midnight makes.

A start is in window W on day t where race_day > t − W (contract 6), so all of a key's starts of one race day leave a
window at one midnight: totals are kept a day, and a window's totals are only ever added to and subtracted from.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Final

import orjson

from feature_repo.catalogue.aggregates import Value
from feature_repo.catalogue.families import Family
from streams.aggregation.key_history import NO_HISTORY, KeyHistories, PackedHistory
from streams.aggregation.layout import LANE_BITS, Columns, Key, RememberedStart, StartDelta, Sums, pack, unpack
from streams.aggregation.local_days import LocalDays
from streams.aggregation.routing import KeyUpdate
from streams.aggregation.spill import Spill
from velo.storage.compact_map import CompactMap

Row = tuple[Key, int, tuple[Value, ...], int | None]
"""(key values, event_timestamp in µs, values in the order of `Family.features`, valid_until in µs or None)."""
PackedRow = tuple[Key, int, Sums, tuple[Value, ...], Sums, int | None]
"""A row before its columns are made of it: (key values, event_timestamp in µs, career sums, recent values, sums within
the windows, valid_until in µs or None). Whoever keeps rows makes the columns of many at once (`arrays`)."""
BEGINNING: Final = -(10**7)
"""The day of a shard that was told nothing yet: before any race."""


class KeyState:
    """What a shard knows of one key: `within` holds the sums of every window, the first window's lowest, `daily` those of each day still inside one.

    `past` is of its starts where the family has recent features, and `recent` those (None until asked for).
    `expires_day` is the next day on which a window loses a start, and `until_us` its midnight; None where none will.
    """

    __slots__ = ("career", "daily", "days", "expires_day", "past", "recent", "until_us", "within")

    def __init__(
        self,
        days: list[int],
        daily: dict[int, Sums],
        recent: tuple[Value, ...] | None,
        career: Sums,
        past: PackedHistory,
    ) -> None:
        self.career = career
        self.within: Sums = 0
        self.days = days
        self.daily = daily
        self.past = past
        self.recent = recent
        self.expires_day: int | None = None
        self.until_us: int | None = None


class ShardState:
    """The keys of one shard as of one local day, and which of them lose a start on which day to come.

    `ends_us` is the first instant after that day, as far as it was worked out. A key of which no window holds a start
    has nothing to come: it is among the `resting`, as its sums over the career and its past, until it is touched.
    """

    __slots__ = ("due", "due_days", "ends_us", "keys", "resting", "today")

    def __init__(self, today: int = BEGINNING) -> None:
        self.today = today
        self.ends_us = BEGINNING
        self.keys: dict[Key, KeyState] = {}
        self.resting = CompactMap()
        self.due: dict[int, dict[Key, None]] = {}
        self.due_days: list[int] = []

    def __len__(self) -> int:
        """How many keys it knows."""
        return len(self.keys) + len(self.resting)


class WindowAggregator:
    """Rolls the shards of one family. Holds no state of its own: the shard's is given, and changed in place."""

    def __init__(self, family: Family, days: LocalDays, shelf: Spill) -> None:
        self.family = family
        self._days = days
        self._columns = Columns.of(family)
        self._windows = family.windows
        self._shortest_first = sorted(family.windows)
        self._shortest = min(family.windows, default=0)
        self._longest = max(family.windows, default=0)
        lanes = len(self._columns.shape.windowed)
        self._shifts = [(days, place * lanes * LANE_BITS) for place, days in enumerate(family.windows)]
        # what a start of today is multiplied by to be in all windows at once
        self._everywhere = sum(1 << shift for _, shift in self._shifts)
        self._career_bytes = len(self._columns.shape.career) * LANE_BITS // 8
        self._pasts = KeyHistories(self._columns, shelf)
        self._career_alone = not family.windows and not family.recent
        # one of each for all the keys that never use it
        self._no_days: tuple[list[int], dict[int, Sums]] = ([], {})

    def roll(self, state: ShardState, told: Iterable[tuple[int, Iterable[KeyUpdate]]]) -> list[PackedRow]:
        """The rows that messages make, each given as (its `known_at` in µs, its touches), in order; a tick touches none.

        Of each message first the expiry rows of every local midnight that has passed, each at its midnight, then one
        row for each key it touches, at the instant it became known.
        """
        rows: list[PackedRow] = []
        for known_at_us, touches in told:
            if known_at_us >= state.ends_us:
                self._begin_day(state, known_at_us, rows)
            if self._career_alone:
                add, size = state.resting.add, self._career_bytes
                for key, retracted, added in touches:
                    more = added[0][2] if not retracted and len(added) == 1 else _more(retracted, added)
                    rows.append((key, known_at_us, add(key, more, size), (), 0, None))
                continue
            if not self._windows:
                for touch in touches:
                    career, recent = self._remembered(state.resting, touch)
                    rows.append((touch[0], known_at_us, career, recent, 0, None))
                continue
            for touch in touches:
                one = self._touch(state, touch)
                rows.append((touch[0], known_at_us, one.career, self._recent(one), one.within, one.until_us))
        return rows

    def _recent(self, one: KeyState) -> tuple[Value, ...]:
        if one.recent is None:
            one.recent = self._pasts.recent_values(one.past)
        return one.recent

    def row_of(self, rolled: PackedRow) -> Row:
        """A row with its columns made, one by one: what `arrays` gives for many, bit for bit."""
        key, event_us, career, recent, within, until_us = rolled
        return key, event_us, self._columns.values(career, recent, within), until_us

    def settle(self, state: ShardState, known_at_us: int, touches: Iterable[KeyUpdate]) -> None:
        """Bring a shard to what it is after all these starts were told, as of an instant, without making rows.

        An empty shard given the starts of every race's latest version is the shard of a full replay, whatever the
        order: how the stream takes over from a batch build.
        """
        if known_at_us >= state.ends_us:
            self._begin_day(state, known_at_us, None)
        for touch in touches:
            if self._career_alone:
                state.resting.add(touch[0], _more(touch[1], touch[2]), self._career_bytes)
            elif not self._windows:
                self._remembered(state.resting, touch)
            else:
                self._touch(state, touch)

    def _begin_day(self, state: ShardState, known_at_us: int, rows: list[PackedRow] | None) -> None:
        today = self._days.day_of(known_at_us)
        if today > state.today:
            self._advance(state, today, rows)
        state.ends_us = self._days.midnight_us(state.today + 1)

    def _advance(self, state: ShardState, today: int, rows: list[PackedRow] | None) -> None:
        while state.due_days and state.due_days[0] <= today:
            day = heappop(state.due_days)
            state.today = day
            midnight_us = self._days.midnight_us(day)
            for key in state.due.pop(day):
                one = state.keys[key]
                one.expires_day = one.until_us = None
                self._expire(one, day)
                self._reschedule(state, key, one)
                if not one.days:
                    del state.keys[key]
                    self._rest(state, key, one)
                if rows is not None:
                    rows.append((key, midnight_us, one.career, self._recent(one), one.within, one.until_us))
        state.today = today

    def _expire(self, one: KeyState, today: int) -> None:
        for window_days, shift in self._shifts:
            leaving = one.daily.get(today - window_days)
            if leaving is not None:
                one.within -= leaving << shift
        if one.days[0] == today - self._longest:
            del one.daily[one.days.pop(0)]

    def _touch(self, state: ShardState, touch: KeyUpdate) -> KeyState:
        key, retracted, added = touch
        one = state.keys.get(key)
        rested = one is None
        if one is None:
            one = self._woken(state.resting.pop(key))
        if retracted:
            for contribution in retracted:
                self._take_back(one, contribution, state.today)
            self._amend_past(one, retracted, added)
        for contribution in added:
            self._add(state, key, one, contribution, amending=bool(retracted))
        if retracted:
            self._reschedule(state, key, one)
        if one.days:
            if rested:
                state.keys[key] = one
        else:
            if not rested:
                del state.keys[key]
            self._rest(state, key, one)
        return one

    def _woken(self, record: bytes | None) -> KeyState:
        """A key of which no window holds a start, from what it was put to rest as; one not heard of yet from None."""
        days, daily = ([], {}) if self._windows else self._no_days
        recent = None if self.family.recent else ()
        if record is None:
            return KeyState(days, daily, recent, 0, NO_HISTORY)
        career = int.from_bytes(record[: self._career_bytes], "little")
        return KeyState(days, daily, recent, career, record[self._career_bytes :])

    def _rest(self, state: ShardState, key: Key, one: KeyState) -> None:
        """Put a key to rest; where nothing is left of it, its next row is told by the zeros it would start from."""
        if one.career or one.past:
            state.resting.put(key, one.career.to_bytes(self._career_bytes, "little") + one.past)

    def _amend_past(self, one: KeyState, retracted: Sequence[StartDelta], added: Sequence[StartDelta]) -> None:
        if self.family.recent:
            taken_back, given = [each[3] for each in retracted], [each[3] for each in added]
            one.past, one.recent = self._pasts.amended(one.past, taken_back, given)

    def _add(self, state: ShardState, key: Key, one: KeyState, contribution: StartDelta, *, amending: bool) -> None:
        race_day, windowed, career, memory = contribution
        one.career += career
        if memory and not amending:
            one.past, one.recent = self._pasts.after(one.past, memory)
        if not windowed:
            return
        age_days = state.today - race_day
        if age_days < self._longest:
            if race_day in one.daily:
                one.daily[race_day] += windowed
            else:
                insort(one.days, race_day)
                one.daily[race_day] = windowed
                # the new day may leave before all others: a late start can make the next expiry earlier
                leaves = race_day + next(days for days in self._shortest_first if days > age_days)
                if one.expires_day is None or leaves < one.expires_day:
                    self._due_on(state, key, one, leaves)
            if age_days < self._shortest:
                one.within += windowed * self._everywhere
            else:
                for window_days, shift in self._shifts:
                    if age_days < window_days:
                        one.within += windowed << shift

    def _take_back(self, one: KeyState, contribution: StartDelta, today: int) -> None:
        race_day, windowed, career, _ = contribution
        one.career -= career
        if windowed and race_day > today - self._longest:
            one.daily[race_day] -= windowed
            if not one.daily[race_day]:
                del one.daily[race_day]
                del one.days[bisect_left(one.days, race_day)]
            for window_days, shift in self._shifts:
                if race_day > today - window_days:
                    one.within -= windowed << shift

    def _reschedule(self, state: ShardState, key: Key, one: KeyState) -> None:
        """Put a key that lost starts among the due of its next expiry."""
        expires_day = self._next_expiry(one.days, state.today)
        if expires_day != one.expires_day:
            self._due_on(state, key, one, expires_day)

    def _due_on(self, state: ShardState, key: Key, one: KeyState, expires_day: int | None) -> None:
        if one.expires_day is not None:
            del state.due[one.expires_day][key]
        if expires_day is not None:
            due = state.due.get(expires_day)
            if due is None:
                state.due[expires_day] = {key: None}
                heappush(state.due_days, expires_day)
            else:
                due[key] = None
        one.expires_day = expires_day
        one.until_us = None if expires_day is None else self._days.midnight_us(expires_day)

    def _next_expiry(self, days: Sequence[int], today: int) -> int | None:
        soonest: int | None = None
        for window_days in self._windows:
            first = bisect_right(days, today - window_days)
            if first < len(days):
                leaves = days[first] + window_days
                if soonest is None or leaves < soonest:
                    soonest = leaves
        return soonest

    def dump(self, state: ShardState) -> bytes:
        """A shard as JSON: the same bytes for the same starts on the same day, however it came there."""
        career, windowed = len(self._columns.shape.career), len(self._columns.shape.windowed)
        every = state.keys | {key: self._woken(record) for key, record in state.resting.items()}
        keys = [
            (
                key,
                unpack(one.career, career),
                [(day, unpack(one.daily[day], windowed)) for day in one.days],
                self._pasts.history(one.past),
            )
            for key, one in sorted(every.items())
        ]
        return orjson.dumps((state.today, keys))

    def load(self, dumped: bytes) -> ShardState:
        """The shard of `dump`: windows, recent values and expiries are worked out again."""
        today, keys = orjson.loads(dumped)
        state = ShardState(today)
        for key, career, daily, history in keys:
            sums = [(day, pack(of_day)) for day, of_day in daily]
            self.put(state, tuple(key), pack(career), sums, [tuple(memory) for memory in history])
        return state

    def put(
        self,
        state: ShardState,
        key: Key,
        career: Sums,
        daily: Iterable[tuple[int, Sums]],
        history: Sequence[RememberedStart],
    ) -> None:
        """Have a shard know a key it has not heard of: its sums over the career, those of each day a window of the
        shard's day still holds, and its starts in order of their off.
        """
        one = self._woken(None)
        one.career, one.past = career, self._pasts.of(history)
        for day, sums in daily:
            one.days.append(day)
            one.daily[day] = sums
            for window_days, shift in self._shifts:
                if day > state.today - window_days:
                    one.within += sums << shift
        if one.days:
            state.keys[key] = one
            self._reschedule(state, key, one)
        else:
            self._rest(state, key, one)

    def _remembered(self, resting: CompactMap, touch: KeyUpdate) -> tuple[Sums, tuple[Value, ...]]:
        """The career sums and recent features of a key after a touch, where no window is."""
        key, retracted, added = touch
        record = resting.get(key) or b""
        size = self._career_bytes
        career, past = int.from_bytes(record[:size], "little"), record[size:]
        if not retracted and len(added) == 1:
            _, _, measured, memory = added[0]
            career += measured
            past, recent = self._pasts.after(past, memory)
        else:
            career += _more(retracted, added)
            past, recent = self._pasts.amended(past, [one[3] for one in retracted], [one[3] for one in added])
        if career or past:
            resting.put(key, career.to_bytes(size, "little") + past)
        else:
            resting.pop(key)
        return career, recent


def _more(retracted: Sequence[StartDelta], added: Sequence[StartDelta]) -> int:
    """What a touch adds to the sums over a career, less what it takes back."""
    return sum([one[2] for one in added]) - sum([one[2] for one in retracted])
