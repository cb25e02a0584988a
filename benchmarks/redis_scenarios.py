"""Scenarios of `velo bench faults` in which Redis runs but lacks rows: no score uses what it lost.

A race is scored repeatedly from the fault until the store is complete again. Each answer must be a refusal or the score from
before the fault.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from benchmarks import fault_harness
from benchmarks.fault_harness import NOTHING, Recovery, Sandbox
from benchmarks.stores import now, read_up_to, until
from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.racing.clock import local_date
from velo.racing.messages import Racecard
from velo.serving.scoring.scorer import Scorer, scorer_of
from velo.settings import Settings
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.dataflow.metrics import position
from velo.streams.importers.sources.runners import read_runner_tables
from velo.streams.unbuilt_log import UnbuiltLog

LAYOUTS: Final = [Layout.of(family) for family in FAMILIES]
PATIENCE_S: Final = 1.0
RACE: Final = "again"
BY_ITSELF: Final = "by itself: the stream writes all rows again"


@dataclass(slots=True)
class Watch:
    """Reads one race repeatedly, as a score does, and counts refusals and wrong answers."""

    scorer: Scorer
    now: datetime
    right: bytes = field(init=False)
    refused: int = 0
    wrong: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        """The first read, before the fault, is the right answer."""
        self.right = self._read()

    def read_once(self) -> bool:
        """Read once; returns whether it was answered and Redis is complete by its own records."""
        try:
            self.wrong += self._read() != self.right
            self.scorer.online.refuse_not_whole(self.now)
        except UserError as not_whole:
            self.refused += 1
            self.reason = str(not_whole)
            return False
        return True

    def _read(self) -> bytes:
        """The values that a score uses, and which of them are missing."""
        _, rows, _ = self.scorer.online.features(RACE, now())
        return rows.stored.tobytes() + rows.present.tobytes()

    def until_whole(self) -> str:
        """Read until Redis is complete; returns what was seen. Raises RuntimeError for a wrong score, or if none was refused."""
        # a writer that checks every second may not have checked yet
        ends = time.monotonic() + 2.0
        until(lambda: self.read_once() and time.monotonic() > ends)
        if self.wrong or not self.refused:
            raise RuntimeError(f"{self.wrong} scores were wrong, {self.refused} were refused")
        return f"scores are refused (503): `` {self.reason} ``; 0 wrong scores"


def flushed_while_idle(sandbox: Sandbox) -> Recovery:
    """Empty Redis under an idle stream."""
    return _harmed(sandbox, lambda client: client.flushall())


def half_evicted(sandbox: Sandbox) -> Recovery:
    """Delete every second entity under an idle stream, as an evicting server does."""

    def evict(client: Any) -> None:
        owned = [key for key in client.scan_iter(count=5000) if any(layout.owns(key) for layout in LAYOUTS)]
        client.delete(*sorted(owned)[::2])

    return _harmed(sandbox, evict)


def older_data(sandbox: Sandbox) -> Recovery:
    """Restore the data from before the last results, as a server restarted from an older file; no message follows."""
    _declared(sandbox)
    client: Any = connect(sandbox.home)
    older = {key: client.dump(key) for key in client.scan_iter(count=5000)}
    sandbox.succeed("ingest", "runners", sandbox.later, "--late")

    def restore(client: Any) -> None:
        with client.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, value in older.items():
                pipe.restore(key, 0, value)
            pipe.execute()

    return _harmed(sandbox, restore, declare=False)


def another_stores_rows(sandbox: Sandbox) -> Recovery:
    """Another store's rebuild takes the Redis, no stream running: all commands refuse it, and `--clear` recovers."""
    _declared(sandbox)
    watch, url = _watch(sandbox), embedded_redis.ensure(sandbox.home)
    home = sandbox.backup.root / "another"
    theirs = Store.open(replace(Settings(home, sandbox.store.timezone), redis_url=url)).save()
    with LogWriter.open(theirs, clock=now) as writer:
        writer.load(read_runner_tables([sandbox.later], theirs).messages)
    build(theirs, now())
    other = replace(sandbox, store=theirs)
    if other.velo("online", "rebuild").code != 2:
        raise RuntimeError("a rebuild wrote over another store's rows")
    other.succeed("online", "rebuild", "--clear")
    for command in (("online", "rebuild"), ("audit",), ("stream", "--once")):
        result = sandbox.velo(*command)
        if result.code != 2 or "another store" not in result.err:
            raise RuntimeError(f"velo {command} used another store's rows: {result}")
    if watch.read_once() or watch.wrong:
        raise RuntimeError("a race was scored with another store's rows")
    begun = time.perf_counter()
    sandbox.succeed("online", "rebuild", "--clear")
    seconds = round(time.perf_counter() - begun, 1)
    until(watch.read_once)
    sandbox.succeed("ingest", "runners", sandbox.later, "--late")
    if watch.wrong:
        raise RuntimeError(f"{watch.wrong} scores were wrong")
    return Recovery(f"`` velo: {watch.reason} ``; 0 wrong scores", NOTHING, "`velo online rebuild --clear`", seconds)


def _harmed(sandbox: Sandbox, damage: Callable[[Any], object], *, declare: bool = True) -> Recovery:
    """Damage Redis under a stream that has read the whole log; the race is refused until Redis is complete."""
    if declare:
        _declared(sandbox)
    running = sandbox.start("stream", "--snapshot-seconds", 1)
    running.wait_for("stream.prepared")
    until(lambda: (where := position(sandbox.home)) is not None and where.running and where.at_end)
    end = reader.end(sandbox.home).next_seq
    until(lambda: read_up_to(sandbox.home, end, sealed=True))
    watch = _watch(sandbox)
    begun = time.perf_counter()
    damage(connect(sandbox.home))
    seen = watch.until_whole()
    seconds = round(time.perf_counter() - begun, 1)
    fault_harness.stopped(running)
    # the declared race is of today, and the results that follow are of earlier days
    sandbox.succeed("ingest", "runners", sandbox.later, "--late")
    return Recovery(seen, NOTHING, BY_ITSELF, seconds)


def _watch(sandbox: Sandbox) -> Watch:
    """A watch on the declared race."""
    return Watch(scorer_of(sandbox.store, UnbuiltLog(sandbox.home), deadline_s=PATIENCE_S), now())


def _declared(sandbox: Sandbox) -> None:
    """Declare the last race of the first file again for tomorrow, in the log and in Redis."""
    results = [*read_runner_tables([sandbox.first], sandbox.store).messages]
    off = now() + timedelta(days=1)
    race = replace(results[-1].race, race_id=RACE, off_time=off, race_date=local_date(off, sandbox.store.timezone))
    with LogWriter.open(sandbox.store, clock=now) as writer:
        writer.append(Racecard(race, results[-1].runners))
        writer.sync()
    sandbox.succeed("stream", "--once")
