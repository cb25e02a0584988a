"""A thread beside the engine that writes and seals parts, so that results do not wait for the disk.

Rows are sealed after the snapshot that queued them. So the source records the position of the previous snapshot, and waits
until everything queued by then is sealed: no recorded position is beyond what the tables have.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

ROWS_WAITING: Final = 100_000
"""The most rows queued and not yet written; more rows wait."""


class CheckpointWriter:
    """Runs jobs in order: in a thread `beside` the engine, or at once."""

    def __init__(self, *, beside: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "velo-sealing") if beside else None
        self._jobs: deque[tuple[Future[None], int]] = deque()
        self._rows = 0
        self._ending = False

    def do(self, job: Callable[[], None], rows: int) -> None:
        """Queue a job that writes `rows` rows. Raises the error of this or an earlier job."""
        if self._thread is None:
            job()
            return
        self._jobs.append((self._thread.submit(job), rows))
        self._rows += rows
        self._until_left(-1 if self._ending else ROWS_WAITING)

    def wait(self) -> None:
        """Wait until all queued jobs are done. Raises the error of a job."""
        self._until_left(-1)

    def at_once(self) -> None:
        """From now on wait for each job: the last snapshot records where the stream ended."""
        self._ending = True

    def end(self) -> None:
        """Cancel the jobs that have not begun, and wait for the current one."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _until_left(self, most: int) -> None:
        while self._jobs and (self._rows > most or self._jobs[0][0].done()):
            job, rows = self._jobs.popleft()
            self._rows -= rows
            job.result()
