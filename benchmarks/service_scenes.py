"""Faults of the service: a worker killed, a Redis that does not answer, and clients who mean it ill; others are answered."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from benchmarks.fault_harness import OURS, Scene, until
from benchmarks.fault_report import NOTHING, Recovery
from velo.feature_repo.stores.redis_client import connect

HOST: Final = "127.0.0.1"
PATH: Final = "/v1/races"
ASKING: Final = 20
SLOW_HEADS: Final = 700
PIPELINING: Final = 200


def worker_killed(scene: Scene) -> Recovery:
    """SIGKILL of one of two workers while both are asked: no answer is wrong, and another takes its place."""
    with _served(scene, "--workers", "2") as (port, process), _asked(port) as seen:
        until(lambda: seen[200] > ASKING)
        begun = time.perf_counter()
        before = _workers(process)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(_workers(process)) == len(before) and before[0] not in _workers(process))
        answered = seen[200]
        until(lambda: seen[200] > answered + ASKING)
        seconds = round(time.perf_counter() - begun, 1)
    _only(seen, 200, "none")
    return Recovery("connections of the killed worker end", NOTHING, "by itself: another worker is started", seconds)


def redis_slow(scene: Scene) -> Recovery:
    """Redis answers nobody for three seconds while twenty ask: each is told so, and answered as soon as it goes on."""
    with _served(scene) as (port, _), _asked(port, PATH) as seen:
        until(lambda: seen[200] > ASKING)
        server = int(connect(scene.home).info("server")["process_id"])  # type: ignore[index]
        os.kill(server, signal.SIGSTOP)
        try:
            until(lambda: seen[503] > ASKING)
        finally:
            begun = time.perf_counter()
            os.kill(server, signal.SIGCONT)
        answered = seen[200]
        until(lambda: seen[200] > answered + ASKING)
        seconds = round(time.perf_counter() - begun, 1)
    _only(seen, 200, 503)
    return Recovery(
        "503 with `Retry-After`, naming Redis, and never 500", NOTHING, "by itself, once Redis answers", seconds
    )


def crowd(scene: Scene) -> Recovery:
    """Hundreds that begin a head and never end it, and hundreds that ask ahead and never read: others are answered."""
    many = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 5_000
    held: list[socket.socket] = []
    try:
        with _served(scene) as (port, _), _asked(port) as seen:
            for number in range(SLOW_HEADS + PIPELINING):
                one = socket.create_connection((HOST, port))
                held.append(one)
                one.settimeout(0.05)
                with suppress(OSError):
                    one.sendall(b"GET / HTTP/1.1\r\nX: " if number < SLOW_HEADS else many)
            begun, answered = time.perf_counter(), seen[200]
            until(lambda: seen[200] > answered + 5 * ASKING)
            seconds = round(time.perf_counter() - begun, 1)
    finally:
        for one in held:
            one.close()
    _only(seen, 200)
    return Recovery("nothing: whoever does not read, or takes too long, is let go", NOTHING, "nothing to do", seconds)


@contextmanager
def _served(scene: Scene, *options: str) -> Iterator[tuple[int, int]]:
    """`velo serve` of a scene in a process of its own, which may start others: its port and that process."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "velo.cli", "serve", "--port", str(port), *options]
    environ = {name: value for name, value in os.environ.items() if name not in OURS}
    process = subprocess.Popen(command, env=environ | {"VELO_HOME": str(scene.home.root)}, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _status(port, PATH) == 200)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _asked(port: int, path: str = "/healthz") -> "Iterator[Counter[int | str]]":
    """Twenty that ask for a path again and again while this lasts; answers by status, `none` where there is none."""
    seen: Counter[int | str] = Counter()
    stop, lock = threading.Event(), threading.Lock()

    def ask() -> None:
        while not stop.is_set():
            status = _status(port, path)
            with lock:
                seen[status or "none"] += 1
            stop.wait(0.05)

    threads = [threading.Thread(target=ask) for _ in range(ASKING)]
    for one in threads:
        one.start()
    try:
        yield seen
    finally:
        stop.set()
        for one in threads:
            one.join()


def _status(port: int, path: str = "/healthz") -> int | None:
    with suppress(OSError, HTTPException), closing(HTTPConnection(HOST, port, timeout=20)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    return None


def _workers(process: int) -> list[int]:
    """The processes of a service that run: those it started whose command is a worker's."""
    found = []
    for stat in _processes():
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            command = (stat.parent / "cmdline").read_bytes()
            if int(parent) == process and state != "Z" and b"spawn_main" in command:
                found.append(int(stat.parent.name))
    return found


def _processes() -> Iterator[Path]:
    return Path("/proc").glob("[0-9]*/stat")


def _only(seen: "Counter[int | str]", *wanted: int | str) -> None:
    strange = {status: count for status, count in seen.items() if status not in wanted}
    if strange:
        raise RuntimeError(f"answers that should not be: {strange}")
