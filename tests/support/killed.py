"""Work that ends its own process by SIGKILL at a chosen step: run it by `forked.called`."""

import os
import signal
import threading
from datetime import datetime, timedelta
from pathlib import Path

from tests.support.feeds import ticking
from tests.support.logs import NOON, a_store, fixed, told
from velo.feature_repo.stores.redis_client import connect_url
from velo.racing.messages import Result
from velo.storage.log.writer import LogWriter
from velo.streams.feeds import follow as following
from velo.streams.feeds.redis_stream import RedisFeed

SEGMENT_BYTES = 100_000


def follow(home: Path, redis_url: str, key: str, kill_at: int) -> None:
    """Follow a Redis stream to its end, and die where the clock is read for the `kill_at`-th time."""
    clock, calls = ticking(), 0

    def killing() -> datetime:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return clock()

    following.BATCH = 16  # type: ignore[misc]  # this process ends with the call
    feed = RedisFeed(connect_url(redis_url), key)
    following.follow(a_store(home), feed, clock=killing, stop=threading.Event(), once=True)


def a_big_load() -> list[Result]:
    """Races in ties of three, so that a load cut short ends among bumped instants."""
    return [told(f"R{number:05d}", NOON + number // 3 * timedelta(hours=1)) for number in range(4000)]


def load(home: Path, kill_at: int) -> None:
    """Load `a_big_load`, and die after `kill_at` records."""

    def progress(done: int, _: int) -> None:
        if done >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with LogWriter.open(a_store(home), clock=fixed(), segment_bytes=SEGMENT_BYTES) as writer:
        writer.load(a_big_load(), progress=progress)
