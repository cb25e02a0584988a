"""Bounds on what a request may be and on how many are worked on: its body, how long that takes to come, its turn."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from velo.serving.api.problems import Refusal, answer

P = ParamSpec("P")
T = TypeVar("T")

BODY_BYTES: Final = 256 * 1024
BODY_S: Final = 10.0
RUNNERS: Final = 40
"""No race we know of has more."""
QUICK_THREADS: Final = 4
"""More threads than this share one interpreter badly: each waits for all others whenever it has read an answer."""
SLOW_THREADS: Final = 4
ODDS_THREADS: Final = 16
"""They wait for the disk, all of them for the same sync."""
CLIENT_A_SECOND: Final = 50.0
CLIENT_BURST: Final = 1000
CLIENTS: Final = 10_000
QUEUED: Final = 512
QUEUED_S: Final = 2.0


@dataclass(slots=True)
class Lane:
    """Threads for one kind of work, and a bounded queue before them: whoever comes later than it holds is sent away at once."""

    name: str
    threads: int
    most: int = QUEUED
    seconds: float = QUEUED_S
    waiting: int = 0
    shed: int = 0
    _turns: asyncio.Semaphore = field(init=False)
    _limiter: CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        """As many turns as threads."""
        self._turns = asyncio.Semaphore(self.threads)
        self._limiter = CapacityLimiter(self.threads)

    async def run(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """What `work` returns, run in a thread when it is its turn; raises `Refusal` where that does not come in time."""
        if self.waiting >= self.most:
            raise self._full(f"{self.waiting} requests wait")
        self.waiting += 1
        try:
            async with asyncio.timeout(self.seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise self._full(f"no turn came within {self.seconds:g} s") from None
        finally:
            self.waiting -= 1
        try:
            return await run_sync(lambda: work(*args, **named), limiter=self._limiter)
        finally:
            self._turns.release()

    def _full(self, how: str) -> Refusal:
        self.shed += 1
        return Refusal(
            503,
            f"the service is busy with {self.name} ({how}): ask again, or run more workers with `velo serve --workers`",
        )


@dataclass(slots=True)
class Allowance:
    """How much each client may ask of what is kept for good: `burst` at once, then so many a second."""

    a_second: float = CLIENT_A_SECOND
    burst: int = CLIENT_BURST
    _left: "OrderedDict[str, tuple[float, float]]" = field(default_factory=OrderedDict)

    def spend(self, client: str, now_s: float) -> None:
        """Count one request of a client; raises `Refusal` where it has none left."""
        left, at = self._left.pop(client, (float(self.burst), now_s))
        left = min(self.burst, left + (now_s - at) * self.a_second)
        self._left[client] = (max(0.0, left - 1.0), now_s)
        if len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        if left < 1.0:
            raise Refusal(
                429, f"each such score is kept, and a client has {self.a_second:g} of them a second: ask more slowly"
            )


@dataclass(slots=True)
class Lanes:
    """The lanes of a process: a slow question never takes the place of a quick one, and odds wait for the disk beside both."""

    quick: Lane = field(default_factory=lambda: Lane("scores and cards", QUICK_THREADS))
    slow: Lane = field(default_factory=lambda: Lane("questions about the past", SLOW_THREADS, seconds=10.0))
    allowance: Allowance = field(default_factory=Allowance)
    odds: Lane = field(default_factory=lambda: Lane("odds", ODDS_THREADS, seconds=5.0))

    @classmethod
    def here(cls) -> "Lanes":
        """The lanes of the event loop that runs: a server has one."""
        loop = asyncio.get_running_loop()
        return _LANES.setdefault(loop, cls())


_LANES: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Lanes]] = WeakKeyDictionary()


class BoundedBody:
    """ASGI middleware: a body longer than `most` bytes is refused with 413 as soon as that shows, a slow one with 408."""

    def __init__(self, app: ASGIApp, most: int = BODY_BYTES, seconds: float = BODY_S) -> None:
        self.app = app
        self.most = most
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of a request, up to the bound, before anything is done with it."""
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
            refusal.headers["Connection"] = "close"  # or the server would take the rest of it from the wire
            await refusal(scope, receive, send)
            return
        if whole is None:
            return
        told = False

        async def once() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": whole, "more_body": False}

        await self.app(scope, once, send)

    async def _whole(self, receive: Receive) -> bytes | None:
        """The body; None where whoever sent it is gone."""
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
    """A body longer than it may be."""
