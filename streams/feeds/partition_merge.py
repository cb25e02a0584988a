"""Merge several partitions into one order: of the records at their heads, the oldest comes first.

Waits for a partition that may hold more, but not for one read to its end. So a backlog comes out in the order it was
sent, whichever partition answers first, and live records come out at once.
"""

import heapq
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class PartitionMerge:
    """Records received from partitions and not yet returned."""

    partitions: Collection[int]
    _waiting: dict[int, deque[tuple[int, Any]]] = field(init=False)
    _heads: list[tuple[int, int]] = field(init=False, default_factory=list)
    _open: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self._waiting = {partition: deque() for partition in self.partitions}
        self._open = set(self.partitions)

    def add(self, partition: int, sent_ms: int, record: Any) -> None:
        """Add the next record of a partition, sent at an instant (ms since 1970)."""
        waiting = self._waiting[partition]
        waiting.append((sent_ms, record))
        if len(waiting) == 1:
            heapq.heappush(self._heads, (sent_ms, partition))
        self._open.add(partition)

    def ends(self, partition: int) -> None:
        """Mark a partition as read to its end at present."""
        self._open.discard(partition)

    def give(self, limit: int) -> list[tuple[int, Any]]:
        """Return the next records with their partitions, at most `limit`; a tie goes to the lower partition."""
        merged: list[tuple[int, Any]] = []
        while len(merged) < limit and self._heads and all(self._waiting[partition] for partition in self._open):
            _, partition = heapq.heappop(self._heads)
            waiting = self._waiting[partition]
            merged.append((partition, waiting.popleft()[1]))
            if waiting:
                heapq.heappush(self._heads, (waiting[0][0], partition))
        return merged

    def held(self, partition: int) -> int:
        """Return the number of records of a partition not yet returned."""
        return len(self._waiting[partition])
