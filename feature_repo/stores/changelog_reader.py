"""Read the changelog of one view from its Parquet parts, a slice at a time. Knows nothing of Feast.

Rows are numbered from 0 through the parts, their row groups and the rows of these, in order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from velo.errors import UserError
from velo.feature_repo.stores.key_encoding import Whole

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from velo.feature_repo.stores.changelog import Table


@dataclass(frozen=True, slots=True)
class Slice:
    """Row groups that are read together, in order."""

    groups: Sequence[int]
    rows: int


@dataclass(frozen=True, slots=True)
class _Part:
    path: str
    metadata: "pq.FileMetaData"
    schema: "pa.Schema"

    def read(self, groups: Sequence[int], columns: Sequence[str], dictionaries: Sequence[str]) -> "pa.Table":
        import pyarrow.parquet as pq

        present = [column for column in columns if column in self.schema.names]
        with pq.ParquetFile(self.path, metadata=self.metadata, read_dictionary=dictionaries) as file:
            return file.read_row_groups(groups, columns=present)


class ChangelogReader:
    """Reads the parts of one view. Keeps their metadata in memory and no file open between reads."""

    def __init__(self, table: "Table") -> None:
        import pyarrow.parquet as pq

        self.table = table
        self._parts = []
        for path in table.parts:
            with pq.ParquetFile(path) as file:
                self._parts.append(_Part(path, file.metadata, file.schema_arrow))
        self._group_of = [
            (number, group) for number, part in enumerate(self._parts) for group in range(part.metadata.num_row_groups)
        ]
        rows = [self._parts[part].metadata.row_group(group).num_rows for part, group in self._group_of]
        self._rows = np.array(rows, np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._rows)[:-1]]).astype(np.int64) if rows else self._rows

    @cached_property
    def schema(self) -> "pa.Schema":
        """The columns of all parts, each of a type that holds the values of every part.

        Raises `UserError` if two parts hold a column in types without a common one.
        """
        import pyarrow as pa

        schemas = [part.schema.remove_metadata() for part in self._parts]
        if all(schema.equals(schemas[0]) for schema in schemas[1:]):
            return schemas[0] if schemas else pa.schema([])
        try:
            return pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as mismatch:
            raise UserError(
                f"the parts of {self.table.view} have conflicting types ({mismatch}): run `velo build --whole` to rebuild them"
            ) from None

    @cached_property
    def in_nanoseconds(self) -> bool:
        """Whether event times are in nanoseconds; otherwise they are in µs or coarser."""
        import pyarrow as pa

        if self.table.event not in self.schema.names:
            return False
        kind = self.schema.field(self.table.event).type
        return bool(pa.types.is_timestamp(kind) and kind.unit == "ns")

    def first(self, part: Slice) -> int:
        """Return the number of the first row of a slice. Numbers are consecutive if its row groups are."""
        return int(self._first[part.groups[0]])

    def slices(self, most_rows: int, wanted: Whole | None = None) -> Iterator[Slice]:
        """Yield all row groups, or those of the `wanted` rows, in slices of at most `most_rows` rows or one row group."""
        groups: list[int] = []
        rows = 0
        for group in (
            range(len(self._rows)) if wanted is None else np.flatnonzero(np.bincount(self.groups_of(wanted))).tolist()
        ):
            more = int(self._rows[group])
            if groups and rows + more > most_rows:
                yield Slice(groups, rows)
                groups, rows = [], 0
            groups.append(group)
            rows += more
        if groups:
            yield Slice(groups, rows)

    def groups_of(self, rows: Whole) -> Whole:
        """Return the row group of each row number."""
        return np.searchsorted(self._first, rows, side="right").astype(np.int64) - 1

    def places(self, part: Slice, rows: Whole) -> Whole:
        """Return the positions within a slice of these row numbers."""
        groups = np.array(part.groups)
        if groups[-1] - groups[0] + 1 == len(groups):
            return np.asarray(rows - self._first[groups[0]])
        before = np.concatenate([[0], np.cumsum(self._rows[groups])[:-1]]).astype(np.int64)
        at = np.searchsorted(self._first[groups], rows, side="right") - 1
        return np.asarray(rows + (before - self._first[groups])[at])

    def read(self, part: Slice, columns: Sequence[str], *, as_dictionaries: bool = False) -> "pa.Table":
        """Read columns of a slice, null where a part lacks them. `as_dictionaries` reads text dictionary-encoded."""
        import pyarrow as pa

        texts = [column for column in columns if as_dictionaries and pa.types.is_string(self.schema.field(column).type)]
        by_part: dict[int, list[int]] = {}
        for group in part.groups:
            of, number = self._group_of[group]
            by_part.setdefault(of, []).append(number)
        tables = [self._parts[of].read(numbers, columns, texts) for of, numbers in by_part.items()]
        if len(tables) == 1 and len(tables[0].column_names) == len(columns):
            return tables[0]
        chunks = {column: [chunk for table in tables for chunk in self._chunks(table, column)] for column in columns}
        return pa.table({column: self._chunked(column, arrays) for column, arrays in chunks.items()})

    def _chunks(self, table: "pa.Table", column: str) -> "list[pa.Array]":
        import pyarrow as pa

        if column not in table.column_names:
            return [pa.nulls(table.num_rows, self.schema.field(column).type)]
        return list(table.column(column).chunks)

    def _chunked(self, column: str, chunks: "list[pa.Array]") -> "pa.ChunkedArray":
        import pyarrow as pa

        kind = self.schema.field(column).type
        if len({chunk.type for chunk in chunks}) > 1:
            chunks = [chunk.cast(kind) for chunk in chunks]
        return pa.chunked_array(chunks, type=None if chunks else kind)
