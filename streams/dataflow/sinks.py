"""The sinks of the stream: one registry, how they are made, and the smallest of them, that of dead letters."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

from bytewax.outputs import StatefulSinkPartition
from redis.exceptions import RedisError

from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores.redis_client import connect
from velo.storage.store import Home
from velo.streams.dataflow.cards_sink import CardsSink
from velo.streams.dataflow.checkpoint_writer import CheckpointWriter
from velo.streams.dataflow.log_source import Clock
from velo.streams.dataflow.metrics import Telemetry, say
from velo.streams.dataflow.operators import ALL, Reads, StreamSink
from velo.streams.dataflow.parquet_sink import ParquetSink
from velo.streams.dataflow.plan import StreamOptions, StreamPlan
from velo.streams.dataflow.redis_flusher import RedisFlusher
from velo.streams.dataflow.redis_sink import RedisSink, deliver
from velo.streams.dataflow.retry import Retry
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import DeadLetter


@dataclass(frozen=True, slots=True)
class DeadLetterSink(StreamSink[DeadLetter, None]):
    """One partition: the store's dead letters."""

    step: ClassVar[str] = "dead-letters"
    reads: ClassVar[Reads] = "letters"

    home: Home
    clock: Clock

    def list_parts(self) -> list[str]:
        """One file."""
        return [ALL]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "DeadLetterPartition":
        """Return the writer. It resumes nothing: a letter that comes again is the same letter."""
        return DeadLetterPartition(self)


@dataclass(frozen=True, slots=True)
class DeadLetterPartition(StatefulSinkPartition[DeadLetter, None]):
    """The writer of dead letters."""

    sink: DeadLetterSink

    def write_batch(self, values: list[DeadLetter]) -> None:
        """Append the letters that the file does not have yet."""
        for letter in values:
            say("stream.dead_letter", race_id=letter.race_id, reason=letter.reason, detail=letter.detail)
        dead_letters.write(self.sink.home, values, self.sink.clock())

    def snapshot(self) -> None:
        """Return no state."""


VIEWS: Final = [family.view for family in FAMILIES]


@dataclass(frozen=True)
class SinkContext:
    """The collaborators of sinks."""

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
