"""The registry of the stream's sinks: how each is made of the stream's options. `graph` connects them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from redis.exceptions import RedisError

from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores.redis_client import connect
from velo.storage.store import Home
from velo.streams.dataflow.cards_sink import CardsSink
from velo.streams.dataflow.checkpoint_writer import CheckpointWriter
from velo.streams.dataflow.dead_letter_sink import DeadLetterSink
from velo.streams.dataflow.log_source import Clock
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.operators import StreamSink
from velo.streams.dataflow.parquet_sink import ParquetSink
from velo.streams.dataflow.plan import StreamOptions, StreamPlan
from velo.streams.dataflow.redis_flusher import RedisFlusher
from velo.streams.dataflow.redis_sink import RedisSink, deliver
from velo.streams.dataflow.retry import Retry

VIEWS: Final = [family.view for family in FAMILIES]


@dataclass(frozen=True)
class SinkContext:
    """What sinks are made of."""

    planned: StreamPlan
    options: StreamOptions
    clock: Clock
    stop: threading.Event
    telemetry: Telemetry
    sealing: CheckpointWriter

    @property
    def home(self) -> Home:
        """The home of the store."""
        return self.planned.store.home

    @cached_property
    def redis(self) -> RedisSink | None:
        """The sink of the online rows, shared with the race cards; None without an online store."""
        if not self.options.online:
            return None
        retry = Retry(self.stop, self.telemetry)
        client, flusher = OneClient(self.home, self.planned.store.redis_url), RedisFlusher(retry, deliver)
        shared = self.planned.formulas, self.planned.begin, client, self.clock, self.telemetry, retry, flusher
        return RedisSink(self.home, VIEWS, *shared, sealing=self.options.offline)

    @cached_property
    def cards(self) -> CardsSink | None:
        """The sink of the race cards; None without an online store."""
        rows = self.redis
        return CardsSink(self.home, rows.connect, self.clock, rows.waiting, rows.cards_lost) if rows else None

    @property
    def letters(self) -> DeadLetterSink:
        """The sink of the dead letters."""
        return DeadLetterSink(self.home, self.clock)

    @property
    def tables(self) -> ParquetSink | None:
        """The sink of the offline rows; None without an offline store."""
        if not self.options.offline:
            return None
        return ParquetSink(self.home, VIEWS, self.planned.formulas, self.clock, self.telemetry, self.sealing)


SINKS: Final[Sequence[Callable[[SinkContext], StreamSink[Any, Any] | None]]] = (
    lambda context: context.cards,
    lambda context: context.letters,
    lambda context: context.tables,
    lambda context: context.redis,
)
"""How each sink is made; None where the options leave it out. Another sink is another line."""


def sinks_of(context: SinkContext) -> list[StreamSink[Any, Any]]:
    """Return the sinks of a stream."""
    made = (make(context) for make in SINKS)
    return [sink for sink in made if sink is not None]


class OneClient:
    """A client of the online store, shared by the sinks of a stream and replaced when it no longer answers."""

    def __init__(self, home: Home, redis_url: str | None) -> None:
        self._home, self._url = home, redis_url
        self._client: Any = None

    def __call__(self) -> Any:
        """Return a client that has just answered. Raises `UserError` where the server does not."""
        try:
            if self._client is not None and self._client.ping():
                return self._client
        except (RedisError, OSError):
            self._client = None
        self._client = connect(self._home, self._url)
        return self._client
