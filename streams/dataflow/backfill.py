"""The online store brought to where the offline tables are: how a stream takes over from a build."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from velo.feature_repo.stores.changelog import engine, latest_sql, text
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_writer import RowWriter
from velo.storage import locks, table_versions
from velo.storage.atomic_files import make_folder
from velo.storage.store import Home
from velo.streams.dataflow.retry import go_on

MEMORY_LIMIT: Final = "1GB"
ROWS_AT_ONCE: Final = 20_000
FILL_LOCK: Final = "online-{view}.lock"
"""Beside the stream's own lock: one thread of one process at a time looks whether a view must be filled, and fills it."""


def fill_view(home: Home, layout: Layout, redis: RowWriter, epoch: int, go_on: Callable[[], None] = go_on) -> int:
    """Offer the newest row of every key of a view's current parts; returns how many keys there are.

    `go_on` is called between lots of rows.
    """
    generation = table_versions.current(home)
    parts = sorted((generation / layout.view).glob("*.parquet")) if generation else []
    if not parts:
        return 0
    columns = [column for column, _ in layout.columns]
    rows = 0
    with engine(MEMORY_LIMIT) as connection:
        newest = latest_sql(scan(parts), layout.keys, columns, "event_timestamp", None)
        found = connection.sql(newest.replace("$until", "'infinity'::TIMESTAMPTZ"))
        for batch in found.to_arrow_reader(ROWS_AT_ONCE):
            go_on()
            import pyarrow as pa

            redis.write_rows(layout, pa.Table.from_batches([batch]), epoch)
            rows += batch.num_rows
    return rows


def scan(parts: list[Path]) -> str:
    """SQL of the rows of some parts."""
    return f"read_parquet([{', '.join(text(str(part)) for part in parts)}], hive_partitioning = false)"


@contextmanager
def one_at_a_time(home: Home, view: str) -> Iterator[None]:
    """Hold the right to look whether a view must be filled, and to fill it."""
    with locks.holding(make_folder(home.stream) / FILL_LOCK.format(view=view), wait=True):
        yield
