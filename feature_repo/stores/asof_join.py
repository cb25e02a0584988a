"""Point-in-time joins over the changelogs of feature views, in numpy and Arrow. Knows nothing of Feast.

A row holds from its event time until the next row of the same key, so the value at an instant is that of the latest row
at or before it. For each view: encode the keys as small integers, read and sort the keys and instants of the history,
find the row of each entity row by bisection, then read the requested columns of the row groups that hold those rows.
Both passes read slice by slice, so memory grows with the entity rows and not with the history.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError
from velo.feature_repo.stores.asof_search import NEVER, NONE, Ordered
from velo.feature_repo.stores.changelog_reader import ChangelogReader, Slice
from velo.feature_repo.stores.key_encoding import EncodedColumn, EncodedKeys, Whole, plain
from velo.racing.clock import MICROSECOND

if TYPE_CHECKING:
    import pyarrow as pa

    from velo.feature_repo.stores.changelog import Table

ROWS_AT_ONCE: Final = 1 << 21
"""Rows of a history searched at a time: their keys, instants and order take about 150 MB."""
VALUES_AT_ONCE: Final = 1 << 25
"""Values of a history decoded at a time (250 MB). One row group is always decoded whole, even if it holds more."""
_FURTHEST_US: Final = np.iinfo(np.int64).max // 1000
_LONGEST: Final = np.iinfo(np.int64).max // 2
BLOCK: Final = 1 << 15
"""Entity rows looked up at a time: the temporary arrays fit in the processor's cache."""


def point_in_time(
    entities: "pa.Table",
    at: str,
    tables: "Sequence[Table]",
    threads: int | None = None,
    *,
    rows_at_once: int = ROWS_AT_ONCE,
    values_at_once: int = VALUES_AT_ONCE,
) -> "pa.Table":
    """Join the columns of every table to the entity rows, as of each row's instant.

    Returns one row per entity row, in the same order: an unknown key, a null key or a null instant gives nulls. `at` is
    the column of the instants, which are compared in µs. If a table has several rows of one key and instant, the one
    created last holds; if those times are null or equal, the one read last. Raises `UserError` for a column missing on
    either side, or a key whose type differs from the table's.
    """
    import pyarrow as pa

    histories = [ChangelogReader(table) for table in tables]
    for history in histories:
        _check(history, entities)
    instants = micros(entities.column(at))
    key_columns = list(dict.fromkeys(column for table in tables for _, column in table.keys))
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        encodings = pool.map(lambda column: EncodedColumn.of(entities.column(column)), key_columns)
        encoded = dict(zip(key_columns, encodings, strict=True))

        def joined(history: ChangelogReader) -> "list[pa.ChunkedArray | pa.Array]":
            keys = EncodedKeys.of([encoded[column] for _, column in history.table.keys])
            return _fetch(history, _find(history, keys, instants, rows_at_once), values_at_once)

        columns = [column for view in pool.map(joined, histories) for column in view]
    names = [column.name for table in tables for column in table.columns]
    return pa.Table.from_arrays([*entities.columns, *columns], names=[*entities.column_names, *names])


def micros(column: "pa.ChunkedArray") -> Whole:
    """Return instants as µs since 1970; without a time zone they are UTC. Null becomes `NEVER`."""
    import pyarrow as pa

    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    numbers = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    return np.asarray((numbers.fill_null(NEVER) if numbers.null_count else numbers).to_numpy())


def nanos(column: "pa.ChunkedArray") -> Whole:
    """Return instants as ns since 1970, as `micros` does: a row must not hold from the microsecond before it."""
    import pyarrow as pa

    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    numbers = column.cast(pa.timestamp("ns", zone)).cast(pa.int64())
    return np.asarray((numbers.fill_null(NEVER) if numbers.null_count else numbers).to_numpy())


def _find(history: ChangelogReader, keys: EncodedKeys, instants: Whole, rows_at_once: int) -> Whole:
    """Return the number of the row that holds for each entity row, or -1."""
    rows, since, created_at = (np.full(len(instants), none) for none in (NONE, NEVER, NEVER))
    if history.in_nanoseconds:
        instants = np.where(instants == NEVER, NEVER, np.clip(instants, -_FURTHEST_US, _FURTHEST_US) * 1000)
    slices = list(history.slices(rows_at_once))
    for part in slices:
        ordered, created_of = _ordered(history, part, keys)
        if not len(ordered.row):
            continue
        created = created_of() if len(slices) > 1 else None
        for begin in range(0, len(instants), BLOCK):
            block = slice(begin, begin + BLOCK)
            place = ordered.latest(keys.numbers[block], instants[block])
            row, event = ordered.row[place], ordered.event[place]
            better = (place != NONE) & (event >= since[block])
            if created is not None:
                better &= (event > since[block]) | (created[row] >= created_at[block])
                created_at[block][better] = created[row][better]
            rows[block] = np.where(better, row + history.first(part), rows[block])
            since[block] = np.where(better, event, since[block])
    ttl = history.table.ttl
    if not ttl:
        return rows
    life = ttl // MICROSECOND * (1000 if history.in_nanoseconds else 1)
    # _LONGEST keeps the subtraction within 64 bits: no row is that old
    return np.where(since >= instants - min(life, _LONGEST), rows, NONE)


def _ordered(history: ChangelogReader, part: Slice, keys: EncodedKeys) -> "tuple[Ordered, Callable[[], Whole]]":
    """Return the sorted rows of a slice, and a function that reads when each was created."""
    table = history.table
    names = [column for column, _ in table.keys]
    read = history.read(part, [*names, table.event], as_dictionaries=True)

    def created() -> Whole:
        if table.created is None:
            return np.full(part.rows, NEVER)
        return micros(history.read(part, [table.created]).column(table.created))

    numbers = keys.numbers_of([read.column(column) for column in names])
    event = (nanos if history.in_nanoseconds else micros)(read.column(table.event))
    return Ordered.of(numbers, event, keys.size, created), created


def _fetch(history: ChangelogReader, rows: Whole, values_at_once: int) -> "list[pa.ChunkedArray | pa.Array]":
    """Return the requested columns of the rows with these numbers; null for -1."""
    import pyarrow as pa

    columns = history.table.columns
    sources = list(dict.fromkeys(column.source for column in columns))
    found = rows != NONE
    wanted = rows[found]
    slices = list(history.slices(values_at_once // max(len(sources), 1), wanted))
    if not slices:
        kinds = {field.name: field.type for field in history.schema}
        return [pa.nulls(len(rows), kinds.get(column.source, column.kind)) for column in columns]
    place = np.zeros(len(rows), np.int64)
    if len(slices) == 1:
        values, place[found] = history.read(slices[0], sources), history.places(slices[0], wanted)
    else:
        order = np.argsort(wanted, kind="stable")
        values, place[np.flatnonzero(found)[order]] = (
            _read_rows(history, slices, sources, wanted[order]),
            np.arange(len(wanted)),
        )
    indices = TakeIndices(place, found)
    return [indices.of(values.column(column.source)) for column in columns]


def _read_rows(history: ChangelogReader, slices: Sequence[Slice], sources: Sequence[str], wanted: Whole) -> "pa.Table":
    """Return the rows with these numbers, which ascend, from several slices."""
    import pyarrow as pa

    groups, begin, tables = history.groups_of(wanted), 0, []
    for part in slices:
        end = int(np.searchsorted(groups, part.groups[-1], side="right"))
        indices = TakeIndices(history.places(part, wanted[begin:end]))
        values = history.read(part, sources)
        tables.append(pa.table({source: indices.of(values.column(source)) for source in sources}))
        begin = end
    return pa.concat_tables(tables)


def _check(history: ChangelogReader, entities: "pa.Table") -> None:
    """Raise `UserError` if the entity rows or the table lack a column, or hold it as another type."""
    import pyarrow as pa

    table, schema = history.table, history.schema
    for _, column in table.keys:
        if column not in entities.column_names:
            raise UserError(
                f"the entity rows have no column {column!r}, a key of {table.view}: add it, null where unknown"
            )
    if not table.parts:
        return
    needed = [*(key for key, _ in table.keys), table.event, *((table.created,) if table.created else ())]
    missing = [
        column for column in (*needed, *(feature.source for feature in table.columns)) if column not in schema.names
    ]
    if missing:
        raise UserError(
            f"{table.view} has no column {missing[0]!r} in its feature table: run `velo build` to rebuild it"
        )
    for key, column in table.keys:
        entity_type, table_type = (
            plain(fields.field(name).type) for fields, name in ((entities.schema, column), (schema, key))
        )
        if entity_type != table_type and entities.column(column).null_count < entities.num_rows:
            raise UserError(
                f"{column} is {entity_type} in the entity rows and {table_type} in {table.view}: cast it (ids are text)"
            )
    for time in (table.event, *((table.created,) if table.created else ())):
        kind = schema.field(time).type
        if not pa.types.is_timestamp(kind) and not pa.types.is_date(kind):
            raise UserError(f"{time} of {table.view} is {kind}, not an instant: store it as a timestamp")


class TakeIndices:
    """Takes values of Arrow columns by position, one per output row. A row whose `present` is false is null.

    Arrow's own `take` tests two validity bits per value. This takes the values as if none were null and builds the validity
    bits apart, if there are any nulls: two to three times as fast.
    """

    def __init__(self, positions: Whole, present: NDArray[np.bool_] | None = None) -> None:
        import pyarrow as pa

        self._positions = positions
        self._index = pa.array(positions)
        self._present = None if present is None or present.all() else present
        self._bits = None if self._present is None else _packed(self._present)

    def of(self, column: "pa.ChunkedArray") -> "pa.Array":
        """Return the column's values at these positions."""
        import pyarrow as pa
        import pyarrow.compute as pc

        whole = column.combine_chunks()
        if isinstance(whole, pa.ChunkedArray) or not _is_plain(whole) or not len(whole):
            return column.take(self._index if self._present is None else pa.array(self._positions, mask=~self._present))
        validity, values = whole.buffers()
        # the system's allocator: at a million rows Arrow's own took as long as the rest of the join
        bare = pc.take(
            pa.Array.from_buffers(whole.type, len(whole), [None, values]),
            self._index,
            memory_pool=pa.system_memory_pool(),
        )
        bits = self._bits
        if whole.null_count:
            held = np.unpackbits(np.frombuffer(validity, np.uint8), count=len(whole), bitorder="little")
            valid = held.take(self._positions)
            bits = _packed(valid if self._present is None else valid & self._present)
        return pa.Array.from_buffers(whole.type, len(bare), [bits, bare.buffers()[1]])


def _is_plain(values: "pa.Array") -> bool:
    """Whether values are fixed-width whole bytes that start at the beginning of the buffer."""
    import pyarrow as pa

    kind = values.type
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
    return bool(numbers and kind.bit_width >= 8 and values.offset == 0)


def _packed(bits: NDArray[np.bool_] | NDArray[np.uint8]) -> "pa.Buffer":
    import pyarrow as pa

    return pa.py_buffer(np.packbits(bits, bitorder="little"))
