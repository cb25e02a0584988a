"""The ground that `velo bench faults` does harm on: a small store of its own, and `velo` in processes of its own."""

import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import duckdb

from feature_repo.catalogue import columns
from feature_repo.stores import embedded_redis
from training import bundle, bundle_writing
from training.ensemble import Ensemble
from training.logit import Logit
from velo.racing.messages import Result
from velo.settings import Settings
from velo.simulator import SeasonSpec, simulate
from velo.storage.log import reader
from velo.storage.store import Home, Store

BEGINS: Final = date(2024, 1, 1)
DAYS: Final = 32
LATER_FROM: Final = date(2024, 1, 25)
"""The races from this day on are told after the harm: what is acknowledged then must join what was before."""
DISK_MB: Final = 64
PATIENCE_S: Final = 120.0
PRELOADED: Final = ["benchmarks.fault_harness", "streams.dataflow.runtime", "streams.batch.build", "pyarrow.parquet"]
OURS: Final = ("VELO_HOME", "VELO_TIMEZONE", "VELO_KEYS", "REDIS_URL", "VELO_ENGINE")


class NotRun(Exception):
    """A fault that cannot be made on this machine, and why."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command left behind; `home` is what its paths begin with."""

    code: int
    out: str
    err: str
    home: str

    def last(self) -> str:
        """The last line a person is shown, without the place of the store."""
        lines = [line.strip() for line in (self.err if self.code else self.out).splitlines() if line.strip()]
        return self.plain(lines[-1]) if lines else ""

    def line(self, word: str) -> str:
        """The line of either stream that has a word."""
        found = (line for line in (self.out + self.err).splitlines() if word in line)
        return self.plain(" ".join(next(found, "").split()))

    def plain(self, text: str) -> str:
        """Text without the place of the store."""
        return text.replace(self.home, "$VELO_HOME")


@dataclass(frozen=True, slots=True)
class Running:
    """A command that runs."""

    process: BaseProcess
    folder: Path
    home: str

    def tells(self, word: str) -> str:
        """Wait until its error stream has a word, and return the line."""
        said: list[str] = []

        def told() -> bool:
            lines = (self.folder / "err").read_text(errors="replace").splitlines()
            said[:] = [line for line in lines if word in line]
            return bool(said)

        until(told)
        return said[-1].replace(self.home, "$VELO_HOME")

    def send(self, number: int) -> None:
        """A signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self, seconds: float | None = PATIENCE_S) -> Said | None:
        """What it left, once it has ended; None where it has not by then."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            return None
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("out", "err"))
        return Said(self.process.exitcode, out, err, self.home)


@dataclass(frozen=True, slots=True)
class Scene:
    """A store to do harm to, its backup, the file its log was told, and the file it is told afterwards."""

    store: Store
    backup: Home
    first: Path
    later: Path
    chance: random.Random

    @property
    def home(self) -> Home:
        """Where the store is."""
        return self.store.home

    def begun(self, *argv: object) -> Running:
        """`velo …` in a process of its own."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        folder = self.backup.root / f"said-{time.monotonic_ns()}"
        folder.mkdir()
        for name in ("out", "err"):
            (folder / name).touch()
        told = (list(map(str, argv)), str(self.home.root), str(folder), self.store.redis_url)
        process: BaseProcess = context.Process(target=_velo, args=told)
        process.start()
        return Running(process, folder, str(self.home.root))

    def velo(self, *argv: object) -> Said:
        """What `velo …` left; raises RuntimeError where it does not end."""
        said = self.begun(*argv).ended()
        if said is None:
            raise RuntimeError(f"velo {argv} does not end")
        return said

    def well(self, *argv: object) -> Said:
        """As `velo`, and raises RuntimeError where it fails."""
        said = self.velo(*argv)
        if said.code:
            raise RuntimeError(f"velo {argv} ended with {said.code}: {said.err[-1000:]}")
        return said

    def acknowledged(self) -> int:
        """Results that the log holds."""
        return sum(isinstance(one, Result) for _, one in reader.messages(self.home))

    def restore(self, *names: str) -> None:
        """Put files of the home back as they were backed up."""
        for name in names:
            shutil.copy2(self.backup.root / name, self.home.root / name)


def until(true: Callable[[], Any]) -> None:
    """Wait for something that another process does; raises RuntimeError where it never comes to be."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError("it never came to be")
        time.sleep(0.01)


def _velo(argv: list[str], home: str, folder: str, redis_url: str | None) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_APPEND), number)
    for name in OURS:
        os.environ.pop(name, None)
    os.environ |= {"VELO_HOME": home, "COLUMNS": "200", **({"REDIS_URL": redis_url} if redis_url else {})}
    sys.argv = ["velo", *argv]
    from velo.cli import main

    main()


def prepared(folder: Path) -> Scene:
    """A store that was loaded, built, streamed and has two model bundles; its Redis is stopped. Every scene is a copy."""
    season = simulate(SeasonSpec(start=BEGINS, days=DAYS, races_per_year=900))
    files = folder / "first.parquet", folder / "later.parquet"
    with duckdb.connect() as connection:
        connection.register("season", season)
        for path, side in zip(files, ("<", ">="), strict=True):
            part = connection.sql(f"FROM season WHERE race_date {side} DATE '{LATER_FROM}'")
            part.write_parquet(str(path))
    store = Store.open(Settings(folder / "home")).save()
    scene = Scene(store, Home(folder), *files, random.Random(0))
    scene.well("ingest", "runners", scene.first)
    scene.well("build")
    scene.well("stream", "--once")
    scene.well("down")
    for number in range(2):
        keep_bundle(store.home, number)
    return scene


@contextmanager
def scene(base: Scene, folder: Path, chance: random.Random, disk: Path | None = None) -> Iterator[Scene]:
    """A copy of a prepared store, on a small disk where one is given, and a backup of what a backup is of."""
    folder.mkdir()
    root = (disk or folder) / "home"
    shutil.copytree(base.home.root, root, symlinks=True)
    backup = Home(folder / "backup")
    shutil.copytree(base.home.root, backup.root, symlinks=True)
    made = Scene(Store.open(Settings(root)), backup, base.first, base.later, chance)
    try:
        yield made
    finally:
        embedded_redis.down(made.home)
        shutil.rmtree(folder)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own in memory; raises `NotRun` without the right to mount one."""
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    command = [mount or "", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "velo-faults", str(folder)]
    if not mount or not umount or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        folder.rmdir()
        raise NotRun("a small disk cannot be mounted here: run it as root")
    try:
        yield folder
    finally:
        subprocess.run([umount, "--lazy", str(folder)], check=True)


@contextmanager
def redis_of_another(folder: Path) -> Iterator[tuple[str, Callable[[], "subprocess.Popen[bytes]"]]]:
    """The URL of a Redis that is not the store's own, and what starts it, with what it kept; none is left running."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [embedded_redis.executable(), "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes"]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        started.append(server)
        until(lambda: _answers(port))
        return server

    try:
        yield f"redis://127.0.0.1:{port}/0", start
    finally:
        for server in started:
            server.kill()
            server.wait()


def _answers(port: int) -> bool:
    from redis import Redis
    from redis.exceptions import RedisError

    try:
        return bool(Redis(port=port).ping())
    except RedisError:
        return False


def fill(disk: Path, leave_kb: int) -> Path:
    """Take all room of a disk but so much; returns the file that takes it."""
    room, ballast = os.statvfs(disk), disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leave_kb * 1024)
    return ballast


def change(path: Path, at: float = 0.5, count: int = 8) -> None:
    """Change some bytes in place of a file of its own (a part may be shared with another generation)."""
    content = bytearray(path.read_bytes())
    begin = int(len(content) * at)
    for place in range(begin, min(begin + count, len(content))):
        content[place] ^= 0xFF
    path.unlink()
    path.write_bytes(content)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def cut(path: Path, count: int) -> None:
    """Take a file's last bytes away."""
    os.truncate(path, path.stat().st_size - count)


def stopped(running: Running) -> Said:
    """End a command by SIGTERM and return what it left."""
    running.send(signal.SIGTERM)
    said = running.ended()
    if said is None or said.code:
        raise RuntimeError(f"it did not end well: {said}")
    return said


def keep_bundle(home: Home, number: int) -> None:
    """A model of no worth: what is asked of it is whether a changed byte of it is seen."""
    names = (next(iter(columns.COLUMNS)),)
    fitted = bundle.Model(Ensemble("tree\n", Logit(names, (0.0,), (1.0,), (float(number),), 1.0, 1, 0.0), 0.5))
    told = {"features": list(names), "catalogue": "none", "lead_s": 300.0, "gate": "not run", "mode": "paper only"}
    bundle_writing.write(home, fitted, told, {}, datetime(2024, 2, 1, tzinfo=UTC) + timedelta(days=number))
