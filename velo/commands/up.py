"""`velo up` runs everything of a race day in one process tree; `velo backup` copies what cannot be made again."""

import os
import re
import signal
import socket
import threading
from contextlib import suppress
from datetime import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from velo.commands.edge import Json, facts, now, open_store, show
from velo.commands.feed import Brokers, KafkaTopic, Partition, RedisKey, Url
from velo.commands.serve import WORKERS, listening
from velo.commands.stream import MetricsHost
from velo.errors import UserError

if TYPE_CHECKING:
    from velo.storage.store import Home, Store
    from velo.supervisor import Program


_PASSED: Final = 3
"""The descriptor of the first socket that a service manager passes (`sd_listen_fds(3)`)."""


def up(
    host: Annotated[str, typer.Option(help="Address that the service listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that the service listens on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, envvar=WORKERS, help="Worker processes of the service.")] = 1,
    redis: RedisKey = None,
    kafka: KafkaTopic = None,
    url: Url = None,
    brokers: Brokers = None,
    partition: Partition = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve the stream's Prometheus metrics on this port.")
    ] = None,
    metrics_host: MetricsHost = "127.0.0.1",
    night: Annotated[
        str, typer.Option(metavar="HH:MM", help="Local time of the nightly build, audit and backup; `off` for none.")
    ] = "04:30",
    backup_to: Annotated[
        Path | None, typer.Option("--backup", metavar="FOLDER", help="Back the store up to this folder each night.")
    ] = None,
) -> None:
    """Run everything of a race day until stopped: Redis, the stream with its feed, the service and the nightly work.

    Restarts a program that ends. Prints one log: JSON lines, each with the name of its program. `velo status` shows it.
    Listens on the socket that a service manager passes (LISTEN_FDS), in place of --host and --port.
    """
    from velo.feature_repo.stores import embedded_redis
    from velo.feature_repo.stores.redis_client import refuse_unusable
    from velo.supervisor import Nightly, Supervisor

    at = _time_of(night)
    passed = _passed()
    if passed is not None:
        host, port = passed.getsockname()[:2]
    store = open_store()
    store.home.refuse_environment("service")
    store.save()
    if store.redis_url is not None:
        refuse_unusable(store.redis_url)
    feed = {"--redis": redis, "--kafka": kafka, "--url": url, "--brokers": brokers, "--partition": partition}
    metrics = {} if metrics_port is None else {"--metrics-port": metrics_port, "--metrics-host": metrics_host}
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    shown = f"[{host}]" if ":" in host else host
    own = store.redis_url is None
    Supervisor(
        store.home,
        _programs(host, port, workers, _given({**feed, **metrics})),
        Nightly(at, _nightly(store.home, backup_to), store.timezone),
        now,
        stop,
        url=f"http://{shown}:{port}/",
        keep_redis=(lambda: _kept(store)) if own else None,
        stop_redis=(lambda: embedded_redis.down(store.home)) if own else None,
        listen=lambda: passed or listening(host, port),
    ).run()


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder outside the store, best on another disk.")],
    as_json: Json = False,
) -> None:
    """Copy the log, the models, the bets and the scores to a folder; no process needs to stop, and it may be repeated."""
    from velo.storage.backup import backup as copy

    report = copy(open_store().home, folder)
    rows = [("folder", report.folder), ("files", report.files), ("copied now", report.copied), ("bytes", report.bytes)]
    show(report, as_json, lambda: facts("backup", rows))


def _passed() -> socket.socket | None:
    """The listening socket that a service manager passed; None without one. Raises `UserError` for anything else that it passed."""
    if os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return None
    count = os.environ.pop("LISTEN_FDS", "0")
    if count == "0":
        return None
    cure = "give its socket unit one ListenStream= of an address and a port"
    if count != "1":
        raise UserError(f"the service manager passed {count} sockets, but `velo up` listens on one: {cure}")
    with suppress(OSError):  # it may be something other than a socket
        passed = socket.socket(fileno=_PASSED)
        passed.set_inheritable(False)
        listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listens and passed.family in (socket.AF_INET, socket.AF_INET6):
            return passed
    raise UserError(f"the service manager passed something that does not listen on a TCP port: {cure}")


def _programs(host: str, port: int, workers: int, stream: list[str]) -> "list[Program]":
    from velo.supervisor import Program

    serve = ["serve", "--host", host, "--port", str(port), "--workers", str(workers)]
    return [Program("stream", ["stream", *stream]), Program("service", serve, listens=True)]


def _nightly(home: "Home", folder: Path | None) -> "list[Program]":
    """The commands of the night, in order; one that fails does not stop the next. Without a model nothing is monitored."""
    from velo.supervisor import Program

    commands = [
        Program("build", ["build", "--compact", "--json"]),
        Program("audit", ["audit", "--sample", "200", "--json"]),
        Program("audit of scores", ["audit", "--scores", "--json"]),
        Program("monitor", ["monitor", "--json"], needed=home.serving_model.exists),
    ]
    return [*commands, Program("backup", ["backup", str(folder.absolute()), "--json"])] if folder else commands


def _given(options: dict[str, object]) -> list[str]:
    return [text for name, value in options.items() if value is not None for text in (name, str(value))]


def _time_of(text: str) -> time | None:
    if text == "off":
        return None
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        raise UserError(f"--night is {text!r}, but must be a time such as 04:30, or off")
    return time.fromisoformat(text)


def _kept(store: "Store") -> bool:
    """Start the store's own Redis if it does not run; returns whether it was started."""
    from velo.feature_repo.stores import embedded_redis

    if embedded_redis.running(store.home) is not None:
        return False
    embedded_redis.ensure(store.home)
    return True
