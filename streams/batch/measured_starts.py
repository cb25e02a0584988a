"""Measured starts in arrays: a column of all of them, the rows of some keys, and columns of some rows.

A race day concerns a few hundred keys. DuckDB takes longer to plan its queries than arrays take to find their starts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from velo.streams.batch.arrow_numbers import Flags, Numbers, column_of_numbers, in_one_chunk, known_in, numbers_of

KEYS: Final = ("trainer_id", "jockey_id", "horse_id", "course", "distance_band", "going_group", "draw_cell")
FOREVER: Final = np.iinfo(np.int64).max
"""`retracted_us` of a result that no later version replaces."""
ELSEWHERE: Final = -1
"""The place of a key that is unknown or not among those asked for."""
WholeColumns = dict[tuple[Path, str], pa.ChunkedArray]
"""Columns by part and name. A part has a name of its own, so one build reads each of them once, for whichever step."""
_VERSIONS: Final = 2**32
_MOST_CODES: Final = 2**38
"""Codes of keys below this leave room for the number of a start beside them."""


class Applied(NamedTuple):
    """The results that took effect, by seq: when each became known, and when the next version replaced it (µs since 1970)."""

    seq: Numbers
    known_us: Numbers
    retracted_us: Numbers

    def of(self, seqs: Numbers) -> tuple[Flags, Numbers]:
        """Whether each of some seqs took effect, and its place here; any place where it did not."""
        places = np.minimum(np.searchsorted(self.seq, seqs), max(len(self.seq) - 1, 0))
        return (self.seq[places] == seqs if len(self.seq) else np.zeros(len(seqs), np.bool_)), places


def applied(parts: Iterable[Path]) -> Applied:
    """The results of some parts that took effect: the twin of `applied.sql`, by the version's rank among its race's."""
    results = joined(read(part, ["seq", "known_at", "race_id", "result_version"]) for part in parts)
    seq, known_us = numbers_of(results["seq"]), numbers_of(results["known_at"])
    race = numbers_of(in_one_chunk(results["race_id"]).dictionary_encode().indices)
    by_race = np.lexsort((seq, race))
    version = (race * _VERSIONS + numbers_of(results["result_version"]))[by_race]
    # of an earlier race every number is lower, so the first version of a race is always higher
    higher = np.ones(len(version), np.bool_)
    higher[1:] = version[1:] > np.maximum.accumulate(version)[:-1]
    took = by_race[higher]
    retracted_us = np.full(len(took), FOREVER)
    replaced = race[took][1:] == race[took][:-1]
    retracted_us[:-1][replaced] = known_us[took][1:][replaced]
    order = np.argsort(seq[took])
    return Applied(seq[took][order], known_us[took][order], retracted_us[order])


class MeasuredStarts:
    """The starts of some parts, numbered in the order of the parts. Reads the columns and row groups that are asked for.

    `known` has the columns that were read whole, and takes those that are.
    """

    def __init__(self, parts: Iterable[Path], known: WholeColumns | None = None) -> None:
        self._parts = [*parts]
        self._known: WholeColumns = {} if known is None else known
        self._files = [pq.ParquetFile(part, read_dictionary=KEYS) for part in self._parts]
        self._ends = np.cumsum([file.metadata.num_rows for file in self._files], dtype=np.int64)

    def numbers(self, name: str) -> Numbers:
        """A column of whole numbers that are all known."""
        return np.concatenate([np.empty(0, np.int64), *map(numbers_of, self._whole(name))])

    def places(self, key: str, among: pa.Array) -> Numbers:
        """The place of each start's key among some values, else `ELSEWHERE`; callable from several threads."""
        found = [np.empty(0, np.int64)]
        for column in self._whole(key):
            for chunk in column.chunks:
                of_value = pc.index_in(chunk.dictionary, value_set=among).fill_null(ELSEWHERE)
                places = np.append(numbers_of(of_value), ELSEWHERE)
                found.append(places[np.where(known_in(chunk.indices), numbers_of(chunk.indices), -1)])
        return np.concatenate(found)

    def _whole(self, name: str) -> Iterator[pa.ChunkedArray]:
        """A column of each part, which is read once."""
        for part, file in zip(self._parts, self._files, strict=True):
            found = self._known.get((part, name))
            if found is None:
                # a file is for one thread
                with pq.ParquetFile(part, metadata=file.metadata, read_dictionary=KEYS) as own:
                    found = self._known[part, name] = own.read([name])[name]
            yield found

    def values(self, key: str) -> pa.Array:
        """The values of a key, each once, in order."""
        chunks = [chunk.dictionary for column in self._whole(key) for chunk in column.chunks]
        return _in_order(pa.chunked_array(chunks, pa.string()))

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all starts; callable from several threads."""
        return joined(read(part, columns) for part in self._parts)

    def take(self, rows: Numbers, columns: Sequence[str]) -> pa.Table:
        """Some columns of some rows, whose numbers ascend."""
        tables = []
        for file, end in zip(self._files, self._ends, strict=True):
            begin = end - file.metadata.num_rows
            inside = rows[np.searchsorted(rows, begin) : np.searchsorted(rows, end)] - begin
            if len(inside) or end == self._ends[-1]:
                tables.append(_take(file, inside, columns))
        return joined(tables)


class Keys:
    """The places of the keys of all `starts` among `values`: those of each key, in order."""

    def __init__(self, starts: MeasuredStarts, values: Mapping[str, pa.Array]) -> None:
        self._values = values
        with ThreadPoolExecutor(max(len(values), 1)) as pool:
            self._places = dict(zip(values, pool.map(starts.places, values, values.values()), strict=True))
        self._found = {key: np.flatnonzero(places != ELSEWHERE) for key, places in self._places.items()}

    @classmethod
    def among(cls, starts: MeasuredStarts, some: pa.Table) -> "Keys":
        """The keys of `some` starts, and which of all have them."""
        return cls(starts, {key: _in_order(some[key].cast(pa.string())) for key in some.column_names})

    def codes(self, keys: Sequence[str]) -> tuple[Numbers, Numbers]:
        """The starts that have a value of each of `keys`, and a number for these values, in their order."""
        fewest, *others = sorted(keys, key=lambda key: self._found[key].size)
        rows = self._found[fewest]
        for key in others:
            rows = rows[self._places[key][rows] != ELSEWHERE]
        code, size = np.zeros(rows.size, np.int64), 1
        for key in keys:
            if size * len(self._values[key]) > _MOST_CODES:
                found, code = np.unique(code, return_inverse=True)
                size = found.size
            size *= len(self._values[key])
            code = code * len(self._values[key]) + self._places[key][rows]
        return rows, code

    def values(self, keys: Sequence[str], rows: Numbers) -> list[pa.Array]:
        """The values of `keys` in some rows, which have them."""
        return [self._values[key].take(column_of_numbers(self._places[key][rows])) for key in keys]


def _in_order(texts: pa.ChunkedArray) -> pa.Array:
    found = in_one_chunk(texts).unique().drop_null()
    return found.take(pc.sort_indices(found))


def _take(file: pq.ParquetFile, rows: Numbers, columns: Sequence[str]) -> pa.Table:
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    ends = np.cumsum(sizes, dtype=np.int64)
    group_of_row = np.searchsorted(ends, rows, side="right")
    groups, place = np.unique(group_of_row, return_inverse=True)
    size = np.array(sizes, np.int64)[groups]
    within = rows - (ends - sizes)[group_of_row] + (np.cumsum(size) - size)[place]
    return file.read_row_groups(groups.tolist(), columns).take(column_of_numbers(within))


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """The rows of several parts; a column that has no null in a part can be declared so there."""
    return pa.concat_tables([*tables], promote_options="permissive")


def read(part: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Some columns of a part, or all."""
    # `read_table` imports Arrow's datasets, and with them pandas
    with pq.ParquetFile(part) as file:
        return file.read(columns)
