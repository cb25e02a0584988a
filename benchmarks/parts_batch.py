"""The parts of `velo bench` that read and write tables: the batch build and the point-in-time join."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pyarrow.parquet as pq

from benchmarks import joins, stock
from benchmarks.charts import growth_chart
from benchmarks.interleaved import Contender, Found, Timing, interleaved
from benchmarks.page import Aim, BenchPart
from benchmarks.stores import now, season_at, store_of, versions
from velo.feature_repo.catalogue.families import FAMILIES
from velo.racing.messages import Result
from velo.settings import Settings
from velo.storage import table_versions
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch import build as build_module
from velo.streams.batch import rating, staging
from velo.streams.batch.build import build

RAW_SHARE: Final = 0.5
FASTER: Final = "times as long as ours"
CPU: Final = "processor s"
MILLION, MILLION_SECONDS, AT_ROWS = 1_000_000, 30.0, 100_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of each part.

    `season_days`: days of the simulated season that is tiled. `build`, `replay`, `race_starts`, `growth`: starts. `few_rows`, `rows`:
    entity rows; only `few_rows` are joined by Feast's own store too. `rates`: live results per second, for `live_seconds`.
    `entities`: entities per online read. `race_sizes`: runners of a race. `bounded_stock`: also run Feast's own store on
    many rows, in a process that is killed at a memory limit.
    """

    rounds: int
    season_days: int
    build: tuple[int, ...]
    few_rows: tuple[int, ...]
    rows: tuple[int, ...]
    replay: tuple[int, ...]
    rates: tuple[float, ...]
    live_seconds: float
    entities: tuple[int, ...]
    requests: int
    horses: tuple[int, ...]
    race_sizes: tuple[int, ...]
    race_starts: int
    race_requests: int
    growth: tuple[int, ...] = ()
    bounded_stock: bool = True

    @property
    def views(self) -> tuple[int, ...]:
        """Numbers of views to join."""
        return (1, len(FAMILIES)) if self.with_feast else (len(FAMILIES),)

    @property
    def with_feast(self) -> bool:
        """Whether Feast's own stores take part."""
        return bool(self.few_rows)


@dataclass(slots=True)
class LoadedStores:
    """Stores loaded once for all parts, in a temporary folder."""

    scratch: Path
    sizes: Sizes
    runners: Path | None
    timezone: str
    _loaded: dict[int, tuple[Store, int]] = field(default_factory=dict)

    def loaded(self, starts: int) -> tuple[Store, int]:
        """A store with about `starts` starts in its log, and their exact number. Parts may build it and change nothing else."""
        if starts not in self._loaded:
            home = self.scratch / f"home-{starts}"
            self._loaded[starts] = store_of(home, starts, self.results, self.timezone)
        return self._loaded[starts]

    def drop(self, starts: int) -> None:
        """Remove a loaded store."""
        store, _ = self._loaded.pop(starts)
        shutil.rmtree(store.home.root)

    @property
    def results(self) -> Path:
        """The runner table to tile: the one named, else a simulated season."""
        made = self.scratch / "season.parquet"
        days = self.sizes.season_days
        return self.runners or season_at(made, start=date(2015, 1, 1), days=days, races_per_year=2000)


def building(ground: LoadedStores) -> BenchPart:
    """Measure `velo build --whole`."""
    rows, points, notes = [], [], []
    for starts, of in _built(ground, "whole"):
        spread, speed = of.spread, Timing.of([starts / seconds for seconds in of.taken])
        cpu = f"{of.last['cpu']:,.1f}"
        rows.append(
            (f"{starts:,}", f"{of.last['rows']:,}", spread.shown(), cpu, speed.shown(",.0f"), f"{of.peak_mb:,.0f}")
        )
        points.append((float(starts), spread))
        notes.append(_shares(starts, of))
    return BenchPart(
        "build",
        "The batch build",
        f"`velo build --whole`: everything from the log, all {len(FAMILIES)} views.",
        ("starts", "rows made", "seconds", CPU, "starts/s", "peak MB"),
        tuple(rows),
        versions("duckdb", "pyarrow"),
        notes=tuple(notes),
        charts={"build": growth_chart("The batch build", "starts", "seconds", {"velo build --whole": points})},
    )


def _built(ground: LoadedStores, contender: str, **more: int) -> list[tuple[int, Found]]:
    """Run a contender of this module on a store of each size, in turns; the number of starts and what was measured."""
    held = [ground.loaded(starts) for starts in ground.sizes.build]
    sides = {
        str(place): Contender(f"benchmarks.parts_batch:{contender}", {"home": str(store.home.root), **more})
        for place, (store, _) in enumerate(held)
    }
    found = interleaved(sides, ground.sizes.rounds)
    if failed := [of.failed for of in found.values() if of.failed]:
        raise RuntimeError(failed[0])
    return [(starts, of) for (_, starts), of in zip(held, found.values(), strict=True)]


def whole(home: str) -> Callable[[], dict[str, Any]]:
    """A contender that builds everything."""
    store = Store.open(Settings(home=Path(home)))

    def once() -> dict[str, Any]:
        begun, cpu = time.perf_counter(), time.process_time()
        with step_seconds() as steps:
            report = build(store, now(), whole=True)
        return _taken(begun, cpu) | {"rows": sum(report.rows.values()), "steps": steps}

    return once


STEPS: Final[Mapping[str, tuple[Any, str]]] = {
    "reading the log and measuring starts": (staging, "measure_segment"),
    "rating races": (rating._Races, "rate"),  # noqa: SLF001  a step has no public name
    "computing rows": (build_module, "write_rows"),
    "writing Parquet": (pq.ParquetWriter, "write_table"),
    "publishing": (table_versions, "publish"),
}
"""The steps of a build, each a function that runs in one thread."""


@contextmanager
def step_seconds() -> Iterator[dict[str, float]]:
    """The processor seconds of each of `STEPS` within the block, without those of the steps that it calls."""
    seconds = dict.fromkeys(STEPS, 0.0)
    within, adding = threading.local(), threading.Lock()

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            outer, within.seconds, begun = getattr(within, "seconds", 0.0), 0.0, time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                taken = time.thread_time() - begun
                with adding:
                    seconds[name] += taken - within.seconds
                within.seconds = outer + taken

        return step

    with ExitStack() as patched:
        for name, (of, function) in STEPS.items():
            patched.enter_context(mock.patch.object(of, function, timed(name, getattr(of, function))))
        yield seconds


def _shares(starts: int, of: Found) -> str:
    """The share of each step in the processor seconds of a build, the largest first; what Arrow's threads read is in the rest."""
    cpu, steps = of.last["cpu"], of.last["steps"]
    rest = {"the rest": cpu - sum(steps.values())}
    ordered = sorted({**steps, **rest}.items(), key=lambda step: -step[1])
    named = ", ".join(f"{name} {seconds / cpu:.0%}" for name, seconds in ordered)
    return f"Of the {cpu:,.1f} processor seconds at {starts:,} starts: {named}."


def _taken(begun: float, cpu: float) -> dict[str, Any]:
    return {"taken": time.perf_counter() - begun, "cpu": time.process_time() - cpu}


def after_days(ground: LoadedStores) -> BenchPart:
    """Measure `velo build` after one more race day."""
    rows = [
        (f"{starts:,}", f"{of.last['rows']:,}", of.spread.shown(), f"{of.last['cpu']:,.2f}")
        for starts, of in _built(ground, "day", rounds=ground.sizes.rounds)
    ]
    return BenchPart(
        "day",
        "A build after a race day",
        f"`velo build` of one more race day, all {len(FAMILIES)} views, on tables of all days before. Rows are those of the last round.",
        ("starts", "rows made", "seconds", CPU),
        tuple(rows),
        versions("duckdb", "pyarrow"),
    )


def day(home: str, rounds: int) -> Callable[[], dict[str, Any]]:
    """A contender that builds a race day at a time: the last `rounds` of a store's log, on a copy built without them."""
    source = Store.open(Settings(home=Path(home)))
    results = [(seq, message) for seq, message in reader.messages(source.home) if isinstance(message, Result)]
    dates = [message.race.race_date for _, message in results]
    begins = [at for at in range(1, len(dates)) if dates[at] != dates[at - 1]][-rounds:]
    days = [
        [message for _, message in results[begin:end]]
        for begin, end in zip(begins, [*begins[1:], len(results)], strict=True)
    ]
    grown = Store.open(
        Settings(home=source.home.root.with_name(f"{source.home.root.name}-days"), timezone=source.timezone)
    )
    _load(grown.save(), (message for _, message in results[: begins[0]]))
    build(grown, now())
    left = iter(days)

    def once() -> dict[str, Any]:
        _load(grown, iter(next(left)))
        begun, cpu = time.perf_counter(), time.process_time()
        report = build(grown, now())
        return _taken(begun, cpu) | {"rows": sum(report.added.values())}

    return once


def _load(store: Store, messages: Iterator[Result]) -> None:
    with LogWriter.open(store, clock=now) as writer:
        writer.load(messages)


def joining(ground: LoadedStores) -> BenchPart:
    """Measure the point-in-time join."""
    store, starts = ground.loaded(ground.sizes.build[0])
    build(store, now())
    sizes, every = ground.sizes, dict[tuple[int, int], dict[str, Found]]()
    for size in (*sizes.few_rows, *sizes.rows):
        found = joins.joined(store, size, ground.scratch, sizes.views, sizes.rounds, stock=size in sizes.few_rows)
        every |= {(size, views): of for views, of in found.items()}
    rows = [
        _join_row(views, name, size, of, found[joins.OURS])
        for (size, views), found in sorted(every.items(), key=lambda item: (item[0][1], item[0][0]))
        for name, of in found.items()
    ]
    notes = [
        '"the same": every value of every feature of every row equals ours, bit for bit.',
        f"The tables are those of {starts:,} starts; entity rows beyond that repeat the same starts, a week earlier each time.",
    ]
    if not joins.HAS_POLARS:
        notes.append("polars is not installed and is left out: `pip install polars`.")
    beside = _beside(ground, store) if sizes.few_rows and sizes.bounded_stock else []
    if beside:
        rows += [line for compared in beside for line in compared.lines]
        notes.append(
            f"Feast's DuckDB store joins every entity row with every older row of its key, all columns, in memory, and then keeps "
            f"one. So it takes turns with the others at {sizes.few_rows[-1]:,} rows at most. It joins {AT_ROWS:,} rows once, warm, "
            f"in a process that is killed at {stock.MOST_MB / 1000:.0f} GB or after {stock.MOST_SECONDS:.0f} s: the last lines of "
            "the table, with ours in such a process. Its seconds at the kill are a lower bound."
        )
    packages = ["duckdb", "feast", "pyarrow", *(["polars"] if joins.HAS_POLARS else [])]
    return BenchPart(
        "join",
        "The point-in-time join",
        f"Features as of five minutes before the off: of one view ({len(FAMILIES[0].features)} features), and of all "
        f"{len(FAMILIES)} views ({sum(len(family.features) for family in FAMILIES)} features).",
        ("views", "contender", "entity rows", "seconds", "rows/s", FASTER, "peak MB", "answer"),
        tuple(rows),
        versions(*packages),
        notes=tuple(notes),
        aims=(*([stock.aim(beside)] if beside else []), *_join_aims(every)),
        charts={
            f"join-{name}": growth_chart(
                f"Point-in-time join, {name.replace('-', ' ')}", "entity rows", "seconds", _series(every, views)
            )
            for name, views in (("one-view", 1), ("all-views", len(FAMILIES)))
            if views in ground.sizes.views
        },
    )


def _beside(ground: LoadedStores, store: Store) -> list[stock.StockComparison]:
    """Compare with Feast's own store at a size that may exceed its memory."""
    few, many = (joins.entities_of(ground.scratch, size) for size in (ground.sizes.few_rows[0], AT_ROWS))
    return stock.beside(store.home.root, many, few, AT_ROWS, ground.scratch)


def _join_row(views: int, name: str, size: int, of: Found, ours: Found) -> tuple[str, ...]:
    if of.failed:
        return str(views), name, f"{size:,}", f"failed: {of.failed}", "", "", "", ""
    same = "the same" if of.last["digest"] == ours.last["digest"] else f"another, {of.last['rows']:,} rows"
    ratio = "" if of is ours or ours.failed else f"{of.spread.median / ours.spread.median:,.1f}"
    speed = Timing.of([size / seconds for seconds in of.taken])
    return (
        str(views), name, f"{size:,}", of.spread.shown(",.3f"), f"{speed.median:,.0f}", ratio, f"{of.peak_mb:,.0f}", same,
    )  # fmt: skip


def _series(every: dict[tuple[int, int], dict[str, Found]], views: int) -> dict[str, list[tuple[float, Timing]]]:
    series: dict[str, list[tuple[float, Timing]]] = {}
    for (size, of_views), found in sorted(every.items()):
        if of_views == views:
            for name, of in found.items():
                if not of.failed:
                    series.setdefault(name, []).append((float(size), of.spread))
    return series


def _join_aims(every: dict[tuple[int, int], dict[str, Found]]) -> list[Aim]:
    aims, all_views = [], len(FAMILIES)
    for views, name in ((1, "one view"), (all_views, "all views")):
        size = max((size for size, _ in every if size <= AT_ROWS), default=0)
        if (size, views) not in every:
            continue
        raw, ours = every[size, views][joins.RAW], every[size, views][joins.OURS]
        if not raw.failed and not ours.failed:
            share = raw.spread.median / ours.spread.median
            aims.append(
                Aim(
                    f"≥ {RAW_SHARE}× DuckDB ASOF JOIN by hand at {AT_ROWS:,} rows, {name}",
                    f"{share:.2f}× at {size:,} rows",
                    share >= RAW_SHARE if size == AT_ROWS else None,
                )
            )
    largest = max(size for size, _ in every)
    ours = every[largest, all_views][joins.OURS]
    if not ours.failed:
        taken = ours.spread.median
        met = taken <= MILLION_SECONDS if largest == MILLION else None
        aims.append(
            Aim(
                f"{MILLION:,} rows over all views ≤ {MILLION_SECONDS:.0f} s",
                f"{ours.spread.shown(',.1f')} s at {largest:,} rows",
                met,
            )
        )
    return aims
