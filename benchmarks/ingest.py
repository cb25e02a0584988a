"""`velo bench ingest`: rows a second of an inspection, of a reading by a mapping, and of a load into an empty log."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.importers import registry
from velo.streams.importers.importer import ResultsImporter
from velo.streams.importers.ingest import ingest
from velo.streams.importers.inspect_file import inspect

MAPPING: Final = "hkjc"
FIELD: Final = 12
HEADER: Final = (
    "date,venue,race_no,race_class,distance_m,rating_range,going,course,place,horse_no,horse_name,jockey,trainer,"
    "actual_wt_lbs,declared_wt_lbs,draw,lbw,running_position,finish_time,win_odds\n"
)


@dataclass(frozen=True, slots=True)
class IngestTiming:
    """One step over a file of `rows`: seconds of the clock and of the processor, and rows a second of each."""

    step: str
    rows: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> tuple[int, int]:
        """Rows a second, by the clock and by the processor."""
        return round(self.rows / self.seconds), round(self.rows / self.cpu_seconds)


def measure(rows: int, now: datetime) -> list[IngestTiming]:
    """Write a made-up CSV of about `rows` runners, 12 a race, and time each step on it."""
    timings: list[IngestTiming] = []
    with TemporaryDirectory(prefix="velo-bench-") as scratch:
        path = Path(scratch) / "results.csv"
        count = _write(path, rows)
        store = Store.open(Settings(home=Path(scratch) / "home"))
        importer = registry.importer(MAPPING)
        assert isinstance(importer, ResultsImporter)

        def timed(step: str, action: Callable[[], object]) -> None:
            begun, cpu = time.perf_counter(), time.process_time()
            action()
            timings.append(IngestTiming(step, count, time.perf_counter() - begun, time.process_time() - cpu))

        timed("inspect", lambda: inspect([path], store))
        timed("read and check", lambda: importer.read([path], store))
        timed("ingest", lambda: ingest(store, importer.read([path], store), clock=lambda: now))
    return timings


def _write(path: Path, rows: int) -> int:
    chance, day = random.Random(1), date(2000, 1, 1)
    with path.open("w", encoding="utf-8") as file:
        file.write(HEADER)
        for race in range(rows // FIELD):
            when, first = day + timedelta(days=race // 10), FIELD * chance.randrange(400)
            of_race = f'{when},ST,{race % 10 + 1},Class {race % 5 + 1},{1000 + 200 * (race % 6)},60-40,GOOD,"TURF - ""A"" Course"'
            for place in range(1, FIELD + 1):
                horse = first + place
                file.write(
                    f"{of_race},{place},{place},Horse {horse} ({chr(65 + horse // 1000)}{horse % 1000:03}),Jockey {horse % 50},"
                    f"Trainer {horse % 40},{115 + horse % 20},{1000 + horse % 200},{place},{place - 1}-1/4,1 1 {place},"
                    f"1:{10 + place}.{horse % 100:02},{2 + horse % 60 / 10}\n"
                )
    return rows // FIELD * FIELD
