"""More processes of one stream: started by the first, and gone when it goes."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from velo.streams.dataflow.metrics import say

PATIENCE_SECONDS: Final = 30.0
"""How long the others may take to end once the first has."""


def loopback_addresses(count: int) -> list[str]:
    """As many addresses that nothing listens on yet; their ports were all free at one moment."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@contextmanager
def others(command: Sequence[str], count: int, keeping: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Run `command --member N` for each process but the first, which holds the descriptor `keeping` with them.

    Where one of them fails, this process ends at once, and so do the rest: the next start goes on from the last
    snapshot.
    """
    started = [
        # what the engine prints of a process that does not listen yet is no part of a command's answer
        subprocess.Popen([*command, "--member", str(member)], stdin=subprocess.PIPE, stdout=2, pass_fds=(keeping,))
        for member in range(1, count)
    ]
    done = threading.Event()
    for one in started:
        threading.Thread(target=_watch, args=(one, done), daemon=True).start()
    try:
        yield started
        done.set()
        for one in started:
            one.wait(PATIENCE_SECONDS)
    finally:
        done.set()
        for one in started:
            with suppress(ProcessLookupError):
                one.kill()
            one.wait()


def end_with_parent() -> None:
    """Have this process end when the one that started it does, however that ends: its end of the pipe closes."""

    def wait() -> None:
        # not sys.stdin: its lock would be held at the interpreter's end
        while os.read(0, 4096):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def pass_on(number: int, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Send a signal to the other processes."""
    for one in processes:
        with suppress(ProcessLookupError):
            one.send_signal(signal.Signals(number))


def _watch(process: "subprocess.Popen[bytes]", done: threading.Event) -> None:
    code = process.wait()
    if code != 0 and not done.is_set():
        say("stream.member_failed", member_pid=process.pid, code=code)
        sys.stderr.flush()
        os._exit(1)
