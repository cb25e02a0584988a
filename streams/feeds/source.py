"""The interface of a feed (ordered messages, each at an offset, readable again from any offset), and its offset on disk."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from velo.errors import UserError
from velo.storage import locks
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.log import reader
from velo.storage.log.format import generation
from velo.storage.store import Home


class FeedAway(Exception):
    """The feed's server is unreachable at present; the text is its error."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as received: `at` is its offset (`5` or `1700000000000-0`), `body` None if it has none.

    If a feed has several parts with their own offsets, `part` names the message's part and `whole` the offsets of all
    parts up to it.
    """

    at: str
    body: bytes | None
    part: str = ""
    whole: str | None = None

    @property
    def settles(self) -> str:
        """The offset after which the feed continues once this message is settled."""
        return self.at if self.whole is None else self.whole


class Feed(Protocol):
    """A feed with one order. Offsets ascend along it, or along each of its parts."""

    @property
    def name(self) -> str:
        """Its name in the log and in the store's home, without the server's address."""

    def begin(self, after: str | None) -> None:
        """Continue after an offset; None is the feed's beginning.

        Raises `UserError` if the feed no longer has that offset, `FeedAway` if the server is unreachable.
        """

    def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Return the next messages: waits for at least one, at most `wait_s` seconds. Raises `FeedAway`."""

    def settle(self, at: str) -> None:
        """Acknowledge everything up to an offset: it is in the log on disk."""

    def close(self) -> None:
        """Disconnect from the server."""


def order(at: str) -> tuple[int, ...]:
    """Return the sort key of an offset."""
    return tuple(map(int, at.split("-")))


@dataclass(frozen=True, slots=True)
class FeedOffsets:
    """`settled`: the offset up to which all is done (None before any). `appended`: the last in the log, by part."""

    settled: str | None = None
    appended: Mapping[str, str] = field(default_factory=dict)

    def was_appended(self, delivery: Delivery) -> bool:
        """Whether an earlier run appended a message but ended before it settled it."""
        last = self.appended.get(delivery.part)
        return last is not None and order(delivery.at) <= order(last)


def read(home: Home, feed: str) -> FeedOffsets:
    """Read the offsets of a feed; raises `UserError` if its file is damaged."""
    path = _path(home, feed)
    settled, from_seq = None, 0
    try:
        written = json.loads(path.read_bytes())
        settled = written["settled"]
        if written["generation"] == generation(home):
            from_seq = written["next_seq"]
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as damaged:
        raise UserError(
            f"{path} cannot be read ({damaged}): restore it from a backup, or remove it to take the feed from its start"
        ) from None
    appended: dict[str, str] = {}
    for record in reader.records(home, from_seq):
        origin = record.get("origin")
        if origin and (origin["feed"] == feed or origin["feed"].startswith(f"{feed}/")):
            appended[origin["feed"].removeprefix(feed)] = origin["at"]
    return FeedOffsets(settled, appended)


def settle(home: Home, feed: str, at: str, next_seq: int) -> None:
    """Record on disk that a feed is settled up to an offset, and that the log before `next_seq` holds its messages."""
    path = _path(home, feed)
    make_folder(path.parent)
    content = {"feed": feed, "settled": at, "next_seq": next_seq, "generation": generation(home)}
    write_atomically(path, json.dumps(content).encode() + b"\n")


@contextmanager
def held(home: Home, feed: str) -> Iterator[None]:
    """Hold a feed's lock; raises `UserError` where another process follows the feed."""
    path = _path(home, feed).with_suffix(".lock")
    make_folder(path.parent)
    try:
        descriptor = locks.acquire(path)
    except locks.LockHeld as other:
        raise UserError(
            f"{feed} is followed by process {other.holder or 'unknown'} already: stop it, or leave it to that one"
        ) from None
    try:
        locks.record_holder(descriptor)
        yield
    finally:
        os.close(descriptor)


def _path(home: Home, feed: str) -> Path:
    return home.feeds / f"{blake2b(feed.encode(), digest_size=8).hexdigest()}.json"
