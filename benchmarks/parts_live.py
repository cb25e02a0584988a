"""The parts of `velo bench` that stream: a replay of a whole log, and live results."""

import shutil
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks import stream
from benchmarks.baseline_views import CONTRACT
from benchmarks.charts import growth_chart
from benchmarks.interleaved import Timing
from benchmarks.page import Aim, BenchPart
from benchmarks.parts_batch import LoadedStores
from benchmarks.stores import apart, copied, versions

SPEED_AIMS: Final = {"none": 10_000, "both": 5_000}
"""Aims for the eight views of the contract, in starts per second."""
SINK_WORDS: Final = {"none": "no sink", "both": "both sinks"}
AIM_STARTS: Final = 15_000
"""A shorter replay does not count for the aim: start-up takes much of it."""


def streaming(ground: LoadedStores) -> BenchPart:
    """Replay a whole log into no sink, Parquet alone and both, with the contract's views and with all."""
    every = stream.ALL_VIEWS
    ways = stream.WAYS if ground.sizes.with_feast else [(len(CONTRACT), "both"), (every, "both")]
    sizes = [ground.loaded(starts) for starts in ground.sizes.replay]
    found: dict[tuple[int, str, int], list[stream.Replayed]] = {}
    for number in range(min(ground.sizes.rounds, 2)):
        for store, starts in sizes:
            for views, sinks in ways:
                home = copied(store, ground.scratch / f"{views}-{sinks}-{starts}-{number}").home.root
                taken = stream.replayed(home, starts, sinks, views)
                found.setdefault((views, sinks, starts), []).append(taken)
                shutil.rmtree(home)
    rows, series, aims = [], dict[str, list[tuple[float, Timing]]](), []
    for (views, sinks, starts), of in sorted(found.items(), key=lambda item: (item[0][0], item[0][2])):
        seconds = Timing.of([replay.seconds for replay in of])
        speed = Timing.of([replay.starts_per_second for replay in of])
        cpu, peak = (
            max(values) for values in zip(*((replay.cpu_seconds, replay.peak_mb) for replay in of), strict=True)
        )
        row = str(views), sinks, f"{starts:,}", seconds.shown(), speed.shown(",.0f")
        rows.append((*row, f"{cpu:,.1f}", f"{peak:,.0f}"))
        if views == every:
            series.setdefault(sinks, []).append((float(starts), seconds))
        if (views, starts) == (len(CONTRACT), max(ground.sizes.replay)) and sinks in SPEED_AIMS:
            result = f"{speed.shown(',.0f')} at {starts:,} starts, {views} views"
            met = speed.median >= SPEED_AIMS[sinks] if starts >= AIM_STARTS else None
            aims.append(Aim(f"a stream into {SINK_WORDS[sinks]} ≥ {SPEED_AIMS[sinks]:,} starts/s", result, met))
    return BenchPart(
        "stream",
        "The stream, catching up",
        f"`velo stream --once` over a whole log, the contract's {len(CONTRACT)} views and all {every}, from the first record to "
        "the end.",
        ("views", "sinks", "starts", "seconds", "starts/s", "most CPU s", "peak MB"),
        tuple(rows),
        versions("bytewax", "duckdb", "redis-server"),
        notes=("CPU seconds include the program's start.",),
        aims=tuple(aims),
        charts={"stream": growth_chart("A whole log through the stream", "starts", "seconds", series)},
    )


def freshness(ground: LoadedStores) -> BenchPart:
    """Measure the delay from a live result's `known_at` until it is readable in Redis."""
    store, starts = ground.loaded(ground.sizes.replay[-1])
    found: dict[float, list[dict[str, Any]]] = {rate: [] for rate in ground.sizes.rates}
    for number in range(min(ground.sizes.rounds, 2)):
        for rate, of in found.items():
            home = copied(store, ground.scratch / f"live-{rate:.0f}-{number}").home.root
            arguments = {"home": str(home), "rate": rate, "seconds": ground.sizes.live_seconds}
            of.append(apart("benchmarks.parts_live:live", **arguments).result)
            shutil.rmtree(home)
    rows = []
    for rate, of in found.items():
        p50, p99, longest = (
            Timing.of([run[name] for run in of]).shown(",.1f") for name in ("p50_ms", "p99_ms", "longest_ms")
        )
        per_second = statistics.median(run["starts_per_second"] for run in of)
        rows.append((f"{rate:,.0f}", f"{per_second:,.0f}", f"{of[0]['results']:,}", p50, p99, longest))
    return BenchPart(
        "freshness",
        "The stream, live",
        f"From a result's `known_at` until all its rows are readable in Redis, with both sinks, on a store of {starts:,} starts; "
        f"{ground.sizes.live_seconds:.0f} s at each rate.",
        ("results/s", "starts/s", "results", "p50 ms", "p99 ms", "longest ms"),
        tuple(rows),
        versions("bytewax", "redis-server"),
    )


def live(home: str, rate: float, seconds: float) -> dict[str, Any]:
    """Measure one rate in this process."""
    return asdict(stream.live(Path(home), rate, seconds))
