"""`velo bench`: run the parts, each at two or more sizes, with contenders that take turns."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import growth, parts_batch, parts_live, parts_redis
from benchmarks.page import BenchPart, BenchReport
from benchmarks.parts_batch import LoadedStores, Sizes
from benchmarks.stores import hardware
from velo.errors import UserError

Step = Callable[[str, int, int], None]
JOIN_STARTS: Final = 100_000
"""Starts of the tables that `velo bench point-in-time` joins, or as many as entity rows if those are more."""
FULL: Final = Sizes(
    rounds=3,
    season_days=3650,
    build=(100_000, 300_000),
    few_rows=(1_000, 3_000),
    rows=(10_000, 100_000, 1_000_000),
    replay=(5_000, 15_000),
    rates=(10.0, 40.0),
    live_seconds=15.0,
    entities=(50, 200),
    requests=300,
    horses=(25_000, 100_000),
    race_sizes=(8, 20),
    race_starts=20_000,
    race_requests=200,
    growth=(100_000, 330_000, 1_000_000, 3_000_000),
)
"""Takes forty minutes on two cores."""
QUICK: Final = Sizes(
    rounds=1,
    season_days=30,
    build=(400, 800),
    few_rows=(),
    rows=(100,),
    replay=(200,),
    rates=(10.0,),
    live_seconds=2.5,
    entities=(10, 50),
    requests=20,
    horses=(100,),
    race_sizes=(),
    race_starts=0,
    race_requests=0,
)
"""Shows only that everything runs. Leaves out what takes a minute at any size: Feast's own stores, a trained model, a
second process, growth."""
PARTS: Final[Mapping[str, Callable[[LoadedStores], BenchPart | None]]] = {
    "build": parts_batch.building,
    "join": parts_batch.joining,
    "day": parts_batch.after_days,
    "online": parts_redis.reading,
    "redis": parts_redis.keeping,
    "stream": parts_live.streaming,
    "freshness": parts_live.freshness,
    "race": parts_redis.racing,
    "growth": growth.growing,
}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The options of `velo bench`; `only` is empty for all parts. `sizes` and `detail` are those of a command for one part."""

    quick: bool
    only: tuple[str, ...]
    runners: Path | None
    timezone: str
    sizes: Sizes | None = None
    detail: str = ""

    def command(self, only: Sequence[str]) -> str:
        """The command that repeats these parts."""
        words = ["velo bench", *([self.detail] if self.detail else [f"--only {name}" for name in only])]
        words += ["--quick"] if self.quick else []
        if self.runners is not None:
            words += [f"--runners {self.runners}", f"--timezone {self.timezone}"]
        return " ".join(words)


def build_options(starts: Sequence[int], runners: Path | None, timezone: str) -> BenchOptions:
    """Options of `velo bench build`: one build of each size."""
    sizes = replace(FULL, rounds=1, build=tuple(starts))
    detail = " ".join(["build", *(f"--starts {count}" for count in starts)])
    return BenchOptions(quick=False, only=("build",), runners=runners, timezone=timezone, sizes=sizes, detail=detail)


def join_options(rows: Sequence[int], stock_rows: int, runners: Path | None, timezone: str) -> BenchOptions:
    """Options of `velo bench point-in-time`: Feast's own store joins at most `stock_rows` rows."""
    few, many = (tuple(count for count in rows if (count <= stock_rows) == is_few) for is_few in (True, False))
    sizes = replace(FULL, build=(max(*rows, JOIN_STARTS),), few_rows=few, rows=many, bounded_stock=False)
    detail = " ".join(["point-in-time", *(f"--rows {count}" for count in rows), f"--stock-rows {stock_rows}"])
    return BenchOptions(quick=False, only=("join",), runners=runners, timezone=timezone, sizes=sizes, detail=detail)


def stream_options(
    starts: int, rates: Sequence[float], seconds: float, runners: Path | None, timezone: str
) -> BenchOptions:
    """Options of `velo bench stream`: one replay in each way, and one run at each rate."""
    sizes = replace(FULL, rounds=1, replay=(starts,), rates=tuple(rates), live_seconds=seconds)
    detail = " ".join(
        ["stream", f"--starts {starts}", *(f"--rate {rate:g}" for rate in rates), f"--seconds {seconds:g}"]
    )
    only = ("stream", "freshness")
    return BenchOptions(quick=False, only=only, runners=runners, timezone=timezone, sizes=sizes, detail=detail)


def measure(options: BenchOptions, now: datetime, progress: Step) -> Iterator[BenchReport]:
    """Run parts and yield a report after each; the last report is complete. `now` dates it. Raises `UserError` for an unknown part."""
    unknown = [name for name in options.only if name not in PARTS]
    if unknown:
        raise UserError(f"--only is {unknown[0]!r}, but the parts are {', '.join(PARTS)}: name one of these")
    if options.runners is not None and not options.runners.is_file():
        raise UserError(f"--runners is {str(options.runners)!r}, which does not exist: name a runner table")
    chosen = [name for name in PARTS if not options.only or name in options.only]
    begun, parts = time.perf_counter(), []
    with TemporaryDirectory(prefix="velo-bench-") as scratch:
        sizes = options.sizes or (QUICK if options.quick else FULL)
        ground = LoadedStores(Path(scratch), sizes, options.runners, options.timezone)
        for number, name in enumerate(chosen):
            progress(name, number, len(chosen))
            before = time.perf_counter()
            part = PARTS[name](ground)
            seconds = round(time.perf_counter() - begun, 1)
            if part is not None:
                own = round(time.perf_counter() - before, 1)
                parts.append(replace(part, name=name, command=options.command([name]), seconds=own))
            yield BenchReport(hardware(), options.command(options.only), f"{now:%Y-%m-%d}", seconds, tuple(parts))
