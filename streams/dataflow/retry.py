"""Retry writes to a store that is unavailable: report it once, wait, try again, lose nothing."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC, EROFS
from typing import Final

from velo.errors import UserError
from velo.streams.dataflow.metrics import Telemetry, say

FIRST_SECONDS: Final = 0.05
LONGEST_SECONDS: Final = 2.0
FULL: Final = (ENOSPC, EDQUOT, EROFS)
"""Errors of a disk or a quota that is full, or a disk that is read-only."""


class StoppedWhileRetrying(Exception):
    """The stream was stopped while it waited for a store, or before its first record: the next start makes the missing rows
    again from the log."""


class RestartRequired(Exception):
    """A store lost rows that only a restart can make again; the text is the user's message."""


class StartAgain(RestartRequired):
    """The stream ends, so that its next start begins at the tables' end."""


class FarBehind(StartAgain):
    """The log grew faster than the stream read it: the next start catches up by batch."""


def go_on() -> None:
    """Do nothing: for long work that cannot be stopped."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Repeats a write that fails because a store is unavailable, until it succeeds or `stop` is set."""

    stop: threading.Event
    telemetry: Telemetry

    def go_on(self) -> None:
        """Raise `StoppedWhileRetrying` if `stop` is set; long work before the first record calls it regularly."""
        if self.stop.is_set():
            raise StoppedWhileRetrying("not yet begun")

    def until_done(self, store: str, write: Callable[[], object]) -> None:
        """Call `write` until it raises neither `UserError` nor OSError; it must be safe to call again.

        A full disk is not an unavailable store: nobody makes room by waiting. It raises `UserError`.
        """
        pause, away = FIRST_SECONDS, False
        while True:
            try:
                write()
            except (UserError, OSError) as failed:
                if isinstance(failed, OSError) and failed.errno in FULL:
                    raise UserError(
                        f"cannot write {failed.filename or 'to the disk'} ({failed.strerror}): make room, then start the "
                        "stream again; it resumes from its last snapshot"
                    ) from failed
                if not away:
                    say("store.unavailable", store=store, reason=str(failed))
                    self.telemetry.away.labels(store).set(1)
                away = True
                if self.stop.wait(pause):
                    raise StoppedWhileRetrying(store) from failed
                pause = min(2 * pause, LONGEST_SECONDS)
                continue
            if away:
                say("store.available", store=store)
                self.telemetry.away.labels(store).set(0)
            return
