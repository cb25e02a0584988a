"""`velo stream` keeps both stores current; `velo audit` compares them with a fresh batch; `velo online rebuild` fills Redis."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from velo.commands.edge import Json, facts, now, open_store, show, steps, table_of
from velo.commands.feed import Brokers, KafkaTopic, Partition, RedisKey, Url, feed_of
from velo.errors import UserError

if TYPE_CHECKING:
    from threading import Event

    from rich.console import Group
    from rich.table import Table

    from velo.storage.store import Store
    from velo.streams.audit import AuditReport
    from velo.streams.dataflow.background_ingest import BackgroundIngest
    from velo.streams.dataflow.metrics import Position, Telemetry
    from velo.streams.dataflow.runtime import StreamOptions
    from velo.streams.feeds.source import Feed
    from velo.streams.rebuild_online import OnlineRebuildReport


Once = Annotated[bool, typer.Option("--once", help="Exit at the end of the log instead of waiting for more.")]
Processes = Annotated[str | None, typer.Option("--processes", "--workers", hidden=True)]
Snapshots = Annotated[
    float, typer.Option(min=0, help="Seconds between snapshots; each publishes offline rows and is a restart point.")
]
Online = Annotated[bool, typer.Option("--online/--no-online", help="Write the online store (Redis).")]
Offline = Annotated[bool, typer.Option("--offline/--no-offline", help="Write the offline store (Parquet).")]
CatchUp = Annotated[
    int, typer.Option(min=0, help="Build in one batch what is missed from this many messages on; 0 for never.")
]
Metrics = Annotated[
    int | None,
    typer.Option(help="Serve Prometheus metrics on this port."),
]
MetricsHost = Annotated[str, typer.Option(help="Address of the metrics server.")]
online_app = typer.Typer(name="online", no_args_is_help=True, help="Manage the online store (Redis).")


def stream(
    once: Once = False,
    snapshot_seconds: Snapshots = 10.0,
    online: Online = True,
    offline: Offline = True,
    catch_up: CatchUp = 5000,
    metrics_port: Metrics = None,
    metrics_host: MetricsHost = "127.0.0.1",
    redis: RedisKey = None,
    kafka: KafkaTopic = None,
    url: Url = None,
    brokers: Brokers = None,
    partition: Partition = None,
    as_json: Json = False,
    processes: Processes = None,
) -> None:
    """Keep both stores current: apply each message of the log as it arrives, exactly once.

    Exits 1 if --once stops before the end of the log. With --redis or --kafka the same process also appends that feed's messages to the log.
    Far behind the end of the log it builds what it missed in one batch, then goes on message by message. Starts itself again
    where the log outruns it, or `velo apply` or `velo rollback` publishes tables of other formulas.
    """
    import os
    import sys
    import threading

    # the Python error below an engine panic is enough
    os.environ["RUST_BACKTRACE"] = "0"
    if processes is not None:
        raise UserError(
            f"--processes {processes} is not supported: a stream is one process, which was as fast as two; leave the option out"
        )
    from velo.api.lineage import LOG, ONLINE, lineage
    from velo.feature_repo.catalogue.families import BY_VIEW
    from velo.feature_repo.stores.redis_client import refuse_unusable
    from velo.storage.log.reader import end
    from velo.streams.dataflow import runtime
    from velo.streams.dataflow.catch_up import catch_up as build_missed
    from velo.streams.dataflow.metrics import Telemetry, log_json, position, say

    log_json()
    options = runtime.StreamOptions(once, timedelta(seconds=snapshot_seconds), online, offline, catch_up=catch_up)
    telemetry, stop = Telemetry(), threading.Event()
    store = open_store()
    if online and store.redis_url is not None:
        # the stream retries an unavailable server; it would retry an unusable URL for ever
        refuse_unusable(store.redis_url)
    asked = threading.Event()
    try:
        with _metrics(store, telemetry, metrics_host, metrics_port):
            feed = feed_of(store, redis=redis, kafka=kafka, url=url, brokers=brokers, partition=partition)
            with runtime.sole_stream(store.home):
                planned = runtime.plan(store)
                with (
                    lineage(planned.store, "stream", now, [LOG]) as run,
                    _fed(planned.store, feed, stop, once=once) as fed,
                ):
                    run.wrote_views(BY_VIEW if offline else ())
                    run.outputs += [ONLINE] if online else []
                    runtime.stop_on_signals(stop, asked)
                    # the feed is appended to the log meanwhile
                    if offline and build_missed(planned, now, telemetry, stop, catch_up):
                        planned = runtime.plan(planned.store, catch_up)
                    written = runtime.run(planned, options, now, telemetry, stop=stop, feeding=fed)
    except runtime.StartAgain as reason:
        if asked.is_set():
            raise UserError(str(reason)) from None
        # the catalogue is read once a process: another one reads that of the new tables
        say("stream.starts_again", reason=str(reason))
        os.execv(sys.executable, [sys.executable, "-m", "velo.cli", *sys.argv[1:]])  # noqa: S606  this very command
    where = position(store.home)
    show(where, as_json, lambda: _ended(options, where, end(store.home).next_seq, written=written))
    if once and (not written or where is None or where.sealed_seq < end(store.home).next_seq):
        raise typer.Exit(1)


def _ended(options: "StreamOptions", where: "Position | None", log_end: int, *, written: bool) -> str:
    """The state of the stores after a stream; `written`: whether they hold everything it read."""
    sealed = where.sealed_seq if where else 0
    rest = f" of {log_end:,}; start the stream again for the rest" if sealed < log_end else ""
    if not written:
        again = "start the stream again, it resumes from its last snapshot"
        return f"stopped while a store was unavailable: not all of {log_end:,} messages are in both stores; {again}"
    stores = "both stores hold" if options.online and options.offline else "Redis holds"
    stores = stores if options.online else "the tables hold"
    return f"{stores} all messages before {sealed:,}{rest}"


def audit(
    sample: Annotated[int | None, typer.Option(min=1, help="Check only N keys per view.")] = None,
    online: Online = True,
    scores: Annotated[
        bool, typer.Option("--scores", help="Recompute every served score instead, and compare.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare both stores, value by value, with a fresh batch built from the log; exits 1 on any difference."""
    from velo.feature_repo.stores.redis_client import connect
    from velo.streams.audit import audit as look

    store = open_store()
    if scores:
        from velo.commands.serve import audit_served

        audit_served(store, as_json)
        return
    client = connect(store.home, store.redis_url) if online else None
    with steps(as_json) as progress:
        report = look(store, now(), client=client, sample=sample, progress=progress)
    show(report, as_json, lambda: _audited(report))
    if report.found:
        raise typer.Exit(1)


def _audited(report: "AuditReport") -> "Group":
    from rich.console import Group
    from rich.text import Text

    rows = [("up to message", report.next_seq), ("known at", report.known_at)]
    rows += [(f"{store} values compared at", f"{count:,} instants") for store, count in report.compared.items()]
    if not report.found:
        return Group(facts("audit", rows), Text("no difference"))
    columns = ("store", "view", "key", "at", "feature", "expected", "found", "history")
    cells = (
        (found.store, found.view, " · ".join(found.key), "" if found.at is None else f"{found.at:%Y-%m-%d %H:%M:%S.%f}",
         found.feature, str(found.expected), str(found.found),
         ", ".join(f"{value} from {at:%Y-%m-%d %H:%M}" for at, value in found.history))
        for found in report.differences
    )  # fmt: skip
    title = f"{report.found:,} differences, the first {len(report.differences)}"
    return Group(facts("audit", rows), table_of(title, columns, cells))


@online_app.command()
def rebuild(
    clear: Annotated[
        bool,
        typer.Option("--clear", help="Delete all rows first: for a Redis that was filled from another log."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the newest row of every key from the offline tables to Redis; newer rows there are not replaced."""
    from velo.feature_repo.stores.redis_client import connect
    from velo.streams.rebuild_online import rebuild as run

    store = open_store()
    client = connect(store.home, store.redis_url)
    with steps(as_json) as progress:
        report = run(store, client, now(), clear=clear, progress=progress)
    show(report, as_json, lambda: _rebuilt(report))


def _rebuilt(report: "OnlineRebuildReport") -> "Table":
    total = sum(report.keys.values())
    pace = f"{report.seconds:.1f} s, {total / max(report.seconds, 1e-9):,.0f} keys/s"
    return facts(
        "online store rebuilt",
        [*report.keys.items(), ("all keys", total), ("messages of open races", report.race_messages), ("in", pace)],
    )


@contextmanager
def _fed(store: "Store", feed: "Feed | None", stop: "Event", *, once: bool) -> Iterator["BackgroundIngest | None"]:
    """Append the messages of the feed, if there is one, until the stream ends."""
    if feed is None:
        yield None
        return
    from velo.streams.dataflow.background_ingest import background_ingest

    with closing(feed), background_ingest(store, feed, now, stop, once=once) as fed:
        yield fed


@contextmanager
def _metrics(store: "Store", telemetry: "Telemetry", host: str, port: int | None) -> Iterator[None]:
    """Serve Prometheus metrics, those of the store included, if a port is given."""
    if port is None:
        yield
        return
    from velo.streams.metrics_server import StoreWatch, served

    telemetry.registry.register(StoreWatch(store.home, now))
    with served(telemetry.registry, host, port):
        yield
