"""The part of `velo bench` that grows one store: the same work at each size, so that growth shows in a row of figures."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

from benchmarks import joins, serve, stream
from benchmarks.charts import growth_chart
from benchmarks.interleaved import Timing, interleaved
from benchmarks.page import BenchPart
from benchmarks.parts_batch import LoadedStores
from benchmarks.stores import MeasuredCall, apart, copied, now, program, results_of, run_again, versions
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores import embedded_redis
from velo.settings import Settings
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build

DAYS: Final = 3
RACES_A_DAY: Final = 10
JOINED_ROWS: Final = 100_000
RACE_SIZE: Final = 20
READS: Final = 200


@dataclass(frozen=True, slots=True)
class Grown:
    """One store: seconds, but for `read_ms` (the median of `READS`); `day` is the median of `DAYS` builds of a race day."""

    starts: int
    whole: MeasuredCall
    day: float
    backlog: stream.Replayed
    live: float
    join: Timing
    read_ms: float


def growing(ground: LoadedStores) -> BenchPart | None:
    """Measure build, day build, stream, join and read on a store of each size, one after another; None without sizes."""
    if not ground.sizes.growth:
        return None
    grown = [_grown(ground, starts) for starts in ground.sizes.growth]
    return BenchPart(
        "growth",
        "As the store grows",
        f"All {len(FAMILIES)} views. A day is {RACES_A_DAY} races. The backlog is the whole log, taken by batch into both stores of a "
        "store without tables; live: a stream started on a built store, with an empty Redis. "
        f"The join is of {JOINED_ROWS:,} rows, the read of a race of {RACE_SIZE} runners beside the idle stream.",
        (
            "starts", "whole build s", "starts/s", "peak MB", "day build s", "backlog s", "backlog starts/s", "live s",
            "join s", "read ms",
        ),
        tuple(_row(of) for of in grown),
        versions("bytewax", "duckdb", "pyarrow", "redis-server"),
        charts={"growth": growth_chart("As the store grows", "starts", "seconds", _series(grown))},
    )  # fmt: skip


def _grown(ground: LoadedStores, wanted: int) -> Grown:
    store, starts = ground.loaded(wanted)
    home = copied(store, ground.scratch / f"backlog-{wanted}").home.root
    backlog = stream.replayed(home, starts, "both, by batch")
    rmtree(home)
    whole = apart("benchmarks.growth:built", home=str(store.home.root), whole=True)
    day = statistics.median(_day_build(store, number) for number in range(DAYS))
    joined = _join(ground, store)
    live, read_ms = _live(store)
    ground.drop(wanted)
    return Grown(starts, whole, day, backlog, live, joined, read_ms)


def built(home: str, *, whole: bool) -> dict[str, Any]:
    """Build a store in this process."""
    report = build(Store.open(Settings(home=Path(home))), now(), whole=whole)
    return {"rows": sum(report.rows.values())}


def _day_build(store: Store, number: int) -> float:
    """Seconds of a build, in a process of its own, after the last races ran again."""
    with LogWriter.open(store, clock=now) as writer:
        for race, result in enumerate(results_of(store, among_last=RACES_A_DAY)):
            writer.append(run_again(result, f"day {number} race {race}", store))
    return apart("benchmarks.growth:built", home=str(store.home.root), whole=False).seconds


def _join(ground: LoadedStores, store: Store) -> Timing:
    """The seconds of the point-in-time join of all views."""
    entities = joins.entities_of(ground.scratch, JOINED_ROWS)
    joins.write_entities(store, JOINED_ROWS, entities)
    ours = joins.contenders(store.home.root, entities, len(FAMILIES), ground.scratch, stock=False)[joins.OURS]
    found = interleaved({joins.OURS: ours}, ground.sizes.rounds)[joins.OURS]
    if found.failed:
        raise RuntimeError(found.failed)
    return found.spread


def _live(store: Store) -> tuple[float, float]:
    """Seconds until a stream that starts is live, and the median milliseconds of a race's features."""
    begun = time.perf_counter()
    try:
        with program(store, "-m", "velo.cli", "stream"):
            serve.catch_up(store)
            live = time.perf_counter() - begun
            [race_id] = serve.declare(store, [RACE_SIZE]).values()
            serve.catch_up(store)
            return live, serve.read_ms(store, race_id, READS)
    finally:
        embedded_redis.down(store.home)


def _row(of: Grown) -> tuple[str, ...]:
    return (
        f"{of.starts:,}", f"{of.whole.seconds:,.1f}", f"{of.starts / of.whole.seconds:,.0f}", f"{of.whole.peak_mb:,.0f}",
        f"{of.day:,.2f}", f"{of.backlog.seconds:,.1f}", f"{of.backlog.starts_per_second:,.0f}", f"{of.live:,.1f}",
        of.join.shown(), f"{of.read_ms:,.2f}",
    )  # fmt: skip


def _series(grown: Sequence[Grown]) -> dict[str, list[tuple[float, Timing]]]:
    named = {
        "whole build": [Timing.of([of.whole.seconds]) for of in grown],
        "day build": [Timing.of([of.day]) for of in grown],
        "backlog": [Timing.of([of.backlog.seconds]) for of in grown],
        "live": [Timing.of([of.live]) for of in grown],
        "join": [of.join for of in grown],
        "read": [Timing.of([of.read_ms / 1000]) for of in grown],
    }
    return {
        name: [(float(of.starts), timing) for of, timing in zip(grown, of_name, strict=True)]
        for name, of_name in named.items()
    }
