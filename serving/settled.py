"""Whether a reading saw whole results: which keys the results told lately touch, and what of it had been written.

A result's rows reach Redis view by view. Each result is announced with its runners, so a reading knows which of its rows
must carry the result's instant or a later one. One that saw none of them stands just before the result; one that saw
some and not others saw half, and is to be read again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

import numpy as np
import orjson

from feature_repo.catalogue.families import FAMILIES
from feature_repo.stores.race_cards import Event
from feature_repo.stores.redis_layout import Layout
from serving.reading import Reading, Rows
from velo.racing.clock import from_text, to_us
from velo.racing.messages import Result, from_record
from velo.racing.starts import starts_of

BEFORE_ALL: Final = "0-0"
PENDING_S: Final = 2.0
"""A row that was not written so long after its result was heard of is not to come: a higher version holds, so it changes nothing."""
LATELY_US: Final = 10_000_000
"""What was told so long before the first reading has been written or never will be."""


@dataclass(slots=True)
class Settled:
    """The keys touched lately, each with the instant (µs) from which its row must be, and until when that is asked."""

    monotonic: Callable[[], float] = time.monotonic
    _touched: dict[bytes, list[tuple[int, float]]] = field(default_factory=dict)
    _midnights: dict[int, float] = field(default_factory=dict)
    _after: str = BEFORE_ALL
    _generation: int = -1
    _lock: Lock = field(default_factory=Lock)

    def hear(self, generation: int, seq: int, head_us: int, events_after: Callable[[str], Sequence[Event]]) -> None:
        """Take note of the results announced up to a record of the log."""
        if self._generation == generation and int(self._after.partition("-")[0]) > seq:
            return
        with self._lock:
            if self._generation != generation:
                self._after, self._generation = BEFORE_ALL, generation
                self._touched.clear()
            first = self._after == BEFORE_ALL
            events = events_after(self._after)
            now = self.monotonic()
            for one in events:
                if one.kind == "result" and not (first and to_us(from_text(one.known_at)) < head_us - LATELY_US):
                    self._note(one, now)
                self._after = one.id
            # all up to seq was announced before the head said so, and what is trimmed is long settled
            self._after = max(self._after, f"{seq + 1}-0", key=lambda at: int(at.partition("-")[0]))
            self._forget(now)

    def position(self, reading: Reading, rows: Rows, head_us: int, card_us: int) -> int | None:
        """The instant (µs) as of which a reading holds whole results and no more; None where it saw half of one."""
        first_missing = self._first_missing(reading, rows, head_us)
        newest = max(int(rows.event_us.max(initial=0)), card_us)
        if newest > head_us:
            return None
        if first_missing is None:
            return head_us
        return first_missing - 1 if newest < first_missing else None

    def _first_missing(self, reading: Reading, rows: Rows, head_us: int) -> int | None:
        missing: list[int] = []
        now = self.monotonic()
        if self._touched:
            for view, spots in enumerate(reading.spots):
                for runner, at in enumerate(spots):
                    for known_us, asked_until in self._touched.get(reading.keys[at], ()) if at >= 0 else ():
                        if known_us > rows.event_us[runner, view] and asked_until > now:
                            missing.append(known_us)
        with np.errstate(invalid="ignore"):
            passed = rows.until_us[rows.until_us <= head_us]
        midnights = {int(one) for one in passed.tolist()}
        missing += [one for one in midnights if self._midnights.setdefault(one, now + PENDING_S) > now]
        return min(missing) if missing else None

    def _note(self, event: Event, now: float) -> None:
        message = from_record(orjson.loads(event.record))
        assert isinstance(message, Result)
        known_us = to_us(from_text(event.known_at))
        starts = starts_of(message.race, message.runners)
        until = now + PENDING_S
        for layout, names in _LAYOUTS:
            for start in starts:
                key = [getattr(start, name) for name in names]
                if None not in key:
                    of_key = layout.redis_key(key)
                    asked = [one for one in self._touched.get(of_key, ()) if one[1] > now and one[0] != known_us]
                    self._touched[of_key] = [*asked, (known_us, until)]

    def _forget(self, now: float) -> None:
        if len(self._touched) > MOST_KEYS:
            self._touched = {key: told for key, told in self._touched.items() if told[-1][1] > now}
        if len(self._midnights) > MOST_MIDNIGHTS:
            self._midnights.clear()


MOST_KEYS: Final = 20_000
MOST_MIDNIGHTS: Final = 1_000
_LAYOUTS: Final = tuple((Layout.of(family), family.keys) for family in FAMILIES)
