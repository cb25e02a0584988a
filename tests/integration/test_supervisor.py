"""What `velo up` rests on: programs that are restarted, distinguished in one log, and stopped together."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from velo.errors import UserError
from velo.storage.store import Home
from velo.supervisor import LOCK, MARK, STATE, Nightly, Program, Supervisor, state_of

LONDON = ZoneInfo("Europe/London")
NO_NIGHT = Nightly(None, (), LONDON)
WAITS = "import signal, sys, threading; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True); threading.Event().wait()"


class Running:
    """A supervisor in a thread, whose lines a test can wait for."""

    def __init__(self, home: Path, programs: Sequence[Program], nightly: Nightly = NO_NIGHT, **given: Any) -> None:
        self.stop, self.out = threading.Event(), Lines()
        self.failed: list[str] = []
        clock: Callable[[], datetime] = given.pop("clock", lambda: datetime.now(UTC))
        self.supervisor = Supervisor(
            Home(home),
            programs,
            nightly,
            clock,
            self.stop,
            "http://x/",
            command=(sys.executable, "-c"),
            out=self.out,
            **given,
        )
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        try:
            self.supervisor.run()
        except UserError as failed:
            self.failed.append(str(failed))

    def end(self) -> list[dict[str, Any]]:
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.out.events


class Lines(io.StringIO):
    """A stream of JSON lines that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self.more = threading.Condition()

    def write(self, text: str) -> int:
        with self.more:
            self.events.append(json.loads(text))
            self.more.notify_all()
        return len(text)

    def wait_for(self, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The `count`-th event with these fields, which comes within a minute."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events if fields.items() <= event.items()]

        with self.more:
            assert self.more.wait_for(lambda: len(found()) >= count, 60), (fields, self.events)
            return found()[count - 1]


def test_a_program_that_ends_is_started_again_and_the_others_run_on(tmp_path: Path) -> None:
    running = Running(
        tmp_path, [Program("steady", [WAITS]), Program("brittle", ["print('a', flush=True); raise SystemExit(3)"])]
    )
    running.out.wait_for(event="up.started", of="brittle", count=2)
    first = running.out.wait_for(event="up.ended", of="brittle")
    assert first["code"] == 3
    assert first["again_in_s"] == pytest.approx(max(0.0, 1.0 - first["ran_s"]), abs=0.11), (
        "a second after its last start"
    )
    running.out.wait_for(program="steady", text="up")
    state = state_of(Home(tmp_path))
    assert state is not None
    steady = state["programs"][0]
    assert (steady["name"], steady["restarts"], steady["last_line"]) == ("steady", 0, "up")
    events = running.end()
    assert events[-1]["event"] == "up.ends"
    assert events[-1]["codes"]["steady"] == 0
    assert state_of(Home(tmp_path)) is None


def test_a_program_that_refuses_its_settings_ends_everything_with_its_own_line(tmp_path: Path) -> None:
    refuses = "import sys; print('velo: REDIS_URL is wrong: correct it', file=sys.stderr); sys.exit(2)"
    running = Running(tmp_path, [Program("steady", [WAITS]), Program("stream", [refuses])])
    running.thread.join(60)
    assert running.failed == ["stream cannot start: REDIS_URL is wrong: correct it"]
    assert running.out.events[-1]["event"] == "up.ends"


def test_events_of_a_program_keep_their_fields_and_plain_lines_become_events(tmp_path: Path) -> None:
    says = """print('{"event": "state.restored", "seq": 7}', flush=True); print('plain', flush=True); """ + WAITS
    running = Running(tmp_path, [Program("stream", [says])])
    assert running.out.wait_for(program="stream", event="state.restored")["seq"] == 7
    assert running.out.wait_for(program="stream", text="plain")["level"] == "info"
    running.end()


def test_the_work_of_the_night_runs_once_in_its_order(tmp_path: Path) -> None:
    """The clock stands a second before the time, then goes past it; the last command runs though the first fails, and one that is not needed does not."""
    now = [datetime(2026, 5, 1, 3, 29, 59, tzinfo=UTC)]
    commands = [
        Program("build", ["raise SystemExit(1)"]),
        Program("monitor", ["pass"], needed=lambda: False),
        Program("audit", ["pass"]),
    ]
    nightly = Nightly(time(4, 30), commands, LONDON)
    running = Running(tmp_path, [Program("steady", [WAITS])], nightly, clock=lambda: now[0])
    running.out.wait_for(program="steady", text="up")
    now[0] += timedelta(minutes=1)
    assert running.out.wait_for(event="up.night", of="build")["code"] == 1
    assert running.out.wait_for(event="up.night", of="audit")["code"] == 0
    events = running.end()
    assert [event["of"] for event in events if event["event"] == "up.night"] == ["build", "audit"]
    state = json.loads((Home(tmp_path).up / STATE).read_bytes())
    assert state["last_night"] == {"begun": "2026-05-01T03:30:59.000000Z", "codes": {"build": 1, "audit": 0}}
    assert state["next_night"] == "2026-05-02T03:30:00.000000Z"


@pytest.mark.parametrize(
    ("now", "begins"),
    [
        ("2026-03-28T12:00:00", "2026-03-29T01:30:00"),  # 01:30 does not exist that night: it is 02:30 in summer time
        ("2026-10-24T12:00:00", "2026-10-25T00:30:00"),  # 01:30 comes twice: the first one
        ("2026-05-01T00:30:00", "2026-05-02T00:30:00"),
    ],
)
def test_a_night_has_one_start_though_the_clocks_change(now: str, begins: str) -> None:
    nightly = Nightly(time(1, 30), (), LONDON)
    assert nightly.next_after(datetime.fromisoformat(now).replace(tzinfo=UTC)) == datetime.fromisoformat(
        begins
    ).replace(tzinfo=UTC)


def test_the_socket_of_a_service_manager_is_listened_on_and_nothing_else_that_it_passes() -> None:
    code = """
import os, socket
from velo.commands.up import _passed
from velo.errors import UserError

def tried(passed, count="1", pid=None):
    os.dup2(passed.fileno(), 3)
    os.environ.update(LISTEN_PID=str(pid or os.getpid()), LISTEN_FDS=count)
    try:
        found = _passed()
        print(found and found.getsockname()[1] == passed.getsockname()[1])
        found and found.detach()
    except UserError as refused:
        print(str(refused).partition(":")[0])

held = os.open(os.devnull, os.O_RDONLY)  # so that no socket below is the third descriptor
listens, datagrams, bound = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM), socket.socket()
tried(listens)
tried(listens, pid=1)
tried(listens, "2")
tried(datagrams)
tried(bound)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "True",
        "None",
        "the service manager passed 2 sockets, but `velo up` listens on one",
        *["the service manager passed something that does not listen on a TCP port"] * 2,
    ]


def test_a_store_has_one_supervisor(tmp_path: Path) -> None:
    running = Running(tmp_path, [Program("steady", [WAITS])])
    running.out.wait_for(program="steady", text="up")
    second = Running(tmp_path, [])
    second.thread.join(60)
    assert second.failed == [f"`velo up` already runs on {tmp_path} as process {os.getpid()}: stop it first"]
    running.end()


def test_what_a_killed_supervisor_left_running_is_stopped_first(tmp_path: Path) -> None:
    """Also a process that it had started and not yet recorded. Processes of other stores, and others of this one, are let alone."""
    marks = [f"stream@{tmp_path}#killed", f"stream@{tmp_path}/other#killed", None]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, env=os.environ | ({MARK: mark} if mark else {})
        )
        for mark in marks
    ]
    left, *others = started
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
        reaper = threading.Thread(target=left.wait)
        reaper.start()
        running = Running(tmp_path, [Program("stream", [WAITS])])
        running.out.wait_for(event="up.started", of="stream")
        reaper.join(60)
        assert left.returncode == 0
        assert [other.poll() for other in others] == [None, None]
        assert [event["of"] for event in running.end() if event["event"] == "up.stops_left_over"] == ["stream"]
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_the_processes_that_a_killed_program_left_are_killed_before_it_is_started_again(tmp_path: Path) -> None:
    """The workers of a service that was killed would keep its port."""
    own = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {WAITS!r}], stdout=subprocess.DEVNULL); print(child.pid, flush=True); "
    running = Running(tmp_path, [Program("service", [own + WAITS])])
    worker = int(running.out.wait_for(program="service", event="line")["text"])
    os.kill(running.out.wait_for(event="up.started", of="service")["pid"], signal.SIGKILL)
    running.out.wait_for(event="up.ended", of="service")
    running.out.wait_for(event="up.started", of="service", count=2)
    stat = Path(f"/proc/{worker}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    running.end()


def test_the_stores_own_redis_is_started_and_stopped_with_the_programs(tmp_path: Path) -> None:
    looks, stopped = [], []

    def keep() -> bool:
        looks.append(1)
        return len(looks) == 1

    running = Running(tmp_path, [], keep_redis=keep, stop_redis=lambda: stopped.append(1))
    running.out.wait_for(event="up.redis_started")
    running.end()
    assert stopped == [1]
    assert (Home(tmp_path).up / LOCK).exists()
