"""Kill a replay with SIGKILL at random moments, then audit it. Part of `velo bench faults`.

Batches are small and each is an epoch, so most kills fall into writing, sealing and committing; the activity of each killed
process is counted. A replay that reaches the log's end with kills left is audited, and another begins in a new home.
"""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from ctypes import c_int
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock, get_ident
from typing import Any, Final

from benchmarks.stores import copied, forkserver, machine, now, store_of
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
from velo.streams.dataflow.redis_view import RedisView
from velo.streams.dataflow.runtime import StreamOptions, plan, run

BATCH: Final = 10
LONGEST_SECONDS: Final = 1.0
"""The longest time before a process is killed, from its start or from its first record."""
FROM_THE_START: Final = 0.2
"""The share of kills that may fall before the first record."""
STARTING, READING = "starting", "reading, rolling, committing"
WATCHED: Final[dict[str, tuple[type, str]]] = {
    "restoring the state": (Bootstrap, "_restore"),
    "writing a part": (ParquetPartition, "_append"),
    "sealing a part": (ParquetPartition, "_seal"),
    "writing to Redis": (RowWriter, "write_batches"),
    "filling Redis": (RedisView, "_fill"),
}
"""Activities and the methods that perform them. If threads have several at once, the one further down counts."""
ACTIVITIES: Final = (STARTING, READING, *WATCHED)


@dataclass(frozen=True, slots=True)
class KillFigures:
    """The kills, the complete replays, and what their audits found.

    `doing` counts the kills by the activity of the process.
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
    """Kill replays of about `starts` starts until all kills are spent; audit each at its end."""
    begun, replays, compared, differences, messages = time.perf_counter(), 0, 0, 0, 0
    chance, doing, spent = random.Random(seed), Counter[str](), 0
    with TemporaryDirectory() as scratch:
        loaded, _ = store_of(Path(scratch) / "loaded", starts, runners, timezone)
        while spent < kills or replays == 0:
            store = copied(loaded, Path(scratch) / f"replay-{replays}")
            embedded_redis.ensure(store.home)
            try:
                killed = replay(store, kills - spent, chance)
                report = audit(store, now(), client=connect(store.home))
            finally:
                embedded_redis.down(store.home)
            shutil.rmtree(store.home.root)
            doing += killed
            spent += killed.total()
            replays, messages = replays + 1, messages + report.next_seq
            compared += sum(report.compared.values())
            differences += report.found
    seconds = round(time.perf_counter() - begun, 1)
    by_doing = {name: doing[name] for name in ACTIVITIES}
    return KillFigures(spent, by_doing, replays, messages, compared, differences, seconds, machine())


def replay(store: Store, kills: int, chance: random.Random) -> Counter[str]:
    """Run the stream to the log's end with at most `kills` kills; returns the activities of the killed processes."""
    context = forkserver()
    killed = Counter[str]()
    while True:
        doing = context.RawValue(c_int, 0)
        arguments = (str(store.home.root), store.timezone.key, store.redis_url, doing)
        process = context.Process(target=stream, args=arguments)
        process.start()
        if killed.total() < kills:
            if chance.random() >= FROM_THE_START:
                while ACTIVITIES[doing.value] == STARTING and process.exitcode is None:
                    process.join(0.005)
            process.join(chance.uniform(0, LONGEST_SECONDS))
        else:
            process.join()
        ended, activity = process.exitcode is not None, ACTIVITIES[doing.value]
        process.kill()
        process.join()
        if ended:
            if process.exitcode:
                raise RuntimeError(f"the stream ended with {process.exitcode}")
            return killed
        killed[activity] += 1


def stream(home: str, timezone: str, redis_url: str | None, doing: Any) -> None:
    """Run a stream with small epochs to the log's end; `doing` is the number of its activity."""
    activity = _Activity(doing)
    for number, (owner, name) in enumerate(WATCHED.values(), 2):
        setattr(owner, name, activity.during(getattr(owner, name), number))
    first = LogPartition.next_batch
    setattr(LogPartition, "next_batch", activity.during(first, ACTIVITIES.index(READING)))  # noqa: B010 a method of another class
    store = Store.open(Settings(Path(home), zone_named(timezone), redis_url))
    options = StreamOptions(once=True, snapshot_every=timedelta(0), batch=BATCH)
    run(plan(store), options, now, Telemetry(), stop=Event())


class _Activity:
    """Publishes what the threads of this process do, in shared memory."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared
        self._by_thread: dict[int, int] = {}
        self._changing = Lock()

    def during(self, method: Callable[..., Any], number: int) -> Callable[..., Any]:
        """Wrap a method so that its activity is published while it runs."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before = self._now(number)
            try:
                return method(*args, **kwargs)
            finally:
                # after the first record, anything else is the engine's
                self._now(number if number == ACTIVITIES.index(READING) else before)

        return wrapped

    def _now(self, number: int) -> int:
        thread = get_ident()
        with self._changing:
            before = self._by_thread.get(thread, 0)
            self._by_thread[thread] = number
            self._shared.value = max(self._by_thread.values())
        return before
