"""A replay of a whole log by the stream, and the delay until a live result is readable in Redis."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from prometheus_client import Histogram

from benchmarks.baseline_views import CONTRACT
from benchmarks.stores import environ, events, machine, now, peak_mb, read_up_to, results_of, run_again, until
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores import embedded_redis
from velo.settings import Settings
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.runtime import StreamOptions, plan, run

ALL_VIEWS: Final = len(FAMILIES)
BY_MESSAGE: Final = ["--catch-up", "0"]
SINKS: Final = {
    "none": ["--no-online", "--no-offline", *BY_MESSAGE],
    "Parquet": ["--no-online", *BY_MESSAGE],
    "both": BY_MESSAGE,
}
BY_BATCH: Final = "both, by batch"
WAYS: Final = [*((views, sinks) for views in (len(CONTRACT), ALL_VIEWS) for sinks in SINKS), (ALL_VIEWS, BY_BATCH)]
"""What is replayed: how many views, into which sinks; last, the same log as a backlog that the stream builds in one batch."""
BEGINNINGS: Final = ("catch_up.begins", "stream.begins")
WARM_UP: Final = 20
POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay of a whole log: seconds from the first record, or from the beginning of the batch, to the end, without starting
    the program. The peak is that of the stream's process, without the batch.

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


def replayed(home: Path, starts: int, sinks: str, views: int = ALL_VIEWS) -> Replayed:
    """Replay a home's log to its end through the command, all views or the contract's, and stop its Redis."""
    module = "velo.cli" if views == ALL_VIEWS else "benchmarks.baseline_views"
    command = [sys.executable, "-m", module, "stream", "--once", *SINKS.get(sinks, ["--catch-up", "1"])]
    log = home / "stream.ndjson"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environ(home), stdout=subprocess.DEVNULL, stderr=out)
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
    said = events(log)
    begun = min(datetime.fromisoformat(event["at"]) for event in said if event["event"] in BEGINNINGS)
    ended = max(datetime.fromisoformat(event["at"]) for event in said if event["event"] == "stream.ended")
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
    build(store, now())
    telemetry, stop, observed = Telemetry(), threading.Event(), _Observed()
    telemetry.fresh = observed
    planned = plan(store)
    thread = threading.Thread(target=run, args=(planned, StreamOptions(), now, telemetry), kwargs={"stop": stop})
    thread.start()
    try:
        until(lambda: read_up_to(store.home))
        feeder = subprocess.run(
            [sys.executable, "-m", "benchmarks.stream", str(home), str(rate), str(seconds)],
            check=True,
            stdout=subprocess.PIPE,
        )
        results, starts = json.loads(feeder.stdout.splitlines()[-1])
        until(lambda: read_up_to(store.home, planned.begin + results))
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
    every = results_of(store, among_last=2000)
    count = starts = 0
    with LogWriter.open(store, clock=now) as writer:
        begun = time.perf_counter()
        while (due := count / rate) < seconds:
            time.sleep(max(0.0, begun + due - time.perf_counter()))
            result = every[count % len(every)]
            writer.append(run_again(result, f"live {count}", store))
            count, starts = count + 1, starts + sum(runner.started for runner in result.runners)
    return count, starts


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(feed(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))) + "\n")
