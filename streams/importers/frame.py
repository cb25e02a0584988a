"""One file as columns of text cells, with every distinct cell stored once; and the races' file of a source joined to its runners'."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from velo.errors import UserError

_RACES: Final = "races."
"""Begins the name of a column of the races' file that the runners' file has too."""


@dataclass(frozen=True, slots=True)
class Column:
    """The cells of one column: the distinct ones in `words` (the last is None), and the index of each row's in `codes`."""

    words: Sequence[str | None]
    codes: np.ndarray

    @classmethod
    def of(cls, cells: Sequence[str | None]) -> "Column":
        """Return the column with these cells."""
        index: dict[str, int] = {}
        codes = np.fromiter(
            (-1 if cell is None else index.setdefault(cell, len(index)) for cell in cells), np.int32, len(cells)
        )
        return cls([*index, None], codes)

    def cells(self) -> list[str | None]:
        """Return the cell of each row."""
        return self.spread(self.words)

    def spread(self, values: Sequence[Any]) -> list[Any]:
        """Return for each row the value that belongs to its cell: `values` has one for each of `words`."""
        once = np.empty(len(values), dtype=object)
        for at, value in enumerate(values):  # an assignment of the whole would take tuples for a second dimension
            once[at] = value
        spread: list[Any] = once[self.codes].tolist()
        return spread

    def read(self, reader: Callable[[str | None], Any]) -> tuple[list[Any], dict[int, str | None]]:
        """Return the value of each row, and by row the cells for which the reader raised ValueError, whose value is None."""
        values: list[Any] = []
        unreadable = []
        for at, word in enumerate(self.words):
            try:
                values.append(reader(word))
            except (ValueError, OverflowError):
                values.append(None)
                unreadable.append(at)
        if not unreadable:
            return self.spread(values), {}
        codes = self.codes % len(self.words)
        rows = np.flatnonzero(np.isin(codes, unreadable)).tolist()
        return self.spread(values), {row: self.words[codes[row]] for row in rows}

    def filled(self) -> int:
        """Return the number of rows that are not blank."""
        blank = [at for at, word in enumerate(self.words) if word is None]
        return int((~np.isin(self.codes % len(self.words), blank)).sum())

    def take(self, rows: np.ndarray) -> "Column":
        """Return the cells of these rows; -1 is a blank."""
        return Column(self.words, np.where(rows < 0, -1, self.codes[rows]))

    def without(self, blank: frozenset[str]) -> "Column":
        """Return the column with a blank for each of these (casefolded) words."""
        words = [None if word is not None and word.casefold() in blank else word for word in self.words]
        return Column(words, self.codes)

    @classmethod
    def joined(cls, parts: Iterable["Column"], join: str) -> "Column":
        """Return one column of several, joined; blank where a part is blank."""
        rows = zip(*(part.cells() for part in parts), strict=True)
        return cls.of([None if None in cells else join.join(map(str, cells)) for cells in rows])


@dataclass(frozen=True, slots=True)
class Frame:
    """One file as columns. `label` begins an error message; `first_line` is the line of row 0, None where rows have no lines."""

    label: str
    columns: Mapping[str, Column]
    rows: int
    first_line: int | None = None
    loose: Mapping[str, str] = field(default_factory=dict)
    """Column names by their letters and digits, where these are one column's alone."""

    @classmethod
    def of(cls, label: str, columns: Mapping[str, Column], rows: int, first_line: int | None = None) -> "Frame":
        """Return a frame. Raises `UserError` for two columns whose names differ only in case."""
        folded: set[str] = set()
        by_letters: dict[str, list[str]] = {}
        for name in columns:
            if name.casefold() in folded:
                raise UserError(f"{label} has the column {name!r} more than once: keep one of them")
            folded.add(name.casefold())
            by_letters.setdefault(_letters(name), []).append(name)
        loose = {letters: names[0] for letters, names in by_letters.items() if len(names) == 1}
        return cls(label, columns, rows, first_line, loose | {name.casefold(): name for name in columns})

    def name_of(self, names: Sequence[str]) -> str | None:
        """Return the first column that has one of these names; None where there is none.

        Case does not count, nor do spaces and signs: `Horse No.` is `horse_no`.
        """
        forms = (form for name in names for form in (name.casefold(), _letters(name)))
        return next((self.loose[form] for form in forms if form and form in self.loose), None)

    def column(self, names: Sequence[str]) -> Column | None:
        """Return the first column that has one of these names (see `name_of`); None where there is none."""
        found = self.name_of(names)
        return None if found is None else self.columns[found]

    def lacks(self, names: Sequence[str]) -> list[str]:
        """Return the names that no column has."""
        return [name for name in names if self.name_of((name,)) is None]

    def take(self, rows: np.ndarray) -> "Frame":
        """Return these rows, which have no lines."""
        return Frame.of(self.label, {name: column.take(rows) for name, column in self.columns.items()}, len(rows))

    def without(self, blank: frozenset[str]) -> "Frame":
        """Return the frame without the cells that mean nothing in the source (casefolded)."""
        if not blank:
            return self
        columns = {name: column.without(blank) for name, column in self.columns.items()}
        return Frame.of(self.label, columns, self.rows, self.first_line)

    def first_of_each(self) -> np.ndarray:
        """Return for each row whether no row before it has the same cells."""
        every = [column.codes for column in self.columns.values()]
        mixed = np.zeros(self.rows, np.uint64)
        for codes in every:
            mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + (codes + 2).astype(np.uint64)
        _, at, times = np.unique(mixed, return_inverse=True, return_counts=True)
        alike = np.flatnonzero(times[at] > 1)  # few rows, which are then compared cell by cell
        once = np.ones(self.rows, bool)
        if len(alike):
            _, firsts = np.unique(np.stack([codes[alike] for codes in every], axis=1), axis=0, return_index=True)
            once[alike] = False
            once[alike[firsts]] = True
        return once


def _letters(name: str) -> str:
    """Return a name by its letters and digits, and the points between the fields of JSON."""
    return "".join(sign for sign in name.casefold() if sign.isalnum() or sign == ".").strip(".")


class RowCells(Mapping[str, str | None]):
    """One row of a frame as read, without a copy of its cells."""

    __slots__ = ("columns", "row")

    def __init__(self, columns: Mapping[str, Column], row: int) -> None:
        self.columns = columns
        self.row = row

    def __getitem__(self, name: str) -> str | None:
        column = self.columns[name]
        word: str | None = column.words[column.codes[self.row]]
        return word

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(slots=True)
class RacesIndex:
    """The races' files of a load, found by key; `met` are the keys that a runner had."""

    frames: Sequence[Frame]
    index: Mapping[str, tuple[int, int]]
    met: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, read: Sequence[Frame], key: str) -> "RacesIndex":
        """Index races by key. Raises `UserError` for a file without the key, and for two different races with one key."""
        index: dict[str, tuple[int, int]] = {}
        for at, frame in enumerate(read):
            for row, cell in enumerate(_key_column(frame, key).cells()):
                if cell is None:
                    continue
                before = index.setdefault(cell, (at, row))
                if before != (at, row) and dict(RowCells(read[before[0]].columns, before[1])) != dict(
                    RowCells(frame.columns, row)
                ):
                    raise UserError(f"{frame.label} has two different races with {key} {cell!r}: leave one of them")
        return cls(read, index)

    def joined(self, runners: Frame, key: str) -> Frame:
        """Return the runners' frame with the races' columns; a column of both files is the runners', and `races.NAME` the races'."""
        found = [self.index.get(cell or "") for cell in _key_column(runners, key).cells()]
        self.met.update(cell for cell in _key_column(runners, key).words if cell is not None and cell in self.index)
        columns = dict(runners.columns)
        for at, frame in enumerate(self.frames):
            rows = np.array([place[1] if place is not None and place[0] == at else -1 for place in found])
            if (rows < 0).all():
                continue
            for name, column in frame.columns.items():
                own = name if name.casefold() not in runners.loose else f"{_RACES}{name}"
                taken = column.take(rows)
                columns[own] = taken if own not in columns else _first_of(columns[own], taken)
        return Frame.of(runners.label, columns, runners.rows, runners.first_line)


def _key_column(frame: Frame, key: str) -> Column:
    column = frame.column((key,))
    if column is None:
        raise UserError(f"{frame.label} has no column {key}, by which the two files are joined: export it with it")
    return column


def _first_of(first: Column, second: Column) -> Column:
    return Column.of([own or other for own, other in zip(first.cells(), second.cells(), strict=True)])
