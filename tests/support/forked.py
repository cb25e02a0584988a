"""`velo` and `feast` in processes forked from one that has imported them: each would spend a second or more on its imports.

A process has its own arguments, environment, folder and streams; it ends, is limited and is killed like any other. Its imports
alone are not its own: what a test promises of those it holds Python itself to.
"""

import json
import os
import shlex
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from benchmarks.stores import forkserver

ENTRY = {"velo": ("velo.cli", "main"), "feast": ("feast.cli.cli", "cli")}
"""The function behind each program."""
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect(sys.argv[1])
    asked = json.dumps([sys.argv[2], sys.argv[3:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    line.sendall(asked)
    sys.exit(int(line.recv(16)))
"""
"""Asks for a program to be run on its own streams, and ends with its exit code."""


class _Stream:
    """A file descriptor of this process that a new process gets too."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (DupFd(self.number),)


def _detached(duplicate: Any) -> int:
    number: int = duplicate.detach()
    return number


def start(
    name: str,
    argv: Sequence[str],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    streams: Sequence[int],
    prepared: Callable[[], None] | None = None,
) -> BaseProcess:
    """Start a program of `ENTRY`; `streams` are its input, output and error stream, and `prepared` is called in it first."""
    given = tuple(map(_Stream, streams))
    process: BaseProcess = forkserver().Process(
        target=_program, args=(name, list(argv), str(cwd), dict(environ), given, prepared)
    )
    process.start()
    return process


def ran(
    name: str,
    argv: Sequence[str],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    prepared: Callable[[], None] | None = None,
    seconds: float = 120.0,
) -> tuple[int, str, str]:
    """Run a program of `ENTRY` to its end: its exit code, output and error stream; killed where it takes too long."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err, Path(os.devnull).open() as nothing:
        streams = (nothing.fileno(), out.fileno(), err.fileno())
        process = start(name, argv, cwd=cwd, environ=environ, streams=streams, prepared=prepared)
        process.join(seconds)
        process.kill()
        process.join()
        assert process.exitcode is not None
        out.seek(0)
        err.seek(0)
        return process.exitcode, out.read(), err.read()


def _program(
    name: str,
    argv: list[str],
    cwd: str,
    environ: dict[str, str],
    streams: Sequence[int],
    prepared: Callable[[], None] | None,
) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  it is the process's own
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = [name, *argv]
    sys.path.insert(0, cwd)
    module, function = ENTRY[name]
    if prepared is not None:
        # a process whose files are limited would leave its modules' bytecode cut short
        sys.dont_write_bytecode = True
        prepared()
    getattr(import_module(module), function)()


@contextmanager
def programs(folder: Path) -> Iterator[Path]:
    """A folder with `velo`, `feast` and `python` as `make setup` would put them on the path: these sources, this Python.

    Where `velo.toml` declares features, `velo` is started by Python: a process reads the catalogue once.
    """
    folder.mkdir(exist_ok=True)
    address, client, python = folder / "line", folder / "client.py", shlex.quote(sys.executable)
    client.write_text(CLIENT)
    ask = f"exec {python} -I -S {shlex.quote(str(client))} {shlex.quote(str(address))}"
    own = f'[ -e velo.toml ] || [ -e "$VELO_HOME/velo.toml" ] && exec {python} -m velo.cli "$@"\n'
    for name, line in (
        ("velo", f'{own}{ask} velo "$@"'),
        ("feast", f'{ask} feast "$@"'),
        ("python", f'exec {python} "$@"'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        thread = threading.Thread(target=_serve, args=(listening,))
        thread.start()
        try:
            yield folder
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listening: socket.socket) -> None:
    while True:
        try:
            line, _ = listening.accept()
        except OSError:
            return  # shut down: no test asks any more
        threading.Thread(target=_answer, args=(line,)).start()


def _answer(line: socket.socket) -> None:
    with line:
        head, streams, _, _ = socket.recv_fds(line, 4, 3)
        try:
            with line.makefile("rb") as asked:
                name, argv, cwd, environ = json.loads(asked.read(int.from_bytes(head, "big")))
            process = start(name, argv, cwd=Path(cwd), environ=environ, streams=streams)
        finally:
            for stream in streams:
                os.close(stream)
        process.join()
        assert process.exitcode is not None
        # as a shell says it of a process that a signal ended
        line.sendall(str(process.exitcode if process.exitcode >= 0 else 128 - process.exitcode).encode())
