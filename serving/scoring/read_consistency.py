"""Check that a read of Redis saw whole results: the log says which keys the latest results change.

A result's rows reach Redis view by view, and each key that the result changes gets a row with its instant. The log lists
the results between the point that both stores have certainly reached and the head, so each row read must carry such a
result's instant or a later one. A read that saw none of the rows is as of just before the result; a read that saw some
of them is repeated. Elapsed time never counts as proof that a row was written.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Protocol

import numpy as np

from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores.redis_layout import Layout
from velo.racing.starts import Start
from velo.serving.scoring.read_plan import NEVER, ReadPlan, ReadRows


class Touches(Protocol):
    """The results in the log that may not be in both stores yet."""

    def settled(self) -> tuple[int, int]:
        """The seq before which both stores certainly hold everything, and the instant (µs UTC) of the record before it."""
        ...

    def touched(self, from_seq: int, to_seq: int) -> Iterable[tuple[int, Iterable[Start]]]:
        """Each result from one seq to another, inclusive: its instant (µs UTC) and the starts that it adds or retracts."""
        ...


@dataclass(slots=True)
class ReadConsistency:
    """The keys whose rows may not be written yet, each with the instants (µs UTC) of such results, ascending."""

    _touched: dict[bytes, list[int]] = field(default_factory=dict)
    _next_seq: int = 0
    _generation: int = -1
    _settled_us: int = 0
    _lock: Lock = field(default_factory=Lock)

    def record(self, generation: int, seq: int, log: Touches) -> None:
        """Record the keys that results change, up to the log position that the head in Redis gives."""
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
        """The instant (µs UTC) at which a read has only whole results; None where it saw part of a result."""
        newest = max(int(rows.event_us.max(initial=0)), card_us)
        if newest > head_us:
            return None
        missing = self._missing(reading, rows, head_us)
        if missing and max(missing) > self._settled_us:
            # a result that changed nothing writes no row: once both stores have passed it, none is missing
            with self._lock:
                self._forget(log.settled()[1])
        missing = [instant_us for instant_us in missing if instant_us > self._settled_us]
        if not missing:
            return head_us
        return min(missing) - 1 if newest < min(missing) else None

    def _missing(self, reading: ReadPlan, rows: ReadRows, head_us: int) -> list[int]:
        """The instants (µs UTC) of rows that the log implies and that were not read."""
        missing: list[int] = []
        touched = self._touched
        if touched:
            last = np.array([touched[key][-1] if key in touched else NEVER for key in reading.keys], dtype=np.int64)
            event_us = rows.event_us.ravel()[reading.row_of]
            for at in np.flatnonzero(event_us < last).tolist():
                instants = touched.get(reading.keys[at], ())
                missing += instants[bisect_right(instants, int(event_us[at])) :][:1]
        with np.errstate(invalid="ignore"):
            passed = rows.until_us[rows.until_us <= head_us]
        return missing + [int(until_us) for until_us in passed.tolist()]

    def _note(self, known_us: int, starts: Iterable[Start]) -> None:
        for start in starts:
            for layout, names in _LAYOUTS:
                key = [getattr(start, name) for name in names]
                if None not in key:
                    of_key = layout.redis_key(key)
                    instants = self._touched.setdefault(of_key, [])
                    # a result may have several starts of a key
                    if not instants or instants[-1] != known_us:
                        instants.append(known_us)

    def _forget(self, settled_us: int) -> None:
        if settled_us > self._settled_us:
            self._settled_us = settled_us
            self._touched = {
                key: instants[bisect_right(instants, settled_us) :]
                for key, instants in self._touched.items()
                if instants[-1] > settled_us
            }


_LAYOUTS: Final = tuple((Layout.of(family), family.keys) for family in FAMILIES)
