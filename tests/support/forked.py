"""`velo` and `feast` in processes forked from one that has imported them: each would spend a second or more on its imports.

A process has its own arguments, environment, folder and streams; it ends, is limited and is killed like any other. Its imports
alone are not its own: what a test promises of those it holds Python itself to.
"""

import json
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import interleaved, replay, stores
from benchmarks.stores import forkserver

ENTRY = {"velo": ("velo.cli", "main"), "feast": ("feast.cli.cli", "cli")}
"""The function behind each program; any other name is a module to run as `python -m` does."""
PROGRAMS = {module: name for name, (module, _) in ENTRY.items()}
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


def called(work: Callable[..., None], *given: Any, seconds: float = 60.0) -> int:
    """Call a function of a module in a process of its own; its exit code, negative where a signal ended it."""
    process: BaseProcess = forkserver().Process(target=work, args=given)
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


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
    if prepared is not None:
        # a process whose files are limited would leave its modules' bytecode cut short
        sys.dont_write_bytecode = True
        prepared()
    if name in ENTRY:
        module, function = ENTRY[name]
        getattr(import_module(module), function)()
    else:
        # runpy warns of a module that has been imported under its own name
        sys.modules.pop(name, None)
        runpy.run_module(name, run_name="__main__", alter_sys=True)


class Popen:
    """`python -m MODULE …` in a forked process, with the methods of `subprocess.Popen` that tests and benchmarks call.

    Of the options, `env` alone gives the environment: its PYTHONPATH has no effect, for the imports are there.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = False,
    ) -> None:
        assert list(command[:2]) == [sys.executable, "-m"], command
        module, *argv = command[2:]
        mode = "" if text else "b"
        self.stdin: Any = None
        self.stdout: Any = None
        self.stderr: Any = None
        with ExitStack() as opened:

            def given(wanted: Any, number: int) -> int:
                """The descriptor of one of the process's streams."""
                if wanted == subprocess.DEVNULL:
                    return opened.enter_context(Path(os.devnull).open("r+b")).fileno()
                if wanted == subprocess.STDOUT:
                    return streams[1]
                if wanted != subprocess.PIPE:
                    return number if wanted is None else wanted if isinstance(wanted, int) else int(wanted.fileno())
                reading, writing = os.pipe()
                ours, theirs = (writing, reading) if number == 0 else (reading, writing)
                opened.callback(os.close, theirs)
                setattr(self, ("stdin", "stdout", "stderr")[number], open(ours, ("w" if number == 0 else "r") + mode))  # noqa: SIM115, PTH123
                return theirs

            streams: list[int] = []
            for number, wanted in enumerate((stdin, stdout, stderr)):
                streams.append(given(wanted, number))
            name = PROGRAMS.get(module, module)
            self._process = start(name, argv, cwd=Path(cwd or Path.cwd()), environ=env or os.environ, streams=streams)
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def __enter__(self) -> "Popen":
        return self

    def __exit__(self, *_: object) -> None:
        self.communicate()

    @property
    def returncode(self) -> int | None:
        """Its exit code, once it has been waited for."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """End it by SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read its streams to their ends and wait for it; it is killed where that takes too long."""
        if self.stdin is not None:
            self.stdin.close()
        read: dict[str, Any] = {}

        def take(name: str) -> None:
            read[name] = getattr(self, name).read()

        threads = [threading.Thread(target=take, args=(name,)) for name in ("stdout", "stderr") if getattr(self, name)]
        for thread in threads:
            thread.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            for thread in threads:
                thread.join()
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        return read.get("stdout"), read.get("stderr")


def _popen(command: Sequence[str], **options: Any) -> Any:
    """A forked process where the command is `python -m MODULE …`, else one of `subprocess`."""
    return (Popen if list(command[:2]) == [sys.executable, "-m"] else subprocess.Popen)(command, **options)


def _run(command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[Any]":
    """`subprocess.run` by `_popen`, as far as the benchmarks use it."""
    if list(command[:2]) != [sys.executable, "-m"]:
        return subprocess.run(command, **options)
    check = options.pop("check")
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = Popen(command, **options)
    out, err = process.communicate()
    done = subprocess.CompletedProcess(command, process.wait(), out, err)
    if check:
        done.check_returncode()
    return done


@contextmanager
def forked_benchmarks() -> Iterator[None]:
    """The Python programs that benchmarks start are forked: so small a run would spend most of its time on their imports."""
    instead = SimpleNamespace(Popen=_popen, run=_run, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patched:
        for module in (interleaved, replay, stores):
            patched.setattr(module, "subprocess", instead)
        yield


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
