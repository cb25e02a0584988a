"""A unit test starts no process and opens no connection: it fails where it tries."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FORBIDDEN = ("subprocess.Popen", "os.fork", "os.posix_spawn", "socket.connect", "socket.bind")
_running: list[str] = []


def _refuse(event: str, _: tuple[Any, ...]) -> None:
    if _running and event in FORBIDDEN:
        raise RuntimeError(f"{_running[0]} is a unit test, but it calls {event}: move it to tests/integration")


# an audit hook cannot be removed, so it is added once and looks at whether a unit test runs
sys.addaudithook(_refuse)


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Refuse processes and connections meanwhile."""
    _running.append(name)
    try:
        yield
    finally:
        _running.pop()


@pytest.fixture(autouse=True)
def _no_process_and_no_connection(request: pytest.FixtureRequest) -> Iterator[None]:
    with alone(request.node.nodeid):
        yield
