"""Point-in-time joins over the changelogs of feature views, in numpy and Arrow. Knows nothing of Feast.

A view's row holds from its event time until the next row of the same key, so the value at an instant is that of the
latest row at or before it. View by view: keys become small numbers, the history's keys and instants alone are read and
put in order, each entity row finds its row by bisection, and only then are the columns asked for read, of the row
groups that hold a row found. Both readings go slice by slice, so that memory follows the entity rows and not the
history.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

from feature_repo.stores.asof_search import NEVER, NONE, Ordered
from feature_repo.stores.changelog_reader import ChangelogReader, Slice
from feature_repo.stores.key_encoding import EncodedColumn, EncodedKeys, Whole, plain
from feature_repo.stores.take import TakeIndices
from velo.errors import UserError
from velo.racing.clock import MICROSECOND

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.stores.changelog import Table

ROWS_AT_ONCE: Final = 1 << 21
"""Rows of a history searched at a time: their keys, instants and order take some 150 MB."""
VALUES_AT_ONCE: Final = 1 << 25
"""Values of a history decoded at a time, 250 MB; a row group is the least, however many it holds."""
_FURTHEST_US: Final = np.iinfo(np.int64).max // 1000
_LONGEST: Final = np.iinfo(np.int64).max // 2
BLOCK: Final = 1 << 15
"""Entity rows looked up at a time: what is made on the way stays in the processor's cache."""


def point_in_time(
    entities: "pa.Table",
    at: str,
    tables: "Sequence[Table]",
    threads: int | None = None,
    *,
    rows_at_once: int = ROWS_AT_ONCE,
    values_at_once: int = VALUES_AT_ONCE,
) -> "pa.Table":
    """The entity rows, in their order, with the columns of every table as of each row's instant.

    `at` names the instants' column. Instants count in µs. A row is never dropped or repeated: an unknown key, a null
    key and a null instant all give nulls. Of a table's rows of one key and instant the one created last holds, where
    that is null or the same for both the one read last. Raises `UserError` for a column missing on either side, or a
    key of another type than the table's.
    """
    import pyarrow as pa

    histories = [ChangelogReader(table) for table in tables]
    for history in histories:
        _check(history, entities)
    instants = micros(entities.column(at))
    asked = list(dict.fromkeys(column for table in tables for _, column in table.keys))
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        named = dict(zip(asked, pool.map(lambda column: EncodedColumn.of(entities.column(column)), asked), strict=True))

        def joined(history: ChangelogReader) -> "list[pa.ChunkedArray | pa.Array]":
            keys = EncodedKeys.of([named[column] for _, column in history.table.keys])
            return _fetch(history, _find(history, keys, instants, rows_at_once), values_at_once)

        columns = [column for view in pool.map(joined, histories) for column in view]
    names = [column.name for table in tables for column in table.columns]
    return pa.Table.from_arrays([*entities.columns, *columns], names=[*entities.column_names, *names])


def micros(column: "pa.ChunkedArray") -> Whole:
    """Instants as µs since 1970, those without a zone in UTC; `NEVER` for null."""
    import pyarrow as pa

    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    numbers = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    return np.asarray((numbers.fill_null(NEVER) if numbers.null_count else numbers).to_numpy())


def nanos(column: "pa.ChunkedArray") -> Whole:
    """As `micros`, in nanoseconds: a row between two microseconds must not hold from the earlier one."""
    import pyarrow as pa

    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    numbers = column.cast(pa.timestamp("ns", zone)).cast(pa.int64())
    return np.asarray((numbers.fill_null(NEVER) if numbers.null_count else numbers).to_numpy())


def _find(history: ChangelogReader, keys: EncodedKeys, instants: Whole, rows_at_once: int) -> Whole:
    """The number of the row that holds for each entity row, or -1."""
    found, since, made = (np.full(len(instants), none) for none in (NONE, NEVER, NEVER))
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
                better &= (event > since[block]) | (created[row] >= made[block])
                made[block][better] = created[row][better]
            found[block] = np.where(better, row + history.first(part), found[block])
            since[block] = np.where(better, event, since[block])
    ttl = history.table.ttl
    if not ttl:
        return found
    life = ttl // MICROSECOND * (1000 if history.in_nanoseconds else 1)
    # no row is as old as half of all that 64 bits can count
    return np.where(since >= instants - min(life, _LONGEST), found, NONE)


def _ordered(history: ChangelogReader, part: Slice, keys: EncodedKeys) -> "tuple[Ordered, Callable[[], Whole]]":
    """A slice's rows in order, and when each was created, read when asked for."""
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
    """The columns asked for, of the rows of these numbers; null for -1."""
    import pyarrow as pa

    asked = history.table.columns
    sources = list(dict.fromkeys(column.source for column in asked))
    there = rows != NONE
    wanted = rows[there]
    slices = list(history.slices(values_at_once // max(len(sources), 1), wanted))
    if not slices:
        kinds = {field.name: field.type for field in history.schema}
        return [pa.nulls(len(rows), kinds.get(column.source, column.kind)) for column in asked]
    place = np.zeros(len(rows), np.int64)
    if len(slices) == 1:
        held, place[there] = history.read(slices[0], sources), history.places(slices[0], wanted)
    else:
        order = np.argsort(wanted, kind="stable")
        held, place[np.flatnonzero(there)[order]] = (
            _gathered(history, slices, sources, wanted[order]),
            np.arange(len(wanted)),
        )
    places = TakeIndices(place, there)
    return [places.of(held.column(column.source)) for column in asked]


def _gathered(history: ChangelogReader, slices: Sequence[Slice], sources: Sequence[str], wanted: Whole) -> "pa.Table":
    """The rows of these numbers, which ascend, out of several slices."""
    import pyarrow as pa

    groups, begin, gathered = history.groups_of(wanted), 0, []
    for part in slices:
        end = int(np.searchsorted(groups, part.groups[-1], side="right"))
        places = TakeIndices(history.places(part, wanted[begin:end]))
        read = history.read(part, sources)
        gathered.append(pa.table({source: places.of(read.column(source)) for source in sources}))
        begin = end
    return pa.concat_tables(gathered)


def _check(history: ChangelogReader, entities: "pa.Table") -> None:
    """Raise `UserError` for what the entity rows or the table lack, or hold as another type."""
    import pyarrow as pa

    table, schema = history.table, history.schema
    for _, column in table.keys:
        if column not in entities.column_names:
            raise UserError(
                f"the entity rows have no column {column!r}, which {table.view} is keyed by: add it, null where unknown"
            )
    if not table.parts:
        return
    needed = [*(key for key, _ in table.keys), table.event, *((table.created,) if table.created else ())]
    missing = [column for column in (*needed, *(one.source for one in table.columns)) if column not in schema.names]
    if missing:
        raise UserError(
            f"{table.view} has no column {missing[0]!r} in its feature table: run `velo build` to make it anew"
        )
    for key, column in table.keys:
        given, held = (plain(each.field(name).type) for each, name in ((entities.schema, column), (schema, key)))
        if given != held and entities.column(column).null_count < entities.num_rows:
            raise UserError(f"{column} is {given} in the entity rows and {held} in {table.view}: cast it, ids are text")
    for time in (table.event, *((table.created,) if table.created else ())):
        kind = schema.field(time).type
        if not pa.types.is_timestamp(kind) and not pa.types.is_date(kind):
            raise UserError(f"{time} of {table.view} is {kind}, no instant: store it as a timestamp")
