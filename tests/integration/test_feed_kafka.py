"""A partition of Kafka followed into the log, by a broker that librdkafka brings."""

import threading
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from tests.support.feeds import Listed, a_day, drained, encoded, followed_to, said, sent_result, ticking
from tests.support.logs import a_store
from velo.errors import UserError
from velo.storage.store import Store
from velo.streams.feeds import source as offsets
from velo.streams.feeds.follow import follow
from velo.streams.feeds.kafka_topic import KafkaFeed
from velo.streams.feeds.kafka_topic import put as put_on_topic

HOUR = timedelta(hours=1)


def test_a_partition_of_kafka_is_followed_by_the_same_promises(tmp_path: Path, brokers: str) -> None:
    """The same log as from Redis or a list; a second run takes nothing, a lost place adds nothing."""
    whole, store = a_store(tmp_path / "whole"), a_store(tmp_path / "home")
    drained(whole, Listed(a_day()))
    assert put_on_topic(brokers, "day", a_day(), partition=2) == len(a_day())
    feed = KafkaFeed(brokers, "day", 2)
    report = followed_to(store, feed, len(a_day()))
    assert said(store) == said(whole)
    assert report.settled == str(len(a_day()) - 1)
    for path in store.home.feeds.iterdir():
        path.unlink()
    again = followed_to(store, KafkaFeed(brokers, "day", 2), len(a_day()))
    assert (again.appended, again.dead_letters) == (0, 0)
    assert said(store) == said(whole)
    put_on_topic(brokers, "day", encoded(sent_result("R99")), partition=2)
    assert followed_to(store, KafkaFeed(brokers, "day", 2), 1).appended == 1


@pytest.mark.slow
def test_brokers_that_go_away_are_waited_for_and_it_is_said_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A cluster of the test's own is ended after its first message; looks go by without an answer."""
    from confluent_kafka import Producer

    clusters = [Producer({"test.mock.num.brokers": 1, "log_level": 0})]
    (broker,) = clusters[0].list_topics(timeout=10).brokers.values()
    feed = KafkaFeed(f"{broker.host}:{broker.port}", "day", 0)
    put_on_topic(f"{broker.host}:{broker.port}", "day", encoded(sent_result()), partition=0)
    stop = threading.Event()
    waits = count(1)

    class Stop:
        def is_set(self) -> bool:
            return stop.is_set()

        def wait(self, timeout: float) -> bool:
            if next(waits) == 3:
                stop.set()
            return stop.is_set()

    timer = threading.Timer(60, stop.set)
    timer.start()
    try:
        report = follow(store, feed, clock=ticking(), stop=Stop(), progress=lambda _: clusters.clear())
    finally:
        timer.cancel()
        feed.close()
    assert (report.appended, report.away) == (1, 1)
    assert sum("feed.away" in record.getMessage() for record in caplog.records) == 1


def test_a_topic_of_several_partitions_is_refused_unless_one_is_named(store: Store, brokers: str) -> None:
    with pytest.raises(UserError, match="there is no topic 'nowhere': create it"):
        drained(store, KafkaFeed(brokers, "nowhere"))
    put_on_topic(brokers, "several", [b"{}"], partition=0)
    with pytest.raises(UserError, match=r"has 4 partitions, but a log has one order: .* by --partition every"):
        drained(store, KafkaFeed(brokers, "several"))
    with pytest.raises(UserError, match="counted from 0, and no 7"):
        put_on_topic(brokers, "several", [b"{}"], partition=7)


def test_records_that_are_gone_from_a_topic_are_reported_and_not_skipped(store: Store, brokers: str) -> None:
    put_on_topic(brokers, "gone", encoded(sent_result()), partition=0)
    offsets.settle(store.home, "kafka:gone/0", "41", 0)
    with pytest.raises(UserError, match="holds offsets 0 to 1, but 42 comes next: records were lost"):
        drained(store, KafkaFeed(brokers, "gone", 0))
