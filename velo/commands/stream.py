"""`velo stream` and `velo audit`: both stores kept current as each message arrives, and held against a fresh batch."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from velo.commands.edge import Json, now, open_store

if TYPE_CHECKING:
    from streams.dataflow.run import Options

Hidden = typer.Option(hidden=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(stream)


def stream(
    once: Annotated[bool, typer.Option("--once", help="End at the log's end instead of waiting for more.")] = False,
    processes: Annotated[
        int, typer.Option("--processes", "--workers", min=1, max=64, help="Processes to share the work.")
    ] = 1,
    snapshot_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds between snapshots: offline rows appear, and a restart resumes, there.")
    ] = 10.0,
    online: Annotated[bool, typer.Option(help="Keep Redis current.")] = True,
    offline: Annotated[bool, typer.Option(help="Keep the Parquet tables current.")] = True,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Serve Prometheus figures on this loopback port and, for each further process, the next."),
    ] = None,
    member: Annotated[int, Hidden] = 0,
    addresses: Annotated[str, Hidden] = "",
) -> None:
    """Keep both stores current: each message of the log takes effect as it arrives, exactly once, whatever happens."""
    import os
    import threading

    # a panic of the engine is told by the Python error beneath it
    os.environ["RUST_BACKTRACE"] = "0"
    from streams.dataflow import members, run
    from streams.dataflow.telemetry import Telemetry, log_json

    log_json()
    options = run.Options(once, timedelta(seconds=snapshot_seconds), online, offline)
    telemetry, stop = Telemetry(), threading.Event()
    store = open_store()
    if metrics_port is not None:
        from prometheus_client import start_http_server

        start_http_server(metrics_port + member, addr="127.0.0.1", registry=telemetry.registry)
    if member:
        members.end_with_parent()
        run.stop_on_signals(stop)
        run.run(run.plan(store), options, now, telemetry, addresses=addresses.split(","), member=member, stop=stop)
        return
    with run.sole_stream(store.home) as held:
        planned = run.plan(store)
        if processes == 1:
            run.stop_on_signals(stop)
            run.run(planned, options, now, telemetry, stop=stop)
            return
        at = members.loopback_addresses(processes)
        with members.others(_command(options, at, metrics_port), processes, held) as rest:
            run.stop_on_signals(stop, rest)
            run.run(planned, options, now, telemetry, addresses=at, stop=stop)


def _command(options: "Options", addresses: list[str], metrics_port: int | None) -> list[str]:
    """The command line of the stream's other processes."""
    import sys

    command = [sys.executable, "-m", "velo.cli", "stream", "--addresses", ",".join(addresses)]
    command += ["--once"] if options.once else []
    command += ["--snapshot-seconds", str(options.snapshot_every.total_seconds())]
    command += ["--online" if options.online else "--no-online", "--offline" if options.offline else "--no-offline"]
    return command + (["--metrics-port", str(metrics_port)] if metrics_port is not None else [])
