"""What changes, as it changes: server-sent events of what was told of a race (`GET /v1/events`).

One task asks Redis and writes what is new once for all listeners; each has a short queue, and one too slow to follow is
let go: it comes back with its `Last-Event-ID` and misses nothing that Redis still holds.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from weakref import finalize

import orjson
from starlette.concurrency import run_in_threadpool

from velo.errors import UserError
from velo.feature_repo.stores.race_cards import Event
from velo.serving.api.limits import CLIENT_SHARE, places_of_share
from velo.serving.api.problems import Refusal

EVERY_S: Final = 0.1
"""How often Redis is asked while anyone listens."""
A_LISTENER_S: Final = 0.0005
"""Seconds added to `EVERY_S` for each listener, each of which takes one write: half a second for the most listeners."""
HEARTBEAT_S: Final = 15.0
WAITING: Final = 64
"""Blocks of events that wait for a listener: what came within some seconds."""
LISTENERS: Final = 1000
QUEUE: Final = "listeners"
ANOTHER_LOG: Final = 3
"""Looks in a row that find only events already sent, before the log counts as rebuilt: then its numbers begin again."""


@dataclass(frozen=True, slots=True)
class EventBlock:
    """Events that were found together, oldest first, and all of them as they are written; without events a heartbeat."""

    events: tuple[Event, ...]
    written: bytes

    @classmethod
    def of(cls, events: Sequence[Event]) -> "EventBlock":
        """Write some events."""
        return cls(tuple(events), b"".join(map(written, events)))

    def after(self, last: int) -> bytes:
        """What of it comes after an event, written."""
        if place_of(self.events[0].id) > last:
            return self.written
        return b"".join(written(event) for event in self.events if place_of(event.id) > last)


HEARTBEAT: Final = EventBlock((), b": still here\n\n")


@dataclass(slots=True)
class Hub:
    """Sends events to all listeners. `after` returns the events after an id, `newest` the id of the newest.

    One address holds at most `share` of the listeners. Where there are as many as may be, the address that holds the most
    loses its newest to one that holds fewer; `displaced` is called then, and that listener reconnects or is refused.
    """

    after: Callable[[str], list[Event]]
    newest: Callable[[], str]
    share: float = CLIENT_SHARE
    displaced: Callable[[], None] = lambda: None
    _queues: dict["asyncio.Queue[EventBlock | None]", str] = field(default_factory=dict)
    _task: "asyncio.Task[None] | None" = None
    _at: str | None = None
    """The event up to which everything was handed out, while anyone listens."""

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._queues)

    async def listen(self, last_id: str | None, client: str = "") -> AsyncIterator[bytes]:
        """The lines of a listener at an address, from after an event it had, or from now."""
        # of a crowd that comes at once one asks Redis, the others begin where that one is
        handed_out = self._at if last_id is None and self._follows() else None
        begin = await self._begin(last_id) if handed_out is None else handed_out
        self._admit(client)
        queue: asyncio.Queue[EventBlock | None] = asyncio.Queue(WAITING)
        self._queues[queue] = client
        lines = self._lines(queue, begin, missed=handed_out is None)
        # whoever leaves before the first line was asked for gives up the place too
        finalize(lines, self._queues.pop, queue, None).atexit = False
        return lines

    async def stop(self) -> None:
        """Let every listener go."""
        self._let_go()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _follows(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _lines(
        self, queue: "asyncio.Queue[EventBlock | None]", begin: str, *, missed: bool
    ) -> AsyncIterator[bytes]:
        last = place_of(begin)
        try:
            yield b": what changes, from here on\n\n"
            with suppress(UserError):
                if missed and (events := await run_in_threadpool(self.after, begin)):
                    last = place_of(events[-1].id)
                    yield EventBlock.of(events).written
            if not self._follows():
                self._at = None
                self._task = asyncio.create_task(self._follow())
            while (block := await queue.get()) is not None:
                if not block.events:
                    yield block.written
                elif news := block.after(last):
                    last = place_of(block.events[-1].id)
                    yield news
        finally:
            self._queues.pop(queue, None)

    def _admit(self, client: str) -> None:
        """Raise `Refusal` where an address holds its share of the listeners, or there are enough and it holds the most."""
        by_address = Counter(self._queues.values())
        own = by_address[client]
        if own >= places_of_share(LISTENERS, self.share):
            detail = f"{own} listeners of this address are connected: close some, or ask again later"
            raise Refusal(429, detail, QUEUE)
        if self.listeners < LISTENERS:
            return
        heaviest, most = by_address.most_common(1)[0]
        if most <= own + 1:
            raise Refusal(503, f"{LISTENERS} listeners are connected: ask again later")
        queue = next(queue for queue in reversed(self._queues) if self._queues[queue] == heaviest)
        del self._queues[queue]
        _end(queue)
        self.displaced()

    async def _begin(self, last_id: str | None) -> str:
        """The event after which a listener is told all; one that it had and that is still to come is of another log."""
        if last_id is None:
            return await run_in_threadpool(self.newest)
        with suppress(UserError):
            newest = await run_in_threadpool(self.newest)
            return min(last_id, newest, key=place_of)
        return last_id

    def _hand_out(self, block: EventBlock) -> None:
        """Queue a block for every listener, and end those whose queue is full: they are too slow to follow."""
        for queue in list(self._queues):
            try:
                queue.put_nowait(block)
            except asyncio.QueueFull:
                _end(queue)
                self._queues.pop(queue, None)

    def _let_go(self) -> None:
        for queue in list(self._queues):
            _end(queue)

    async def _follow(self) -> None:
        """Ask for what is new until nobody listens; a Redis that is away is asked again."""
        behind = 0
        loop = asyncio.get_running_loop()
        written_at = loop.time()
        while self._queues:
            with suppress(UserError):
                newest = await run_in_threadpool(self.newest)
                at = newest if self._at is None else self._at
                behind = behind + 1 if place_of(newest) < place_of(at) else 0
                if behind == ANOTHER_LOG:
                    at = newest
                    self._let_go()
                if events := await run_in_threadpool(self.after, at):
                    at = events[-1].id
                    self._hand_out(EventBlock.of(events))
                    written_at = loop.time()
                self._at = at
            if loop.time() - written_at > HEARTBEAT_S:
                self._hand_out(HEARTBEAT)
                written_at = loop.time()
            await asyncio.sleep(EVERY_S + A_LISTENER_S * self.listeners)


def written(event: Event) -> bytes:
    """An event as a listener reads it."""
    told = {"type": event.kind, "race_id": event.race_id, "known_at": event.known_at, "seq": place_of(event.id) - 1}
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.kind.encode(), orjson.dumps(told))


def place_of(event_id: str) -> int:
    """The number that an event's id begins with."""
    return int(event_id.partition("-")[0])


def _end(queue: "asyncio.Queue[EventBlock | None]") -> None:
    """Leave word that nothing more comes, in place of the oldest where the queue is full."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(None)
