"""Parts written and sealed by a thread beside the engine: a result told meanwhile does not wait for the disk.

What is sealed late is resumed from early: the source has a snapshot say where the one before it was taken, and waits
until all that was handed over by then is sealed. So no snapshot that is kept says more than the tables hold.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

ROWS_WAITING: Final = 100_000
"""Rows handed over and not yet written, at most, before who has more of them waits."""


class CheckpointWriter:
    """Does what it is given in its order: in a thread `beside` the engine, or at once."""

    def __init__(self, *, beside: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "velo-sealing") if beside else None
        self._given: deque[tuple[Future[None], int]] = deque()
        self._rows = 0
        self._ending = False

    def do(self, job: Callable[[], None], rows: int) -> None:
        """Have a job of so many rows done after those given before; raises what one of them, or this one, failed with."""
        if self._thread is None:
            job()
            return
        self._given.append((self._thread.submit(job), rows))
        self._rows += rows
        self._until_left(-1 if self._ending else ROWS_WAITING)

    def wait(self) -> None:
        """Return once all is done that was given; raises what a job failed with."""
        self._until_left(-1)

    def at_once(self) -> None:
        """From now on return from each job when it is done: the last snapshot says where the stream ended."""
        self._ending = True

    def end(self) -> None:
        """Leave undone what has not begun, and wait for what has."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _until_left(self, most: int) -> None:
        while self._given and (self._rows > most or self._given[0][0].done()):
            done, rows = self._given.popleft()
            self._rows -= rows
            done.result()
