"""Every fault that `velo bench faults` makes: the harm, what a person sees of it, and the words that bring the store back.

A scene does harm to a store of its own and says what was seen, what was lost, and how it came back. Whether it did is
not for the scene to say: afterwards the store is told more results, and all of both stores is audited.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import harm
from benchmarks.harm import Scene, until
from feature_repo.stores import embedded_redis
from feature_repo.stores.redis_client import connect
from streams import generations
from streams.audit import audit
from streams.dataflow.telemetry import position
from streams.importers.runners import read_runner_tables
from streams.log import reader
from streams.log.segments import segments
from streams.log.writer import LogWriter
from training import bundle
from velo.settings import Settings
from velo.store import Store

NOTHING: Final = "nothing"
TIMES: Final = 5
"""How often a command is killed in a row."""
PAUSE_S: Final = 2.0
AWAY_S = 60.0
"""How long Redis is away while results come in; a test has less time."""


@dataclass(frozen=True, slots=True)
class Account:
    """One fault: the line that was seen, what was lost of what had been acknowledged, the way back and its seconds."""

    seen: str
    lost: str
    back: str
    back_seconds: float


@dataclass(frozen=True, slots=True)
class Fault:
    """`harm` in a few words, what makes it, and whether it wants a small disk of its own."""

    name: str
    harm: str
    scene: Callable[[Scene], Account]
    on_small_disk: bool = False


def _back(scene: Scene, seen: str, *commands: tuple[object, ...], first: str = "", lost: str = NOTHING) -> Account:
    """Run the commands that bring it back, timed; `first` says what was done by hand before them."""
    begun = time.perf_counter()
    for command in commands:
        scene.well(*command)
    seconds = round(time.perf_counter() - begun, 1)
    words = [
        "`velo " + " ".join("FILE" if isinstance(word, Path) else str(word) for word in one) + "`" for one in commands
    ]
    return Account(seen, lost, ", ".join([*([first] if first else []), *words]), seconds)


def _refused(scene: Scene, *command: object) -> str:
    """The one line of a command that must refuse; raises RuntimeError where it does anything else."""
    said = scene.velo(*command)
    line = said.last()
    if said.code != 2 or not line.startswith("velo: ") or "Traceback" in said.err:
        raise RuntimeError(f"velo {command} ended with {said.code} and said {said.err[-1000:]!r}")
    # what is quoted may quote commands itself
    return f"`` {line} ``" if "`" in line else f"`{line}`"


# Killed


def _killed(scene: Scene, within_s: float, *command: object) -> float:
    """A command killed at random moments, then run to its end; the seconds of that."""
    for _ in range(TIMES):
        running = scene.begun(*command)
        running.ended(scene.chance.uniform(0, within_s))
        running.process.kill()
        running.process.join()
    begun = time.perf_counter()
    scene.well(*command)
    return round(time.perf_counter() - begun, 1)


def load_killed(scene: Scene) -> Account:
    """The same load again takes what is missing."""
    seconds = _killed(scene, 0.4, "ingest", "runners", scene.later)
    return Account("nothing: the process is gone", NOTHING, "the same command again", seconds)


def build_killed(scene: Scene) -> Account:
    """The generation of before is served until the next one is whole."""
    scene.well("ingest", "runners", scene.later)
    seconds = _killed(scene, 1.5, "build", "--whole")
    return Account("nothing: the tables are those of before", NOTHING, "the same command again", seconds)


# Paused, and cut off


def _live(scene: Scene) -> harm.Running:
    """A stream that follows the log, and has told it of the midnight that passed since: from then on it writes nothing there."""
    before = reader.end(scene.home).next_seq
    running = scene.begun("stream", "--snapshot-seconds", 1)
    running.tells("stream.prepared")
    until(lambda: (where := position(scene.home)) is not None and where.sealed_seq > before)
    return running


def stream_paused(scene: Scene) -> Account:
    """SIGSTOP while the log grows, then SIGCONT."""
    running = _live(scene)
    running.send(signal.SIGSTOP)
    scene.well("ingest", "runners", scene.later, "--late")
    seen = scene.well("status").line("behind; sealed")
    begun = time.perf_counter()
    running.send(signal.SIGCONT)
    return _caught_up(scene, running, f"`velo status`: `{seen}`", begun, "by itself, once it goes on")


def redis_paused(scene: Scene) -> Account:
    """Redis answers nobody for a while, and the stream waits."""
    running = _live(scene)
    server = _server_of(scene)
    os.kill(server, signal.SIGSTOP)
    try:
        scene.well("ingest", "runners", scene.later, "--late")
        seen = _event(running.tells("stream.waits"))
    finally:
        begun = time.perf_counter()
        os.kill(server, signal.SIGCONT)
    return _caught_up(scene, running, f"the stream's log: {seen}", begun, "by itself, once Redis answers")


def redis_away(scene: Scene) -> Account:
    """A Redis that is not the store's own is down while results come in one by one, and comes back with what it kept."""
    results = read_runner_tables([scene.later], scene.store).messages
    with harm.redis_of_another(scene.backup.root / "another") as (url, start):
        server = start()
        cut = replace(scene, store=Store.open(Settings(scene.home.root, redis_url=url)))
        running = _live(cut)
        server.kill()
        server.wait()
        with LogWriter.open(cut.store, clock=lambda: datetime.now(UTC)) as writer:
            for result in results:
                writer.append(result)
                writer.sync()
                time.sleep(AWAY_S / len(results))
        seen = _event(running.tells("stream.waits"))
        begun = time.perf_counter()
        start()
        account = _caught_up(cut, running, f"the stream's log: {seen}", begun, "by itself, once Redis answers")
        report = audit(cut.store, datetime.now(UTC), client=connect(cut.home, url))
        if report.found:
            raise RuntimeError(f"{report.found} values differ after Redis was away: {report.differences[:3]}")
    return account


def redis_lost(scene: Scene) -> Account:
    """Redis killed and what it kept gone, under a running stream."""
    running = _live(scene)
    os.kill(_server_of(scene), signal.SIGKILL)
    _remove(embedded_redis.kept(scene.home))
    begun = time.perf_counter()
    scene.well("ingest", "runners", scene.later, "--late")
    seen = _event(running.tells('"forgot": true'))
    return _caught_up(scene, running, f"the stream's log: {seen}", begun, "by itself: the stream fills it again")


def _remove(kept: Path) -> None:
    if kept.is_dir():
        shutil.rmtree(kept)
    else:
        kept.unlink()


def redis_emptied(scene: Scene) -> Account:
    """Redis empty and no stream: an audit says so, one command fills it."""
    connect(scene.home).flushall()
    said = scene.velo("audit")
    if said.code != 1:
        raise RuntimeError(f"an empty Redis went unseen: {said.out}")
    return _back(scene, f"`velo audit` (exits 1): `{said.line('differences')}`", ("online", "rebuild"))


def _caught_up(scene: Scene, running: harm.Running, seen: str, begun: float, back: str) -> Account:
    """Wait until a stream has both stores at the log's end, and end it."""
    last = reader.end(scene.home).next_seq
    until(lambda: (where := position(scene.home)) is not None and where.sealed_seq >= last)
    seconds = round(time.perf_counter() - begun, 1)
    harm.stopped(running)
    return Account(seen, NOTHING, back, seconds)


def _server_of(scene: Scene) -> int:
    """The process of the store's own Redis."""
    about: Any = connect(scene.home).info("server")
    return int(about["process_id"])


def _event(line: str) -> str:
    """What matters of a log line of the stream."""
    kept = [part for part in line.strip("{}").split(", ") if not part.startswith(('"at"', '"level"', '"pid"'))]
    return f"`{', '.join(kept)}`"


# A full disk


def full_disk(leave_kb: int, *command: object) -> Callable[[Scene], Account]:
    """A command that finds no room, and again once there is."""

    def run(scene: Scene) -> Account:
        told = tuple(scene.later if word == "FILE" else word for word in command)
        if command[0] != "ingest":
            scene.well("ingest", "runners", scene.later)
        ballast = harm.fill(scene.home.root.parent, leave_kb)
        seen = _refused(scene, *told)
        ballast.unlink()
        return _back(scene, seen, told, first="make room")

    return run


# Damaged


def torn_tail(scene: Scene) -> Account:
    """Half a record at the log's end: of a write that was never acknowledged."""
    last = segments(scene.home)[-1].path
    line = last.read_bytes().splitlines(keepends=True)[-1]
    with last.open("ab") as file:
        file.write(line[: len(line) // 2])
    said = scene.velo("log", "check", "--json")
    if said.code != 1 or "a write was cut short" not in said.out:
        raise RuntimeError(f"a torn tail went unseen: {said.out}")
    return Account(
        "`velo log check`: `… no whole record (a write was cut short)`", NOTHING, "the next writer cuts it", 0.0
    )


def lost_tail(scene: Scene) -> Account:
    """The last acknowledged record cut short: worse than any crash does, and so a disk's doing."""
    harm.cut(segments(scene.home)[-1].path, 40)
    seen = _refused(scene, "build")
    lost = "that record, unless its file or feed is still there"
    return _back(scene, seen, ("ingest", "runners", scene.first), ("build",), lost=lost)


def changed_record(scene: Scene) -> Account:
    """One digit of a record in the middle: JSON as good as before, and only its checksum knows."""
    path = segments(scene.home)[0].path
    lines = path.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    lines[middle] = lines[middle].replace(b'"position":2', b'"position":3', 1)
    path.write_bytes(b"".join(lines))
    seen = _refused(scene, "build", "--whole")
    scene.restore(f"log/{path.name}")
    return _back(scene, seen, ("build", "--whole"), first="restore the segment from the backup",
                 lost="nothing with a backup, else that record")  # fmt: skip


def changed_part(scene: Scene) -> Account:
    """Bytes within a page of a table: it can be read, and says something else."""
    harm.change(_part(scene, "trainer_velocity"), 0.4)
    return _back(scene, _refused(scene, "audit"), ("build", "--whole"))


def cut_part(scene: Scene) -> Account:
    """A table's end gone: nobody can read it."""
    harm.cut(_part(scene, "horse_form"), 500)
    scene.well("ingest", "runners", scene.later)
    return _back(scene, _refused(scene, "build"), ("build", "--whole"))


def changed_manifest(scene: Scene) -> Account:
    """What the tables are of cannot be read."""
    (scene.home.offline / generations.MANIFEST).write_bytes(b"\0" * 200)
    return _back(scene, _refused(scene, "stream", "--once"), ("build", "--whole"))


def changed_cache(scene: Scene) -> Account:
    """Measured starts, kept between builds."""
    harm.change(next(scene.home.batch.glob("starts-*.parquet")), 0.4)
    scene.well("ingest", "runners", scene.later)
    return _back(scene, _refused(scene, "build"), ("build", "--whole"))


def changed_recovery(scene: Scene) -> Account:
    """Bytewax's own store of where the stream was."""
    folder = next(scene.home.recovery.iterdir())
    for path in folder.iterdir():
        path.write_bytes(b"\0" * 4096)
    seen = _refused(scene, "stream", "--once")
    shutil.rmtree(folder)
    return _back(scene, seen, ("stream", "--once"), first="remove that folder")


def changed_bundle(scene: Scene) -> Account:
    """One byte of the model that serves."""
    harm.change(scene.home.models / bundle.current(scene.home) / "model.txt", 0.5, 1)
    seen = _refused(scene, "score", "any race")
    return _back(scene, seen, ("models", "rollback"))


def changed_redis(scene: Scene) -> Account:
    """What the store's own Redis kept on the disk, its server down."""
    kept = embedded_redis.kept(scene.home)
    files = list(kept.iterdir()) if kept.is_dir() else [kept]
    harm.change(max(files, key=lambda one: one.stat().st_size), 0.5, 64)
    seen = _refused(scene, "online", "rebuild")
    _remove(kept)
    return _back(scene, seen, ("online", "rebuild"), first="remove it")


def changed_registry(scene: Scene) -> Account:
    """Feast's registry."""
    asked = scene.backup.root / "asked.csv"
    asked.write_text("horse_id,event_timestamp\nnobody,2024-02-01T12:00:00Z\n")
    command = ("features", "--entities", asked, "--out", scene.backup.root / "out.parquet")
    scene.home.registry.write_bytes(b"\0" * 200)
    seen = _refused(scene, *command)
    scene.home.registry.unlink()
    account = _back(scene, seen, command, first="remove that file")
    return Account(account.seen, account.lost, "remove that file, and the same command again", account.back_seconds)


def changed_identity(scene: Scene) -> Account:
    """The store's time zone, keys and epochs."""
    scene.home.identity.write_bytes(b"{")
    seen = _refused(scene, "status")
    scene.restore("store.json")
    return _back(scene, seen, ("status",), first="restore it from the backup")


def _part(scene: Scene, view: str) -> Path:
    return next((scene.home.offline / view).glob("batch-*.parquet"))


FAULTS: Final = (
    Fault("load-killed", f"`velo ingest` killed {TIMES} times (SIGKILL)", load_killed),
    Fault("build-killed", f"`velo build --whole` killed {TIMES} times", build_killed),
    Fault("stream-paused", "the stream paused (SIGSTOP) while the log grows", stream_paused),
    Fault("redis-paused", "Redis paused under the stream", redis_paused),
    Fault("redis-away", f"Redis stopped for {AWAY_S:.0f} s while results come in", redis_away),
    Fault("redis-lost", "Redis killed and its data gone, under the stream", redis_lost),
    Fault("redis-emptied", "Redis emptied, no stream running", redis_emptied),
    Fault("disk-load", "the disk full: a load", full_disk(20, "ingest", "runners", "FILE"), on_small_disk=True),
    Fault("disk-build", "the disk full: a build", full_disk(300, "build"), on_small_disk=True),
    Fault("disk-stream", "the disk full: the stream", full_disk(60, "stream", "--once"), on_small_disk=True),
    Fault("torn-tail", "half a record at the log's end", torn_tail),
    Fault("lost-tail", "the last acknowledged record damaged", lost_tail),
    Fault("record", "a digit changed in the middle of a log segment", changed_record),
    Fault("part", "bytes changed in a Parquet part", changed_part),
    Fault("part-cut", "a Parquet part cut short", cut_part),
    Fault("manifest", "a generation's manifest overwritten", changed_manifest),
    Fault("cache", "bytes changed in the build's cache", changed_cache),
    Fault("recovery", "Bytewax's recovery store overwritten", changed_recovery),
    Fault("bundle", "a byte changed in the model that serves", changed_bundle),
    Fault("redis-file", "bytes changed in what the store's own Redis keeps", changed_redis),
    Fault("registry", "Feast's registry overwritten", changed_registry),
    Fault("identity", "`store.json` overwritten", changed_identity),
)
