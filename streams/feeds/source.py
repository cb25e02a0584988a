"""What a feed is to the log's writer: messages in an order, each at a place, taken again from any place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class FeedAway(Exception):
    """The feed's server is not to be reached just now; the text says what it said."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it came: `at` is its place (`5` or `1700000000000-0`), `body` None where it has none.

    Where a feed has several parts, each with places of its own, `part` says in which this one is, and `whole` how far
    all of them are settled with it.
    """

    at: str
    body: bytes | None
    part: str = ""
    whole: str | None = None

    @property
    def settles(self) -> str:
        """The place from which the feed goes on once this message is settled."""
        return self.at if self.whole is None else self.whole


class Feed(Protocol):
    """A feed with one order. Places only grow along it, or along each of its parts."""

    @property
    def name(self) -> str:
        """What it is called in the log and in the store's home; where its server stands is no part of it."""

    def begin(self, after: str | None) -> None:
        """Go on after a place, from the feed's beginning where it is None.

        Raises `UserError` where that cannot be, `FeedAway` where the server is not to be reached.
        """

    def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
        """The next messages: at least one as soon as there is one, none after `wait_s`; raises `FeedAway`."""

    def settle(self, at: str) -> None:
        """Everything up to a place is safe on the log's disk; the server may be told so."""

    def close(self) -> None:
        """Let go of the server."""


def order(at: str) -> tuple[int, ...]:
    """What places compare by."""
    return tuple(map(int, at.split("-")))
