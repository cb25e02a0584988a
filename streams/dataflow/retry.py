"""Patience with a store that cannot be written: say so, wait, try again, and lose nothing."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from velo.errors import UserError
from velo.streams.dataflow.metrics import Telemetry, say

FIRST_SECONDS: Final = 0.05
LONGEST_SECONDS: Final = 2.0


class StoppedWhileRetrying(Exception):
    """Told to stop while a store was away, or before the stream began: what was not written is made again from the log
    after the next start."""


class RestartRequired(Exception):
    """What a store lost only another start can make again; the text says so to the user."""


def go_on() -> None:
    """What long work calls now and then where nobody may end it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Repeats what fails for want of a store, until it succeeds or `stop` is set."""

    stop: threading.Event
    telemetry: Telemetry

    def go_on(self) -> None:
        """What long work before the first record calls now and then: raises `StoppedWhileRetrying` once told to stop."""
        if self.stop.is_set():
            raise StoppedWhileRetrying("not yet begun")

    def until_done(self, store: str, write: Callable[[], object]) -> None:
        """Call `write` until it raises neither `UserError` nor OSError; it must be safe to call again."""
        pause, away = FIRST_SECONDS, False
        while True:
            try:
                write()
            except (UserError, OSError) as failed:
                if not away:
                    say("stream.waits", store=store, because=str(failed))
                    self.telemetry.away.labels(store).set(1)
                away = True
                if self.stop.wait(pause):
                    raise StoppedWhileRetrying(store) from failed
                pause = min(2 * pause, LONGEST_SECONDS)
                continue
            if away:
                say("stream.goes_on", store=store)
                self.telemetry.away.labels(store).set(0)
            return
