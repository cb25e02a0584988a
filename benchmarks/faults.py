"""`velo bench faults`: a replay killed with SIGKILL again and again, at random moments, then audited.

Every kill hits a process that is at work: batches are small and each is an epoch of its own, so most moments fall
into writing, sealing and committing. When a replay reaches the log's end before all kills are spent, it is audited
and another begins in a new home.
"""

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, Final

from rich.table import Table

from benchmarks.ground import machine, store_of
from feature_repo.stores import embedded_redis
from feature_repo.stores.redis_client import connect
from streams.audit import audit
from streams.dataflow.members import loopback_addresses
from streams.dataflow.run import Options, plan, run
from streams.dataflow.telemetry import Telemetry
from velo.settings import Settings, zone_named
from velo.store import Store

BATCH: Final = 10
LONGEST_SECONDS: Final = 1.5
"""A process lives at most so long before it is killed."""
PRELOADED: Final = ["streams.dataflow.run", "duckdb", "pyarrow.parquet", "redis", "mmh3"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the kills did: how many, over how many whole replays, and what the audits found (nothing lost or doubled)."""

    kills: int
    replays: int
    processes: int
    messages: int
    values_compared: int
    differences: int
    seconds: float
    machine: str


def measure(kills: int, starts: int, processes: int, seed: int, runners: Path | None, timezone: str) -> Figures:
    """Kill a replay of about so many starts until all kills are spent, and audit each when it has come to its end."""
    begun, spent, replays, compared, differences = time.perf_counter(), 0, 0, 0, 0
    chance = random.Random(seed)
    with TemporaryDirectory() as scratch:
        loaded, _ = store_of(Path(scratch) / "loaded", starts, runners, timezone)
        messages = 0
        while spent < kills or replays == 0:
            store = _copied(loaded, Path(scratch) / f"replay-{replays}")
            embedded_redis.ensure(store.home)
            try:
                spent += replay(store, kills - spent, processes, chance)
                report = audit(store, datetime.now(UTC), client=connect(store.home))
            finally:
                embedded_redis.down(store.home)
            replays, messages = replays + 1, messages + report.next_seq
            compared += sum(report.compared.values())
            differences += report.found
    seconds = round(time.perf_counter() - begun, 1)
    return Figures(spent, replays, processes, messages, compared, differences, seconds, machine())


def replay(store: Store, kills: int, processes: int, chance: random.Random) -> int:
    """Run the stream to the log's end, killed at most so many times on the way; returns how many times it was."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    spent = 0
    while True:
        if processes > 1:
            # as the first process does before it starts the others
            plan(store)
        addresses = loopback_addresses(processes) if processes > 1 else []
        running: list[BaseProcess] = []
        for member in range(processes):
            told = (str(store.home.root), store.timezone.key, store.redis_url, addresses, member)
            process: BaseProcess = context.Process(target=stream, args=told)
            process.start()
            running.append(process)
        if spent < kills:
            running[0].join(chance.uniform(0.05, LONGEST_SECONDS))
        else:
            running[0].join()
        ended = running[0].exitcode is not None
        for process in chance.sample(running, len(running)):
            if ended:
                process.join(30)
            process.kill()
            process.join()
        if ended:
            codes = [process.exitcode for process in running]
            if any(code not in (0, -signal.SIGKILL) for code in codes):
                raise RuntimeError(f"the stream ended with {codes}")
            return spent
        spent += 1


def stream(home: str, timezone: str, redis_url: str | None, addresses: Sequence[str], member: int) -> None:
    """One process of a stream with small epochs, to the log's end."""
    store = Store.open(Settings(Path(home), zone_named(timezone), redis_url))
    options = Options(once=True, snapshot_every=timedelta(0), batch=BATCH)
    run(
        plan(store),
        options,
        lambda: datetime.now(UTC),
        Telemetry(),
        addresses=addresses,
        member=member,
        stop=Event(),
    )


def table(figures: Figures) -> Table:
    """As shown to a person."""
    shown = Table(title=f"kill -9 while streaming ({figures.machine})", show_header=False)
    rows: list[tuple[str, Any]] = [
        ("kills", figures.kills),
        ("replays", figures.replays),
        ("processes", figures.processes),
        ("messages", figures.messages),
        ("values compared at", f"{figures.values_compared:,} instants"),
        ("differences", figures.differences),
        ("seconds", figures.seconds),
    ]
    for name, value in rows:
        shown.add_row(name, str(value))
    return shown


def _copied(loaded: Store, home: Path) -> Store:
    home.mkdir()
    shutil.copytree(loaded.home.log, home / "log")
    shutil.copy(loaded.home.identity, home)
    return Store.open(Settings(home))
