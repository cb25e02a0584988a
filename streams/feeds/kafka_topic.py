"""Read a Kafka topic as a feed, and send messages to one: a record's value is the JSON.

A log has one order, but Kafka orders records only within a partition. So the feed follows one partition (the topic's only
one, or the one named), or every partition, merged by the records' timestamps. The store's home holds the offset; it is
also committed to the consumer group, for Kafka's own tools.
"""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import orjson

from velo.errors import UserError
from velo.streams.feeds.partition_merge import PartitionMerge
from velo.streams.feeds.source import Delivery, FeedAway

if TYPE_CHECKING:
    from confluent_kafka import Consumer

GROUP: Final = "velo"
ANSWER_S: Final = 10.0
EVERY: Final = "every"
Which = int | Literal["every"] | None
"""A partition by number, every partition, or (None) the topic's only one."""
_SEND_S: Final = 60.0
_AHEAD: Final = 4096
"""The most records held of one partition while waiting for others; beyond it, the partition is paused."""
_log = logging.getLogger(__name__)
_client_log = logging.getLogger(f"{__name__}.client")
_client_log.setLevel(logging.CRITICAL)  # it logs every retry; this module logs an outage once


class KafkaFeed:
    """Reads one partition, oldest record first, or every partition merged.

    Records of one key are in one partition and keep their order. Between partitions, timestamps order the backlog; live
    records come in the order of arrival.
    """

    def __init__(self, brokers: str, topic: str, partition: Which = None, group: str = GROUP) -> None:
        self._brokers = brokers
        self._topic = topic
        self._requested = partition
        self._group = group
        self._away: str | None = None
        self._failed: Any = None
        self._consumer: Consumer | None = None
        self._merging = PartitionMerge(())
        self._next: dict[int, int] = {}
        self._paused: set[int] = set()

    @property
    def name(self) -> str:
        """`kafka:TOPIC/PARTITION`, or `kafka:TOPIC` for every partition."""
        return f"kafka:{self._topic}" if self._requested == EVERY else f"kafka:{self._topic}/{self._requested or 0}"

    def begin(self, after: str | None) -> None:
        """Continue after an offset. Raises `UserError` if the topic lacks it, or has several partitions and none is named."""
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
            partitions = _partitions(self._topic, self._requested, consumer.list_topics(self._topic, timeout=ANSWER_S))
            settled = self._offsets(after)
            for partition in partitions:
                bounds = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=ANSWER_S)
                self._next[partition] = self._start(settled.get(partition), *bounds)
            consumer.assign([TopicPartition(self._topic, partition, self._next[partition]) for partition in partitions])
        except KafkaException as failed:
            consumer.close()
            raise FeedAway(str(failed.args[0])) from failed
        except BaseException:
            consumer.close()
            raise
        self._consumer, self._merging = consumer, PartitionMerge(partitions)

    def _offsets(self, place: str | None) -> dict[int, int]:
        """Return the last settled offset by partition; for every partition it is written `0:17 2:5`."""
        if place is None:
            return {}
        if self._requested != EVERY:
            return {self._requested or 0: int(place)}
        return {int(partition): int(offset) for partition, _, offset in (part.partition(":") for part in place.split())}

    def _start(self, after: int | None, low: int, high: int) -> int:
        start = low if after is None else after + 1
        if low <= start <= high:
            return start
        raise UserError(
            f"topic {self._topic!r} holds offsets {low} to {high}, but {start} comes next: records were lost, or it is "
            "another topic; load the missing races with `velo ingest`, and use a new topic name"
        )

    def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Return the next records."""
        assert self._consumer is not None
        until = monotonic() + wait_s
        while not (records := self._merging.give(limit)) and self._failed is None:
            left = max(0.0, until - monotonic())
            first = self._consumer.poll(left)
            if first is None:
                break
            for message in (first, *self._consumer.consume(limit, timeout=0)):
                self._receive(message)
            self._hold_back()
        if records:
            self._away = None
        elif self._failed is not None:
            failed, self._failed = self._failed, None
            self._raise(failed)
        elif self._away:
            self._refuse_away(wait_s)
        return [self._delivery(partition, message) for partition, message in records]

    def _receive(self, message: Any) -> None:
        from confluent_kafka import KafkaError

        error = message.error()
        if error is None:
            self._merging.add(message.partition(), message.timestamp()[1], message)
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (its name)
            self._merging.ends(message.partition())
        else:
            self._failed = error  # raised after the records before it are returned

    def _hold_back(self) -> None:
        """Pause the partitions that are far ahead of the others, and resume those that no longer are."""
        from confluent_kafka import TopicPartition

        assert self._consumer is not None
        ahead = {partition for partition in self._next if self._merging.held(partition) >= _AHEAD}
        if paused := ahead - self._paused:
            self._consumer.pause([TopicPartition(self._topic, partition) for partition in paused])
        if resumed := self._paused - ahead:
            self._consumer.resume([TopicPartition(self._topic, partition) for partition in resumed])
        self._paused = ahead

    def _delivery(self, partition: int, message: Any) -> Delivery:
        self._next[partition] = message.offset() + 1
        at, body = str(message.offset()), _bytes(message.value())
        if self._requested != EVERY:
            return Delivery(at, body)
        whole = " ".join(f"{number}:{following - 1}" for number, following in self._next.items() if following)
        return Delivery(at, body, f"/{partition}", whole)

    def _refuse_away(self, wait_s: float) -> None:
        """Raise `FeedAway` unless the brokers answer again; their silence proves neither."""
        from confluent_kafka import KafkaException

        assert self._consumer is not None
        try:
            self._consumer.list_topics(self._topic, timeout=max(wait_s, 0.1))
        except KafkaException:
            raise FeedAway(self._away) from None
        self._away = None

    def settle(self, at: str) -> None:
        """Commit the offset for Kafka's tools; the store's own decides, so a failed commit is harmless."""
        from confluent_kafka import KafkaException, TopicPartition

        assert self._consumer is not None
        try:
            self._consumer.commit(
                offsets=[
                    TopicPartition(self._topic, partition, offset + 1)
                    for partition, offset in self._offsets(at).items()
                ],
                asynchronous=True,
            )
        except KafkaException as failed:
            _log.warning("feed.not_committed feed=%s at=%s why=%s", self.name, at, failed)

    def close(self) -> None:
        """Leave the group; waits for the brokers no longer than for any other answer."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            # without a broker, the client would wait forever for its last commit
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
                "load the missing races with `velo ingest`, and use a new topic name"
            )
        raise FeedAway(str(error))


def put(brokers: str, topic: str, bodies: Iterable[bytes], partition: Which = None) -> int:
    """Send messages to a partition, by default the topic's only one, in order; returns when all are acknowledged.

    `every` spreads them over the partitions by race, which is the records' key. Raises `UserError` if the brokers are
    unreachable, the partition does not exist, or a message is refused.
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
        raise UserError(f"cannot use Kafka at {brokers} ({refused.args[0]}): start it, or correct --brokers") from None
    if failed or left:
        why = failed[0] if failed else "no answer"
        raise UserError(
            f"{len(failed) or left} of {count} messages did not reach topic {topic!r} ({why}): send them again"
        )
    return count


def _partitions(topic: str, requested: Which, metadata: Any) -> list[int]:
    """Return the requested partitions; raises `UserError` if one does not exist, or none of several is named."""
    from confluent_kafka import KafkaError, KafkaException

    found = metadata.topics[topic]
    if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise UserError(f"there is no topic {topic!r}: create it with one partition, or correct its name")
    if found.error is not None:
        raise KafkaException(found.error)
    if requested == EVERY:
        return sorted(found.partitions)
    count = len(found.partitions)
    if requested is None and count > 1:
        raise UserError(
            f"topic {topic!r} has {count} partitions, but a log has one order: use a topic with one, name one of them "
            f"by --partition, or have all merged by --partition {EVERY}"
        )
    if requested is not None and requested not in found.partitions:
        raise UserError(f"topic {topic!r} has {count} partitions, counted from 0, and no {requested}: name one of them")
    return [requested or 0]


def _race_of(body: bytes) -> bytes:
    """Return the record key of a message: its race id, which keeps a race's messages in order; empty without one."""
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError:
        return b""
    race = record.get("race_id") if isinstance(record, Mapping) else None
    return race.encode() if isinstance(race, str) else b""


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
