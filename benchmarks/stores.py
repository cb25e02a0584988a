"""Support for benchmarks: stores of a given size, and a measured call in its own process."""

import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb

from velo.feature_repo.stores import embedded_redis
from velo.racing.messages import Result
from velo.settings import Settings, zone_named
from velo.simulator import SeasonSpec, simulate
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.staging import cores
from velo.streams.importers.sources.runners import read_runner_tables


@dataclass(frozen=True, slots=True)
class MeasuredCall:
    """One call: wall and processor seconds, peak memory of its process in MB, and what it returned."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    result: dict[str, Any]


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


def store_of(home: Path, starts: int, runners: Path | None, timezone: str) -> tuple[Store, int]:
    """Make a store with about `starts` starts, by tiling a season or a runner table with new keys; returns it and the number."""
    table = home.with_name("season.parquet") if runners is None else runners
    if runners is None and not table.exists():
        season = simulate(SeasonSpec(start=date(2015, 1, 1), days=3650, races_per_year=2000))
        duckdb.from_arrow(season).write_parquet(str(table))
    store = Store.open(Settings(home=home, timezone=zone_named(timezone))).save()
    results = read_runner_tables([table], store).messages
    size = sum(runner.started for result in results for runner in result.runners)
    with LogWriter.open(store, clock=lambda: datetime.now(UTC)) as writer:
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
