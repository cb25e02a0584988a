"""`velo stream` and `velo audit`: both stores kept current as each message arrives, and held against a fresh batch."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from velo.commands.edge import Json, facts, now, open_store, show, steps
from velo.commands.feed import Brokers, KafkaTopic, Partition, RedisKey, Url, feed_of

if TYPE_CHECKING:
    from threading import Event

    from rich.console import Group

    from streams.audit import AuditReport
    from streams.dataflow.background_ingest import BackgroundIngest
    from streams.dataflow.metrics import Position, Telemetry
    from streams.dataflow.runtime import StreamOptions
    from streams.feeds.source import Feed
    from velo.storage.store import Store

Hidden = typer.Option(hidden=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(stream)
    app.command()(audit)


Once = Annotated[bool, typer.Option("--once", help="End at the log's end instead of waiting for more.")]
Processes = Annotated[int, typer.Option("--processes", "--workers", min=1, max=64, help="Processes to share the work.")]
Snapshots = Annotated[
    float, typer.Option(min=0, help="Seconds between snapshots: offline rows appear, and a restart resumes, there.")
]
Online = Annotated[bool, typer.Option("--online/--no-online", help="Redis.")]
Offline = Annotated[bool, typer.Option("--offline/--no-offline", help="The Parquet tables.")]
Metrics = Annotated[
    int | None,
    typer.Option(help="Serve Prometheus figures on this port, and each further process on the next one."),
]
MetricsHost = Annotated[str, typer.Option(help="The address of the figures; the loopback unless told otherwise.")]


def stream(
    once: Once = False,
    processes: Processes = 1,
    snapshot_seconds: Snapshots = 10.0,
    online: Online = True,
    offline: Offline = True,
    metrics_port: Metrics = None,
    metrics_host: MetricsHost = "127.0.0.1",
    redis: RedisKey = None,
    kafka: KafkaTopic = None,
    url: Url = None,
    brokers: Brokers = None,
    partition: Partition = None,
    as_json: Json = False,
    member: Annotated[int, Hidden] = 0,
    addresses: Annotated[str, Hidden] = "",
) -> None:
    """Keep both stores current: each message of the log takes effect as it arrives, exactly once, whatever happens.

    Exits 1 where --once was stopped before the log's end. With --redis or --kafka the same process appends what that feed brings to the log.
    """
    import os
    import threading

    # a panic of the engine is told by the Python error beneath it
    os.environ["RUST_BACKTRACE"] = "0"
    from feature_repo.stores.redis_client import refuse_unusable
    from streams.dataflow import runtime, worker_processes
    from streams.dataflow.metrics import Telemetry, log_json, position
    from velo.storage.log.reader import end

    log_json()
    options = runtime.StreamOptions(once, timedelta(seconds=snapshot_seconds), online, offline)
    telemetry, stop = Telemetry(), threading.Event()
    store = open_store()
    if online and store.redis_url is not None:
        # the stream waits for a server that is away: it would wait for ever for a URL that names none
        refuse_unusable(store.redis_url)
    with _figures(store, telemetry, metrics_host, None if metrics_port is None else metrics_port + member, member):
        if member:
            worker_processes.end_with_parent()
            runtime.stop_on_signals(stop)
            runtime.run(
                runtime.plan(store), options, now, telemetry, addresses=addresses.split(","), member=member, stop=stop
            )
            return
        feed = feed_of(store, redis=redis, kafka=kafka, url=url, brokers=brokers, partition=partition)
        with runtime.sole_stream(store.home) as held:
            planned = runtime.plan(store)
            with _fed(planned.store, feed, stop, once=once) as fed:
                if processes == 1:
                    runtime.stop_on_signals(stop)
                    written = runtime.run(planned, options, now, telemetry, stop=stop, feeding=fed)
                else:
                    at = worker_processes.loopback_addresses(processes)
                    with worker_processes.others(
                        _command(options, at, metrics_host, metrics_port), processes, held
                    ) as rest:
                        runtime.stop_on_signals(stop, rest)
                        written = runtime.run(planned, options, now, telemetry, addresses=at, stop=stop, feeding=fed)
    where = position(store.home)
    show(where, as_json, lambda: _ended(options, where, end(store.home).next_seq, written=written))
    if once and (not written or where is None or where.sealed_seq < end(store.home).next_seq):
        raise typer.Exit(1)


def _ended(options: "StreamOptions", where: "Position | None", log_end: int, *, written: bool) -> str:
    """What is certain of the stores once a stream has ended; `written` is whether all it read is in them."""
    sealed = where.sealed_seq if where else 0
    rest = f" of {log_end:,}; start the stream again for the rest" if sealed < log_end else ""
    if not written:
        again = "start the stream again, it goes on where its last snapshot was"
        return f"stopped while it waited for a store: not all of {log_end:,} messages are in both stores; {again}"
    stores = "both stores hold" if options.online and options.offline else "Redis holds"
    stores = stores if options.online else "the tables hold"
    return f"{stores} everything before message {sealed:,}{rest}"


def audit(
    sample: Annotated[int | None, typer.Option(min=1, help="Look at so many keys of each view, not at all.")] = None,
    online: Online = True,
    scores: Annotated[
        bool, typer.Option("--scores", help="Instead, make every score that was served again and hold it to that.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare both stores, value by value, with a batch made afresh from the log; exits 1 where anything differs."""
    from feature_repo.stores.redis_client import connect
    from streams.audit import audit as look

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
    from rich.table import Table
    from rich.text import Text

    told = [("up to message", report.next_seq), ("known at", report.known_at)]
    told += [(f"{store} values compared at", f"{count:,} instants") for store, count in report.compared.items()]
    table = Table(title=f"{report.found:,} differences, the first {len(report.differences)}", title_justify="left")
    for name in ("store", "view", "key", "at", "feature", "should be", "is", "was"):
        table.add_column(name)
    for one in report.differences:
        history = ", ".join(f"{value} from {at:%Y-%m-%d %H:%M}" for at, value in one.history)
        at = "" if one.at is None else f"{one.at:%Y-%m-%d %H:%M:%S.%f}"
        table.add_row(
            one.store, one.view, " · ".join(one.key), at, one.feature, str(one.expected), str(one.found), history
        )
    return Group(facts("audit", told), table if report.found else Text("no difference"))


@contextmanager
def _fed(store: "Store", feed: "Feed | None", stop: "Event", *, once: bool) -> Iterator["BackgroundIngest | None"]:
    """Have the log fed, where there is a feed, until the stream ends."""
    if feed is None:
        yield None
        return
    from streams.dataflow.background_ingest import background_ingest

    with closing(feed), background_ingest(store, feed, now, stop, once=once) as fed:
        yield fed


@contextmanager
def _figures(store: "Store", telemetry: "Telemetry", host: str, port: int | None, member: int) -> Iterator[None]:
    """Have Prometheus served, where a port is given, until the end; the first process tells of the store too."""
    if port is None:
        yield
        return
    from streams.metrics_server import served
    from streams.store_metrics import StoreWatch

    if not member:
        telemetry.registry.register(StoreWatch(store.home, now))
    with served(telemetry.registry, host, port):
        yield


def _command(options: "StreamOptions", addresses: list[str], metrics_host: str, metrics_port: int | None) -> list[str]:
    """The command line of the stream's other processes."""
    import sys

    command = [sys.executable, "-m", "velo.cli", "stream", "--addresses", ",".join(addresses)]
    command += ["--once"] if options.once else []
    command += ["--snapshot-seconds", str(options.snapshot_every.total_seconds())]
    command += ["--online" if options.online else "--no-online", "--offline" if options.offline else "--no-offline"]
    figures = ["--metrics-port", str(metrics_port), "--metrics-host", metrics_host]
    return command + (figures if metrics_port is not None else [])
