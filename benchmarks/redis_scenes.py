"""Scenes of `velo bench faults` in which Redis is there and is not whole: no score is given of what it lost.

A race is scored again and again from the harm on until the store is whole again, and each answer is a refusal or what it
was before.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from benchmarks import fault_harness
from benchmarks.fault_harness import Scene, until
from benchmarks.fault_report import NOTHING, Recovery
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
BY_ITSELF: Final = "by itself: the stream fills it again"


@dataclass(slots=True)
class Watch:
    """Reads one race of a store again and again, as a score does: how many answers were refusals, and how many were wrong."""

    scorer: Scorer
    now: datetime
    right: bytes = field(init=False)
    refused: int = 0
    wrong: int = 0
    said: str = ""

    def __post_init__(self) -> None:
        """What is read first is right: nothing was harmed yet."""
        self.right = self._read()

    def ask(self) -> bool:
        """Ask once; whether it was answered, and Redis says of itself that it is whole."""
        try:
            self.wrong += self._read() != self.right
            self.scorer.online.refuse_not_whole(self.now)
        except UserError as not_whole:
            self.refused += 1
            self.said = str(not_whole)
            return False
        return True

    def _read(self) -> bytes:
        """Every value a score would be made of, and which are missing."""
        _, rows, _ = self.scorer.online.features(RACE, datetime.now(UTC))
        return rows.stored.tobytes() + rows.present.tobytes()

    def until_whole(self) -> str:
        """Ask until it is whole again; what was seen meanwhile. Raises RuntimeError for a wrong score, or none refused."""
        # a writer that looks each second has not looked yet
        ends = time.monotonic() + 2.0
        until(lambda: self.ask() and time.monotonic() > ends)
        if self.wrong or not self.refused:
            raise RuntimeError(f"{self.wrong} scores were wrong, {self.refused} were refused")
        return f"scores are refused (503): `` {self.said} ``; 0 wrong scores"


def flushed_while_idle(scene: Scene) -> Recovery:
    """Emptied under a stream that has nothing to do."""
    return _harmed(scene, lambda client: client.flushall())


def half_evicted(scene: Scene) -> Recovery:
    """Every second entity gone, as a server that evicts leaves it, under a stream that has nothing to do."""

    def rob(client: Any) -> None:
        owned = [key for key in client.scan_iter(count=5000) if any(layout.owns(key) for layout in LAYOUTS)]
        client.delete(*sorted(owned)[::2])

    return _harmed(scene, rob)


def older_data(scene: Scene) -> Recovery:
    """As it was before the last results, as a server restarted from an older file has it, and nothing is told since."""
    _declared(scene)
    client: Any = connect(scene.home)
    older = {key: client.dump(key) for key in client.scan_iter(count=5000)}
    scene.succeed("ingest", "runners", scene.later, "--late")

    def restore(client: Any) -> None:
        with client.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, value in older.items():
                pipe.restore(key, 0, value)
            pipe.execute()

    return _harmed(scene, restore, declare=False)


def another_stores_rows(scene: Scene) -> Recovery:
    """Another store's rebuild takes the Redis, no stream running: all refuse it, and `--clear` puts it right."""
    _declared(scene)
    watch, url = _watch(scene), embedded_redis.ensure(scene.home)
    home = scene.backup.root / "another"
    theirs = Store.open(replace(Settings(home, scene.store.timezone), redis_url=url)).save()
    with LogWriter.open(theirs, clock=lambda: datetime.now(UTC)) as writer:
        writer.load(read_runner_tables([scene.later], theirs).messages)
    build(theirs, datetime.now(UTC))
    other = replace(scene, store=theirs)
    if other.velo("online", "rebuild").code != 2:
        raise RuntimeError("a rebuild wrote over another store's rows")
    other.succeed("online", "rebuild", "--clear")
    for command in (("online", "rebuild"), ("audit",), ("stream", "--once")):
        said = scene.velo(*command)
        if said.code != 2 or "another store" not in said.err:
            raise RuntimeError(f"velo {command} took another store's rows for its own: {said}")
    if watch.ask() or watch.wrong:
        raise RuntimeError("a race was scored with another store's rows")
    begun = time.perf_counter()
    scene.succeed("online", "rebuild", "--clear")
    seconds = round(time.perf_counter() - begun, 1)
    until(watch.ask)
    scene.succeed("ingest", "runners", scene.later, "--late")
    if watch.wrong:
        raise RuntimeError(f"{watch.wrong} scores were wrong")
    return Recovery(f"`` velo: {watch.said} ``; 0 wrong scores", NOTHING, "`velo online rebuild --clear`", seconds)


def _harmed(scene: Scene, do: Callable[[Any], object], *, declare: bool = True) -> Recovery:
    """Do harm to Redis under a stream that has read all, and see the race refused until all is there again."""
    if declare:
        _declared(scene)
    running = scene.start("stream", "--snapshot-seconds", 1)
    running.wait_for("stream.prepared")
    until(lambda: (where := position(scene.home)) is not None and where.running and where.at_end)
    end = reader.end(scene.home).next_seq
    until(lambda: (where := position(scene.home)) is not None and where.sealed_seq >= end)
    watch = _watch(scene)
    begun = time.perf_counter()
    do(connect(scene.home))
    seen = watch.until_whole()
    seconds = round(time.perf_counter() - begun, 1)
    fault_harness.stopped(running)
    # the race that was declared is of today: what is told afterwards is later news of older days
    scene.succeed("ingest", "runners", scene.later, "--late")
    return Recovery(seen, NOTHING, BY_ITSELF, seconds)


def _watch(scene: Scene) -> Watch:
    """What reads the race that was declared."""
    return Watch(scorer_of(scene.store, UnbuiltLog(scene.home), patience_s=PATIENCE_S), datetime.now(UTC))


def _declared(scene: Scene) -> None:
    """The last race of the file that the log was told, declared again for tomorrow, in the log and in Redis."""
    results = [*read_runner_tables([scene.first], scene.store).messages]
    off = datetime.now(UTC) + timedelta(days=1)
    race = replace(results[-1].race, race_id=RACE, off_time=off, race_date=local_date(off, scene.store.timezone))
    with LogWriter.open(scene.store, clock=lambda: datetime.now(UTC)) as writer:
        writer.append(Racecard(race, results[-1].runners))
        writer.sync()
    scene.succeed("stream", "--once")
