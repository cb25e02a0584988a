"""`velo bench stream`: replay speed with each sink, and the delay until a live result is readable in Redis."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from prometheus_client import Histogram
from rich.table import Table

from benchmarks.baseline_views import CONTRACT
from benchmarks.page import text_table
from benchmarks.stores import machine, peak_mb, store_of
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores import embedded_redis
from velo.racing.messages import Result
from velo.settings import Settings
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.dataflow.metrics import Telemetry, position
from velo.streams.dataflow.runtime import StreamOptions, plan, run

ALL_VIEWS: Final = len(FAMILIES)
SINKS: Final = {"none": ["--no-online", "--no-offline"], "Parquet": ["--no-online"], "both": []}
WAYS: Final = [(views, sinks) for views in (len(CONTRACT), ALL_VIEWS) for sinks in SINKS]
"""What is replayed: how many views, into which sinks."""
WARM_UP: Final = 20
POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay of a whole log: seconds from the first record to the end, without starting the program.

    `cpu_seconds` include the program's start, but not the Redis server: they say more than the clock where others
    use the machine.
    """

    views: int
    sinks: str
    starts: int
    seconds: float
    starts_per_second: float
    cpu_seconds: float
    peak_mb: float
    machine: str


@dataclass(frozen=True, slots=True)
class Freshness:
    """Live results at a rate: milliseconds from `known_at` until readable in Redis, over all views."""

    results_per_second: float
    starts_per_second: float
    results: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    machine: str


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """Replays and live rates."""

    replays: list[Replayed]
    live: list[Freshness]


def measure(starts: int, rates: Sequence[float], seconds: float, runners: Path | None, timezone: str) -> StreamFigures:
    """Replay `starts` starts into no sink, one and both, for the contract's views and for all; then live results at each rate."""
    with TemporaryDirectory() as scratch:
        loaded, held = store_of(Path(scratch) / "loaded", starts, runners, timezone)
        replays = []
        for views, sinks in WAYS:
            home = copied(loaded, Path(scratch) / f"{views}-{sinks}")
            replays.append(replayed(home, held, sinks, views))
            shutil.rmtree(home)
        fresh = [live(copied(loaded, Path(scratch) / f"live-{rate}"), rate, seconds) for rate in rates]
        return StreamFigures(replays, fresh)


def replayed(home: Path, starts: int, sinks: str, views: int = ALL_VIEWS) -> Replayed:
    """Replay a home's log to its end through the command, all views or the contract's, and stop its Redis."""
    module = "velo.cli" if views == ALL_VIEWS else "benchmarks.baseline_views"
    command = [sys.executable, "-m", module, "stream", "--once", *SINKS[sinks]]
    environ = {**os.environ, "VELO_HOME": str(home)}
    log = home / "stream.ndjson"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=out)
        peak = 0.0
        while True:
            peak = max(peak, peak_mb(process.pid))
            time.sleep(POLL_S)
            gone, code, usage = os.wait4(process.pid, os.WNOHANG)
            if gone:
                process.returncode = code
                break
    if code:
        raise RuntimeError(log.read_text())
    embedded_redis.down(Store.open(Settings(home)).home)
    events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    begun = min(datetime.fromisoformat(event["at"]) for event in events if event["event"] == "stream.begins")
    ended = max(datetime.fromisoformat(event["at"]) for event in events if event["event"] == "stream.ended")
    seconds = (ended - begun).total_seconds()
    per_second = round(starts / seconds, 1)
    cpu = round(usage.ru_utime + usage.ru_stime, 2)
    return Replayed(views, sinks, starts, round(seconds, 2), per_second, cpu, round(peak, 1), machine())


class _Observed(Histogram):
    """A histogram that also keeps every observation."""

    def __init__(self) -> None:
        super().__init__("fresh", "kept", registry=None)
        self.seconds: list[float] = []

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Record an observation."""
        self.seconds.append(amount)


def live(home: Path, rate: float, seconds: float) -> Freshness:
    """Run a stream after a build, while another process appends live results."""
    store = Store.open(Settings(home))
    build(store, datetime.now(UTC))
    telemetry, stop, observed = Telemetry(), threading.Event(), _Observed()
    telemetry.fresh = observed
    planned = plan(store)
    thread = threading.Thread(
        target=run, args=(planned, StreamOptions(), lambda: datetime.now(UTC), telemetry), kwargs={"stop": stop}
    )
    thread.start()
    try:
        while not (where := position(store.home)) or not where.at_end:
            time.sleep(0.1)
        feeder = subprocess.run(
            [sys.executable, "-m", "benchmarks.stream", str(home), str(rate), str(seconds)],
            check=True,
            stdout=subprocess.PIPE,
        )
        results, starts = json.loads(feeder.stdout.splitlines()[-1])
        while not (where := position(store.home)) or where.next_seq < planned.begin + results or not where.at_end:
            time.sleep(0.1)
    finally:
        stop.set()
        thread.join()
        embedded_redis.down(store.home)
    # a block of results is observed once, so a short run on a busy machine may have fewer observations than the warm-up
    taken = sorted(observed.seconds[min(len(FAMILIES) * WARM_UP, len(observed.seconds) // 2) :])
    p99 = statistics.quantiles(taken, n=100)[98]
    return Freshness(
        rate,
        round(starts / seconds, 1),
        results,
        round(1000 * statistics.median(taken), 1),
        round(1000 * p99, 1),
        round(1000 * taken[-1], 1),
        machine(),
    )


def feed(home: Path, rate: float, seconds: float) -> tuple[int, int]:
    """Append results at a rate, each as if run now; returns the number of results and starts."""
    store = Store.open(Settings(home))
    every = [message for _, message in reader.messages(store.home) if isinstance(message, Result)][-2000:]
    count = starts = 0
    with LogWriter.open(store, clock=lambda: datetime.now(UTC)) as writer:
        begun = time.perf_counter()
        while (due := count / rate) < seconds:
            time.sleep(max(0.0, begun + due - time.perf_counter()))
            result = every[count % len(every)]
            now = datetime.now(UTC)
            race = replace(
                result.race,
                race_id=f"live {count}",
                off_time=now - timedelta(minutes=10),
                race_date=now.astimezone(store.timezone).date(),
            )
            writer.append(replace(result, race=race, result_version=1))
            count, starts = count + 1, starts + sum(runner.started for runner in result.runners)
    return count, starts


def table(figures: StreamFigures) -> list[Table]:
    """The replays and the live rates for the terminal."""
    replays = [
        (replay.sinks, replay.views, replay.starts, replay.seconds, replay.starts_per_second,
         replay.cpu_seconds, replay.peak_mb)
        for replay in figures.replays
    ]  # fmt: skip
    live = [
        (rate.results_per_second, rate.starts_per_second, rate.results, rate.p50_ms, rate.p99_ms, rate.longest_ms)
        for rate in figures.live
    ]
    return [
        text_table(
            f"replay of a whole log ({figures.replays[0].machine})",
            ("sinks", "views", "starts", "seconds", "starts/s", "CPU s", "peak MB"),
            replays,
        ),
        text_table(
            "from a result's known_at to readable in Redis",
            ("results/s", "starts/s", "results", "p50 ms", "p99 ms", "longest ms"),
            live,
            left=0,
        ),
    ]


def copied(loaded: Store, home: Path) -> Path:
    """Copy the log of a store to a new home."""
    home.mkdir()
    shutil.copytree(loaded.home.log, home / "log")
    shutil.copy(loaded.home.identity, home)
    return home


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(feed(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))) + "\n")
