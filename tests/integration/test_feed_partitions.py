"""A topic of several partitions is one log, and the stream leaves what a batch of that log does."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cli import velo, velo_forked
from tests.support.feeds import Listed, a_day, drained, encoded, followed_to, said, sent_over_time, sent_result
from tests.support.logs import a_store
from tests.support.seasons import a_season
from tests.support.streaming import NOW
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect
from velo.racing.messages import Result, to_record
from velo.storage.log import reader
from velo.storage.store import Store
from velo.streams.audit import audit
from velo.streams.feeds.kafka_topic import EVERY, KafkaFeed
from velo.streams.feeds.partition_merge import PartitionMerge

pytestmark = pytest.mark.slow

PARTITIONS = 4


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = a_store(tmp_path / "home")
    yield made
    embedded_redis.down(made.home)


def test_a_backlog_in_four_partitions_becomes_the_log_that_one_would_have_given(
    store: Store, tmp_path: Path, brokers: str
) -> None:
    """Keyed by race, sent a millisecond apart: the follower was away meanwhile, and the order is what was sent."""
    bodies = a_day()
    whole = a_store(tmp_path / "whole")
    drained(whole, Listed(bodies))
    sent_over_time(brokers, "spread", bodies)
    followed_to(store, KafkaFeed(brokers, "spread", EVERY), len(bodies))
    assert said(store) == said(whole)
    origins = [record["origin"]["feed"] for record in reader.records(store.home) if "origin" in record]
    assert len(set(origins)) > 1


def test_every_partition_goes_on_from_its_own_place(store: Store, brokers: str) -> None:
    """A second run takes nothing but news; with the places lost, the log itself shows what it holds of each partition."""
    sent_over_time(brokers, "places", a_day())
    followed_to(store, KafkaFeed(brokers, "places", EVERY), len(a_day()))
    before = said(store)
    sent_over_time(brokers, "places", encoded(sent_result("R99")))
    assert followed_to(store, KafkaFeed(brokers, "places", EVERY), 1).appended == 1
    for path in store.home.feeds.iterdir():
        path.unlink()
    again = followed_to(store, KafkaFeed(brokers, "places", EVERY), len(a_day()) + 1)
    assert (again.appended, again.dead_letters) == (0, 0)
    assert said(store)[: len(before)] == before


def test_the_stream_leaves_what_a_batch_of_the_log_does(store: Store, brokers: str) -> None:
    """Kafka with four partitions, the log's one writer, the stream: Parquet and Redis value by value."""
    season = [message for message in a_season(24) if message.known_at is not None]
    season.sort(key=lambda result: result.known_at or NOW)
    bodies = [orjson.dumps(to_record(replace(result, known_at=None))) for result in season]
    sent_over_time(brokers, "season", bodies)
    feed = KafkaFeed(brokers, "season", EVERY)
    arrivals = iter(range(10**6))
    report = followed_to(
        store, feed, len(bodies), lambda: datetime(2023, 4, 1, tzinfo=UTC) + next(arrivals) * timedelta(hours=6)
    )
    assert report.appended == len(bodies)
    assert report.ticks > 20  # so that windows of 14 days end in it
    races = [result.race.race_id for result in season if isinstance(result, Result)]
    logged = [message.race.race_id for _, message in reader.messages(store.home) if isinstance(message, Result)]
    assert logged == races
    assert velo_forked("stream", "--once", home=store.home.root).code == 0
    # the audit makes a batch of the log afresh
    looked = audit(store, NOW, client=connect(store.home, store.redis_url))
    assert looked.found == 0
    assert min(looked.compared.values()) > 700


@given(st.lists(st.integers(0, PARTITIONS - 1), max_size=60), st.randoms(use_true_random=False))
def test_whichever_partition_answers_first_a_backlog_comes_out_as_it_was_sent(sent: list[int], chance: Random) -> None:
    """A record of each partition stands at its head, or its end is known, before anything is given out."""
    unread = {number: [at for at, where in enumerate(sent) if where == number] for number in range(PARTITIONS)}
    merging, taken = PartitionMerge(range(PARTITIONS)), []
    while unread:
        each = chance.choice(list(unread))
        if unread[each]:
            at = unread[each].pop(0)
            merging.add(each, at, at)
        else:
            merging.ends(each)
            del unread[each]
        taken += merging.give(7)
    while given_out := merging.give(7):
        taken += given_out
    assert taken == list(zip(sent, range(len(sent)), strict=True))


def test_what_comes_live_waits_for_no_idle_partition() -> None:
    merging = PartitionMerge(range(2))
    merging.ends(0)
    merging.ends(1)
    merging.add(1, 5, "news")
    assert merging.give(9) == [(1, "news")]
    assert merging.give(9) == []


def test_a_word_that_is_no_partition_is_reported(tmp_path: Path) -> None:
    velo("ingest", "--follow", "--kafka", "t", "--brokers", "127.0.0.1:1", "--partition", "-1", home=tmp_path).told(
        "--partition is '-1'", "every"
    )
