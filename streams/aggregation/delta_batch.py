"""Many starts that messages add or retract, as columns: what the aggregation in arrays sums.

A measure that is unknown is `NULL`, of a measure that is not whole NaN.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.families import Family
from velo.racing.measures import Measure
from velo.racing.starts import OF_RACE, OF_RATINGS, Start
from velo.streams.aggregation.key_codes import Codes, KeyCodes, KeyColumns
from velo.streams.aggregation.layout import DeltaLayout
from velo.streams.aggregation.result_delta import ResultDelta
from velo.streams.aggregation.spill import Spill

Integers = NDArray[np.int64]
NULL: Final = -(2**63)
NAN_BITS: Final = int(np.array(np.nan).view(np.int64))
"""The unknown value of a measure that is not whole, as the 64 bits of its double."""
_RACE_DAY: Final = "race_day"
_AT: Final = {name: place for place, name in enumerate(Start._fields)}


class Measured:
    """The measures that some families use, and whether each is whole."""

    def __init__(self, families: Iterable[Family]) -> None:
        known: dict[str, Measure] = {}
        names: dict[str, None] = {_RACE_DAY: None}
        for family in families:
            layout = DeltaLayout.of(family)
            known |= family.known_measures
            names |= dict.fromkeys((*layout.windowed, *layout.career, *layout.remembered))
        self.whole = {name: known[name].whole for name in names}
        self._of_start = [name for name in names if name in OF_RACE or name in OF_RATINGS]
        self._own = [name for name in names if name not in self._of_start]

    def columns(self, starts: Sequence[Start]) -> dict[str, NDArray[Any]]:
        """The values of each measure."""
        by_field = list(zip(*starts, strict=True)) if starts else [()] * len(_AT)
        made = {name: self.column(name, by_field[_AT[name]]) for name in self._of_start}
        return made | {name: self.column(name, [start.own[name] for start in starts]) for name in self._own}

    def column(self, name: str, values: Iterable[Any]) -> NDArray[Any]:
        """The values of one measure, None where unknown, as a column."""
        if self.whole[name]:
            return np.array([NULL if value is None else value for value in values], dtype=np.int64)
        return np.array(list(values), dtype=np.float64)


@dataclass(slots=True)
class Groups:
    """Deltas sorted by key and message. A row is all deltas of one key by one message.

    `deltas` has the place of each in its batch and `slots` its key's code. `key_first` and `row_first` say where in them a
    key and a row begin, `row_last` where a row ends; `row_key` is the number of each row's key, `key_last_row` the number of
    each key's last row, and `order` puts the rows in order of their messages, then of their keys.
    """

    deltas: Integers
    slots: Codes
    key_first: Integers
    row_first: Integers
    row_last: Integers
    row_key: Integers
    key_last_row: Integers
    order: Integers

    @classmethod
    def of(cls, deltas: Integers, slots: Codes, message: Integers) -> "Groups":
        """The groups of some deltas, given in order of their messages: of each its key, and the number of its message."""
        by_key = np.argsort(slots, kind="stable")
        deltas, slots, message = deltas[by_key], slots[by_key], message[by_key]
        new_key = np.ones(len(slots), dtype=np.bool_)
        new_key[1:] = slots[1:] != slots[:-1]
        new_row = new_key.copy()
        new_row[1:] |= message[1:] != message[:-1]
        row_first = np.flatnonzero(new_row)
        row_new_key = new_key[row_first]
        return cls(
            deltas,
            slots,
            np.flatnonzero(new_key),
            row_first,
            np.append(row_first[1:], len(slots)) - 1,
            np.cumsum(row_new_key) - 1,
            np.append(np.flatnonzero(row_new_key)[1:], len(row_first)) - 1,
            np.argsort(message[row_first], kind="stable"),
        )

    @property
    def one_each(self) -> bool:
        """Whether every key has one delta."""
        return len(self.key_first) == len(self.slots)

    def summed(self, state: Integers, lanes: Integers) -> Integers:
        """Add the `lanes` of each delta to its key's row of `state`; returns the sums after each row, (rows, lanes)."""
        if self.one_each:
            after = state[self.slots] + lanes
            state[self.slots] = after
            return after
        total = lanes.cumsum(axis=0)
        keys = self.slots[self.key_first]
        before = state[keys]
        before[1:] -= total[self.key_first[1:] - 1]
        after = total[self.row_last] + before[self.row_key]
        state[keys] = after[self.key_last_row]
        return after


@dataclass
class DeltaBatch:
    """The deltas of some messages, in their order; of one message the retracted starts first.

    Of each message `known_at_us` and `race_ids`. Of each delta `message` (its number), `sign` (1 or −1), `off_us`, `columns`
    (its measures) and `codes` (of its key columns, each alone; other keys are added as they are asked for).
    """

    known_at_us: Integers
    race_ids: Sequence[str]
    message: Integers
    sign: Integers
    off_us: Integers
    columns: Mapping[str, NDArray[Any]]
    codes: dict[KeyColumns, Codes]
    _groups: dict[tuple[KeyColumns, int, int], Groups | None] = field(default_factory=dict)
    _lanes: dict[tuple[str, ...], Integers] = field(default_factory=dict)
    _bits: dict[tuple[str, ...], Integers] = field(default_factory=dict)
    _places: Integers | None = None

    @classmethod
    def of(cls, messages: Sequence[tuple[int, ResultDelta]], measured: Measured, keys: KeyCodes) -> "DeltaBatch":
        """The batch of messages, each given as (`known_at` in µs, what it changes)."""
        starts: list[Start] = []
        message: list[int] = []
        sign: list[int] = []
        off_us: list[int] = []
        for number, (_, delta) in enumerate(messages):
            for some, times, of_version in (
                (delta.retracted, -1, delta.retracted_off_us),
                (delta.added, 1, delta.added_off_us),
            ):
                if some:
                    starts += some
                    message += repeat(number, len(some))
                    sign += repeat(times, len(some))
                    off_us += repeat(of_version, len(some))
        texts = {name: [start[_AT[name]] for start in starts] for name in keys.columns}
        return cls(
            np.array([known_at_us for known_at_us, _ in messages], dtype=np.int64),
            [delta.race_id for _, delta in messages],
            np.array(message, dtype=np.int64),
            np.array(sign, dtype=np.int64),
            np.array(off_us, dtype=np.int64),
            measured.columns(starts),
            keys.codes_of_texts(texts),
        )

    @cached_property
    def retracts(self) -> bool:
        """Whether any delta retracts a start."""
        return bool((self.sign < 0).any())

    @property
    def race_day(self) -> Integers:
        """The race day of each delta."""
        return self.columns[_RACE_DAY]

    def groups(self, columns: KeyColumns, codes: Codes, begin: int, end: int) -> Groups | None:
        """The deltas from `begin` to before `end` by key; None where none of them has one."""
        asked = columns, begin, end
        if asked not in self._groups:
            deltas, slots = np.arange(begin, end), codes[begin:end]
            if len(slots) and slots.min() < 0:
                deltas = deltas[slots >= 0]
                slots = codes[deltas]
            self._groups[asked] = Groups.of(deltas, slots, self.message[deltas]) if len(slots) else None
        return self._groups[asked]

    def lanes(self, measures: tuple[str, ...]) -> Integers:
        """What each delta adds to the sums of these measures, (deltas, measures); an unknown measure adds 0."""
        made = self._lanes.get(measures)
        if made is None:
            made = np.empty((len(self.sign), len(measures)), np.int64)
            for place, name in enumerate(measures):
                column = self.columns[name]
                made[:, place] = np.where(column == NULL, 0, column)
            if self.retracts:
                made *= self.sign[:, None]
            self._lanes[measures] = made
        return made

    def bits(self, measures: tuple[str, ...]) -> Integers:
        """The values of these measures, (deltas, measures); a measure that is not whole as the bits of its double."""
        made = self._bits.get(measures)
        if made is None:
            made = np.empty((len(self.sign), len(measures)), np.int64)
            for place, name in enumerate(measures):
                made[:, place] = self.columns[name].view(np.int64)
            self._bits[measures] = made
        return made

    def race_places(self, spill: Spill) -> Integers:
        """The place on the spill of each message's race_id, written at the first call; 0 for a message without deltas."""
        if self._places is None:
            self._places = np.zeros(len(self.race_ids), np.int64)
            for number in np.unique(self.message).tolist():
                self._places[number] = spill.put(self.race_ids[number].encode())
        return self._places
