"""Support for benchmarks: stores of a given size, child processes, and a measured call in its own process."""

import json
import multiprocessing
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from multiprocessing.context import ForkServerContext
from pathlib import Path
from socket import socket
from typing import Any, Final

import duckdb

from benchmarks import CHECKOUT
from velo.feature_repo.feast_store import REPO
from velo.feature_repo.stores import embedded_redis
from velo.racing.clock import local_date
from velo.racing.messages import Result
from velo.settings import Settings, zone_named
from velo.simulator import SeasonSpec, simulate
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home, Store
from velo.streams.batch.staging import cores
from velo.streams.dataflow.metrics import position
from velo.streams.importers.sources.runners import read_runner_tables

OURS: Final = ("VELO_HOME", "VELO_TIMEZONE", "VELO_KEYS", "REDIS_URL", "VELO_ENGINE")
"""Environment variables that a child process must not inherit."""
WAIT_S: Final = 600.0
POLL_S: Final = 0.02
SEASON_DAYS: Final = 3650
LEAST_STARTS_A_DAY: Final = 30
"""Fewer than a simulated season of 2,000 races a year has: its days are chosen by this."""
PRELOADED: Final = (
    "benchmarks.fault_harness",
    "benchmarks.write_kills",
    "benchmarks.crash_test",
    "velo.cli",
    "velo.feature_repo.objects",
    "velo.serving.scoring.scorer",
    "velo.streams.audit",
    "velo.streams.batch.build",
    "velo.streams.importers.sources.runners",
    "velo.streams.rebuild_online",
    "velo.streams.status",
    "velo.training.train",
    "pandas",
    "mmh3",
)
"""Modules that each child process of `forkserver` would import again."""


@dataclass(frozen=True, slots=True)
class MeasuredCall:
    """One call: wall and processor seconds, peak memory of its process in MB, and what it returned."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    result: dict[str, Any]


def now() -> datetime:
    """The clock of the benchmarks (UTC)."""
    return datetime.now(UTC)


def machine() -> str:
    """The hardware and the library versions of a measurement."""
    return f"{hardware()}, {versions('duckdb', 'feast', 'pyarrow')}"


def hardware() -> str:
    """Usable cores, memory and processor name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{cores()} cores, {memory:.1f} GB, {_processor()} ({platform.machine()})"


def versions(*names: str) -> str:
    """The versions of Python and of the named packages; `redis-server` names the server."""
    found = [_redis() if name == "redis-server" else f"{name} {version(name)}" for name in names]
    return ", ".join([f"Python {platform.python_version()}", *found])


def _redis() -> str:
    output = subprocess.run(
        [embedded_redis.executable(), "--version"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"v=(\S+)", output)
    return f"Redis {found[1] if found else 'of unknown version'}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "processor unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "processor unknown"


def forkserver() -> ForkServerContext:
    """Processes forked from one that has imported what commands import: killed, limited and ended like any other."""
    context = multiprocessing.get_context("forkserver")
    # the first process of this interpreter starts the server: the list is one for all
    context.set_forkserver_preload(list(PRELOADED))
    return context


def environ(home: Path, **more: str) -> dict[str, str]:
    """The environment of a child process that works on a home."""
    inherited = {name: value for name, value in os.environ.items() if name not in OURS}
    return inherited | {"VELO_HOME": str(home), "PYTHONPATH": str(CHECKOUT), **more}


@contextmanager
def program(store: Store, *command: str, **more: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Python program on a store, and end it by SIGTERM; `more` are environment variables."""
    process = subprocess.Popen(
        [sys.executable, *command], env=environ(store.home.root, **more),
        cwd=REPO if "feast.cli.cli" in command else None, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def served(store: Store, module: str, command: str, *options: str, **more: str) -> Iterator[tuple[int, int]]:
    """Run a service; yields its port and process id once it accepts connections."""
    port = free_port()
    with program(store, "-m", module, command, "--port", str(port), *options, **more) as process:

        def accepts() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{module} {command} ended with {process.returncode}")
            with socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(accepts)
        yield port, process.pid


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def until(condition: Callable[[], object], seconds: float = WAIT_S) -> None:
    """Poll until a condition holds; raises RuntimeError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the condition did not hold within {seconds:g} s")
        time.sleep(POLL_S)


def read_up_to(home: Home, seq: int = 0, *, sealed: bool = False) -> bool:
    """Whether a stream has read the log, and at least the records before `seq`; or with `sealed`, has sealed them."""
    where = position(home)
    if where is None:
        return False
    return where.sealed_seq >= seq if sealed else where.at_end and where.next_seq >= seq


def events(log: Path) -> list[dict[str, Any]]:
    """The events in the output of a stream."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def apart(call: str, **arguments: Any) -> MeasuredCall:
    """Run `module:function` in a fresh interpreter; its keyword arguments and result are JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stores", call, json.dumps(arguments)], check=True, stdout=subprocess.PIPE
    )
    return MeasuredCall(**json.loads(done.stdout.splitlines()[-1]))


def timed(call: Callable[[], dict[str, Any]]) -> MeasuredCall:
    """Time one call in this process; peak memory is the process's."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return MeasuredCall(seconds, cpu_seconds, peak_mb(), result)


def peak_mb(process: int | None = None) -> float:
    """Peak memory of a process (default: this one) in MB; 0 for a process that has ended.

    `getrusage` is not used where /proc exists: it includes the peak of the parent before exec.
    """
    try:
        lines = Path(f"/proc/{process or 'self'}/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if process is None else 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def resident_mb(process: int | None = None) -> float:
    """The memory of a process (default: this one) in MB; 0 for a process that has ended."""
    with suppress(OSError):
        pages = int(Path(f"/proc/{process or 'self'}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def processes() -> Iterator[tuple[int, int, str]]:
    """The id, the parent's id and the state of each process of this machine."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            yield int(path.parent.name), int(parent), state


def season_at(path: Path, **spec: Any) -> Path:
    """Write a simulated season as a runner table, unless the file exists; `spec` is that of `SeasonSpec`."""
    if not path.exists():
        duckdb.from_arrow(simulate(SeasonSpec(**spec))).write_parquet(str(path))
    return path


def results_of(store: Store, among_last: int | None = None) -> list[Result]:
    """The results in a store's log, or those among its last records."""
    begin = 0 if among_last is None else max(0, reader.end(store.home).next_seq - among_last)
    return [message for _, message in reader.messages(store.home, begin) if isinstance(message, Result)]


def run_again(result: Result, race_id: str, store: Store) -> Result:
    """The result as that of another race, run ten minutes ago."""
    off = now() - timedelta(minutes=10)
    race = replace(result.race, race_id=race_id, off_time=off, race_date=local_date(off, store.timezone))
    return replace(result, race=race, result_version=1, known_at=None)


def copied(loaded: Store, home: Path) -> Store:
    """Copy a store's log to a new home."""
    home.mkdir()
    shutil.copytree(loaded.home.log, home / "log")
    shutil.copy(loaded.home.identity, home)
    return Store.open(Settings(home))


def store_of(home: Path, starts: int, runners: Path | None, timezone: str) -> tuple[Store, int]:
    """Make a store with about `starts` starts, of a simulated season or a runner table, tiled with new keys where it has fewer.

    Returns the store and the number.
    """
    days = min(SEASON_DAYS, starts // LEAST_STARTS_A_DAY + 1)
    made = home.with_name(f"season-{days}.parquet")
    table = runners or season_at(made, start=date(2015, 1, 1), days=days, races_per_year=2000)
    store = Store.open(Settings(home=home, timezone=zone_named(timezone))).save()
    results = read_runner_tables([table], store).messages
    size = sum(runner.started for result in results for runner in result.runners)
    with LogWriter.open(store, clock=now) as writer:
        writer.load(_tiled(results, starts))
    return store, min(starts, size) if starts < size else size * -(-starts // size)


def _tiled(results: list[Result], starts: int) -> Iterator[Result]:
    """Repeat the results under new keys until there are enough starts; a single copy is cut off by date."""
    ordered = sorted(results, key=lambda result: (result.race.race_date, result.race_id))
    left, copy = starts, 0
    while left > 0:
        for result in ordered:
            yield result if copy == 0 else _renamed(result, copy)
            left -= sum(runner.started for runner in result.runners)
            if copy == 0 and left <= 0:
                return
        copy += 1


def _renamed(result: Result, copy: int) -> Result:
    mark = f" #{copy}"
    race = replace(result.race, race_id=result.race_id + mark, course=result.race.course + mark)
    runners = tuple(
        replace(
            runner,
            horse_id=runner.horse_id + mark,
            trainer_id=runner.trainer_id and runner.trainer_id + mark,
            jockey_id=runner.jockey_id and runner.jockey_id + mark,
        )
        for runner in result.runners
    )
    return replace(result, race=race, runners=runners)


def _main() -> None:
    module, function = sys.argv[1].split(":")
    call = getattr(__import__(module, fromlist=[function]), function)
    measured = timed(lambda: call(**json.loads(sys.argv[2])))
    sys.stdout.write("\n" + json.dumps(asdict(measured)) + "\n")


if __name__ == "__main__":
    _main()
