"""The harness of `velo bench faults`: small stores to damage, and `velo` commands run in child processes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from socket import socket
from typing import Final

import duckdb
import numpy as np

from benchmarks import CHECKOUT
from benchmarks.stores import OURS, forkserver, free_port, until
from velo.feature_repo.catalogue import columns
from velo.feature_repo.stores import embedded_redis
from velo.racing.messages import Result
from velo.settings import Settings
from velo.simulator import SeasonSpec, simulate
from velo.storage.log import reader
from velo.storage.store import Home, Store
from velo.storage.table_versions import current_formulas
from velo.training import bundle
from velo.training.model.ensemble import Ensemble, Logit
from velo.training.registry import bundle_writing

BEGINS: Final = date(2024, 1, 1)
DAYS: Final = 32
LATER_FROM: Final = date(2024, 1, 25)
"""Races from this day on are loaded after the fault, to show that the store still accepts results."""
DISK_MB: Final = 64
PATIENCE_S: Final = 120.0
NOTHING: Final = "nothing"
LISTENER: Final = 3
"""The descriptor by which a service manager passes a socket (`sd_listen_fds(3)`)."""


class NotRun(Exception):
    """Raised with the reason if a fault cannot be injected on this machine."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The exit code and output of a command; `home` is the store path in that output."""

    code: int
    out: str
    err: str
    home: str

    def last(self) -> str:
        """The last line shown to the user, with the store path replaced."""
        lines = [line.strip() for line in (self.err if self.code else self.out).splitlines() if line.strip()]
        return self.plain(lines[-1]) if lines else ""

    def line(self, word: str) -> str:
        """The first line of output that contains `word`, with the store path replaced."""
        found = (line for line in (self.out + self.err).splitlines() if word in line)
        return self.plain(" ".join(next(found, "").split()))

    def plain(self, text: str) -> str:
        """The text with the store path replaced."""
        return text.replace(self.home, "$VELO_HOME")


@dataclass(frozen=True, slots=True)
class Running:
    """A running command."""

    process: BaseProcess
    folder: Path
    home: str

    def wait_for(self, word: str) -> str:
        """Wait until a line of its error stream contains `word`; returns the last such line. Raises RuntimeError if it ends before."""
        matches: list[str] = []

        def matched() -> bool:
            ended = self.process.exitcode is not None
            lines = (self.folder / "err").read_text(errors="replace").splitlines()
            matches[:] = [line for line in lines if word in line]
            if not matches and ended:
                raise RuntimeError(f"the command ended with {self.process.exitcode} before {word}: {lines[-5:]}")
            return bool(matches)

        until(matched, PATIENCE_S)
        return matches[-1].replace(self.home, "$VELO_HOME")

    def send(self, number: int) -> None:
        """Send a signal to the process."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self, seconds: float | None = PATIENCE_S) -> CommandResult | None:
        """Its exit code and output once it ends; None if it still runs after `seconds`."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            return None
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("out", "err"))
        return CommandResult(self.process.exitcode, out, err, self.home)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A copy of a store to damage, its backup, the results loaded before the fault (`first`) and those loaded after it (`later`)."""

    store: Store
    backup: Home
    first: Path
    later: Path
    chance: random.Random

    @property
    def home(self) -> Home:
        """The home of the store."""
        return self.store.home

    def start(self, *argv: object, listener: socket | None = None, **more: str) -> Running:
        """Start `velo …` in a child process; `more` are environment variables.

        With `listener` it is started as by a service manager that holds this listening socket.
        """
        folder = self.backup.root / f"output-{time.monotonic_ns()}"
        folder.mkdir()
        for name in ("out", "err"):
            (folder / name).touch()
        args = (list(map(str, argv)), str(self.home.root), str(folder), self.store.redis_url, more, listener)
        process: BaseProcess = forkserver().Process(target=_velo, args=args)
        process.start()
        return Running(process, folder, str(self.home.root))

    def velo(self, *argv: object) -> CommandResult:
        """Run `velo …`; raises RuntimeError if it does not end in time."""
        result = self.start(*argv).ended()
        if result is None:
            raise RuntimeError(f"velo {argv} did not end within {PATIENCE_S:g} s")
        return result

    def succeed(self, *argv: object) -> CommandResult:
        """Run `velo …`; raises RuntimeError if it fails."""
        result = self.velo(*argv)
        if result.code:
            raise RuntimeError(f"velo {argv} ended with {result.code}: {result.err[-1000:]}")
        return result

    def acknowledged(self) -> int:
        """The number of results in the log."""
        return sum(isinstance(message, Result) for _, message in reader.messages(self.home))

    def restore(self, *names: str) -> None:
        """Restore files of the home from the backup."""
        for name in names:
            shutil.copy2(self.backup.root / name, self.home.root / name)


@dataclass(frozen=True, slots=True)
class Recovery:
    """The outcome of one fault: the line seen, the acknowledged data lost, the recovery and its seconds.

    `results` counts the results that the scenario itself added to the log.
    """

    seen: str
    lost: str
    back: str
    back_seconds: float
    results: int = 0


def recovered_by(
    sandbox: Sandbox, seen: str, *commands: tuple[object, ...], first: str = "", lost: str = NOTHING
) -> Recovery:
    """Run and time the recovery commands; `first` names a manual step before them."""
    begun = time.perf_counter()
    for command in commands:
        sandbox.succeed(*command)
    seconds = round(time.perf_counter() - begun, 1)
    words = [
        "`velo " + " ".join("FILE" if isinstance(word, Path) else str(word) for word in command) + "`"
        for command in commands
    ]
    return Recovery(seen, lost, ", ".join([*([first] if first else []), *words]), seconds)


def refused(sandbox: Sandbox, *command: object) -> str:
    """The error line of a command that must fail; raises RuntimeError if it does not exit 2 with one line."""
    result = sandbox.velo(*command)
    line = result.last()
    if result.code != 2 or not line.startswith("velo: ") or "Traceback" in result.err:
        raise RuntimeError(f"velo {command} ended with {result.code} and printed {result.err[-1000:]!r}")
    # Markdown: a line that contains backticks needs double ones
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def _velo(
    argv: list[str], home: str, folder: str, redis_url: str | None, more: dict[str, str], listener: socket | None
) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_APPEND), number)
    for name in OURS:
        os.environ.pop(name, None)
    os.environ |= {"VELO_HOME": home, "COLUMNS": "200", **({"REDIS_URL": redis_url} if redis_url else {}), **more}
    if listener is not None:
        os.dup2(os.dup(listener.fileno()), LISTENER)
        os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "PYTHONPATH": str(CHECKOUT)}
        os.execv(sys.executable, [sys.executable, "-m", "velo.cli", *argv])  # noqa: S606 no shell is wanted
    velo(*argv)


def velo(*argv: str) -> None:
    """Run a command on the store of this process's environment."""
    sys.argv = ["velo", *argv]
    from velo.cli import main

    main()


def prepared(folder: Path) -> Sandbox:
    """Make the store that sandboxes copy: loaded, built and streamed, with two model bundles and its Redis stopped."""
    season = simulate(SeasonSpec(start=BEGINS, days=DAYS, races_per_year=900))
    files = folder / "first.parquet", folder / "later.parquet"
    with duckdb.connect() as connection:
        connection.register("season", season)
        for path, side in zip(files, ("<", ">="), strict=True):
            part = connection.sql(f"FROM season WHERE race_date {side} DATE '{LATER_FROM}'")
            part.write_parquet(str(path))
    store = Store.open(Settings(folder / "home")).save()
    sandbox = Sandbox(store, Home(folder), *files, random.Random(0))
    sandbox.succeed("ingest", "runners", sandbox.first)
    sandbox.succeed("build")
    sandbox.succeed("stream", "--once")
    sandbox.succeed("down")
    for number in range(2):
        keep_bundle(store.home, number)
    return sandbox


@contextmanager
def sandbox(base: Sandbox, folder: Path, chance: random.Random, disk: Path | None = None) -> Iterator[Sandbox]:
    """Copy a prepared store, to `disk` if given, with a backup beside it."""
    folder.mkdir()
    root = (disk or folder) / "home"
    shutil.copytree(base.home.root, root, symlinks=True)
    backup = Home(folder / "backup")
    shutil.copytree(base.home.root, backup.root, symlinks=True)
    copied = Sandbox(Store.open(Settings(root)), backup, base.first, base.later, chance)
    try:
        yield copied
    finally:
        embedded_redis.down(copied.home)
        shutil.rmtree(folder)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a small in-memory file system; raises `NotRun` without the permission to mount."""
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    command = [mount or "", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "velo-faults", str(folder)]
    if not mount or not umount or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        folder.rmdir()
        raise NotRun("cannot mount a small disk: run as root")
    try:
        yield folder
    finally:
        subprocess.run([umount, "--lazy", str(folder)], check=True)


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, Callable[[], "subprocess.Popen[bytes]"]]]:
    """Yield the URL of an external Redis and the function that starts it with its saved data; stops every server at the end."""
    folder.mkdir()
    port = free_port()
    command = [embedded_redis.executable(), "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes"]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        started.append(server)
        until(lambda: _answers(port), PATIENCE_S)
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
    """Fill a disk up to `leave_kb`; returns the file that takes the space."""
    room, ballast = os.statvfs(disk), disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leave_kb * 1024)
    return ballast


def change(path: Path, at: float = 0.5, count: int = 8) -> None:
    """Change `count` bytes from the fraction `at` of a file.

    The file is replaced, not edited in place, because another generation may share it by a hard link.
    """
    content = bytearray(path.read_bytes())
    begin = int(len(content) * at)
    for offset in range(begin, min(begin + count, len(content))):
        content[offset] ^= 0xFF
    path.unlink()
    path.write_bytes(content)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its contents."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def cut(path: Path, count: int) -> None:
    """Cut the last `count` bytes off a file."""
    os.truncate(path, path.stat().st_size - count)


def stopped(running: Running) -> CommandResult:
    """Stop a command by SIGTERM; raises RuntimeError unless it exits 0."""
    running.send(signal.SIGTERM)
    result = running.ended()
    if result is None or result.code:
        raise RuntimeError(f"the command did not stop cleanly: {result}")
    return result


def small_trees() -> str:
    """One tree on noise, as LightGBM writes it: a model that scores, with edges that differ from runner to runner."""
    import lightgbm

    data = lightgbm.Dataset(np.arange(40.0)[:, None], label=np.arange(40) % 2)
    return lightgbm.train({"verbosity": -1, "min_data_in_leaf": 5, "num_threads": 1}, data, 1).model_to_string()


def keep_bundle(home: Home, number: int) -> None:
    """Store a small model, to test whether a changed byte in it is detected."""
    names = (next(iter(columns.COLUMNS)),)
    fitted = bundle.Model(Ensemble(small_trees(), Logit(names, (0.0,), (1.0,), (float(number),), 1.0, 1, 0.0), 0.5))
    formulas = current_formulas(home)
    catalogue = "none" if formulas is None else formulas.fingerprint
    metadata = {
        "features": list(names),
        "catalogue": catalogue,
        "lead_s": 300.0,
        "gate": "not run",
        "mode": "paper only",
    }
    bundle_writing.write(home, fitted, metadata, {}, datetime(2024, 2, 1, tzinfo=UTC) + timedelta(days=number))
