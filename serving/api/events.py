"""Server-sent events of the messages about races (`GET /v1/events`).

One task reads new events from Redis and encodes them once for all listeners. Each listener has a short queue; one that is too
slow is disconnected, reconnects with its `Last-Event-ID`, and misses nothing that Redis still holds.
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
"""Seconds between reads of Redis while anyone listens."""
A_LISTENER_S: Final = 0.0005
"""Seconds added to `EVERY_S` for each listener, each of which takes one write: half a second for the most listeners."""
HEARTBEAT_S: Final = 15.0
WAITING: Final = 64
"""The most blocks of events queued for a listener: those of some seconds."""
LISTENERS: Final = 1000
QUEUE: Final = "listeners"
ANOTHER_LOG: Final = 3
"""Reads in a row that find only earlier events before the log counts as rebuilt, which restarts its numbers."""


@dataclass(frozen=True, slots=True)
class EventBlock:
    """Events read together, oldest first, and their encoding; a heartbeat has no events."""

    events: tuple[Event, ...]
    written: bytes

    @classmethod
    def of(cls, events: Sequence[Event]) -> "EventBlock":
        """Encode some events."""
        return cls(tuple(events), b"".join(map(written, events)))

    def after(self, last: int) -> bytes:
        """The encoding of the block's events after the event `last`."""
        if place_of(self.events[0].id) > last:
            return self.written
        return b"".join(written(event) for event in self.events if place_of(event.id) > last)


HEARTBEAT: Final = EventBlock((), b": still here\n\n")


@dataclass(slots=True)
class Hub:
    """Sends events to all listeners. `after` returns the events after an id, `newest` the id of the newest.

    One address holds at most `share` of the listeners. At the maximum, the address with the most listeners loses its newest one
    to an address with fewer; `displaced` is called then, and that listener reconnects or is refused.
    """

    after: Callable[[str], list[Event]]
    newest: Callable[[], str]
    share: float = CLIENT_SHARE
    displaced: Callable[[], None] = lambda: None
    _queues: dict["asyncio.Queue[EventBlock | None]", str] = field(default_factory=dict)
    _task: "asyncio.Task[None] | None" = None
    _at: str | None = None
    """The id of the last event that was queued for all listeners."""

    @property
    def listeners(self) -> int:
        """The number of listeners."""
        return len(self._queues)

    async def listen(self, last_id: str | None, client: str = "") -> AsyncIterator[bytes]:
        """The lines of a listener at an address, from after the event `last_id`, or from now."""
        # while the task runs, a new listener begins at its position, so that a crowd of them makes no read each
        position = self._at if last_id is None and self._follows() else None
        begin = await self._begin(last_id) if position is None else position
        self._admit(client)
        queue: asyncio.Queue[EventBlock | None] = asyncio.Queue(WAITING)
        self._queues[queue] = client
        lines = self._lines(queue, begin, missed=position is None)
        # a listener that leaves before its first line gives up its place too
        finalize(lines, self._queues.pop, queue, None).atexit = False
        return lines

    async def stop(self) -> None:
        """Disconnect every listener."""
        self._end_all()
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
        """Raise `Refusal` if an address has its share of the listeners, or if all places are taken and it holds the most."""
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
        """The event after which a listener gets all; an id beyond the newest is of another log."""
        if last_id is None:
            return await run_in_threadpool(self.newest)
        with suppress(UserError):
            newest = await run_in_threadpool(self.newest)
            return min(last_id, newest, key=place_of)
        return last_id

    def _queue_for_all(self, block: EventBlock) -> None:
        """Queue a block for every listener, and end those whose queue is full: they are too slow to follow."""
        for queue in list(self._queues):
            try:
                queue.put_nowait(block)
            except asyncio.QueueFull:
                _end(queue)
                self._queues.pop(queue, None)

    def _end_all(self) -> None:
        for queue in list(self._queues):
            _end(queue)

    async def _follow(self) -> None:
        """Read new events until nobody listens; an unavailable Redis is read again."""
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
                    self._end_all()
                if events := await run_in_threadpool(self.after, at):
                    at = events[-1].id
                    self._queue_for_all(EventBlock.of(events))
                    written_at = loop.time()
                self._at = at
            if loop.time() - written_at > HEARTBEAT_S:
                self._queue_for_all(HEARTBEAT)
                written_at = loop.time()
            await asyncio.sleep(EVERY_S + A_LISTENER_S * self.listeners)


def written(event: Event) -> bytes:
    """The encoding of an event."""
    data = {"type": event.kind, "race_id": event.race_id, "known_at": event.known_at, "seq": place_of(event.id) - 1}
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.kind.encode(), orjson.dumps(data))


def place_of(event_id: str) -> int:
    """The number at the start of an event's id."""
    return int(event_id.partition("-")[0])


def _end(queue: "asyncio.Queue[EventBlock | None]") -> None:
    """Queue the end marker; a full queue loses its oldest block for it."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(None)
