"""`velo bench`: everything in one go, each part at two or more sizes, its contenders in turn, round after round."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import parts_batch, parts_live, parts_redis
from benchmarks.page import BenchPart, BenchReport
from benchmarks.parts_batch import LoadedStores, Sizes
from benchmarks.stores import hardware
from velo.errors import UserError

Step = Callable[[str, int, int], None]
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
)
"""Ends on two cores within half an hour."""
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
"""So small that it shows only that everything runs; without what needs minutes whatever its size: Feast's own stores, a
trained model, a second process."""
PARTS: Final[Mapping[str, Callable[[LoadedStores], BenchPart | None]]] = {
    "build": parts_batch.building,
    "join": parts_batch.joining,
    "online": parts_redis.reading,
    "redis": parts_redis.keeping,
    "stream": parts_live.streaming,
    "freshness": parts_live.freshness,
    "race": parts_redis.racing,
}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What `velo bench` was asked for; `only` is empty for all parts."""

    quick: bool
    only: tuple[str, ...]
    runners: Path | None
    timezone: str

    def command(self, only: Sequence[str]) -> str:
        """How to ask for it again."""
        words = ["velo bench", *(f"--only {name}" for name in only), *(["--quick"] if self.quick else [])]
        if self.runners is not None:
            words += [f"--runners {self.runners}", f"--timezone {self.timezone}"]
        return " ".join(words)


def measure(asked: BenchOptions, now: datetime, progress: Step) -> Iterator[BenchReport]:
    """Run the parts asked for: a report after each, the last one whole; `now` dates them. Raises `UserError` for a part that does not exist."""
    unknown = [name for name in asked.only if name not in PARTS]
    if unknown:
        raise UserError(f"--only is {unknown[0]!r}, but the parts are {', '.join(PARTS)}: name one of these")
    if asked.runners is not None and not asked.runners.is_file():
        raise UserError(f"--runners is {str(asked.runners)!r}, and there is no such file: name a runner table")
    chosen = [name for name in PARTS if not asked.only or name in asked.only]
    begun, parts = time.perf_counter(), []
    with TemporaryDirectory(prefix="velo-bench-") as scratch:
        ground = LoadedStores(Path(scratch), QUICK if asked.quick else FULL, asked.runners, asked.timezone)
        for number, name in enumerate(chosen):
            progress(name, number, len(chosen))
            before = time.perf_counter()
            part = PARTS[name](ground)
            seconds = round(time.perf_counter() - begun, 1)
            if part is not None:
                own = round(time.perf_counter() - before, 1)
                parts.append(replace(part, name=name, command=asked.command([name]), seconds=own))
            yield BenchReport(hardware(), asked.command(asked.only), f"{now:%Y-%m-%d}", seconds, tuple(parts))
