"""SIGKILL, again and again: a replay killed at random moments, then audited. Part of `velo bench faults`.

Batches are small and each is an epoch of its own, so most moments fall into writing, sealing and committing; what each
killed process was doing is counted. When a replay reaches the log's end before all kills are spent, it is audited and
another begins in a new home.
"""

import multiprocessing
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from ctypes import c_int
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock, get_ident
from typing import Any, Final

from rich.table import Table

from benchmarks.page import facts_table
from benchmarks.stores import machine, store_of
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_writer import RowWriter
from velo.settings import Settings, zone_named
from velo.storage.store import Store
from velo.streams.audit import audit
from velo.streams.dataflow.bootstrap import Bootstrap
from velo.streams.dataflow.log_source import LogPartition
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.parquet_sink import ParquetPartition
from velo.streams.dataflow.redis_sink import RedisPartition
from velo.streams.dataflow.runtime import StreamOptions, plan, run

BATCH: Final = 10
LONGEST_SECONDS: Final = 1.0
"""A process lives at most so long, from its start or from its first record on, before it is killed."""
FROM_THE_START: Final = 0.2
"""The share of kills that may fall before the first record."""
STARTING, READING = "starting", "reading, rolling, committing"
WATCHED: Final[dict[str, tuple[type, str]]] = {
    "restoring the state": (Bootstrap, "_restore"),
    "writing a part": (ParquetPartition, "_append"),
    "sealing a part": (ParquetPartition, "_seal"),
    "writing to Redis": (RowWriter, "write_batches"),
    "filling Redis": (RedisPartition, "_fill"),
}
"""What a process does, by the method that does it; of what its threads do at one moment the one further down counts."""
DOINGS: Final = (STARTING, READING, *WATCHED)
PRELOADED: Final = [
    "benchmarks.crash_test",
    "velo.streams.dataflow.runtime",
    "duckdb",
    "pyarrow.parquet",
    "pandas",
    "redis",
    "mmh3",
]


@dataclass(frozen=True, slots=True)
class KillFigures:
    """What the kills did: how many, over how many whole replays, and what the audits found (nothing lost or doubled).

    `doing` counts the kills by what the process was doing.
    """

    kills: int
    doing: dict[str, int]
    replays: int
    messages: int
    values_compared: int
    differences: int
    seconds: float
    machine: str


def measure(kills: int, starts: int, seed: int, runners: Path | None, timezone: str) -> KillFigures:
    """Kill a replay of about so many starts until all kills are spent, and audit each when it has come to its end."""
    begun, replays, compared, differences, messages = time.perf_counter(), 0, 0, 0, 0
    chance, doing, spent = random.Random(seed), Counter[str](), 0
    with TemporaryDirectory() as scratch:
        loaded, _ = store_of(Path(scratch) / "loaded", starts, runners, timezone)
        while spent < kills or replays == 0:
            store = _copied(loaded, Path(scratch) / f"replay-{replays}")
            embedded_redis.ensure(store.home)
            try:
                killed = replay(store, kills - spent, chance)
                report = audit(store, datetime.now(UTC), client=connect(store.home))
            finally:
                embedded_redis.down(store.home)
            shutil.rmtree(store.home.root)
            doing += killed
            spent += killed.total()
            replays, messages = replays + 1, messages + report.next_seq
            compared += sum(report.compared.values())
            differences += report.found
    seconds = round(time.perf_counter() - begun, 1)
    by_doing = {name: doing[name] for name in DOINGS}
    return KillFigures(spent, by_doing, replays, messages, compared, differences, seconds, machine())


def replay(store: Store, kills: int, chance: random.Random) -> Counter[str]:
    """Run the stream to the log's end, killed at most so many times on the way; returns what the killed were doing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    killed = Counter[str]()
    while True:
        doing = context.RawValue(c_int, 0)
        arguments = (str(store.home.root), store.timezone.key, store.redis_url, doing)
        process = context.Process(target=stream, args=arguments)
        process.start()
        if killed.total() < kills:
            if chance.random() >= FROM_THE_START:
                while DOINGS[doing.value] == STARTING and process.exitcode is None:
                    process.join(0.005)
            process.join(chance.uniform(0, LONGEST_SECONDS))
        else:
            process.join()
        ended, at = process.exitcode is not None, DOINGS[doing.value]
        process.kill()
        process.join()
        if ended:
            if process.exitcode:
                raise RuntimeError(f"the stream ended with {process.exitcode}")
            return killed
        killed[at] += 1


def stream(home: str, timezone: str, redis_url: str | None, doing: Any) -> None:
    """Run a stream with small epochs to the log's end; `doing` says what it does."""
    shown = _Doing(doing)
    for number, (owner, name) in enumerate(WATCHED.values(), 2):
        setattr(owner, name, shown.while_in(getattr(owner, name), number))
    first = LogPartition.next_batch
    setattr(LogPartition, "next_batch", shown.while_in(first, DOINGS.index(READING)))  # noqa: B010 a method of another class
    store = Store.open(Settings(Path(home), zone_named(timezone), redis_url))
    options = StreamOptions(once=True, snapshot_every=timedelta(0), batch=BATCH)
    run(plan(store), options, lambda: datetime.now(UTC), Telemetry(), stop=Event())


class _Doing:
    """Shows another process what the threads of this one do."""

    def __init__(self, shown: Any) -> None:
        self._shown = shown
        self._by_thread: dict[int, int] = {}
        self._changing = Lock()

    def while_in(self, method: Callable[..., Any], number: int) -> Callable[..., Any]:
        """The method, shown as this number while it runs."""

        def noted(*given: Any, **named: Any) -> Any:
            before = self._now(number)
            try:
                return method(*given, **named)
            finally:
                # what is not watched is the engine's, once there was a record
                self._now(number if number == DOINGS.index(READING) else before)

        return noted

    def _now(self, number: int) -> int:
        thread = get_ident()
        with self._changing:
            before = self._by_thread.get(thread, 0)
            self._by_thread[thread] = number
            self._shown.value = max(self._by_thread.values())
        return before


def table(figures: KillFigures) -> Table:
    """The figures for the terminal."""
    facts: list[tuple[str, object]] = [
        ("kills", figures.kills),
        *((f"  while {name}", count) for name, count in figures.doing.items()),
        ("replays", figures.replays),
        ("messages", figures.messages),
        ("instants compared", figures.values_compared),
        ("differences", figures.differences),
        ("seconds", figures.seconds),
    ]
    return facts_table(f"kill -9 while streaming ({figures.machine})", facts)


def _copied(loaded: Store, home: Path) -> Store:
    home.mkdir()
    shutil.copytree(loaded.home.log, home / "log")
    shutil.copy(loaded.home.identity, home)
    return Store.open(Settings(home))
