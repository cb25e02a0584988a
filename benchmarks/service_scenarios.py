"""Faults of the service: a worker killed, a Redis that does not answer, hostile clients. Other clients are answered."""

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from benchmarks.fault_harness import NOTHING, Recovery, Sandbox
from benchmarks.stores import processes, served, until
from velo.feature_repo.stores.redis_client import connect

HOST: Final = "127.0.0.1"
PATH: Final = "/v1/races"
ASKING: Final = 20
SLOW_HEADS: Final = 700
PIPELINING: Final = 200


def worker_killed(sandbox: Sandbox) -> Recovery:
    """Kill one of two workers under requests: no answer is wrong, and another worker replaces it."""
    with _served(sandbox, "--workers", "2") as (port, process), _asked(port) as seen:
        until(lambda: seen[200] > ASKING)
        begun = time.perf_counter()
        before = workers(process)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(workers(process)) == len(before) and before[0] not in workers(process))
        answered = seen[200]
        until(lambda: seen[200] > answered + ASKING)
        seconds = round(time.perf_counter() - begun, 1)
    _only(seen, 200, "none")
    return Recovery("connections of the killed worker end", NOTHING, "by itself: another worker is started", seconds)


def redis_slow(sandbox: Sandbox) -> Recovery:
    """Pause Redis while twenty clients ask: each gets a 503, and an answer as soon as Redis continues."""
    with _served(sandbox) as (port, _), _asked(port, PATH) as seen:
        until(lambda: seen[200] > ASKING)
        server = int(connect(sandbox.home).info("server")["process_id"])  # type: ignore[index]
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


def crowd(sandbox: Sandbox) -> Recovery:
    """Hundreds of clients that never finish a head or never read answers: other clients are answered."""
    many = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 5_000
    held: list[socket.socket] = []
    try:
        with _served(sandbox) as (port, _), _asked(port) as seen:
            for number in range(SLOW_HEADS + PIPELINING):
                client = socket.create_connection((HOST, port))
                held.append(client)
                client.settimeout(0.05)
                with suppress(OSError):
                    client.sendall(b"GET / HTTP/1.1\r\nX: " if number < SLOW_HEADS else many)
            begun, answered = time.perf_counter(), seen[200]
            until(lambda: seen[200] > answered + 5 * ASKING)
            seconds = round(time.perf_counter() - begun, 1)
    finally:
        for client in held:
            client.close()
    _only(seen, 200)
    return Recovery(
        "nothing: clients that do not read, or take too long, are disconnected", NOTHING, "nothing to do", seconds
    )


@contextmanager
def _served(sandbox: Sandbox, *options: str) -> Iterator[tuple[int, int]]:
    """Run `velo serve` on a sandbox; yields its port and process id once it answers."""
    with served(sandbox.store, "velo.cli", "serve", *options) as (port, process):
        until(lambda: answer_of(port, PATH) == 200)
        yield port, process


@contextmanager
def _asked(port: int, path: str = "/healthz") -> "Iterator[Counter[int | str]]":
    """Twenty clients that request a path repeatedly; yields the count of answers by status, `none` without an answer."""
    seen: Counter[int | str] = Counter()
    stop, lock = threading.Event(), threading.Lock()

    def ask() -> None:
        while not stop.is_set():
            status = answer_of(port, path)
            with lock:
                seen[status or "none"] += 1
            stop.wait(0.05)

    threads = [threading.Thread(target=ask) for _ in range(ASKING)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def answer_of(port: int, path: str = "/healthz") -> int | None:
    """The status of a GET; None without an answer."""
    with suppress(OSError, HTTPException), closing(HTTPConnection(HOST, port, timeout=20)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    return None


def workers(process: int) -> list[int]:
    """The process ids of a service's running workers."""
    found = []
    for child, parent, state in processes():
        with suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if parent == process and state != "Z" and b"spawn_main" in command:
                found.append(child)
    return found


def _only(seen: "Counter[int | str]", *expected: int | str) -> None:
    unexpected = {status: count for status, count in seen.items() if status not in expected}
    if unexpected:
        raise RuntimeError(f"unexpected answers: {unexpected}")
