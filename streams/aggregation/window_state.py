"""One shard of a family: running sums by key, and the rows that each message or local midnight makes.

The plain twin of `array_fold`: it shows how a value is made, and tests hold the two to the same rows.

A start is in window W on day t where race_day > t − W (contract 6). So all of a key's starts of one race day leave a
window at the same midnight: sums are kept by day, and a window's sums are only ever added to and subtracted from.
Instants are µs since 1970 UTC (`*_us`), local dates are days since then (`*_day`).
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Final

from velo.feature_repo.catalogue.aggregates import Value
from velo.feature_repo.catalogue.families import Family
from velo.racing.clock import LocalDays
from velo.storage.compact_map import CompactMap
from velo.streams.aggregation.key_history import NO_HISTORY, KeyHistories, PackedHistory
from velo.streams.aggregation.layout import LANE_BITS, Columns, Key, RememberedStart, StartDelta, Sums
from velo.streams.aggregation.routing import KeyUpdate
from velo.streams.aggregation.spill import Spill

PackedRow = tuple[Key, int, Sums, tuple[Value, ...], Sums, int | None]
"""A row before its columns are made: (key values, event_timestamp in µs, career sums, recent values, sums of all windows,
valid_until in µs or None)."""
BEGINNING: Final = -(10**7)
"""The day of a shard that has read no message: before any race."""


class KeyState:
    """The sums of one key that has a start in a window, or is being changed.

    `within` packs the sums of every window into one integer, the first window lowest. `daily` has the sums of each day that
    is in at least one window, and `days` those days in order. `history` is empty for a family without recent features;
    `recent` is None until those are computed. `expires_day` is the next day on which a window loses a start and `until_us`
    its midnight; both are None where no window holds a start.
    """

    __slots__ = ("career", "daily", "days", "expires_day", "history", "recent", "until_us", "within")

    def __init__(
        self,
        days: list[int],
        daily: dict[int, Sums],
        recent: tuple[Value, ...] | None,
        career: Sums,
        history: PackedHistory,
    ) -> None:
        self.career = career
        self.within: Sums = 0
        self.days = days
        self.daily = daily
        self.history = history
        self.recent = recent
        self.expires_day: int | None = None
        self.until_us: int | None = None


class ShardState:
    """The keys of one shard as of the local day `today`, and which of them expire on which later day.

    `ends_us` is the first instant after `today`. `keys` has the keys with a start in a window. All others are `idle`: they
    never expire, so a record of career sums and history, packed as bytes, is enough until their next start.
    `due_days` is a heap of the days in `due`.
    """

    __slots__ = ("due", "due_days", "ends_us", "idle", "keys", "today")

    def __init__(self, today: int = BEGINNING) -> None:
        self.today = today
        self.ends_us = BEGINNING
        self.keys: dict[Key, KeyState] = {}
        self.idle = CompactMap()
        self.due: dict[int, dict[Key, None]] = {}
        self.due_days: list[int] = []

    def __len__(self) -> int:
        """The number of keys."""
        return len(self.keys) + len(self.idle)


class WindowAggregator:
    """Aggregates the shards of one family. It holds no state: each method changes the `ShardState` that it is passed."""

    def __init__(self, family: Family, days: LocalDays, spill: Spill) -> None:
        self.family = family
        self._days = days
        self._columns = Columns.of(family)
        self._windows = family.windows
        self._shortest_first = sorted(family.windows)
        self._shortest = min(family.windows, default=0)
        self._longest = max(family.windows, default=0)
        lanes = len(self._columns.layout.windowed)
        # `sums << shift` moves a start's sums into the lanes of one window
        self._shifts = [(days, place * lanes * LANE_BITS) for place, days in enumerate(family.windows)]
        # `sums * everywhere` puts them into the lanes of all windows in one multiplication
        self._everywhere = sum(1 << shift for _, shift in self._shifts)
        self._career_bytes = len(self._columns.layout.career) * LANE_BITS // 8
        self._histories = KeyHistories(self._columns, spill)
        # shared by all keys of a family without windows, which never change it
        self._no_days: tuple[list[int], dict[int, Sums]] = ([], {})

    def roll(self, state: ShardState, messages: Iterable[tuple[int, Iterable[KeyUpdate]]]) -> list[PackedRow]:
        """The rows of messages in log order, each given as (`known_at` in µs, its updates); a tick has no updates.

        A message first makes the expiry rows of every local midnight since the message before it, each at its midnight,
        then one row for each key it updates, at `known_at`.
        """
        rows: list[PackedRow] = []
        for known_at_us, updates in messages:
            if known_at_us >= state.ends_us:
                self._begin_day(state, known_at_us, rows)
            for update in updates:
                of_key = self._update(state, update)
                rows.append(
                    (update[0], known_at_us, of_key.career, self._recent(of_key), of_key.within, of_key.until_us)
                )
        return rows

    def restore(self, state: ShardState, known_at_us: int, updates: Iterable[KeyUpdate]) -> None:
        """Apply updates as of an instant without making rows.

        An empty shard that gets the starts of every race's current version, in any order, becomes the shard of a full replay.
        """
        if known_at_us >= state.ends_us:
            self._begin_day(state, known_at_us, None)
        for update in updates:
            self._update(state, update)

    def put(
        self,
        state: ShardState,
        key: Key,
        career: Sums,
        daily: Iterable[tuple[int, Sums]],
        history: Sequence[RememberedStart],
    ) -> None:
        """Add a key that the shard does not have: its career sums, the sums of each day in a window of `state.today`, in
        order, and its starts in order of their off.
        """
        of_key = self._activate(None)
        of_key.career, of_key.history = career, self._histories.of(history)
        for day, sums in daily:
            of_key.days.append(day)
            of_key.daily[day] = sums
            for window_days, shift in self._shifts:
                if day > state.today - window_days:
                    of_key.within += sums << shift
        if of_key.days:
            state.keys[key] = of_key
            self._reschedule(state, key, of_key)
        else:
            self._put_idle(state, key, of_key)

    def _recent(self, of_key: KeyState) -> tuple[Value, ...]:
        if of_key.recent is None:
            of_key.recent = self._histories.recent_values(of_key.history)
        return of_key.recent

    def _begin_day(self, state: ShardState, known_at_us: int, rows: list[PackedRow] | None) -> None:
        today = self._days.day_of(known_at_us)
        if today > state.today:
            self._advance(state, today, rows)
        state.ends_us = self._days.midnight_us(state.today + 1)

    def _advance(self, state: ShardState, today: int, rows: list[PackedRow] | None) -> None:
        """Expire the keys due on each day up to `today`, in order of days; their rows go to `rows` where it is a list."""
        while state.due_days and state.due_days[0] <= today:
            day = heappop(state.due_days)
            # _reschedule counts from state.today: a key may be due again on a day before `today`, later in this loop
            state.today = day
            midnight_us = self._days.midnight_us(day)
            for key in state.due.pop(day):
                of_key = state.keys[key]
                # its entry in `due` is gone with the day, so _due_on must not look for it
                of_key.expires_day = of_key.until_us = None
                self._expire(of_key, day)
                self._reschedule(state, key, of_key)
                if not of_key.days:
                    del state.keys[key]
                    self._put_idle(state, key, of_key)
                if rows is not None:
                    rows.append((key, midnight_us, of_key.career, self._recent(of_key), of_key.within, of_key.until_us))
        state.today = today

    def _expire(self, of_key: KeyState, today: int) -> None:
        for window_days, shift in self._shifts:
            # the one day that leaves this window today: the key was due on every day on which a window lost a start
            leaving = of_key.daily.get(today - window_days)
            if leaving is not None:
                of_key.within -= leaving << shift
        if of_key.days[0] == today - self._longest:
            del of_key.daily[of_key.days.pop(0)]

    def _update(self, state: ShardState, update: KeyUpdate) -> KeyState:
        """Apply an update to a key, and move the key between `keys` and `idle` where needed."""
        key, retracted, added = update
        of_key = state.keys.get(key)
        was_idle = of_key is None
        if of_key is None:
            of_key = self._activate(state.idle.pop(key))
        if retracted:
            for delta in retracted:
                self._subtract(of_key, delta, state.today)
            self._amend_history(of_key, retracted, added)
        for delta in added:
            self._add(state, key, of_key, delta, amending=bool(retracted))
        if retracted:
            # _add only moves the next expiry earlier; without the retracted starts it may be later
            self._reschedule(state, key, of_key)
        if of_key.days:
            if was_idle:
                state.keys[key] = of_key
        else:
            if not was_idle:
                del state.keys[key]
            self._put_idle(state, key, of_key)
        return of_key

    def _activate(self, record: bytes | None) -> KeyState:
        """The state of an idle key from its record; of a new key from None."""
        days, daily = ([], {}) if self._windows else self._no_days
        recent = None if self.family.recent else ()
        if record is None:
            return KeyState(days, daily, recent, 0, NO_HISTORY)
        career = int.from_bytes(record[: self._career_bytes], "little")
        return KeyState(days, daily, recent, career, record[self._career_bytes :])

    def _put_idle(self, state: ShardState, key: Key, of_key: KeyState) -> None:
        """Keep the record of an idle key. A key without any start needs none: a new key starts from the same zeros."""
        if of_key.career or of_key.history:
            state.idle.put(key, of_key.career.to_bytes(self._career_bytes, "little") + of_key.history)

    def _amend_history(self, of_key: KeyState, retracted: Sequence[StartDelta], added: Sequence[StartDelta]) -> None:
        if self.family.recent:
            removed, inserted = [delta[3] for delta in retracted], [delta[3] for delta in added]
            of_key.history, of_key.recent = self._histories.amended(of_key.history, removed, inserted)

    def _add(self, state: ShardState, key: Key, of_key: KeyState, delta: StartDelta, *, amending: bool) -> None:
        """Add a start. While `amending`, `_amend_history` has added it to the history already."""
        race_day, windowed, career, remembered = delta
        of_key.career += career
        if remembered and not amending:
            of_key.history, of_key.recent = self._histories.after(of_key.history, remembered)
        if not windowed:
            return
        age_days = state.today - race_day
        if age_days < self._longest:
            if race_day in of_key.daily:
                of_key.daily[race_day] += windowed
            else:
                insort(of_key.days, race_day)
                of_key.daily[race_day] = windowed
                # the day leaves the shortest window that it is still in; a late result can so make the next expiry earlier
                leaves = race_day + next(days for days in self._shortest_first if days > age_days)
                if of_key.expires_day is None or leaves < of_key.expires_day:
                    self._due_on(state, key, of_key, leaves)
            if age_days < self._shortest:
                of_key.within += windowed * self._everywhere
            else:
                for window_days, shift in self._shifts:
                    if age_days < window_days:
                        of_key.within += windowed << shift

    def _subtract(self, of_key: KeyState, delta: StartDelta, today: int) -> None:
        """Take a start out of the sums it is still in; those of windows that it has left lost it at their midnight."""
        race_day, windowed, career, _ = delta
        of_key.career -= career
        if windowed and race_day > today - self._longest:
            of_key.daily[race_day] -= windowed
            # COUNT is in all sums, so they are 0 only where no start of the day is left
            if not of_key.daily[race_day]:
                del of_key.daily[race_day]
                del of_key.days[bisect_left(of_key.days, race_day)]
            for window_days, shift in self._shifts:
                if race_day > today - window_days:
                    of_key.within -= windowed << shift

    def _reschedule(self, state: ShardState, key: Key, of_key: KeyState) -> None:
        """Set the next expiry of a key that lost starts."""
        expires_day = self._next_expiry(of_key.days, state.today)
        if expires_day != of_key.expires_day:
            self._due_on(state, key, of_key, expires_day)

    def _due_on(self, state: ShardState, key: Key, of_key: KeyState, expires_day: int | None) -> None:
        if of_key.expires_day is not None:
            # a day that is left without keys stays in the heap, and expires nothing
            del state.due[of_key.expires_day][key]
        if expires_day is not None:
            due = state.due.get(expires_day)
            if due is None:
                state.due[expires_day] = {key: None}
                heappush(state.due_days, expires_day)
            else:
                due[key] = None
        of_key.expires_day = expires_day
        of_key.until_us = None if expires_day is None else self._days.midnight_us(expires_day)

    def _next_expiry(self, days: Sequence[int], today: int) -> int | None:
        """The next day on which a window loses a start: of each window, `window_days` after the oldest day still in it."""
        soonest: int | None = None
        for window_days in self._windows:
            oldest = bisect_right(days, today - window_days)
            if oldest < len(days):
                leaves = days[oldest] + window_days
                if soonest is None or leaves < soonest:
                    soonest = leaves
        return soonest
