"""`velo bench stream --handover` and `--year`: the time until a stream is live after a build, and memory over a year.

Both run one stream with both sinks. The year runs day by day on a simulated clock.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.table import Table

from benchmarks.stores import apart, environ, events, machine, now, read_up_to, resident_mb, season_at
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect
from velo.racing.clock import RESULT_DELAY, local_date, local_midnight
from velo.racing.messages import Result
from velo.settings import Settings, zone_named
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home, Store
from velo.streams.batch.build import build
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.runtime import VIEWS, StreamOptions, plan, run, single_arena
from velo.streams.importers.sources.runners import read_runner_tables
from velo.text_tables import table_of

ZONE: Final = "Europe/London"
HISTORY_DAYS: Final = 400
"""Days before the year that are loaded and built, so that the windows of a year are full when it begins."""
FAR_BEHIND_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Handover:
    """Seconds from the program's start until the stream is live, on a home just built and with an empty Redis.

    `restored`: seconds to restore the state, in a thread. `filled`: seconds from `begun` until the last view is in Redis,
    meanwhile. `cpu` is that of the stream's process, without the Redis server.
    """

    built_messages: int
    online_rows: int
    begun: float
    restored: float
    filled: float
    live: float
    cpu: float
    peak_mb: float
    redis_mb: float
    machine: str


@dataclass(frozen=True, slots=True)
class Month:
    """A running stream at the end of a simulated month; `keys` are all keys whose state it holds."""

    month: str
    starts: int
    keys: int
    rss_mb: float
    recovery_mb: float
    stream_parts: int


def handover(home: Path) -> Handover:
    """Start a stream on a copy of a home that was built and never streamed; the home is only read."""
    with TemporaryDirectory(dir=home.parent) as scratch:
        copy = Path(scratch) / "home"
        copy.mkdir()
        for folder in ("log", "generations"):
            shutil.copytree(home / folder, copy / folder)
        shutil.copy(home / "store.json", copy)
        (copy / "offline").symlink_to((home / "offline").readlink())
        return _handed_over(Store.open(Settings(copy)).home)


def _handed_over(home: Home) -> Handover:
    command = [sys.executable, "-m", "velo.cli", "stream"]
    log = home.root / "stream.ndjson"
    begun = now()
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environ(home.root), stdout=subprocess.DEVNULL, stderr=out)
        try:
            while not read_up_to(home):
                if process.poll() is not None or (now() - begun).total_seconds() > FAR_BEHIND_SECONDS:
                    raise RuntimeError(log.read_text())
                time.sleep(0.05)
            live = (now() - begun).total_seconds()
            client: Any = connect(home)
            redis_bytes = client.info("memory")["used_memory"]
        finally:
            process.send_signal(signal.SIGTERM)
            _, process.returncode, usage = os.wait4(process.pid, 0)
            embedded_redis.down(home)
    said = events(log)
    [begins] = [event for event in said if event["event"] == "stream.begins"]
    [restored] = [event for event in said if event["event"] == "state.restored"]
    filled = [event for event in said if event["event"] == "stream.filled_online"]

    def after(event: dict[str, Any]) -> float:
        return round((datetime.fromisoformat(event["at"]) - begun).total_seconds(), 1)

    return Handover(
        begins["seq"],
        sum(event["rows"] for event in filled),
        after(begins),
        restored["seconds"],
        round(max(after(event) for event in filled) - after(begins), 1),
        round(live, 1),
        round(usage.ru_utime + usage.ru_stime, 1),
        round(usage.ru_maxrss / 1024, 1),
        round(redis_bytes / 2**20, 1),
        machine(),
    )


def year(races: int, days: int = 365, *, same: bool = False) -> list[Month]:
    """Stream a simulated year day by day in one process, after a built history of `HISTORY_DAYS` days.

    With `same` the year repeats that history, without any new horse, trainer, jockey or course.
    """
    measured = apart("benchmarks.stream_long:months", races=races, days=days, same=same)
    return [Month(**month) for month in measured.result["months"]]


def months(races: int, days: int, *, same: bool) -> dict[str, Any]:
    """Measure `year` in this process."""
    single_arena()
    with TemporaryDirectory() as scratch:
        first = date(2022, 1, 1)
        simulated = HISTORY_DAYS + (0 if same else days)
        made = Path(scratch) / "season.parquet"
        table = season_at(made, start=first, days=simulated, races_per_year=races, timezone=ZONE)
        store = Store.open(Settings(Path(scratch) / "home", zone_named(ZONE))).save()
        results = sorted(read_runner_tables([table], store).messages, key=_known_at)
        cut = datetime.combine(first, datetime.min.time(), UTC) + timedelta(days=HISTORY_DAYS)
        past = [result for result in results if _known_at(result) < cut]
        with LogWriter.open(store, clock=lambda: cut) as writer:
            writer.load(past)
        build(store, cut)
        ahead = [_again(result) for result in past] if same else results[len(past) :]
        year = [result for result in ahead if cut <= _known_at(result) < cut + timedelta(days=days)]
        return {"months": [asdict(month) for month in _Streamed(store, cut).through(year)]}


def _again(result: Result) -> Result:
    """The same race, `HISTORY_DAYS` later."""
    later = timedelta(days=HISTORY_DAYS)
    race = result.race
    moved = replace(
        race, race_id=f"{race.race_id} again", race_date=race.race_date + later, off_time=race.off_time + later
    )
    known_at = result.known_at and result.known_at + later
    return replace(result, race=moved, known_at=known_at)


@dataclass(slots=True)
class _Streamed:
    """A stream in a thread of this process, on a simulated clock."""

    store: Store
    now: datetime
    starts: int = 0
    telemetry: Telemetry = field(default_factory=Telemetry)
    _stop: threading.Event = field(default_factory=threading.Event)

    def through(self, results: Sequence[Result]) -> list[Month]:
        """Append the results day by day, each day after the stream has read the day before; returns the months."""
        options = StreamOptions(snapshot_every=timedelta(seconds=1))
        arguments = (plan(self.store), options, lambda: self.now, self.telemetry)
        thread = threading.Thread(target=run, args=arguments, kwargs={"stop": self._stop})
        thread.start()
        try:
            with LogWriter.open(self.store, clock=lambda: self.now) as writer:
                by_month = groupby(results, key=lambda result: f"{_known_at(result):%Y-%m}")
                return [self._month(name, list(of_month), writer, thread) for name, of_month in by_month]
        finally:
            self._stop.set()
            thread.join()
            embedded_redis.down(self.store.home)

    def _month(self, name: str, results: Sequence[Result], writer: LogWriter, thread: threading.Thread) -> Month:
        for day, of_day in groupby(results, key=lambda result: local_date(_known_at(result), self.store.timezone)):
            midnight = local_midnight(day, self.store.timezone)
            if midnight > self.now:
                self.now = midnight
                writer.tick(midnight)
            for result in of_day:
                self.now = max(self.now, _known_at(result))
                writer.append(result)
                self.starts += sum(runner.started for runner in result.runners)
            writer.sync()
            self.now += timedelta(seconds=2)
            while not read_up_to(self.store.home, writer.next_seq):
                if not thread.is_alive():
                    raise RuntimeError("the stream ended before its year")
                self.now += timedelta(microseconds=1_000_000)
                time.sleep(0.005)
        home = self.store.home
        return Month(
            name,
            self.starts,
            sum(
                int(self.telemetry.registry.get_sample_value("velo_stream_keys", {"view": view}) or 0) for view in VIEWS
            ),
            round(resident_mb(), 1),
            round(sum(path.stat().st_size for path in home.recovery.rglob("*") if path.is_file()) / 2**20, 2),
            sum(1 for _ in home.offline.resolve().rglob("stream-*.parquet")),
        )


def _known_at(result: Result) -> datetime:
    return result.known_at or result.race.off_time + RESULT_DELAY


def handover_table(taken: Handover) -> Table:
    """The figures for the terminal."""
    facts = {
        "rows put in Redis": taken.online_rows,
        "s until it read": taken.begun,
        "s to restore the state": taken.restored,
        "s to fill Redis meanwhile": taken.filled,
        "s until live": taken.live,
        "CPU s": taken.cpu,
        "peak MB": taken.peak_mb,
        "Redis MB": taken.redis_mb,
    }
    title = f"takeover from a build of {taken.built_messages:,} messages ({taken.machine})"
    return table_of(title, [*facts], [[*facts.values()]], left=())


def year_table(figures: Sequence[Month]) -> Table:
    """The months for the terminal."""
    return table_of(
        f"one stream through a simulated year ({machine()})",
        ("month", "starts so far", "keys", "resident MB", "recovery MB", "the stream's parts"),
        [astuple(month) for month in figures],
        left=("month",),
        caption=_growth(figures),
    )


def _growth(figures: Sequence[Month]) -> str:
    """The growth after the first month."""
    first, last = figures[0], figures[-1]
    starts, keys, mb = last.starts - first.starts, last.keys - first.keys, last.rss_mb - first.rss_mb
    each = f", {mb * 2**20 / starts:,.0f} bytes a start" if starts else ""
    return f"after the first month {mb:+,.1f} MB, {starts:,} starts{each}; {keys:,} new keys"
