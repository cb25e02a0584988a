"""The offline sink: each view's rows as Parquet parts of the current generation, sealed with each snapshot.

What is sealed is sealed: after a restart the same messages make the same rows, so those that are on the disk already
are left out instead of removed and written again, and a reader never sees a row go. A snapshot hands its rows over to
be sealed (`sealing`); those of the one before are.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from feature_repo.catalogue.families import BY_VIEW, Family
from streams.aggregation.vectorized import VectorizedColumns
from streams.aggregation.window_state import PackedRow
from streams.dataflow.arrow_rows import batch_of, schema_of
from streams.dataflow.checkpoint_writer import CheckpointWriter
from streams.dataflow.log_source import Clock
from streams.dataflow.metrics import Telemetry
from streams.dataflow.operators import RowBatch
from velo.errors import UserError
from velo.racing.clock import to_us
from velo.storage import table_versions
from velo.storage.atomic_files import make_folder, sync_folder
from velo.storage.store import Home

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_HELD: Final = 20_000
"""Rows kept as Python values before they are written to the part that is being made."""


@dataclass(frozen=True, slots=True)
class TableVersion:
    """Of which log and formulas the rows are: only tables of the same take them."""

    log_generation: int
    fingerprint: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ParquetSink(FixedPartitionedSink[RowBatch, int]):
    """One partition a view."""

    home: Home
    views: Sequence[str]
    formulas: TableVersion
    clock: Clock
    telemetry: Telemetry
    sealing: CheckpointWriter

    def list_parts(self) -> list[str]:
        """Every view; Bytewax shares them out over the workers."""
        return list(self.views)

    def part_fn(self, item_key: str) -> int:
        """A view's place among the sorted views."""
        return sorted(self.views).index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "ParquetPartition":
        """Where to go on is seen from the parts themselves."""
        return ParquetPartition(self, BY_VIEW[for_part])


@dataclass(frozen=True, slots=True)
class PartSpan:
    """Of which messages a part has the rows, and the instants of its oldest and newest row in µs."""

    first_seq: int
    last_seq: int
    oldest_us: int
    newest_us: int


@dataclass(slots=True)
class ParquetPartition(StatefulSinkPartition[RowBatch, int]):
    """The writer of one view. `_writer` and `_sealed_us` are changed by what is handed over alone."""

    sink: ParquetSink
    family: Family
    _rows: list[PackedRow] = field(default_factory=list)
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
        """Take rows; they are readable after the snapshot."""
        for block in values:
            rows = block.rows
            oldest = min([row[1] for row in rows])
            if oldest <= self._sealed_us:
                kept = [row for row in rows if row[1] > self._sealed_us]
                self.sink.telemetry.repeated.labels(self.family.view).inc(len(rows) - len(kept))
                rows = kept
                if not rows:
                    continue
                oldest = min([row[1] for row in rows])
            span = PartSpan(block.first_seq, block.last_seq, oldest, rows[-1][1])
            self._span = span if self._span is None else _both(self._span, span)
            self._rows += rows
        if len(self._rows) >= ROWS_HELD:
            self._hand_over(None)

    def snapshot(self) -> int:
        """Have sealed what was taken; the seq of the last message that made a row."""
        if self._span is not None:
            self._last_seq = max(self._last_seq, self._span.last_seq)
            self._hand_over(self._span)
            self._span = None
        return self._last_seq

    def _hand_over(self, span: PartSpan | None) -> None:
        """Have the rows held written to the part that is being made, which is sealed where its span is given."""
        rows, self._rows = self._rows, []
        self.sink.sealing.do(partial(self._write, rows, span), len(rows))

    def _write(self, rows: list[PackedRow], span: PartSpan | None) -> None:
        begun = time.perf_counter()
        with told_if_full(self.sink.home):
            self._spill(rows)
            if span is not None:
                self._seal(span)
        if span is not None:
            self.sink.telemetry.sealed.observe(time.perf_counter() - begun)

    @property
    def _aside(self) -> Path:
        return self.sink.home.generations / f".stream-{self.family.view}.parquet"

    def _spill(self, rows: list[PackedRow]) -> None:
        """Write rows to the part being made."""
        import pyarrow.parquet as pq

        if self._writer is None:
            # figures and dictionaries of the other columns would take half of the writing; nothing looks for rows by
            # them, and the next build writes the rows anew
            keys = list(self.family.keys)
            # a file of its own: a stream that failed in this process may close the writer that it left at any time
            self._aside.unlink(missing_ok=True)
            self._writer = pq.ParquetWriter(
                self._aside,
                self._schema,
                compression="lz4",
                use_dictionary=keys,
                write_statistics=[*keys, "event_timestamp"],
            )
        if rows:
            batch = batch_of(rows, self._arrays, self._schema, to_us(self.sink.clock()))
            self._writer.write_batch(batch)
            self.sink.telemetry.rows.labels("offline", self.family.view).inc(len(rows))

    def _seal(self, span: PartSpan) -> None:
        """Move the part in, without what a build has caught up with meanwhile."""
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
            refuse_others(self.sink.formulas, manifest)
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


def _both(one: PartSpan, other: PartSpan) -> PartSpan:
    return PartSpan(
        min(one.first_seq, other.first_seq),
        max(one.last_seq, other.last_seq),
        min(one.oldest_us, other.oldest_us),
        max(one.newest_us, other.newest_us),
    )


@contextmanager
def told_if_full(home: Home) -> Iterator[None]:
    """Turn a write that failed into a `UserError`: the stream ends, and goes on from its last snapshot when restarted."""
    try:
        yield
    except OSError as failed:
        raise UserError(
            f"cannot write to {home.generations} ({failed.strerror or failed}): make room, then start the stream again; "
            "it goes on where its last snapshot was"
        ) from failed


def refuse_others(formulas: TableVersion, manifest: table_versions.Manifest) -> None:
    """Raises `UserError` where the current tables are of another log or of other formulas than the stream's."""
    if (manifest.log_generation, manifest.epoch) != (formulas.log_generation, formulas.epoch):
        raise UserError(
            "the tables were built anew, of another log or by other formulas, while the stream ran: start it again"
        )


def sealed_until_us(generation: Path, view: str) -> int:
    """The instant (µs) up to which a generation has all of a view's rows that were ever sealed."""
    import pyarrow.parquet as pq

    latest = to_us(table_versions.manifest_of(generation).known_at)
    for part in table_versions.stream_parts(generation, view)[-1:]:
        metadata = pq.read_metadata(part.path)
        at = metadata.schema.names.index("event_timestamp")
        # as it lies in the file, in µs: asked for as an instant it would bring pandas in
        groups = (metadata.row_group(number).column(at).statistics.max_raw for number in range(metadata.num_row_groups))
        latest = max(latest, *groups)
    return latest
