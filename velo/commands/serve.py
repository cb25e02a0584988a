"""`velo serve` serves races and scores over HTTP; `velo cards list` and `velo cards rebuild` manage the cards in Redis."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from velo.commands.edge import Json, facts, now, open_store, show, steps
from velo.commands.ingest import cards_app
from velo.errors import Refused, UserError
from velo.storage.atomic_files import make_folder

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI
    from redis import Redis
    from redis.cluster import RedisCluster

    from velo.serving.api.service import Given, OddsWriter, Service
    from velo.storage.store import Store

SWITCH_S = 0.001
"""The interpreter's thread switch interval: a score waits up to this long each time it has read an answer."""
BACKLOG = 2048
"""Connections that wait to be accepted, as uvicorn's own default."""
WORKER_S = 15
"""Seconds without a sign of life after which a worker is replaced; on a busy machine it needs some before its first."""
_CANNOT_LISTEN = "cannot listen on {host}:{port}: give another --port, or stop the process that listens there"
WORKERS = "VELO_WORKERS"
SERVING = "_VELO_SERVING"
"""The arguments of `serve`, passed to its worker processes."""
FIGURES = "PROMETHEUS_MULTIPROC_DIR"
SCORES_DAYS = "VELO_SCORES_DAYS"
SCORES_MB = "VELO_SCORES_MB"
CLIENT_SHARE = "VELO_CLIENT_SHARE"
TOKEN = "VELO_TOKEN"  # noqa: S105 the name of the variable, not what is in it


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, max=64, envvar=WORKERS, help="Worker processes; each scores on one core.")
    ] = 1,
    feed: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Send posted messages to this Redis Stream, for `velo ingest --follow`."),
    ] = None,
    fd: Annotated[
        int | None, typer.Option(hidden=True, help="Descriptor of a listening socket, from `velo up`.")
    ] = None,
) -> None:
    """Serve races and their scores over HTTP; requests that write need the token of VELO_TOKEN.

    It accepts the loopback host names and --host; VELO_HOSTS lists others, separated by commas.
    """
    import os
    import socket

    import uvicorn
    from uvicorn.supervisors import Multiprocess

    store = open_store()
    store.home.refuse_environment("service")
    if store.redis_url is not None:
        from velo.feature_repo.stores.redis_client import refuse_unusable

        refuse_unusable(store.redis_url)
        _warn_of_eviction(store.redis_url)
    os.environ[SERVING] = json.dumps({"host": host, "feed": feed})
    options: dict[str, Any] = {"host": host, "port": port, "access_log": False, "log_level": "error", "ws": "none"}
    # by name: the process that only starts workers does not import what they do
    options |= {"http": "velo.serving.api.connections:BoundedConnection", "factory": True}
    options["timeout_worker_healthcheck"] = WORKER_S
    listener = None if fd is None else socket.socket(fileno=fd)
    try:
        if workers == 1:
            _run_alone(options, listener)
        else:
            typer.echo(f"velo: serving at {_url(host, port)}", err=True)
            with shared_figures(store):
                if listener is None:
                    uvicorn.run("velo.commands.serve:application", workers=workers, **options)
                else:
                    config = uvicorn.Config("velo.commands.serve:application", workers=workers, **options)
                    Multiprocess(config, sockets=[listener]).run()
    except SystemExit as ended:
        if ended.code:
            raise UserError(_CANNOT_LISTEN.format(host=host, port=port)) from None


def listening(host: str, port: int) -> "socket.socket":
    """A socket that listens on an address; raises `UserError` where it cannot."""
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError:
        raise UserError(_CANNOT_LISTEN.format(host=host, port=port)) from None


def _run_alone(options: dict[str, Any], listener: "socket.socket | None") -> None:
    """Serve from this process, and print the address once it listens; exits 1 where it cannot."""
    import uvicorn

    class AnnouncedServer(uvicorn.Server):
        async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
            await super().startup(sockets)
            if self.started:
                host, port, *_ = self.servers[0].sockets[0].getsockname()
                typer.echo(f"velo: serving at {_url(host, port)}", err=True)

    server = AnnouncedServer(uvicorn.Config(application, **options))
    with suppress(KeyboardInterrupt):
        server.run(None if listener is None else [listener])
    if not server.started:
        raise SystemExit(1)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _warn_of_eviction(url: str) -> None:
    """Print one line if the online store may evict rows; an unavailable one is retried later."""
    from velo.feature_repo.stores.redis_client import connect_url
    from velo.feature_repo.stores.whole import may_evict, vitals

    with suppress(UserError):
        if remedy := may_evict(vitals(connect_url(url))):
            typer.echo(f"velo: {remedy}", err=True)


def application() -> "FastAPI":
    """Make the application of one worker process, from the arguments that `serve` left in the environment."""
    import os

    from velo.api.score_lineage import follow_scores
    from velo.serving.api.access import SETTING, allowed
    from velo.serving.api.app import app_of, keep_freed
    from velo.serving.api.connections import BoundedConnection, places

    keep_freed()
    sys.setswitchinterval(SWITCH_S)
    BoundedConnection.most = places()
    arguments = json.loads(os.environ[SERVING])
    shared = os.environ.get(FIGURES)
    service = service_of(open_store(), arguments["feed"], figures=Path(shared) if shared else None)
    follow_scores(service.store)
    hosts = allowed(arguments["host"], os.environ.get(SETTING))
    share = _client_share()
    return app_of(service, os.environ.get(TOKEN) or None, warm_past=True, hosts=hosts, client_share=share)


@contextmanager
def shared_figures(store: "Store") -> Iterator[None]:
    """A temporary folder in which prometheus_client sums the metrics of all worker processes."""
    import os
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="figures-", dir=make_folder(store.home.stream)) as folder:
        os.environ[FIGURES] = folder
        try:
            yield
        finally:
            del os.environ[FIGURES]


def service_of(
    store: "Store", feed: str | None = None, clock: Callable[[], datetime] = now, figures: Path | None = None
) -> "Service":
    """Make the service of a store; `clock` returns now, `figures` is the metrics folder shared by its processes."""
    from velo.serving.api.service import Metrics, Service
    from velo.serving.scoring.score_log import DAYS, MEGABYTES, ScoreLog
    from velo.serving.scoring.scorer import scorer_of
    from velo.streams.unbuilt_log import UnbuiltLog

    scorer = scorer_of(store, UnbuiltLog(store.home), clock=clock)
    score_log = ScoreLog(store.home, _whole(SCORES_DAYS, DAYS), _whole(SCORES_MB, MEGABYTES))
    write = _to_feed(store, feed) if feed else _to_log(store, clock)
    return Service(store, scorer, clock, write, score_log, Metrics(figures))


def _whole(name: str, default: int) -> int:
    """Read a setting that must be a whole number above 0; raises `UserError` for anything else."""
    import os

    value = os.environ.get(name)
    if not value:
        return default
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise UserError(f"{name} is {value!r}, but must be a whole number above 0: correct or unset it")
    return int(value)


def _client_share() -> float:
    """Read the percentage of the waiting requests and listeners that one address may hold, as a share (0 to 1)."""
    from velo.serving.api.limits import CLIENT_SHARE as DEFAULT

    percent = _whole(CLIENT_SHARE, round(100 * DEFAULT))
    if percent > 100:
        raise UserError(f"{CLIENT_SHARE} is {percent}, but must be a percentage from 1 to 100: correct or unset it")
    return percent / 100


@cards_app.command("list")
def list_cards(as_json: Json = False) -> None:
    """List the races of the last two days and to come, as the desk shows them, and their status."""
    from datetime import timedelta

    from velo.feature_repo.stores.race_cards import DECLARED_AHEAD, KEEP
    from velo.racing.clock import local_date

    store, at = open_store(), now()
    first = local_date(at - KEEP + timedelta(days=1), store.timezone)
    lines = service_of(store).races(first, local_date(at + DECLARED_AHEAD, store.timezone))
    table = Table("race", "off (UTC)", "course", "going", "runners", "withdrawn", "status")
    for line in lines:
        cells = (line[name] for name in ("race_id", "off_time", "course", "going", "runners", "withdrawn", "status"))
        table.add_row(*("–" if value is None else str(value) for value in cells))
    hint = Text("no race: declare races with `velo cards rpscrape FILE` and run `velo up`, or `velo build`")
    show(lines, as_json, lambda: table if lines else hint)


@cards_app.command("rebuild")
def rebuild_cards(as_json: Json = False) -> None:
    """Write the open races of the log to Redis again; a stream may run meanwhile."""
    from velo.feature_repo.stores.race_cards import RaceCards
    from velo.feature_repo.stores.redis_client import connect
    from velo.streams.dataflow.cards_sink import fill

    store = open_store()
    cards = RaceCards(connect(store.home, store.redis_url), store.redis_url or "the store's own Redis")
    count = fill(store.home, cards, now())
    show({"messages": count}, as_json, lambda: Group(Text(f"{count:,} messages of open races written to Redis")))


def audit_served(store: "Store", as_json: bool) -> None:
    """`velo audit --scores`: recompute every served score; exits 1 if one used a later instant or differs in any bit."""
    from velo.serving.scoring.score_audit import audit_scores
    from velo.serving.scoring.scorer import scorer_of
    from velo.streams.unbuilt_log import UnbuiltLog

    scorer = scorer_of(store, UnbuiltLog(store.home))
    with steps(as_json) as progress:
        report = audit_scores(scorer, now(), lambda done, total: progress("scores", done, total))
    rows = [("scores served", report.scores), ("reproduced", report.same), *report.kinds.items()]
    rows += [("later than the tables", report.later)]
    lines = [
        Text(f"  {fault.kind}: {fault.where} {fault.race_id} as of {fault.as_of}: {fault.what}")
        for fault in report.differences
    ]
    show(report, as_json, lambda: Group(facts("served scores", rows), *lines))
    if report.found:
        raise typer.Exit(1)


def _to_log(store: "Store", clock: Callable[[], datetime]) -> "OddsWriter":
    from velo.serving.api.problems import NotTaken
    from velo.storage.log.turns import SharedWriter

    writer = SharedWriter.of(store, clock)

    def write(message: "Given", kept: Mapping[str, Any]) -> tuple[str, int | None]:
        try:
            return "log", writer.append(message, kept).seq
        except (UserError, OSError) as failed:
            raise NotTaken(f"the message could not be appended ({failed}): send it again") from None
        except Refused as why:
            raise UserError(str(why)) from None

    return write


def _to_feed(store: "Store", key: str) -> "OddsWriter":
    import orjson

    from velo.feature_repo.stores.redis_client import connect
    from velo.racing.messages import to_record
    from velo.serving.api.problems import NotTaken
    from velo.streams.feeds.redis_stream import put

    url = store.redis_url or "the store's own Redis"
    client: Redis | RedisCluster | None = None

    def write(message: "Given", kept: Mapping[str, Any]) -> tuple[str, int | None]:
        nonlocal client
        held, client = client, None
        try:
            held = held or connect(store.home, store.redis_url)
            put(held, url, key, [orjson.dumps({**to_record(message), **kept})])
        except UserError as failed:
            raise NotTaken(str(failed)) from None
        # a failed client is dropped: the store's own Redis may have moved
        client = held
        return "feed", None

    return write
