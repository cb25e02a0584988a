"""A feed as the source of a stream: followed into the log in a thread of the stream's own process.

The log stays the one source of truth: a message is appended and on the disk before the stream reads it there, so what is
resumed, replayed and audited is the same as where `velo ingest --follow` wrote it. The thread is what a feed that does
not answer, and a disk that syncs, hold up; the engine never waits for either.
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
    """What brings a feed's messages to the log beside a stream. Use `background_ingest`."""

    def __init__(self, following: FeedFollower, stop: threading.Event, *, once: bool) -> None:
        self._following = following
        self._stop = stop
        self._once = once
        self._failed: BaseException | None = None
        self._over = False
        self._thread = threading.Thread(target=self._work, name="velo-feed", daemon=True)

    def begin(self) -> None:
        """Begin to take."""
        say("stream.follows", feed=self._following.feed.name, settled=self._following.offsets.settled)
        self._thread.start()

    @contextmanager
    def durable(self) -> Iterator[int | None]:
        """The record before which the log is on the disk; None, until the block ends, where that is all of it.

        Raises what ended the following.
        """
        if self._failed is not None:
            raise self._failed
        with self._following.durable() as before:
            yield before

    def over(self) -> bool:
        """Whether nothing more comes: asked to end at the feed's end, it did."""
        return self._over

    def end(self) -> FollowReport:
        """Wait for the messages in hand to be settled; what became of all of them."""
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
    """A feed that is followed into the log until `stop` is set or, with `once`, it has nothing more.

    Raises `UserError` at once where another process follows the feed or writes to the log, and from `durable` where the
    disk is full or the feed has lost messages not yet taken.
    """
    with opened(store, feed, clock=clock) as following:
        made = BackgroundIngest(following, stop, once=once)
        made.begin()
        try:
            yield made
        finally:
            stop.set()
            report = made.end()
            say(
                "stream.followed",
                feed=report.feed,
                taken=report.taken,
                appended=report.appended,
                undeclared=report.undeclared,
                settled=report.settled,
            )
