"""A Kafka topic as a feed, and messages put on one: a record's value is the JSON.

A log has one order, and Kafka keeps order within a partition only, so one partition is followed: the only one of its
topic, or the one that is named.
The place is kept in the store's home; it is committed to the group as well, for Kafka's own tools to see.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from streams.feeds.source import Delivery, FeedAway
from velo.errors import UserError

if TYPE_CHECKING:
    from confluent_kafka import Consumer

GROUP: Final = "velo"
ANSWER_S: Final = 10.0
_SEND_S: Final = 60.0
_log = logging.getLogger(__name__)
_client_log = logging.getLogger(f"{__name__}.client")
_client_log.setLevel(logging.CRITICAL)  # it tells of each of many attempts; that a feed is away is said once


class KafkaFeed:
    """The records of one partition, oldest first; `partition` may be None where the topic has but one."""

    def __init__(self, brokers: str, topic: str, partition: int | None = None, group: str = GROUP) -> None:
        self._brokers = brokers
        self._topic = topic
        self._asked = partition
        self._partition = partition or 0
        self._group = group
        self._away: str | None = None
        self._consumer: Consumer | None = None

    @property
    def name(self) -> str:
        """`kafka:`, the topic and the partition."""
        return f"kafka:{self._topic}/{self._partition}"

    def begin(self, after: str | None) -> None:
        """Go on after an offset; raises `UserError` where the topic has not that offset, or several partitions."""
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        self.close()
        consumer = Consumer(
            {
                "bootstrap.servers": self._brokers,
                "group.id": self._group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "queued.max.messages.kbytes": 65536,
                "error_cb": self._on_error,
                "logger": _client_log,
            }
        )
        try:
            _refuse_missing(self._topic, self._asked, consumer.list_topics(self._topic, timeout=ANSWER_S))
            asked = TopicPartition(self._topic, self._partition)
            start = self._start(after, *consumer.get_watermark_offsets(asked, timeout=ANSWER_S))
            consumer.assign([TopicPartition(self._topic, self._partition, start)])
        except KafkaException as failed:
            consumer.close()
            raise FeedAway(str(failed.args[0])) from failed
        except BaseException:
            consumer.close()
            raise
        self._consumer = consumer

    def _start(self, after: str | None, low: int, high: int) -> int:
        start = low if after is None else int(after) + 1
        if low <= start <= high:
            return start
        raise UserError(
            f"topic {self._topic!r} holds offsets {low} to {high}, but {start} comes next: records were lost, or it is "
            "another topic; tell the races that are missing by `velo ingest`, and use a new topic's name"
        )

    def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
        """The next records."""
        assert self._consumer is not None
        first = self._consumer.poll(wait_s)
        messages = [] if first is None else [first, *self._consumer.consume(limit - 1, timeout=0)]
        taken = []
        for message in messages:
            error = message.error()
            if error is None:
                taken.append(Delivery(str(message.offset()), _bytes(message.value())))
            elif not taken:
                self._raise(error)
        if taken:
            self._away = None
        elif self._away:
            self._refuse_away(wait_s)
        return taken

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
                offsets=[TopicPartition(self._topic, self._partition, int(at) + 1)], asynchronous=True
            )
        except KafkaException as failed:
            _log.warning("feed.not_committed feed=%s at=%s why=%s", self.name, at, failed)

    def close(self) -> None:
        """Leave the group."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _on_error(self, error: Any) -> None:
        from confluent_kafka import KafkaError

        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION):  # noqa: SLF001 (their names)
            self._away = str(error)

    def _raise(self, error: Any) -> None:
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 (its name)
            raise UserError(
                f"topic {self._topic!r} no longer holds the record that comes next ({error.str()}): records were lost; "
                "tell the races that are missing by `velo ingest`, and use a new topic's name"
            )
        raise FeedAway(str(error))


def put(brokers: str, topic: str, bodies: Iterable[bytes], partition: int | None = None) -> int:
    """Add messages to the end of a partition, the topic's only one where none is named, in their order; all are acknowledged when this returns.

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
        _refuse_missing(topic, partition, producer.list_topics(topic, timeout=ANSWER_S))
        for body in bodies:
            while True:
                try:
                    producer.produce(
                        topic,
                        body,
                        partition=partition or 0,
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


def _refuse_missing(topic: str, partition: int | None, told: Any) -> None:
    """Raise `UserError` where a topic has not the partition, or several and none is named."""
    from confluent_kafka import KafkaError, KafkaException

    found = told.topics[topic]
    if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise UserError(f"there is no topic {topic!r}: make it, with one partition, or mend its name")
    if found.error is not None:
        raise KafkaException(found.error)
    count = len(found.partitions)
    if partition is None and count > 1:
        raise UserError(
            f"topic {topic!r} has {count} partitions, but a log has one order: use a topic with one, or name one of "
            "them by --partition"
        )
    if partition is not None and partition not in found.partitions:
        raise UserError(f"topic {topic!r} has {count} partitions, counted from 0, and no {partition}: name one of them")


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
