"""Limits of requests: body length and time, queues with fair turns, and each address's share."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from velo.serving.api.problems import Refusal, answer

P = ParamSpec("P")
T = TypeVar("T")

BODY_BYTES: Final = 256 * 1024
BODY_S: Final = 10.0
RUNNERS: Final = 40
"""More than any known race has."""
QUICK_THREADS: Final = 4
"""More threads share one interpreter badly: each waits for all others whenever it has read an answer."""
SLOW_THREADS: Final = 4
ODDS_THREADS: Final = 16
"""They wait for the disk, all for the same sync."""
CLIENT_A_SECOND: Final = 50.0
CLIENT_BURST: Final = 1000
CLIENTS: Final = 10_000
QUEUED: Final = 512
QUEUED_S: Final = 2.0
CLIENT_SHARE: Final = 0.5
"""Part of the waiting requests, and of the listeners, that one address may hold."""


def places_of_share(places: int, share: float) -> int:
    """The number of places that one address may hold, at least 1."""
    return max(1, int(places * share))


async def client_of(request: Request) -> str:
    """The address that a request counts for; for IPv6 the /64 network, which one client usually has."""
    host = request.client.host if request.client else ""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return host
    return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))


@dataclass(slots=True)
class Lane:
    """Threads for one kind of work, and a bounded queue of requests that is shared fairly between addresses.

    Addresses take turns, so an address with one request waits for at most one request of each other address. One address holds
    at most `share` of the queue. When the queue is full, the address with the most requests loses its newest one to an address
    with fewer.
    """

    name: str
    threads: int
    most: int = QUEUED
    seconds: float = QUEUED_S
    share: float = CLIENT_SHARE
    shed: int = 0
    _idle: int = field(init=False)
    _queues: "OrderedDict[str, deque[asyncio.Future[None]]]" = field(default_factory=OrderedDict)
    _limiter: CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        """Every thread is idle."""
        self._idle = self.threads
        self._limiter = CapacityLimiter(self.threads)

    @property
    def waiting(self) -> int:
        """The number of waiting requests."""
        return sum(map(len, self._queues.values()))

    async def run(self, client: str, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Run work for a client in a thread at its turn; raises `Refusal` if the turn does not come in time."""
        await self._turn(client)
        try:
            return await run_sync(lambda: work(*args, **named), limiter=self._limiter)
        finally:
            self._pass_on()

    async def _turn(self, client: str) -> None:
        if self._idle:
            self._idle -= 1
            return
        turn = self._queued(client)
        try:
            async with asyncio.timeout(self.seconds):
                await turn
        except TimeoutError:
            self._leave(client, turn)
            raise self._full(f"no turn came within {self.seconds:g} s") from None
        except asyncio.CancelledError:
            self._leave(client, turn)
            raise

    def _queued(self, client: str) -> "asyncio.Future[None]":
        own = len(self._queues.get(client, ()))
        if own >= places_of_share(self.most, self.share):
            self.shed += 1
            detail = f"{own} requests of this address wait for {self.name}: ask more slowly"
            raise Refusal(429, detail, self.name)
        if self.waiting >= self.most:
            self._displace(own)
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(turn)
        return turn

    def _displace(self, own: int) -> None:
        """Refuse the newest request of the address with the most; raises `Refusal` if that would only swap the two."""
        heaviest = max(self._queues, key=lambda address: len(self._queues[address]))
        queue = self._queues[heaviest]
        if len(queue) <= own + 1:
            raise self._full(f"{self.waiting} requests wait")
        turn = queue.pop()
        if not turn.done():
            self.shed += 1
            detail = f"other addresses wait for {self.name} too, and this one holds the most: ask again"
            turn.set_exception(Refusal(503, detail, self.name))

    def _pass_on(self) -> None:
        """Give the turn to the next address that waits, and put that address last."""
        while self._queues:
            client, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._queues[client] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._idle += 1

    def _leave(self, client: str, turn: "asyncio.Future[None]") -> None:
        """Remove a request from the queue; a turn that it just got goes to the next."""
        if turn.done() and not turn.cancelled():
            if turn.exception() is None:
                self._pass_on()
            return
        queue = self._queues.get(client, deque())
        if turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[client]

    def _full(self, how: str) -> Refusal:
        self.shed += 1
        return Refusal(
            503,
            f"the service is busy with {self.name} ({how}): ask again, or run more workers with `velo serve --workers`",
        )


@dataclass(slots=True)
class Allowance:
    """A rate limit per client for requests that are logged: `burst` at once, then `a_second` per second."""

    a_second: float = CLIENT_A_SECOND
    burst: int = CLIENT_BURST
    _left: "OrderedDict[str, tuple[float, float]]" = field(default_factory=OrderedDict)

    def spend(self, client: str, now_s: float) -> None:
        """Count one request of a client; raises `Refusal` if it has none left."""
        left, at = self._left.pop(client, (float(self.burst), now_s))
        left = min(self.burst, left + (now_s - at) * self.a_second)
        self._left[client] = (max(0.0, left - 1.0), now_s)
        if len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        if left < 1.0:
            raise Refusal(
                429, f"each such score is logged, and a client has {self.a_second:g} of them a second: ask more slowly"
            )


@dataclass(slots=True)
class Lanes:
    """The lanes of a process: slow requests never delay quick ones, and odds wait for the disk in a lane of their own."""

    quick: Lane
    slow: Lane
    odds: Lane
    allowance: Allowance = field(default_factory=Allowance)

    @classmethod
    def sharing(cls, share: float) -> "Lanes":
        """Make lanes in which one address may hold a share of the queue."""
        return cls(
            Lane("scores and cards", QUICK_THREADS, share=share),
            Lane("questions about the past", SLOW_THREADS, seconds=10.0, share=share),
            Lane("odds", ODDS_THREADS, seconds=5.0, share=share),
        )

    @classmethod
    def here(cls, share: float = CLIENT_SHARE) -> "Lanes":
        """The lanes of the running event loop; a server has one loop."""
        loop = asyncio.get_running_loop()
        lanes = _LANES.get(loop)
        if lanes is None:
            lanes = _LANES[loop] = cls.sharing(share)
        return lanes


_LANES: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Lanes]] = WeakKeyDictionary()


class BoundedBody:
    """ASGI middleware: refuses a body longer than `most` bytes with 413 before reading it all, and a slow one with 408."""

    def __init__(self, app: ASGIApp, most: int = BODY_BYTES, seconds: float = BODY_S) -> None:
        self.app = app
        self.most = most
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, up to the bound, before the application sees the request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.seconds):
                whole = await self._whole(receive)
        except TimeoutError:
            refusal = answer(408, f"the body took more than {self.seconds:g} s to come: send it at once")
            await refusal(scope, receive, send)
            return
        except _TooLong:
            refusal = answer(413, f"the body is longer than {self.most:,} bytes: send one race a request")
            refusal.headers["Connection"] = "close"  # otherwise the server would read the rest of it
            await refusal(scope, receive, send)
            return
        if whole is None:
            return
        passed = False

        async def once() -> Message:
            nonlocal passed
            if passed:
                return await receive()
            passed = True
            return {"type": "http.request", "body": whole, "more_body": False}

        await self.app(scope, once, send)

    async def _whole(self, receive: Receive) -> bytes | None:
        """The body; None if the client disconnected."""
        parts: list[bytes] = []
        taken, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            taken += len(parts[-1])
            more = message.get("more_body", False)
            if taken > self.most:
                raise _TooLong
        return b"".join(parts)


class _TooLong(Exception):
    """The body is longer than the limit."""
