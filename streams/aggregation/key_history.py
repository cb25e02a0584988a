"""What a shard keeps of a key's past starts: the latest known values that its features look back on, and no start.

The starts themselves lie on a shelf, from which they are taken when one of them is amended, or told late: then the
past is laid anew from that one on. An ordinary start comes after the others, and needs nothing
but what is kept.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain, islice
from struct import Struct
from typing import Final

import orjson

from feature_repo.catalogue.aggregates import RECENT_DEPTH, Value
from streams.aggregation.layout import Columns, RememberedStart
from streams.aggregation.spill import Spill

PackedHistory = bytes
"""The off of the last start, where the shelf has it, how many values of each measure are known (`RECENT_DEPTH` at most)
and the values, newest first; empty for a key without a start."""
NO_HISTORY: Final = b""
NOTHING_BEFORE: Final = 0
Order = tuple[int, str, str]
"""(off_us, race_id, horse_id) of a start, by which a past is ordered."""
_PLACE_BYTES: Final = 16


class KeyHistories:
    """Makes the pasts of one family's keys, and their recent features."""

    def __init__(self, columns: Columns, shelf: Spill) -> None:
        self._columns = columns
        self._shelf = shelf
        self._places = columns.looked_back_on
        self._recent = columns.recent
        self._head = Struct(f"<qQ{len(self._places)}B")
        self._values = [Struct(f"<{count}q") for count in range(len(self._places) * RECENT_DEPTH + 1)]

    def after(self, past: PackedHistory, memory: RememberedStart) -> tuple[PackedHistory, tuple[Value, ...]]:
        """The past with one more start, and its recent features."""
        newest: list[Sequence[int]]
        if past:
            last_off_us, place, *counts = self._head.unpack_from(past)
            if memory[0] < last_off_us or (memory[0] == last_off_us and _order(memory) < _order(self._last(place))):
                return self.amended(past, (), (memory,))
            known = self._values[sum(counts)].unpack_from(past, self._head.size)
            newest, begin = [], 0
            for at, count in zip(self._places, counts):  # noqa: B905  the two are of one length, and this is for every start
                end = begin + count
                value = memory[at]
                if value is None:
                    newest.append(known[begin:end])
                elif count < RECENT_DEPTH:
                    newest.append((value, *known[begin:end]))
                else:
                    newest.append((value, *known[begin : end - 1]))
                begin = end
        else:
            place = NOTHING_BEFORE
            newest = [() if memory[at] is None else (memory[at],) for at in self._places]
        place = self._shelf.put(orjson.dumps((place, memory)))
        return self._packed(memory[0], place, newest), self._recent(memory, *newest)

    def amended(
        self, past: PackedHistory, taken_back: Sequence[RememberedStart], added: Sequence[RememberedStart]
    ) -> tuple[PackedHistory, tuple[Value, ...]]:
        """The past without some of its starts and with others, and its recent features.

        Only the starts from the earliest of these on are written again.
        """
        before, tail = self._since(self._place(past), min(map(_order, (*taken_back, *added)), default=None))
        for memory in taken_back:
            # found by its order: the values of what is taken back are those that were added
            del tail[_at(tail, memory)]
        for memory in added:
            tail.insert(_at(tail, memory), memory)
        if not tail:
            if before == NOTHING_BEFORE:
                return NO_HISTORY, self._columns.recent_values(())
            before, *lot = orjson.loads(self._shelf.get(before))
            tail = [tuple(memory) for memory in lot]
        newest = self._newest(before, tail)
        place = self._shelf.put(orjson.dumps((before, *tail)))
        return self._packed(tail[-1][0], place, newest), self._recent(tail[-1], *newest)

    def of(self, history: Sequence[RememberedStart]) -> PackedHistory:
        """The past of starts in their order, oldest first."""
        if not history:
            return NO_HISTORY
        place = self._shelf.put(orjson.dumps((NOTHING_BEFORE, *history)))
        return self._packed(history[-1][0], place, self._columns.newest(history))

    def history(self, past: PackedHistory) -> list[RememberedStart]:
        """The starts of a past, oldest first."""
        return self._since(self._place(past), None)[1]

    def recent_values(self, past: PackedHistory) -> tuple[Value, ...]:
        """The recent features of a past."""
        if not past:
            return self._columns.recent_values(())
        _, place, *counts = self._head.unpack_from(past)
        known = self._values[sum(counts)].unpack_from(past, self._head.size)
        newest, begin = [], 0
        for count in counts:
            newest.append(known[begin : begin + count])
            begin += count
        return self._recent(self._last(place), *newest)

    def _last(self, place: int) -> RememberedStart:
        """The newest start of those put at a place."""
        return tuple(orjson.loads(self._shelf.get(place))[-1])

    def _since(self, place: int, order: Order | None) -> tuple[int, list[RememberedStart]]:
        """The starts from the first that does not come before `order` on (all for None), oldest first, perhaps with some
        before it; and the place of those still older.
        """
        lots: list[list[RememberedStart]] = []
        while place != NOTHING_BEFORE and not (lots and order is not None and _order(lots[-1][0]) < order):
            place, *lot = orjson.loads(self._shelf.get(place))
            lots.append([tuple(memory) for memory in lot])
        return place, [memory for lot in reversed(lots) for memory in lot]

    def _newest(self, before: int, tail: Sequence[RememberedStart]) -> list[Sequence[int]]:
        """Of each measure that is looked back on its latest known values, newest first: of the tail, then of older starts."""
        newest: list[list[int]] = [[] for _ in self._places]
        while True:
            for found, at in zip(newest, self._places, strict=True):
                known = (memory[at] for memory in reversed(tail) if memory[at] is not None)
                found.extend(islice(known, RECENT_DEPTH - len(found)))
            if before == NOTHING_BEFORE or all(len(found) == RECENT_DEPTH for found in newest):
                return list(newest)
            before, *tail = orjson.loads(self._shelf.get(before))

    def _place(self, past: PackedHistory) -> int:
        return int.from_bytes(past[8:_PLACE_BYTES], "little") if past else NOTHING_BEFORE

    def _packed(self, off_us: int, place: int, newest: Sequence[Sequence[int]]) -> PackedHistory:
        known = [*chain.from_iterable(newest)]
        return self._head.pack(off_us, place, *map(len, newest)) + self._values[len(known)].pack(*known)


def _at(history: Sequence[RememberedStart], memory: RememberedStart) -> int:
    """Where a start belongs among others, or is."""
    return bisect_left(history, _order(memory), key=_order)


def _order(memory: RememberedStart) -> Order:
    off_us, race_id, horse_id = memory[:3]
    return off_us, race_id, horse_id
