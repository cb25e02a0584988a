"""The offline sink: each view's rows as Parquet parts of the current generation, sealed at each snapshot.

A sealed part is never removed or changed. After a restart the same messages make the same rows, so rows that are in sealed
parts are skipped, and a reader never sees a row disappear. A snapshot only queues its rows for sealing (`checkpoint_writer`);
by then the rows of the snapshot before it are sealed.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from bytewax.outputs import StatefulSinkPartition

from velo.errors import UserError
from velo.feature_repo.catalogue.families import BY_VIEW, Family
from velo.racing.clock import to_us
from velo.storage import table_versions
from velo.storage.atomic_files import make_folder, sync_folder
from velo.storage.store import Home
from velo.streams.aggregation.vectorized import Rows, VectorizedColumns
from velo.streams.dataflow.arrow_rows import batch_of, schema_of
from velo.streams.dataflow.checkpoint_writer import CheckpointWriter
from velo.streams.dataflow.log_source import Clock
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.operators import Reads, RowBatch, StreamSink
from velo.streams.dataflow.plan import TableVersion

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_HELD: Final = 20_000
"""Rows buffered before they are written to the open part."""


@dataclass(frozen=True, slots=True)
class ParquetSink(StreamSink[RowBatch, int]):
    """One partition for each view."""

    step: ClassVar[str] = "offline"
    reads: ClassVar[Reads] = "rows"

    home: Home
    views: Sequence[str]
    formulas: TableVersion
    clock: Clock
    telemetry: Telemetry
    sealing: CheckpointWriter

    def list_parts(self) -> list[str]:
        """Return every view."""
        return list(self.views)

    def part_fn(self, item_key: str) -> int:
        """Return the index of a view among the sorted views."""
        return sorted(self.views).index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "ParquetPartition":
        """Return a partition; it resumes after the newest sealed row, which the parts themselves show."""
        return ParquetPartition(self, BY_VIEW[for_part])


@dataclass(frozen=True, slots=True)
class PartSpan:
    """The first and last message whose rows a part has, and the instants of its oldest and newest row in µs."""

    first_seq: int
    last_seq: int
    oldest_us: int
    newest_us: int


@dataclass(slots=True)
class ParquetPartition(StatefulSinkPartition[RowBatch, int]):
    """The writer of one view. Only the queued writes, in the checkpoint writer's thread, change `_writer` and `_sealed_us`."""

    sink: ParquetSink
    family: Family
    _rows: list[Rows] = field(default_factory=list)
    _buffered: int = 0
    _span: PartSpan | None = None
    _last_seq: int = -1
    _writer: "pq.ParquetWriter | None" = None
    _sealed_us: int = field(init=False)
    _schema: "pa.Schema" = field(init=False)
    _arrays: VectorizedColumns = field(init=False)

    def __post_init__(self) -> None:
        self._schema = schema_of(self.family)
        self._arrays = VectorizedColumns(self.family)
        generation = table_versions.current(self.sink.home)
        assert generation is not None, "the stream begins with tables, empty ones at least"
        self._sealed_us = sealed_until_us(generation, self.family.view)

    def write_batch(self, values: list[RowBatch]) -> None:
        """Buffer rows; they are readable after the next snapshot."""
        for block in values:
            rows = block.rows
            # rows come in order of time, so those up to the newest sealed one were made again after a restart
            if rows.event_us[0] <= self._sealed_us:
                unsealed = rows.take(rows.event_us > self._sealed_us)
                self.sink.telemetry.repeated.labels(self.family.view).inc(len(rows) - len(unsealed))
                rows = unsealed
                if not len(rows):
                    continue
            span = PartSpan(block.first_seq, block.last_seq, int(rows.event_us[0]), int(rows.event_us[-1]))
            self._span = span if self._span is None else _merged(self._span, span)
            self._rows.append(rows)
            self._buffered += len(rows)
        if self._buffered >= ROWS_HELD:
            self._queue_write(None)

    def snapshot(self) -> int:
        """Queue the buffered rows for sealing; returns the seq of the last message that made a row."""
        if self._span is not None:
            self._last_seq = max(self._last_seq, self._span.last_seq)
            self._queue_write(self._span)
            self._span = None
        return self._last_seq

    def _queue_write(self, span: PartSpan | None) -> None:
        """Queue the buffered rows to be written to the open part; with a `span` the part is then sealed."""
        rows, count, self._rows, self._buffered = self._rows, self._buffered, [], 0
        self.sink.sealing.do(partial(self._write, rows, span), count)

    def _write(self, rows: list[Rows], span: PartSpan | None) -> None:
        begun = time.perf_counter()
        with errors_if_full(self.sink.home):
            self._append(rows)
            if span is not None:
                self._seal(span)
        if span is not None:
            self.sink.telemetry.sealed.observe(time.perf_counter() - begun)

    @property
    def _aside(self) -> Path:
        return self.sink.home.generations / f".stream-{self.family.view}.parquet"

    def _append(self, rows: list[Rows]) -> None:
        """Write rows to the open part, created where there is none."""
        import pyarrow.parquet as pq

        if self._writer is None:
            # statistics and dictionaries of the other columns would take half of the writing time; no query filters by them,
            # and the next build writes the rows again
            keys = list(self.family.keys)
            # a new file: an earlier stream that failed in this process may still close its writer on the old one
            self._aside.unlink(missing_ok=True)
            self._writer = pq.ParquetWriter(
                self._aside,
                self._schema,
                compression="lz4",
                use_dictionary=keys,
                write_statistics=[*keys, "event_timestamp"],
            )
        if rows:
            batch = batch_of(Rows.joined(rows), self._arrays, self._schema, to_us(self.sink.clock()))
            self._writer.write_batch(batch)
            self.sink.telemetry.rows.labels("offline", self.family.view).inc(batch.num_rows)

    def _seal(self, span: PartSpan) -> None:
        """Close the open part and move it into the current generation, without rows that a build has written meanwhile."""
        home, view = self.sink.home, self.family.view
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            with self._aside.open("rb") as written:
                os.fsync(written.fileno())
        with table_versions.changing_parts(home):
            generation = table_versions.current(home)
            assert generation is not None
            manifest = table_versions.manifest_of(generation)
            self.sink.formulas.refuse_others(manifest)
            folder = make_folder(generation / view)
            first, part = span.first_seq, self._aside
            if span.oldest_us <= to_us(manifest.known_at):
                first = max(first, manifest.next_seq)
                part = self._aside.with_name(f".stream-{view}.later.parquet")
                if not table_versions.rows_after(self._aside, manifest.known_at, part):
                    first = -1
            if first >= 0:
                part.replace(folder / table_versions.stream_part_name(first, span.last_seq))
                sync_folder(folder)
            self._sealed_us = max(self._sealed_us, to_us(manifest.known_at), span.newest_us)


def _merged(span: PartSpan, other: PartSpan) -> PartSpan:
    return PartSpan(
        min(span.first_seq, other.first_seq),
        max(span.last_seq, other.last_seq),
        min(span.oldest_us, other.oldest_us),
        max(span.newest_us, other.newest_us),
    )


@contextmanager
def errors_if_full(home: Home) -> Iterator[None]:
    """Turn a failed write into a `UserError`: the stream ends; when restarted it resumes from its last snapshot."""
    try:
        yield
    except OSError as failed:
        raise UserError(
            f"cannot write to {home.generations} ({failed.strerror or failed}): make room, then start the stream again; "
            "it resumes from its last snapshot"
        ) from failed


def sealed_until_us(generation: Path, view: str) -> int:
    """Return the instant (µs) up to which a generation has all rows of a view: of its batch, and of its newest stream part."""
    import pyarrow.parquet as pq

    latest = to_us(table_versions.manifest_of(generation).known_at)
    for part in table_versions.stream_parts(generation, view)[-1:]:
        metadata = pq.read_metadata(part.path)
        at = metadata.schema.names.index("event_timestamp")
        # the raw statistic is in µs; as a timestamp it would import pandas
        groups = (metadata.row_group(number).column(at).statistics.max_raw for number in range(metadata.num_row_groups))
        latest = max(latest, *groups)
    return latest
