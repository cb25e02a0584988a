"""Whether a reading saw whole results: which keys the latest results touch, by the log, and what of it had been written.

A result's rows reach Redis view by view, and each key that it touches gets a row of its instant. The log says which results
lie between what both stores hold for certain and the head, so a reading knows which of its rows must carry a result's
instant or a later one. One that saw none of them stands just before the result; one that saw some and not others saw
half, and is to be read again. Nothing is taken for written because time has passed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Protocol

import numpy as np

from feature_repo.catalogue.families import FAMILIES
from feature_repo.stores.redis_layout import Layout
from serving.read_plan import ReadPlan, ReadRows
from velo.racing.starts import Start


class Touches(Protocol):
    """What the log says of results that may not be in both stores yet."""

    def settled(self) -> tuple[int, int]:
        """The seq before which both stores hold everything for certain, and the instant (µs) of the record before it."""
        ...

    def touched(self, from_seq: int, to_seq: int) -> Iterable[tuple[int, Iterable[Start]]]:
        """Of each result from one seq to another, both included, its instant (µs) and the starts that it adds or takes back."""
        ...


@dataclass(slots=True)
class ReadConsistency:
    """The keys that results touch which may not be written yet: of each the instants (µs) of the first and the last."""

    _touched: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _next_seq: int = 0
    _generation: int = -1
    _settled_us: int = 0
    _lock: Lock = field(default_factory=Lock)

    def hear(self, generation: int, seq: int, log: Touches) -> None:
        """Take note of the results of the log up to a record, which the head in Redis says it was brought to."""
        if self._generation == generation and seq < self._next_seq:
            return
        with self._lock:
            settled_seq, settled_us = log.settled()
            if self._generation != generation:
                self._touched, self._next_seq = {}, settled_seq
            for known_us, starts in log.touched(max(self._next_seq, settled_seq), seq):
                self._note(known_us, starts)
            self._next_seq, self._generation = max(self._next_seq, seq + 1), generation
            self._forget(settled_us)

    def position(self, reading: ReadPlan, rows: ReadRows, head_us: int, card_us: int, log: Touches) -> int | None:
        """The instant (µs) as of which a reading holds whole results and no more; None where it saw half of one."""
        newest = max(int(rows.event_us.max(initial=0)), card_us)
        if newest > head_us:
            return None
        missing = self._missing(reading, rows, head_us)
        if missing and max(missing) > self._settled_us:
            # what is settled by now may say that no row is to come: of a result that changed nothing
            with self._lock:
                self._forget(log.settled()[1])
        missing = [one for one in missing if one > self._settled_us]
        if not missing:
            return head_us
        return min(missing) - 1 if newest < min(missing) else None

    def _missing(self, reading: ReadPlan, rows: ReadRows, head_us: int) -> list[int]:
        """The instants (µs) of rows that the log says are to come and that were not read."""
        missing: list[int] = []
        touched = self._touched
        if touched:
            for view, spots in enumerate(reading.spots):
                for runner, at in enumerate(spots):
                    first, last = touched.get(reading.keys[at], (0, 0)) if at >= 0 else (0, 0)
                    event_us = int(rows.event_us[runner, view])
                    if event_us < last:
                        # between the first and the last there may be others, which are not remembered
                        missing.append(max(first, event_us + 1))
        with np.errstate(invalid="ignore"):
            passed = rows.until_us[rows.until_us <= head_us]
        return missing + [int(one) for one in passed.tolist()]

    def _note(self, known_us: int, starts: Iterable[Start]) -> None:
        for start in starts:
            for layout, names in _LAYOUTS:
                key = [getattr(start, name) for name in names]
                if None not in key:
                    of_key = layout.redis_key(key)
                    first = self._touched.get(of_key, (known_us, 0))[0]
                    self._touched[of_key] = first, known_us

    def _forget(self, settled_us: int) -> None:
        if settled_us > self._settled_us:
            self._settled_us = settled_us
            self._touched = {key: told for key, told in self._touched.items() if told[1] > settled_us}


_LAYOUTS: Final = tuple((Layout.of(family), family.keys) for family in FAMILIES)
