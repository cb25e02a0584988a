"""The sinks' one registry and interface: another sink is a class and a line, and Bytewax's recovery covers it."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

import pytest
from bytewax.outputs import StatefulSinkPartition

from tests.support.builders import a_race, a_runner, write_runner_table
from tests.support.logs import a_store, fixed
from tests.support.streaming import NOW, all_rows, streamed
from velo.storage.store import Store
from velo.streams.dataflow import sinks
from velo.streams.dataflow.checkpoint_writer import CheckpointWriter
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.operators import Reads, RowBatch, StreamSink
from velo.streams.dataflow.plan import StreamOptions, plan
from velo.streams.dataflow.sinks import SINKS, SinkContext
from velo.streams.importers.ingest import ingest
from velo.streams.importers.sources.runners import read_runner_tables


@dataclass(frozen=True)
class Counting(StreamSink[RowBatch, int], StatefulSinkPartition[RowBatch, int]):
    """Counts the rows of one view."""

    step: ClassVar[str] = "counting"
    reads: ClassVar[Reads] = "rows"
    counted: list[int]
    view: str = "trainer_velocity"

    def list_parts(self) -> list[str]:
        return [self.view, "others"]

    def part_fn(self, item_key: str) -> int:
        return sorted(self.list_parts()).index(self.view if item_key == self.view else "others")

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Any:
        return self if for_part == self.view else Counting([])

    def write_batch(self, values: list[RowBatch]) -> None:
        self.counted.extend(len(block.rows) for block in values)

    def snapshot(self) -> int:
        return sum(self.counted)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = a_store(tmp_path / "home")
    rows = [
        row
        for number, trainer in enumerate(["Dreaper", "Walwyn", "Dreaper"])
        for row in a_race(
            a_runner("Arkle", 1, trainer=trainer, trainer_id=trainer),
            a_runner("Mill House", 2, trainer="Winter", trainer_id="Winter"),
            race_id=f"R{number}",
            race_date=f"2024-05-0{number + 1}",
            off_time=f"2024-05-0{number + 1} 14:00",
            known_at=f"2024-05-0{number + 1} 14:15",
        )
    ]
    table = write_runner_table(tmp_path / "races.parquet", rows)
    ingest(made, read_runner_tables([table], made), clock=fixed(NOW))
    return made


def test_another_sink_reads_every_row_by_a_line_in_the_registry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three races with two trainers each: six rows, as many as the tables have; the other sinks go on as before."""
    counting = Counting([])
    monkeypatch.setattr(sinks, "SINKS", (*SINKS, lambda _: counting))
    streamed(store)
    assert sum(counting.counted) == len(all_rows(store)["trainer_velocity"]) == 6


def test_every_sink_says_its_step_and_what_it_reads(store: Store) -> None:
    """The step ids key the recovery data of every store: they never change."""

    def connected(**options: bool) -> list[tuple[str, str]]:
        made = StreamOptions(once=True, snapshot_every=timedelta(0), **options)
        context = SinkContext(plan(store), made, fixed(NOW), Event(), Telemetry(), CheckpointWriter(beside=False))
        return [(sink.step, sink.reads) for sink in sinks.sinks_of(context)]

    letters = ("dead-letters", "letters")
    assert connected() == [("cards", "records"), letters, ("offline", "rows"), ("online", "rows")]
    assert connected(online=False) == [letters, ("offline", "rows")]
    assert connected(online=False, offline=False) == [letters]
