"""The interface of a feed: ordered messages, each at an offset, readable again from any offset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


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
