"""Catching up by batch: a stream far behind builds what it missed, then begins at the tables' end.

The build runs in a process of its own, which returns its memory, leaves the engine's interpreter to the feed, and exits with its
parent. It is the build of `velo build`: killed anywhere it leaves the tables as they were, and it waits for another build.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from velo.errors import UserError
from velo.racing.clock import to_text
from velo.settings import Settings
from velo.storage import table_versions
from velo.storage.log.reader import end
from velo.storage.store import Home, Store
from velo.streams.dataflow.log_source import Clock
from velo.streams.dataflow.metrics import Position, Telemetry, position, say, sealed_into
from velo.streams.dataflow.plan import StreamPlan

LOOK_S: Final = 0.1
WORTH: Final = 5
"""A build of more than this many times the messages that the stream misses takes longer than the stream."""


def catch_up(planned: StreamPlan, clock: Clock, telemetry: Telemetry, stop: threading.Event, behind: int) -> bool:
    """Build what a stream misses while that is more than `behind` messages; 0 for never. Returns whether anything was built.

    What is appended meanwhile is built too, as long as each build leaves less. Where a build fails, its reason is logged and
    the stream reads the rest message by message. Ends early where `stop` is set.
    """
    home = planned.store.home
    began = held = _held(planned)
    missed = end(home).next_seq - held
    while behind and missed > behind and not stop.is_set():
        log_end = end(home).next_seq
        if log_end - _tables_end(home) > WORTH * missed:
            break
        say("catch_up.begins", up_to_seq=log_end, messages=missed)
        _report(planned, clock(), telemetry, held, log_end)
        failed = _build(home, planned.formulas.fingerprint, stop)
        if failed is not None:
            say("catch_up.failed", reason=failed)
            break
        held, before = _held(planned), missed
        missed = end(home).next_seq - held
        say("catch_up.ended", up_to_seq=held, behind=missed)
        if missed >= before:
            break
    return held > began


def _tables_end(home: Home) -> int:
    """The seq before which the tables of the last build hold everything."""
    folder = table_versions.current(home)
    return table_versions.manifest_of(folder).next_seq if folder else 0


def _held(planned: StreamPlan) -> int:
    """The seq before which the tables hold everything, from a build or sealed by the stream."""
    home = planned.store.home
    folder = table_versions.current(home)
    assert folder is not None, "a planned stream has tables"
    manifest = table_versions.manifest_of(folder)
    return max(manifest.next_seq, sealed_into(home, manifest))


def _report(planned: StreamPlan, now: datetime, telemetry: Telemetry, held: int, log_end: int) -> None:
    """Report to `velo status` and to the metrics that the stream catches up from `held` to `log_end`."""
    home, formulas = planned.store.home, planned.formulas
    telemetry.next_seq.set(held)
    telemetry.lag_messages.set(log_end - held)
    before, of = position(home), (formulas.log_generation, formulas.epoch)
    sealed = before.sealed_seq if before and (before.log_generation, before.epoch) == of else 0
    where = held, sealed, to_text(now)
    Position(of[0], *where, at_end=False, running=True, epoch=of[1], catching_up_to=log_end).write(home)


def _build(home: Home, fingerprint: str, stop: threading.Event) -> str | None:
    """Build in a process that exits with this one; returns why it failed. Where `stop` is set it is killed."""
    with _building(home, fingerprint) as process:
        while True:
            try:
                _, said = process.communicate(timeout=LOOK_S)
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    return "the stream was stopped"
            else:
                lines = said.decode(errors="replace").strip().splitlines()
                return None if process.returncode == 0 else (lines or [f"it ended with {process.returncode}"])[-1]


@contextmanager
def _building(home: Home, fingerprint: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that builds tables of these formulas; it is killed at the end of the block."""
    # the read end is the child's: it sees the end of the pipe when this process is gone, however it ended
    theirs, ours = os.pipe()
    command = [sys.executable, "-m", __name__, str(home.root), fingerprint, str(theirs)]
    try:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[theirs]
        ) as process:
            os.close(theirs)
            try:
                yield process
            finally:
                process.kill()
    finally:
        os.close(ours)


def _exit_with(parent: int) -> None:
    """Exit at once when the parent has closed its end of a pipe: a build may be killed anywhere."""
    os.read(parent, 1)
    os._exit(1)


def main(home: str, expected: str, parent: str) -> None:
    """Build the tables of a home in this process, after another build if one runs.

    It refuses formulas other than those `expected`: they may have changed since the stream began.
    """
    threading.Thread(target=_exit_with, args=(int(parent),), daemon=True).start()
    from velo.streams.batch.build import build
    from velo.streams.batch.formulas import fingerprint

    if fingerprint() != expected:
        raise SystemExit("the formulas are no longer those of the stream: run `velo apply`")
    try:
        build(Store.open(Settings(Path(home))), datetime.now(UTC), wait=True)
    except UserError as failed:
        raise SystemExit(str(failed)) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
