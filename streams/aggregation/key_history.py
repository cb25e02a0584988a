"""The past starts of a key, for its recent features: the latest known values in memory, the starts themselves spilled.

A new start normally comes after all others and needs only the values in memory. The spilled starts are read back when a
start is amended, or becomes known after a later one: the history is then written again from that start on.

On the spill a history is a linked list of blocks, newest first. A block is the JSON array `[place, start, …]`: the place of
the block of older starts (`NO_PLACE` in the oldest block), then one or more starts, oldest first. Blocks are never changed.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain, islice
from struct import Struct
from typing import Final

import orjson

from velo.feature_repo.catalogue.aggregates import Value
from velo.feature_repo.catalogue.recent_aggregates import RECENT_DEPTH
from velo.streams.aggregation.layout import Columns, RememberedStart
from velo.streams.aggregation.spill import Spill

PackedHistory = bytes
"""The off of the last start (µs), the place of the newest block, for each measure the number of its known values
(`RECENT_DEPTH` at most), then those values, newest first. Empty for a key without starts."""
NO_HISTORY: Final = b""
NO_PLACE: Final = 0
Order = tuple[int, str, str]
"""(off_us, race_id, horse_id) of a start: the order of a history."""
_PLACE: Final = slice(8, 16)
"""The bytes of a packed history that hold the place of the newest block."""


class KeyHistories:
    """Makes the histories of one family's keys, and their recent features."""

    def __init__(self, columns: Columns, spill: Spill) -> None:
        self._columns = columns
        self._spill = spill
        self._indexes = columns.looked_back_on
        self._recent = columns.recent
        self._head = Struct(f"<qQ{len(self._indexes)}B")
        self._values = [Struct(f"<{count}q") for count in range(len(self._indexes) * RECENT_DEPTH + 1)]

    def after(self, history: PackedHistory, start: RememberedStart) -> tuple[PackedHistory, tuple[Value, ...]]:
        """The history with one more start, and its recent features."""
        newest: list[Sequence[int]]
        if history:
            last_off_us, place, *counts = self._head.unpack_from(history)
            # the full order needs the last start from the spill: it is read only where the offs are equal
            if start[0] < last_off_us or (start[0] == last_off_us and _order(start) < _order(self._last(place))):
                return self.amended(history, (), (start,))
            known = self._values[sum(counts)].unpack_from(history, self._head.size)
            newest, begin = [], 0
            for index, count in zip(self._indexes, counts):  # noqa: B905  equal lengths, and this runs for every start
                end = begin + count
                value = start[index]
                if value is None:
                    newest.append(known[begin:end])
                elif count < RECENT_DEPTH:
                    newest.append((value, *known[begin:end]))
                else:
                    newest.append((value, *known[begin : end - 1]))
                begin = end
        else:
            place = NO_PLACE
            newest = [() if start[index] is None else (start[index],) for index in self._indexes]
        place = self._spill.put(orjson.dumps((place, start)))
        return self._packed(start[0], place, newest), self._recent(start, *newest)

    def amended(
        self, history: PackedHistory, removed: Sequence[RememberedStart], added: Sequence[RememberedStart]
    ) -> tuple[PackedHistory, tuple[Value, ...]]:
        """The history without some of its starts and with others, and its recent features.

        Only the starts from the earliest of these on are written again, as one block.
        """
        before, tail = self._since(_place(history), min(map(_order, (*removed, *added)), default=None))
        for start in removed:
            # found by its order alone: a start is removed with the values that it was added with
            del tail[_index_of(tail, start)]
        for start in added:
            tail.insert(_index_of(tail, start), start)
        if not tail:
            if before == NO_PLACE:
                return NO_HISTORY, self._columns.recent_values(())
            # nothing is left of the newest blocks: the one before them becomes the newest
            before, tail = self._block(before)
        newest = self._newest(before, tail)
        place = self._spill.put(orjson.dumps((before, *tail)))
        return self._packed(tail[-1][0], place, newest), self._recent(tail[-1], *newest)

    def of(self, starts: Sequence[RememberedStart]) -> PackedHistory:
        """The history of starts, given oldest first."""
        if not starts:
            return NO_HISTORY
        place = self._spill.put(orjson.dumps((NO_PLACE, *starts)))
        return self._packed(starts[-1][0], place, self._columns.newest(starts))

    def recent_values(self, history: PackedHistory) -> tuple[Value, ...]:
        """The recent features of a history."""
        if not history:
            return self._columns.recent_values(())
        _, place, *counts = self._head.unpack_from(history)
        known = self._values[sum(counts)].unpack_from(history, self._head.size)
        newest, begin = [], 0
        for count in counts:
            newest.append(known[begin : begin + count])
            begin += count
        return self._recent(self._last(place), *newest)

    def _block(self, place: int) -> tuple[int, list[RememberedStart]]:
        """A block: the place of the block before it, and its starts, oldest first."""
        before, *starts = orjson.loads(self._spill.get(place))
        return before, [tuple(start) for start in starts]

    def _last(self, place: int) -> RememberedStart:
        """The newest start of a block."""
        return self._block(place)[1][-1]

    def _since(self, place: int, order: Order | None) -> tuple[int, list[RememberedStart]]:
        """The place of the blocks that need not change, and the starts after them, oldest first.

        Blocks are read from `place` back until one begins before `order`: it may hold some starts before `order`, and all
        older blocks hold only such. With None every block is read.
        """
        blocks: list[list[RememberedStart]] = []
        while place != NO_PLACE and not (blocks and order is not None and _order(blocks[-1][0]) < order):
            place, starts = self._block(place)
            blocks.append(starts)
        return place, [start for starts in reversed(blocks) for start in starts]

    def _newest(self, before: int, tail: Sequence[RememberedStart]) -> list[Sequence[int]]:
        """The latest known values of each measure that is looked back on, newest first: from the tail, then from the blocks
        before it until `RECENT_DEPTH` of each are known."""
        newest: list[list[int]] = [[] for _ in self._indexes]
        while True:
            for values, index in zip(newest, self._indexes, strict=True):
                known = (start[index] for start in reversed(tail) if start[index] is not None)
                values.extend(islice(known, RECENT_DEPTH - len(values)))
            if before == NO_PLACE or all(len(values) == RECENT_DEPTH for values in newest):
                return list(newest)
            before, tail = self._block(before)

    def _packed(self, off_us: int, place: int, newest: Sequence[Sequence[int]]) -> PackedHistory:
        known = [*chain.from_iterable(newest)]
        return self._head.pack(off_us, place, *map(len, newest)) + self._values[len(known)].pack(*known)


def _place(history: PackedHistory) -> int:
    return int.from_bytes(history[_PLACE], "little") if history else NO_PLACE


def _index_of(starts: Sequence[RememberedStart], start: RememberedStart) -> int:
    """The index of a start among others in order, or the index to insert it at."""
    return bisect_left(starts, _order(start), key=_order)


def _order(start: RememberedStart) -> Order:
    off_us, race_id, horse_id = start[:3]
    return off_us, race_id, horse_id
