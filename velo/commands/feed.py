"""`velo feed …`, which puts messages on a Redis Stream or a Kafka topic, and what `velo ingest --follow` does."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from velo.commands.edge import Files, Json, facts, now, open_store, show, steps
from velo.errors import UserError

if TYPE_CHECKING:
    from streams.feeds.follow import FollowReport
    from streams.feeds.kafka_topic import Which
    from streams.feeds.source import Feed
    from velo.storage.store import Store

Brokers = Annotated[str | None, typer.Option(metavar="HOST:PORT,…", help="Kafka's brokers.")]
Partition = Annotated[
    str | None,
    typer.Option(metavar="N|every", help="The topic's partition, where it has several; `every` merges them."),
]
Url = Annotated[str | None, typer.Option(metavar="URL", help="The feed's Redis; the online store's without it.")]
app_of_feed = typer.Typer(no_args_is_help=True, help="Put messages on a stream or topic, for `velo ingest --follow`.")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(app_of_feed, name="feed")


@app_of_feed.command("redis")
def to_redis(
    files: Files,
    key: Annotated[str, typer.Option(help="The stream's key.")] = "racing",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Add the messages of files to a Redis Stream: JSON lines as they stand, runner tables as results."""
    from feature_repo.stores.redis_client import connect, connect_url
    from streams.feeds.producer import bodies
    from streams.feeds.redis_stream import put

    store = open_store()
    told = list(bodies(files, store))
    client = connect_url(url) if url else connect(store.home, store.redis_url)
    sent = put(client, url or store.redis_url or "the store's own Redis", key, told)
    show({"sent": sent, "stream": key}, as_json, lambda: f"{sent:,} messages put on stream {key}")


@app_of_feed.command("kafka")
def to_kafka(
    files: Files,
    topic: Annotated[str, typer.Option(help="The topic.")] = "racing",
    brokers: Brokers = None,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Add the messages of files to a Kafka topic: JSON lines as they stand, runner tables as results."""
    from streams.feeds.kafka_topic import put
    from streams.feeds.producer import bodies

    told = list(bodies(files, open_store()))
    sent = put(_brokers(brokers), topic, told, _which(partition))
    show({"sent": sent, "topic": topic}, as_json, lambda: f"{sent:,} messages put on topic {topic}")


@app_of_feed.command()
def schema() -> None:
    """Print the JSON Schema of the messages that a producer may send."""
    from streams.feeds.json_schema import COMMITTED

    typer.echo(COMMITTED.read_text(encoding="utf-8"), nl=False)


def follow_feed(
    *,
    redis: str | None,
    kafka: str | None,
    url: str | None,
    brokers: str | None,
    partition: str | None,
    once: bool,
    as_json: bool,
) -> None:
    """Append what a feed brings to the log until SIGTERM or SIGINT or, with `once`, its end."""
    from streams.feeds.follow import follow

    if redis is None and kafka is None:
        raise UserError("--follow needs one feed: add --redis KEY, or --kafka TOPIC with --brokers HOST:PORT")
    store = open_store().save()
    feed = feed_of(store, redis=redis, kafka=kafka, url=url, brokers=brokers, partition=partition)
    assert feed is not None
    try:
        with _until_told() as stop, steps(as_json) as progress:
            report = follow(
                store,
                feed,
                clock=now,
                stop=stop,
                once=once,
                told=lambda taken: progress(f"from {feed.name}", taken, taken),
            )
    finally:
        feed.close()
    show(report, as_json, lambda: _followed(report))


def feed_of(
    store: "Store",
    *,
    redis: str | None,
    kafka: str | None,
    url: str | None,
    brokers: str | None,
    partition: str | None,
) -> "Feed | None":
    """The feed that these options name, if any; raises `UserError` where they name two, or tell of one not named."""
    if redis is not None and kafka is not None:
        raise UserError("a log follows one feed: give --redis KEY or --kafka TOPIC, not both")
    if redis is not None:
        return _redis_feed(store, redis, url)
    if kafka is not None:
        return _kafka_feed(kafka, brokers, partition)
    if url or brokers or partition:
        raise UserError("--url, --brokers and --partition are of a feed: name it by --redis KEY or --kafka TOPIC")
    return None


def _redis_feed(store: "Store", key: str, url: str | None) -> "Feed":
    from feature_repo.stores.redis_client import connect, connect_url
    from streams.feeds.redis_stream import RedisFeed

    return RedisFeed(connect_url(url) if url else connect(store.home, store.redis_url), key)


def _kafka_feed(topic: str, brokers: str | None, partition: str | None) -> "Feed":
    from streams.feeds.kafka_topic import KafkaFeed

    return KafkaFeed(_brokers(brokers), topic, _which(partition))


def _which(partition: str | None) -> "Which":
    from streams.feeds.kafka_topic import EVERY

    if partition is None or partition == EVERY:
        return EVERY if partition else None
    if not (partition.isascii() and partition.isdigit()):
        raise UserError(f"{partition!r} is no partition: give its number, counted from 0, or {EVERY}")
    return int(partition)


def _brokers(given: str | None) -> str:
    if not given:
        raise UserError("Kafka's brokers are not named: add --brokers HOST:PORT")
    return given


@contextmanager
def _until_told() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set: what is being appended is finished, and nothing is cut short."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {one: signal.signal(one, lambda *_: stop.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _followed(report: "FollowReport") -> Group:
    told = [("taken", report.taken), ("appended", report.appended), ("already there", report.identical)]
    told += [("delivered again", report.delivered_again), ("lower version", report.lower_version)]
    told += [("refused", sum(report.refused.values())), ("ticks", report.ticks), ("log ends before", report.next_seq)]
    notes = [f"  refused {count:,} × {reason}" for reason, count in sorted(report.refused.items())]
    notes += [f"  note: {count:,} × {warning}" for warning, count in sorted(report.warnings.items())]
    if report.undeclared:
        notes.append(
            f"  about nobody declared: {report.undeclared:,}, kept in case a card declares them before the off"
        )
        notes += [f"    {one}" for one in report.undeclared_told]
    if report.refused:
        notes.append("  the refused messages are kept: `velo dead-letters` lists them")
    return Group(facts(f"ingest {report.feed}", told), Text("\n".join(notes)))


Follow = Annotated[bool, typer.Option("--follow", help="Append what a feed brings, for as long as it runs.")]
Once = Annotated[bool, typer.Option("--once", help="End when the feed has nothing more.")]
RedisKey = Annotated[str | None, typer.Option("--redis", metavar="KEY", help="Follow this Redis Stream.")]
KafkaTopic = Annotated[str | None, typer.Option("--kafka", metavar="TOPIC", help="Follow this Kafka topic.")]
