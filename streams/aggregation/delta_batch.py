"""Many starts that messages add or retract, as columns: what the aggregation in arrays sums.

A measure that is unknown is `NULL`, of a measure that is not whole NaN.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.families import Family
from velo.racing.measures import Measure
from velo.racing.starts import Start
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
    """The measures that some families use, whole ones first, and whether each is whole."""

    def __init__(self, families: Iterable[Family]) -> None:
        known: dict[str, Measure] = {}
        names: dict[str, None] = {_RACE_DAY: None}
        for family in families:
            layout = DeltaLayout.of(family)
            known |= family.known_measures
            names |= dict.fromkeys((*layout.windowed, *layout.career, *layout.remembered))
        self.whole = {name: known[name].whole for name in sorted(names, key=lambda name: not known[name].whole)}
        self.wholes = sum(self.whole.values())
        self._numbers = {name: number for number, name in enumerate(self.whole)}

    @lru_cache(256)  # noqa: B019  one lives as long as its stream
    def numbers(self, measures: tuple[str, ...]) -> list[int]:
        """The numbers of some measures among all."""
        return [self._numbers[name] for name in measures]

    def of(self, starts: Sequence[Start]) -> Integers:
        """The 64 bits of each measure of each start, (starts, measures)."""
        if not starts:
            return np.zeros((0, len(self.whole)), np.int64)
        by_field = list(zip(*starts, strict=True))
        values = [by_field[_AT[name]] if name in _AT else [start.own[name] for start in starts] for name in self.whole]
        wholes = [[NULL if value is None else value for value in each] for each in values[: self.wholes]]
        return self.bits(np.array(wholes, np.int64), np.array(values[self.wholes :], np.float64))

    def bits(self, wholes: Sequence[Integers] | Integers, reals: Sequence[NDArray[Any]] | NDArray[Any]) -> Integers:
        """The 64 bits of measures, (starts, measures), given the columns of those that are whole and of the others."""
        columns = [*wholes, *(column.view(np.int64) for column in reals)]
        return np.ascontiguousarray(np.array(columns).T)


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
        by_key = slots.argsort(kind="stable")
        deltas, slots, message = deltas[by_key], slots[by_key], message[by_key]
        new_key = np.empty(len(slots), dtype=np.bool_)
        new_key[0] = True
        np.not_equal(slots[1:], slots[:-1], out=new_key[1:])
        key_first = new_key.nonzero()[0]
        if len(key_first) == len(slots):
            return cls(
                deltas, slots, key_first, key_first, key_first, key_first, key_first, message.argsort(kind="stable")
            )
        new_row = new_key.copy()
        new_row[1:] |= message[1:] != message[:-1]
        row_first = new_row.nonzero()[0]
        row_new_key = new_key[row_first]
        return cls(
            deltas,
            slots,
            key_first,
            row_first,
            np.append(row_first[1:], len(slots)) - 1,
            np.cumsum(row_new_key) - 1,
            np.append(row_new_key.nonzero()[0][1:], len(row_first)) - 1,
            message[row_first].argsort(kind="stable"),
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

    Of each message `known_at_us` and `race_ids`. Of each delta `message` (its number), `sign` (1 or −1), `off_us`, `measures`
    (the 64 bits of each of `measured`) and `codes` (of its key columns, each alone; other keys are added as they are asked for).
    """

    known_at_us: Integers
    race_ids: Sequence[str]
    message: Integers
    sign: Integers
    off_us: Integers
    measured: Measured
    measures: Integers
    codes: dict[KeyColumns, Codes]
    _groups: dict[tuple[KeyColumns, int, int], Groups | None] = field(default_factory=dict)
    _lanes: dict[tuple[str, ...], Integers] = field(default_factory=dict)
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
            measured,
            measured.of(starts),
            keys.codes_of_texts(texts),
        )

    @cached_property
    def retracts(self) -> bool:
        """Whether any delta retracts a start."""
        return bool((self.sign < 0).any())

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

    @cached_property
    def race_day(self) -> Integers:
        """The race day of each delta."""
        return self.measures[:, self.measured.numbers((_RACE_DAY,))[0]]

    @cached_property
    def _added(self) -> Integers:
        """What each delta adds to the sum of each whole measure."""
        values = self.measures[:, : self.measured.wholes]
        added = np.where(values == NULL, 0, values)
        return added * self.sign[:, None] if self.retracts else added

    def lanes(self, measures: tuple[str, ...]) -> Integers:
        """What each delta adds to the sums of these measures, (deltas, measures); an unknown measure adds 0."""
        made = self._lanes.get(measures)
        if made is None:
            made = self._lanes[measures] = self._added[:, self.measured.numbers(measures)]
        return made

    def bits(self, measures: tuple[str, ...]) -> Integers:
        """The 64 bits of the values of these measures, (deltas, measures)."""
        return self.measures[:, self.measured.numbers(measures)]

    def race_places(self, spill: Spill) -> Integers:
        """The place on the spill of each message's race_id, written at the first call; 0 for a message without deltas."""
        if self._places is None:
            self._places = np.zeros(len(self.race_ids), np.int64)
            for number in np.unique(self.message).tolist():
                self._places[number] = spill.put(self.race_ids[number].encode())
        return self._places
