"""Join keys as dense codes, so that a family's state is arrays with one row a key.

A text of a column has a code from 0 on, and so has each tuple of columns. A code never changes and is never reused. The code
of an unknown text is `UNKNOWN`, and so is that of every tuple with it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
KeyColumns = tuple[str, ...]
UNKNOWN: Final = -1
_HALF: Final = 32
_LOW: Final = (1 << _HALF) - 1
_FREE: Final = -1
_FIRST_PLACES: Final = 64
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)


def grown(array: NDArray[Any], size: int, empty: Any = 0) -> NDArray[Any]:
    """The array with room for `size` rows, the new ones `empty`; its length at least doubles when it grows."""
    if len(array) >= size:
        return array
    larger = np.empty((max(size, 2 * len(array)), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    larger[len(array) :] = empty
    return larger


class TextCodes:
    """The codes of one column's texts; `texts` has the text of each code."""

    __slots__ = ("_codes", "texts")

    def __init__(self) -> None:
        self._codes: dict[str | None, int] = {None: UNKNOWN}
        self.texts: list[str] = []

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.texts)

    def codes(self, texts: Sequence[str | None]) -> Codes:
        """The code of each text; a new text gets the next one."""
        found: list[int | None] = list(map(self._codes.get, texts))
        if None in found:
            for place, text in enumerate(texts):
                if found[place] is None:
                    assert text is not None
                    code = self._codes.setdefault(text, len(self.texts))
                    if code == len(self.texts):
                        self.texts.append(text)
                    found[place] = code
        return np.array(found, dtype=np.int64)


class PairCodes:
    """The codes of pairs of codes, each below 2^31: a hash table with open addressing, 16 bytes a place."""

    __slots__ = ("_code_at", "_pair_at", "_pairs", "_used")

    def __init__(self) -> None:
        self._pair_at = np.full(_FIRST_PLACES, _FREE, np.int64)
        self._code_at = np.zeros(_FIRST_PLACES, np.int32)
        self._pairs = np.zeros(_FIRST_PLACES, np.int64)
        self._used = 0

    def __len__(self) -> int:
        """The number of pairs."""
        return self._used

    def codes(self, first: Codes, second: Codes) -> Codes:
        """The code of each pair; a new pair gets the next one, and a pair with an unknown half `UNKNOWN`."""
        pairs = (first << _HALF) | second
        known = (first >= 0) & (second >= 0)
        if not known.all():
            codes = np.full(len(pairs), UNKNOWN, np.int64)
            codes[known] = self._codes(pairs[known])
            return codes
        return self._codes(pairs)

    def halves(self, codes: Codes) -> tuple[Codes, Codes]:
        """The two codes of each pair."""
        pairs = self._pairs[codes]
        return pairs >> _HALF, pairs & _LOW

    def _codes(self, pairs: Codes) -> Codes:
        places = self._places(pairs)
        new = self._pair_at[places] == _FREE
        if new.any():
            size = len(self._pair_at)
            self._add(np.unique(pairs[new]))
            if len(self._pair_at) == size:
                places[new] = self._places(pairs[new])
            else:
                places = self._places(pairs)
        return self._code_at[places].astype(np.int64)

    def _places(self, pairs: Codes) -> Codes:
        """The place of each pair in the table: where it is, or the free one where it belongs."""
        mask = len(self._pair_at) - 1
        places = ((pairs.view(np.uint64) * _SPREAD) >> np.uint64(_HALF)).astype(np.int64) & mask
        taken = self._pair_at[places]
        other = ((taken != pairs) & (taken != _FREE)).nonzero()[0]
        while other.size:
            places[other] = (places[other] + 1) & mask
            taken = self._pair_at[places[other]]
            other = other[(taken != pairs[other]) & (taken != _FREE)]
        return places

    def _add(self, pairs: Codes) -> None:
        """Add new pairs, each given once; half of the table at least stays free."""
        begin, self._used = self._used, self._used + len(pairs)
        self._pairs = grown(self._pairs, self._used)
        self._pairs[begin : self._used] = pairs
        if 2 * self._used > len(self._pair_at):
            size = len(self._pair_at)
            while 2 * self._used > size:
                size *= 2
            self._pair_at, self._code_at = np.full(size, _FREE, np.int64), np.zeros(size, np.int32)
            begin = 0
        codes = np.arange(begin, self._used)
        while codes.size:
            some = self._pairs[codes]
            places = self._places(some)
            # two pairs may want one place: the last one gets it, the others try again
            self._pair_at[places] = some
            placed = self._pair_at[places] == some
            self._code_at[places[placed]] = codes[placed]
            codes = codes[~placed]


class KeyCodes:
    """The codes of all join keys. Families with the same key columns, or the same first ones, share them."""

    def __init__(self, keys: Sequence[KeyColumns]) -> None:
        self.columns = {name: TextCodes() for columns in keys for name in columns}
        self._pairs = {columns[:width]: PairCodes() for columns in keys for width in range(2, len(columns) + 1)}

    def count(self, columns: KeyColumns) -> int:
        """The number of keys of these columns."""
        return len(self._pairs[columns]) if len(columns) > 1 else len(self.columns[columns[0]])

    def of(self, columns: KeyColumns, known: dict[KeyColumns, Codes]) -> Codes:
        """The code of each key of these columns; `known` has those of single columns, and takes all that are made."""
        codes = known.get(columns)
        if codes is None:
            codes = self._pairs[columns].codes(self.of(columns[:-1], known), known[columns[-1:]])
            known[columns] = codes
        return codes

    def codes_of_texts(self, texts: Mapping[str, Sequence[str | None]]) -> dict[KeyColumns, Codes]:
        """The codes of each column's texts."""
        return {(name,): codes.codes(texts[name]) for name, codes in self.columns.items()}

    def by_column(self, columns: KeyColumns, codes: Codes) -> list[Codes]:
        """The codes of the single columns of each key."""
        single: list[Codes] = []
        for width in range(len(columns), 1, -1):
            codes, last = self._pairs[columns[:width]].halves(codes)
            single.insert(0, last)
        return [codes, *single]

    def texts(self, columns: KeyColumns, codes: Codes) -> list[tuple[str, ...]]:
        """The texts of each key."""
        single = self.by_column(columns, codes)
        named: list[Callable[[int], str]] = [self.columns[name].texts.__getitem__ for name in columns]
        return list(zip(*(map(name, of.tolist()) for name, of in zip(named, single, strict=True)), strict=True))
