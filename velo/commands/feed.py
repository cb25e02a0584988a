"""`velo feed …` sends messages to a Redis Stream or a Kafka topic; `velo ingest --follow` appends them to the log."""

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
    from velo.storage.store import Store
    from velo.streams.feeds.follow import FollowReport
    from velo.streams.feeds.kafka_topic import Which
    from velo.streams.feeds.source import Feed

Brokers = Annotated[str | None, typer.Option(metavar="HOST:PORT,…", help="Kafka brokers.")]
Partition = Annotated[
    str | None,
    typer.Option(metavar="N|every", help="Partition of the topic; `every` merges all of them."),
]
Url = Annotated[str | None, typer.Option(metavar="URL", help="Redis of the feed (default: the online store).")]
app_of_feed = typer.Typer(
    name="feed", no_args_is_help=True, help="Send messages to a stream or topic, for `velo ingest --follow`."
)


@app_of_feed.command("redis")
def to_redis(
    files: Files,
    key: Annotated[str, typer.Option(help="Key of the stream.")] = "racing",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send the messages of files to a Redis Stream: JSON lines unchanged, runner tables as results."""
    from velo.feature_repo.stores.redis_client import connect, connect_url
    from velo.streams.feeds.producer import bodies
    from velo.streams.feeds.redis_stream import put

    store = open_store()
    messages = list(bodies(files, store))
    client = connect_url(url) if url else connect(store.home, store.redis_url)
    sent = put(client, url or store.redis_url or "the store's own Redis", key, messages)
    show({"sent": sent, "stream": key}, as_json, lambda: f"{sent:,} messages sent to stream {key}")


@app_of_feed.command("kafka")
def to_kafka(
    files: Files,
    topic: Annotated[str, typer.Option(help="Name of the topic.")] = "racing",
    brokers: Brokers = None,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Send the messages of files to a Kafka topic: JSON lines unchanged, runner tables as results."""
    from velo.streams.feeds.kafka_topic import put
    from velo.streams.feeds.producer import bodies

    messages = list(bodies(files, open_store()))
    sent = put(_brokers(brokers), topic, messages, _which(partition))
    show({"sent": sent, "topic": topic}, as_json, lambda: f"{sent:,} messages sent to topic {topic}")


@app_of_feed.command()
def schema() -> None:
    """Print the JSON Schema of the messages that a producer may send."""
    from velo.streams.feeds.json_schema import COMMITTED

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
    """Append the messages of a feed to the log until SIGTERM or SIGINT or, with `once`, the end of the feed."""
    from velo.streams.feeds.follow import follow

    if redis is None and kafka is None:
        raise UserError("--follow needs one feed: add --redis KEY, or --kafka TOPIC with --brokers HOST:PORT")
    store = open_store().save()
    feed = feed_of(store, redis=redis, kafka=kafka, url=url, brokers=brokers, partition=partition)
    assert feed is not None
    try:
        with _until_signal() as stop, steps(as_json) as progress:
            report = follow(
                store,
                feed,
                clock=now,
                stop=stop,
                once=once,
                progress=lambda taken: progress(f"from {feed.name}", taken, taken),
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
    """The feed that these options name, or None; raises `UserError` if they name two, or describe a feed without naming it."""
    if redis is not None and kafka is not None:
        raise UserError("--redis and --kafka exclude each other: a log follows one feed, so give one of them")
    if redis is not None:
        return _redis_feed(store, redis, url)
    if kafka is not None:
        return _kafka_feed(kafka, brokers, partition)
    if url or brokers or partition:
        raise UserError("--url, --brokers and --partition need a feed: add --redis KEY or --kafka TOPIC")
    return None


def _redis_feed(store: "Store", key: str, url: str | None) -> "Feed":
    from velo.feature_repo.stores.redis_client import connect, connect_url
    from velo.streams.feeds.redis_stream import RedisFeed

    return RedisFeed(connect_url(url) if url else connect(store.home, store.redis_url), key)


def _kafka_feed(topic: str, brokers: str | None, partition: str | None) -> "Feed":
    from velo.streams.feeds.kafka_topic import KafkaFeed

    return KafkaFeed(_brokers(brokers), topic, _which(partition))


def _which(partition: str | None) -> "Which":
    from velo.streams.feeds.kafka_topic import EVERY

    if partition is None or partition == EVERY:
        return EVERY if partition else None
    if not (partition.isascii() and partition.isdigit()):
        raise UserError(f"--partition is {partition!r}, but must be a number from 0 or {EVERY}")
    return int(partition)


def _brokers(addresses: str | None) -> str:
    if not addresses:
        raise UserError("--kafka needs brokers: add --brokers HOST:PORT")
    return addresses


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, so that the append in progress finishes."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _followed(report: "FollowReport") -> Group:
    rows = [("accepted", report.taken), ("appended", report.appended), ("duplicates", report.identical)]
    rows += [("delivered again", report.delivered_again), ("lower versions", report.lower_version)]
    rows += [("refused", sum(report.refused.values())), ("ticks", report.ticks), ("next seq", report.next_seq)]
    notes = [f"  refused {count:,} × {reason}" for reason, count in sorted(report.refused.items())]
    notes += [f"  note: {count:,} × {warning}" for warning, count in sorted(report.warnings.items())]
    if report.undeclared:
        notes.append(
            f"  about undeclared races or horses: {report.undeclared:,}; they count if a card declares them before the off"
        )
        notes += [f"    {message}" for message in report.undeclared_told]
    if report.refused:
        notes.append("  `velo dead-letters` lists the refused messages")
    return Group(facts(f"ingest {report.feed}", rows), Text("\n".join(notes)))


Follow = Annotated[bool, typer.Option("--follow", help="Append the messages of a feed until stopped.")]
Once = Annotated[bool, typer.Option("--once", help="Exit at the end of the feed.")]
RedisKey = Annotated[str | None, typer.Option("--redis", metavar="KEY", help="Follow this Redis Stream.")]
KafkaTopic = Annotated[str | None, typer.Option("--kafka", metavar="TOPIC", help="Follow this Kafka topic.")]
