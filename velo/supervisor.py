"""Everything a race day needs in one process tree: Redis, the stream with its feed, the service, and the work of the night.

Programs run as children, are restarted when they end, and are stopped together. Their lines come out as one log: JSON, one
event a line, each with the name of its program. What runs is written to `up/state.json` in the store's home.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from socket import socket
from typing import IO, Any, Final
from zoneinfo import ZoneInfo

import orjson

from velo.errors import UserError
from velo.racing.clock import to_text
from velo.storage import locks
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.store import Home

LOOK_S: Final = 0.2
"""Seconds between two looks at the programs."""
REDIS_S: Final = 5.0
"""Seconds between two looks at the store's own Redis."""
STEADY_S: Final = 60.0
"""A program that ran this long is steady: the least time between its starts is the shortest again."""
BACKOFF_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Least seconds between two starts of a program that keeps ending; the last repeats."""
STOP_S: Final = 60.0
"""Seconds a program has to end after SIGTERM before it is killed: the stream writes its last checkpoint."""
USER_ERROR: Final = 2
"""The exit code of a command that the user must correct."""
READ_S: Final = 5.0
"""Seconds to wait for the last lines of a program that ended; a process that it left may hold them open."""
MARK: Final = "_VELO_UP"
"""The variable that names the program, the store and the supervisor of a process, and of all that it starts."""
_KEPT_LINES: Final = 5


@dataclass(frozen=True, slots=True)
class Program:
    """A `velo` command that runs as long as the supervisor does: its name in the log, and its arguments.

    One that `listens` gets the supervisor's listening socket by `--fd`. A command of the night is left out where `needed` says so.
    """

    name: str
    arguments: Sequence[str]
    listens: bool = False
    needed: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True)
class Nightly:
    """Commands run once a night, one after another, from a time of day in the store's zone; none where `at` is None."""

    at: time_of_day | None
    commands: Sequence[Program]
    zone: ZoneInfo

    def next_after(self, now: datetime) -> datetime | None:
        """The next start, UTC; a local time that a clock change skips or repeats gives one instant a day."""
        if self.at is None:
            return None
        local = now.astimezone(self.zone)
        for days in (0, 1, 2):
            day = (local + timedelta(days=days)).date()
            begin = datetime.combine(day, self.at, self.zone).astimezone(UTC)
            if begin > now:
                return begin
        raise AssertionError("two days have a start")


@dataclass(slots=True)
class Child:
    """A program and its process, if it runs. `due` is the monotonic second from which it may start."""

    program: Program
    due: float = 0.0
    process: "subprocess.Popen[bytes] | None" = None
    begun: float = 0.0
    since: datetime | None = None
    restarts: int = 0
    failures: int = 0
    last_exit: int | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    reader: threading.Thread | None = None

    def state(self) -> dict[str, Any]:
        """As `up/state.json` has it."""
        return {
            "name": self.program.name,
            "pid": self.process.pid if self.process else None,
            "since": to_text(self.since) if self.since else None,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "last_line": self.lines[-1] if self.lines else "",
        }


@dataclass(slots=True)
class Supervisor:
    """Runs programs until `stop` is set; `command` is the argument vector of `velo`.

    `keep_redis` starts the store's own Redis where it does not run, and says whether it did; `stop_redis` stops it at the end.
    `listen` returns the socket of the program that listens: while that program is started again, its clients wait instead of being
    refused.
    """

    home: Home
    programs: Sequence[Program]
    nightly: Nightly
    clock: Callable[[], datetime]
    stop: threading.Event
    url: str
    keep_redis: Callable[[], bool] | None = None
    stop_redis: Callable[[], object] | None = None
    listen: Callable[[], socket] | None = None
    command: Sequence[str] = (sys.executable, "-m", "velo.cli")
    out: IO[str] = sys.stderr
    _children: list[Child] = field(default_factory=list)
    _socket: socket | None = None
    _mark: str = field(default_factory=lambda: secrets.token_hex(8))
    _left: dict[int, str] = field(default_factory=dict)
    _kill_left_at: float = 0.0
    _night: Child | None = None
    _tonight: deque[Program] = field(default_factory=deque)
    _next_night: datetime | None = None
    _last_night: dict[str, Any] = field(default_factory=dict)
    _looked_at_redis: float = -REDIS_S
    _write: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Run until `stop` is set, then stop every program.

        Raises `UserError` where another supervisor runs on the store, and where a program refuses its settings at the first
        start (exit code 2): then all the others are stopped.
        """
        make_folder(self.home.up)
        try:
            with locks.holding(self.home.up / LOCK) as descriptor:
                locks.record_holder(descriptor)
                self._supervise()
        except locks.LockHeld as other:
            raise UserError(
                f"`velo up` already runs on {self.home.root} as process {other.holder or 'unknown'}: stop it first"
            ) from None

    def _supervise(self) -> None:
        self._stop_left_over()
        self._children = [Child(program) for program in self.programs]
        self._next_night = self.nightly.next_after(self.clock())
        self._say("up.begins", url=self.url, programs=[program.name for program in self.programs])
        try:
            while not self.stop.is_set():
                self._look_at_left_over()
                changed = self._look_at_redis()
                for child in self._children:
                    changed |= self._look_at(child)
                changed |= self._look_at_night()
                if changed:
                    self._record()
                self.stop.wait(LOOK_S)
        finally:
            self._end()

    def _stop_left_over(self) -> None:
        """Tell what a killed supervisor left running to stop: it holds the port and the locks of the stream and of the night.

        A program is started once nothing is left of its own.
        """
        self._left = _left_over(self.home, self._mark)
        for pid, name in self._left.items():
            self._say("up.stops_left_over", of=name, pid=pid)
            _send(pid, signal.SIGTERM)
        self._kill_left_at = time.monotonic() + STOP_S

    def _look_at_left_over(self) -> None:
        """See which of them still run, and kill those that did not end in time."""
        if not self._left:
            return
        self._left = _left_over(self.home, self._mark)
        if time.monotonic() > self._kill_left_at:
            for pid in self._left:
                _send(pid, signal.SIGKILL)

    def _look_at(self, child: Child) -> bool:
        """Start a program that is due, and see whether it ended; returns whether something changed."""
        if child.process is None:
            if time.monotonic() < child.due or child.program.name in self._left.values():
                return False
            self._start(child)
            return True
        code = child.process.poll()
        if code is None:
            return False
        ran = time.monotonic() - child.begun
        # the processes it started itself must not hold its port or its locks: they are of its group
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process, child.last_exit = None, code
        child.failures = 0 if ran >= STEADY_S else child.failures
        wait = max(0.0, BACKOFF_S[min(child.failures, len(BACKOFF_S) - 1)] - ran)
        if code == USER_ERROR and child.restarts == 0 and ran < STEADY_S:
            if child.reader is not None:
                child.reader.join(READ_S)  # its last line says why
            why = child.lines[-1] if child.lines else "it says nothing"
            raise UserError(f"{child.program.name} cannot start: {why.removeprefix('velo: ')}")
        child.failures += 1
        child.restarts += 1
        child.due = time.monotonic() + wait
        self._say(
            "up.ended",
            level="warning",
            of=child.program.name,
            code=code,
            ran_s=round(ran, 1),
            again_in_s=round(wait, 1),
        )
        return True

    def _look_at_redis(self) -> bool:
        if self.keep_redis is None or time.monotonic() < self._looked_at_redis + REDIS_S:
            return False
        self._looked_at_redis = time.monotonic()
        try:
            started = self.keep_redis()
        except UserError as failed:
            self._say("up.no_redis", level="error", reason=str(failed))
            return False
        if started:
            self._say("up.redis_started")
        return started

    def _look_at_night(self) -> bool:
        """Begin the work of the night when it is time, and go on to its next command when one ended."""
        now = self.clock()
        if self._next_night is not None and now >= self._next_night:
            self._next_night = self.nightly.next_after(now)
            if not self._tonight and self._night is None:
                self._tonight.extend(command for command in self.nightly.commands if command.needed())
                self._last_night = {"begun": to_text(now), "codes": {}}
        if self._night is not None and self._night.process is not None:
            code = self._night.process.poll()
            if code is None:
                return False
            name = self._night.program.name
            self._last_night["codes"][name] = code
            self._say("up.night", level="info" if code == 0 else "error", of=name, code=code)
            self._night = None
            return True
        if not self._tonight or self._left:
            return False
        self._night = Child(self._tonight.popleft())
        self._start(self._night)
        return True  # recorded, so that the next supervisor finds it

    def _start(self, child: Child) -> None:
        arguments = [*self.command, *child.program.arguments]
        kept: tuple[int, ...] = ()
        if child.program.listens and self.listen is not None:
            self._socket = self._socket or self.listen()
            kept = (self._socket.fileno(),)
            arguments += ["--fd", str(kept[0])]
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=kept,
            env=os.environ | {MARK: f"{child.program.name}@{self.home.root.resolve()}#{self._mark}"},
        )
        child.process, child.begun, child.since = process, time.monotonic(), self.clock()
        assert process.stdout is not None
        child.reader = threading.Thread(target=self._forward, args=(child, process.stdout), daemon=True)
        child.reader.start()
        self._say("up.started", of=child.program.name, pid=process.pid)

    def _forward(self, child: Child, lines: IO[bytes]) -> None:
        """Write each line of a program to the one log."""
        with lines:
            for raw in lines:
                line = raw.decode(errors="replace").rstrip()
                if not line:
                    continue
                event = _event_of(line, self.clock())
                child.lines.append(
                    str(event.get("text") or " ".join(map(str, (event.get("event"), event.get("reason", "")))))
                )
                self._put({"program": child.program.name, **event})

    def _end(self) -> None:
        """Stop all programs at once, then the store's own Redis; a program that does not end within `STOP_S` is killed."""
        if self._socket is not None:
            self._socket.close()
        running = [child for child in (self._night, *reversed(self._children)) if child and child.process]
        for child in running:
            assert child.process is not None
            child.process.terminate()
        until = time.monotonic() + STOP_S
        for child in running:
            assert child.process is not None
            try:
                child.last_exit = child.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.last_exit = child.process.wait()
                self._say("up.killed", level="error", of=child.program.name)
            child.process = None
        if self.stop_redis is not None:
            self.stop_redis()
        self._record()
        self._say("up.ends", codes={child.program.name: child.last_exit for child in running})

    def _record(self) -> None:
        state = {
            "at": to_text(self.clock()),
            "url": self.url,
            "programs": [child.state() for child in self._children],
            "night": [self._night.state()] if self._night else [],
            "next_night": to_text(self._next_night) if self._next_night else None,
            "last_night": self._last_night or None,
        }
        write_atomically(self.home.up / STATE, orjson.dumps(state, option=orjson.OPT_INDENT_2) + b"\n")

    def _say(self, event: str, *, level: str = "info", **fields: Any) -> None:
        self._put({"program": "up", "at": to_text(self.clock()), "level": level, "event": event, **fields})

    def _put(self, line: Mapping[str, Any]) -> None:
        with self._write:
            self.out.write(json.dumps(line, ensure_ascii=False) + "\n")
            self.out.flush()


STATE: Final = "state.json"
LOCK: Final = "lock"
"""Held while a supervisor runs on the store."""


def state_of(home: Home) -> dict[str, Any] | None:
    """The programs' state as a running supervisor wrote it; None if none runs."""
    return _read_state(home) if locks.is_held(home.up / LOCK) else None


def _read_state(home: Home) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = orjson.loads((home.up / STATE).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return state


def _left_over(home: Home, own: str) -> dict[int, str]:
    """The processes below supervisors of the store other than that of the mark `own`, by pid, with the names of their programs.

    They inherited `MARK`, so one is found whether or not it was recorded. Redis is not one of them: it runs another executable.
    """
    store, found = str(home.root.resolve()), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            python = (folder / "exe").samefile(sys.executable)
        except OSError:
            continue
        marks = [line.removeprefix(f"{MARK}=") for line in environ if line.startswith(f"{MARK}=")]
        of, _, supervisor = marks[0].rpartition("#") if marks else ("", "", "")
        name, _, root = of.partition("@")
        if python and root == store and supervisor != own:
            found[int(folder.name)] = name
    return found


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _event_of(line: str, now: datetime) -> dict[str, Any]:
    """A line of a program as an event: its own JSON, or its text."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        event = None
    if isinstance(event, dict):
        return event
    return {"at": to_text(now), "level": "info", "event": "line", "text": line}
