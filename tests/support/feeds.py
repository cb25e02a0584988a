"""Messages as producers send them, and the feeds that tests follow."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import orjson

from tests.support.logs import NOON
from velo.racing.messages import SCHEMA_VERSION
from velo.storage.log import reader
from velo.storage.store import Store
from velo.streams.feeds.follow import FollowReport, follow
from velo.streams.feeds.source import Delivery, Feed


def sent(kind: str, race_id: str = "R1", **fields: Any) -> dict[str, Any]:
    """A message of a producer."""
    return {"type": kind, "schema_version": SCHEMA_VERSION, "race_id": race_id, **fields}


def sent_result(race_id: str = "R1", **fields: Any) -> dict[str, Any]:
    """A result of two runners."""
    runners = [
        {"horse": "Arkle", "jockey": "P Taaffe", "trainer": "T Dreaper", "status": "FINISHED", "position": 1},
        {"horse": "Mill House", "jockey": "G Robinson", "trainer": "F Walwyn", "status": "PU"},
    ]
    race = {"race_date": "2024-05-01", "off_time": "2024-05-01T10:45:00Z", "course": "Ascot", "runners": runners}
    return sent("result", race_id, **(race | fields))


def encoded(*messages: dict[str, Any]) -> list[bytes]:
    return [orjson.dumps(message) for message in messages]


def a_day() -> list[bytes]:
    """A feed full in which a second delivery differs from news only by its place: goings to and fro, odds that stand."""
    found: list[bytes] = []
    for race in range(12):
        name = f"R{race}"
        found += encoded(
            sent("going_change", name, going="Good"),
            sent("going_change", name, going="Soft"),
            sent("going_change", name, going="Good"),
            sent("market", name, prices={"arkle": 2.5}, source="tote"),
            sent("market", name, prices={"arkle": 2.5}, source="tote"),
            sent("non_runner", name, horse="Flyingbolt", reason="lame"),
            sent_result(name),
        )
        found.append(b'{"type": "result", "race": %d}' % race)
        found += encoded(sent_result(name), sent_result(name, course="Epsom"), sent_result(name, result_version=2))
    return found


def ticking(step: timedelta = timedelta(seconds=1), start: datetime = NOON) -> Callable[[], datetime]:
    """A clock that goes on by a step each time it is read."""
    passed = 0

    def read() -> datetime:
        nonlocal passed
        passed += 1
        return start + passed * step

    return read


class Listed:
    """A feed that is a list: what follows must not depend on whose feed it is."""

    name = "listed"

    def __init__(self, bodies: Sequence[bytes | None]) -> None:
        self.bodies = bodies
        self.settled: list[str] = []
        self.place = 0

    def begin(self, after: str | None) -> None:
        self.place = 0 if after is None else int(after) + 1

    def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
        at = range(self.place, min(self.place + limit, len(self.bodies)))
        self.place = at.stop
        return [Delivery(str(each), self.bodies[each]) for each in at]

    def settle(self, at: str) -> None:
        self.settled.append(at)

    def close(self) -> None:
        pass


def drained(store: Store, feed: Feed, clock: Callable[[], datetime] | None = None) -> FollowReport:
    """Follow a feed to its end."""
    return follow(store, feed, clock=clock or ticking(), stop=threading.Event(), once=True)


def followed_to(store: Store, feed: Feed, wanted: int, clock: Callable[[], datetime] | None = None) -> FollowReport:
    """Follow until so many messages were taken: an answer of Kafka may take longer than one look."""
    stop = threading.Event()
    guard = threading.Timer(60, stop.set)
    guard.start()
    try:
        report = follow(
            store,
            feed,
            clock=clock or ticking(),
            stop=stop,
            progress=lambda taken: stop.set() if taken >= wanted else None,
        )
    finally:
        guard.cancel()
        feed.close()
    assert report.taken == wanted
    return report


@contextmanager
def a_broker() -> Iterator[str]:
    """The address of a broker: librdkafka's own, which speaks Kafka's protocol on a port; its topics have 4 partitions."""
    from confluent_kafka import Producer

    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = cluster.list_topics(timeout=10).brokers.values()
    yield f"{broker.host}:{broker.port}"
    cluster.flush(0)


def sent_over_time(brokers: str, topic: str, bodies: Sequence[bytes]) -> None:
    """Put messages on a topic as a producer would, keyed by race, each a millisecond after the one before."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True})
    for place, body in enumerate(bodies):
        race = orjson.loads(body).get("race_id", "")
        producer.produce(topic, body, key=race.encode(), timestamp=1_700_000_000_000 + place)
    assert producer.flush(60) == 0


def said(store: Store) -> list[dict[str, Any]]:
    """What the log says, without when, where and from where."""
    where = ("known_at", "origin", "crc")
    return [{name: record[name] for name in record if name not in where} for record in reader.records(store.home)]
