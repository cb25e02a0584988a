"""A feed as the source of a stream: a thread of the stream's process appends its messages to the log.

The log stays the one source of truth: a message is appended and synced before the stream reads it there, so resume, replay and
audit work as where `velo ingest --follow` wrote it. Only the thread waits for the feed and for the disk, never the engine.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from velo.storage.log.writer import Clock
from velo.storage.store import Store
from velo.streams.dataflow.metrics import say
from velo.streams.feeds.follow import WAIT_S, FeedFollower, FollowReport, opened
from velo.streams.feeds.source import Feed


class BackgroundIngest:
    """Appends a feed's messages to the log beside a stream. Use `background_ingest`."""

    def __init__(self, following: FeedFollower, stop: threading.Event, *, once: bool) -> None:
        self._following = following
        self._stop = stop
        self._once = once
        self._failed: BaseException | None = None
        self._over = False
        self._thread = threading.Thread(target=self._work, name="velo-feed", daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        say("stream.follows", feed=self._following.feed.name, settled=self._following.offsets.settled)
        self._thread.start()

    @contextmanager
    def durable(self) -> Iterator[int | None]:
        """Yield the seq before which the log is synced; None, until the block ends, if all of it is.

        Raises the error that ended the thread.
        """
        if self._failed is not None:
            raise self._failed
        with self._following.durable() as before:
            yield before

    def over(self) -> bool:
        """Whether the thread ended at the feed's end, as `once` asks for."""
        return self._over

    def end(self) -> FollowReport:
        """Wait for the thread; returns the outcome of all messages."""
        self._thread.join()
        return self._following.report()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                step = self._following.step()
                if step == "away":
                    self._stop.wait(WAIT_S)
                elif step == "nothing" and self._once:
                    self._over = True
                    break
        except BaseException as failed:  # noqa: BLE001  raised where the stream asks
            self._failed = failed


@contextmanager
def background_ingest(
    store: Store, feed: Feed, clock: Clock, stop: threading.Event, *, once: bool
) -> Iterator[BackgroundIngest]:
    """Append a feed to the log until `stop` is set or, with `once`, until the feed's end.

    Raises `UserError` at once where another process follows the feed or writes to the log, and from `durable` where the
    disk is full or the feed has lost messages not yet taken.
    """
    with opened(store, feed, clock=clock) as following:
        ingest = BackgroundIngest(following, stop, once=once)
        ingest.begin()
        try:
            yield ingest
        finally:
            stop.set()
            report = ingest.end()
            say(
                "stream.followed",
                feed=report.feed,
                taken=report.taken,
                appended=report.appended,
                undeclared=report.undeclared,
                settled=report.settled,
            )
