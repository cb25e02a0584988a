"""A Kafka topic as a feed, and messages put on one: a record's value is the JSON.

A log has one order, and Kafka keeps order within a partition only. So one partition is followed: the only one of its
topic, or the one that is named; or every one, merged by when each record was sent.
The place is kept in the store's home; it is committed to the group as well, for Kafka's own tools to see.
"""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import orjson

from streams.feeds.partition_merge import PartitionMerge
from streams.feeds.source import Delivery, FeedAway
from velo.errors import UserError

if TYPE_CHECKING:
    from confluent_kafka import Consumer

GROUP: Final = "velo"
ANSWER_S: Final = 10.0
EVERY: Final = "every"
Which = int | Literal["every"] | None
"""A partition by its number, every partition, or the only one there is."""
_SEND_S: Final = 60.0
_AHEAD: Final = 4096
"""Records held of one partition while others are waited for; a partition that is further ahead pauses."""
_log = logging.getLogger(__name__)
_client_log = logging.getLogger(f"{__name__}.client")
_client_log.setLevel(logging.CRITICAL)  # it tells of each of many attempts; that a feed is away is said once


class KafkaFeed:
    """The records of one partition, oldest first, or of every partition, oldest first as far as the brokers can tell.

    What has the same key is in one partition and so keeps its order. Between partitions the records' own instants tell
    the order of what is there already; what comes live is taken as it comes.
    """

    def __init__(self, brokers: str, topic: str, partition: Which = None, group: str = GROUP) -> None:
        self._brokers = brokers
        self._topic = topic
        self._asked = partition
        self._group = group
        self._away: str | None = None
        self._failed: Any = None
        self._consumer: Consumer | None = None
        self._merging = PartitionMerge(())
        self._next: dict[int, int] = {}
        self._paused: set[int] = set()

    @property
    def name(self) -> str:
        """`kafka:`, the topic and the partition; the topic alone where every partition is followed."""
        return f"kafka:{self._topic}" if self._asked == EVERY else f"kafka:{self._topic}/{self._asked or 0}"

    def begin(self, after: str | None) -> None:
        """Go on after a place; raises `UserError` where the topic has it not, or several partitions and none named."""
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        self.close()
        consumer = Consumer(
            {
                "bootstrap.servers": self._brokers,
                "group.id": self._group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "queued.max.messages.kbytes": 65536,
                "error_cb": self._on_error,
                "logger": _client_log,
            }
        )
        try:
            partitions = _partitions(self._topic, self._asked, consumer.list_topics(self._topic, timeout=ANSWER_S))
            settled = self._offsets(after)
            for one in partitions:
                bounds = consumer.get_watermark_offsets(TopicPartition(self._topic, one), timeout=ANSWER_S)
                self._next[one] = self._start(settled.get(one), *bounds)
            consumer.assign([TopicPartition(self._topic, one, self._next[one]) for one in partitions])
        except KafkaException as failed:
            consumer.close()
            raise FeedAway(str(failed.args[0])) from failed
        except BaseException:
            consumer.close()
            raise
        self._consumer, self._merging = consumer, PartitionMerge(partitions)

    def _offsets(self, place: str | None) -> dict[int, int]:
        """The last settled offset by partition; that of every partition is written `0:17 2:5`."""
        if place is None:
            return {}
        if self._asked != EVERY:
            return {self._asked or 0: int(place)}
        return {int(one): int(offset) for one, _, offset in (part.partition(":") for part in place.split())}

    def _start(self, after: int | None, low: int, high: int) -> int:
        start = low if after is None else after + 1
        if low <= start <= high:
            return start
        raise UserError(
            f"topic {self._topic!r} holds offsets {low} to {high}, but {start} comes next: records were lost, or it is "
            "another topic; tell the races that are missing by `velo ingest`, and use a new topic's name"
        )

    def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
        """The next records."""
        assert self._consumer is not None
        until = monotonic() + wait_s
        while not (given := self._merging.give(limit)) and self._failed is None:
            left = max(0.0, until - monotonic())
            first = self._consumer.poll(left)
            if first is None:
                break
            for message in (first, *self._consumer.consume(limit, timeout=0)):
                self._receive(message)
            self._hold_back()
        if given:
            self._away = None
        elif self._failed is not None:
            failed, self._failed = self._failed, None
            self._raise(failed)
        elif self._away:
            self._refuse_away(wait_s)
        return [self._delivery(partition, message) for partition, message in given]

    def _receive(self, message: Any) -> None:
        from confluent_kafka import KafkaError

        error = message.error()
        if error is None:
            self._merging.add(message.partition(), message.timestamp()[1], message)
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (its name)
            self._merging.ends(message.partition())
        else:
            self._failed = error  # told once all that came before it is given out

    def _hold_back(self) -> None:
        """Pause the partitions that are far ahead of the others, and let go on those that no longer are."""
        from confluent_kafka import TopicPartition

        assert self._consumer is not None
        ahead = {one for one in self._next if self._merging.held(one) >= _AHEAD}
        if paused := ahead - self._paused:
            self._consumer.pause([TopicPartition(self._topic, one) for one in paused])
        if resumed := self._paused - ahead:
            self._consumer.resume([TopicPartition(self._topic, one) for one in resumed])
        self._paused = ahead

    def _delivery(self, partition: int, message: Any) -> Delivery:
        self._next[partition] = message.offset() + 1
        at, body = str(message.offset()), _bytes(message.value())
        if self._asked != EVERY:
            return Delivery(at, body)
        whole = " ".join(f"{one}:{following - 1}" for one, following in self._next.items() if following)
        return Delivery(at, body, f"/{partition}", whole)

    def _refuse_away(self, wait_s: float) -> None:
        """Raise `FeedAway` unless the brokers answer again; that they said nothing proves neither."""
        from confluent_kafka import KafkaException

        assert self._consumer is not None
        try:
            self._consumer.list_topics(self._topic, timeout=max(wait_s, 0.1))
        except KafkaException:
            raise FeedAway(self._away) from None
        self._away = None

    def settle(self, at: str) -> None:
        """Commit the place; the store's own counts, so a commit that fails is no more than a figure out of date."""
        from confluent_kafka import KafkaException, TopicPartition

        assert self._consumer is not None
        try:
            self._consumer.commit(
                offsets=[TopicPartition(self._topic, one, offset + 1) for one, offset in self._offsets(at).items()],
                asynchronous=True,
            )
        except KafkaException as failed:
            _log.warning("feed.not_committed feed=%s at=%s why=%s", self.name, at, failed)

    def close(self) -> None:
        """Leave the group; brokers that do not answer are not waited for longer than for any other answer."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            # the client waits without end for a commit that no broker is there to take
            leaving = threading.Thread(target=consumer.close, daemon=True)
            leaving.start()
            leaving.join(ANSWER_S)
            if leaving.is_alive():
                _log.warning("feed.left_without_answer feed=%s", self.name)
        self._next, self._paused = {}, set()

    def _on_error(self, error: Any) -> None:
        from confluent_kafka import KafkaError

        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION):  # noqa: SLF001 (their names)
            self._away = str(error)

    def _raise(self, error: Any) -> NoReturn:
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 (its name)
            raise UserError(
                f"topic {self._topic!r} no longer holds the record that comes next ({error.str()}): records were lost; "
                "tell the races that are missing by `velo ingest`, and use a new topic's name"
            )
        raise FeedAway(str(error))


def put(brokers: str, topic: str, bodies: Iterable[bytes], partition: Which = None) -> int:
    """Add messages to the end of a partition, the topic's only one where none is named, in their order; all are
    acknowledged when this returns. Over every partition they are spread by their race, which is the records' key.

    Raises `UserError` where the brokers are not to be reached, the partition is not there, or a message is refused.
    """
    from confluent_kafka import KafkaException, Producer

    producer = Producer(
        {
            "bootstrap.servers": brokers,
            "enable.idempotence": True,
            "message.timeout.ms": int(_SEND_S * 1000),
            "message.max.bytes": 2**24 + 2**16,
            "logger": _client_log,
        }
    )
    failed: list[str] = []
    count = 0
    try:
        _partitions(topic, partition, producer.list_topics(topic, timeout=ANSWER_S))
        for body in bodies:
            where = {"key": _race_of(body)} if partition == EVERY else {"partition": partition or 0}
            while True:
                try:
                    producer.produce(
                        topic,
                        body,
                        **where,
                        on_delivery=lambda error, _: failed.append(str(error)) if error else None,
                    )
                    break
                except BufferError:
                    producer.poll(1.0)
            count += 1
            producer.poll(0)
        left = producer.flush(_SEND_S)
    except KafkaException as refused:
        raise UserError(f"cannot use Kafka at {brokers} ({refused.args[0]}): start it, or mend --brokers") from None
    if failed or left:
        why = failed[0] if failed else "no answer"
        raise UserError(
            f"{len(failed) or left} of {count} messages did not reach topic {topic!r} ({why}): send them again"
        )
    return count


def _partitions(topic: str, asked: Which, told: Any) -> list[int]:
    """The partitions asked for; raises `UserError` where the topic has not the one, or several and none is named."""
    from confluent_kafka import KafkaError, KafkaException

    found = told.topics[topic]
    if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise UserError(f"there is no topic {topic!r}: make it, with one partition, or mend its name")
    if found.error is not None:
        raise KafkaException(found.error)
    if asked == EVERY:
        return sorted(found.partitions)
    count = len(found.partitions)
    if asked is None and count > 1:
        raise UserError(
            f"topic {topic!r} has {count} partitions, but a log has one order: use a topic with one, name one of them "
            f"by --partition, or have all merged by --partition {EVERY}"
        )
    if asked is not None and asked not in found.partitions:
        raise UserError(f"topic {topic!r} has {count} partitions, counted from 0, and no {asked}: name one of them")
    return [asked or 0]


def _race_of(body: bytes) -> bytes:
    """The key of a message: its race, so that all that is told of a race stays in order; none where it names none."""
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError:
        return b""
    race = record.get("race_id") if isinstance(record, Mapping) else None
    return race.encode() if isinstance(race, str) else b""


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
