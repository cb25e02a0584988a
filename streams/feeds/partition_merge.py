"""Several partitions made one order again: what stands at their heads is given out oldest first.

A partition that may hold more is waited for, one that is read to its end is not: so a backlog comes out in the order in
which it was sent, whichever partition answers first, and what comes live comes out at once.
"""

import heapq
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class PartitionMerge:
    """The records of some partitions that were taken and not given out yet."""

    partitions: Collection[int]
    _waiting: dict[int, deque[tuple[int, Any]]] = field(init=False)
    _heads: list[tuple[int, int]] = field(init=False, default_factory=list)
    _open: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self._waiting = {one: deque() for one in self.partitions}
        self._open = set(self.partitions)

    def add(self, partition: int, sent_ms: int, record: Any) -> None:
        """Take the next record of a partition, sent at an instant (ms since 1970)."""
        waiting = self._waiting[partition]
        waiting.append((sent_ms, record))
        if len(waiting) == 1:
            heapq.heappush(self._heads, (sent_ms, partition))
        self._open.add(partition)

    def ends(self, partition: int) -> None:
        """Know that a partition holds nothing more at present."""
        self._open.discard(partition)

    def give(self, limit: int) -> list[tuple[int, Any]]:
        """The next records with their partitions, at most `limit`; a tie goes to the lower partition."""
        given: list[tuple[int, Any]] = []
        while len(given) < limit and self._heads and all(self._waiting[one] for one in self._open):
            _, partition = heapq.heappop(self._heads)
            waiting = self._waiting[partition]
            given.append((partition, waiting.popleft()[1]))
            if waiting:
                heapq.heappush(self._heads, (waiting[0][0], partition))
        return given

    def held(self, partition: int) -> int:
        """How many records of a partition wait."""
        return len(self._waiting[partition])
