"""`velo serve`, and `velo cards list|rebuild`: today's races, and their scores over HTTP."""

import json
import sys
from collections.abc import Callable, Iterator
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
    from fastapi import FastAPI
    from redis import Redis
    from redis.cluster import RedisCluster

    from serving.api.service import Given, OddsWriter, Service
    from velo.storage.store import Store

SWITCH_S = 0.001
"""How long a thread may hold the interpreter: a score waits for it each time it has read an answer."""
WORKERS = "VELO_WORKERS"
SERVING = "_VELO_SERVING"
"""What `serve` was told, for the processes that it starts."""
FIGURES = "PROMETHEUS_MULTIPROC_DIR"
SCORES_DAYS = "VELO_SCORES_DAYS"
SCORES_MB = "VELO_SCORES_MB"
TOKEN = "VELO_TOKEN"  # noqa: S105 the name of the variable, not what is in it


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(serve)


def serve(
    host: Annotated[
        str, typer.Option(help="The address to listen on; the loopback unless told otherwise.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, max=64, envvar=WORKERS, help="Processes that answer; one scores on one core.")
    ] = 1,
    feed: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Put what is posted on this Redis Stream, which `velo ingest --follow` reads."
        ),
    ] = None,
) -> None:
    """Serve races and their scores over HTTP; what writes needs the token of VELO_TOKEN.

    It answers to the loopback's names and to --host; VELO_HOSTS lists others, with commas.
    """
    import os

    import uvicorn

    from serving.api.connections import BoundedConnection

    store = open_store()
    if store.redis_url is not None:
        from feature_repo.stores.redis_client import refuse_unusable

        refuse_unusable(store.redis_url)
        _tell_eviction(store.redis_url)
    os.environ[SERVING] = json.dumps({"host": host, "feed": feed})
    told: dict[str, Any] = {"host": host, "port": port, "access_log": False, "log_level": "error", "ws": "none"}
    told |= {"http": BoundedConnection, "factory": True}
    try:
        if workers == 1:
            uvicorn.run(application, **told)
        else:
            with shared_figures(store):
                uvicorn.run("velo.commands.serve:application", workers=workers, **told)
    except SystemExit as ended:
        if ended.code:
            raise UserError(f"cannot listen on {host}:{port}: name another --port, or end what listens there") from None


def _tell_eviction(url: str) -> None:
    """One line where the online store may drop rows; one that is away is waited for later."""
    from feature_repo.stores.redis_client import connect_url
    from feature_repo.stores.whole import may_evict, vitals

    with suppress(UserError):
        if remedy := may_evict(vitals(connect_url(url))):
            typer.echo(f"velo: {remedy}", err=True)


def application() -> "FastAPI":
    """The application of one process of `velo serve`, as the environment that `serve` left says."""
    import os

    from serving.api.app import app_of
    from serving.api.connections import BoundedConnection, places
    from serving.api.hosts import SETTING, allowed
    from serving.memory import keep_freed

    keep_freed()
    sys.setswitchinterval(SWITCH_S)
    BoundedConnection.most = places()
    told = json.loads(os.environ[SERVING])
    shared = os.environ.get(FIGURES)
    service = service_of(open_store(), told["feed"], figures=Path(shared) if shared else None)
    hosts = allowed(told["host"], os.environ.get(SETTING))
    return app_of(service, os.environ.get(TOKEN) or None, warm_past=True, hosts=hosts)


@contextmanager
def shared_figures(store: "Store") -> Iterator[None]:
    """A folder in which the processes of a service add up their figures; what prometheus_client looks for."""
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
    """The service of a store, put together; `clock` tells now, `figures` is a folder shared with other processes of it."""
    from serving.api.metrics import Metrics
    from serving.api.service import Service
    from serving.score import scorer_of
    from serving.score_log import DAYS, MEGABYTES, ScoreLog
    from streams.unbuilt_log import UnbuiltLog

    scorer = scorer_of(store, UnbuiltLog(store.home))
    score_log = ScoreLog(store.home, _whole(SCORES_DAYS, DAYS), _whole(SCORES_MB, MEGABYTES))
    tell = _to_feed(store, feed) if feed else _to_log(store, clock)
    return Service(store, scorer, clock, tell, score_log, Metrics(figures))


def _whole(name: str, default: int) -> int:
    """A setting that is a whole number above 0."""
    import os

    given = os.environ.get(name)
    if not given:
        return default
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        raise UserError(f"{name} is {given!r}, but must be a whole number above 0: mend or unset it")
    return int(given)


@cards_app.command("list")
def list_cards(as_json: Json = False) -> None:
    """The races in Redis whose off is recent or to come, and how they stand."""
    from datetime import timedelta

    from feature_repo.stores.race_cards import KEEP, RaceCards
    from feature_repo.stores.redis_client import connect
    from serving.days import line_of

    store, at = open_store(), now()
    cards = RaceCards(connect(store.home, store.redis_url), store.redis_url or "the store's own Redis")
    kept = cards.many(cards.races(at - KEEP, at + timedelta(days=400)))
    lines = [line for one in kept if one is not None and (line := line_of(one.messages, at)) is not None]
    table = Table("race", "off (UTC)", "course", "going", "runners", "withdrawn", "status")
    for one in lines:
        told = (one[name] for name in ("race_id", "off_time", "course", "going", "runners", "withdrawn", "status"))
        table.add_row(*("–" if value is None else str(value) for value in told))
    none = Text("no race is declared in Redis: `velo cards rpscrape FILE` declares, `velo stream` brings it here")
    show(lines, as_json, lambda: table if lines else none)


@cards_app.command("rebuild")
def rebuild_cards(as_json: Json = False) -> None:
    """Bring the open races of the log to Redis again; a running stream is not in its way."""
    from feature_repo.stores.race_cards import RaceCards
    from feature_repo.stores.redis_client import connect
    from streams.dataflow.cards_sink import fill

    store = open_store()
    cards = RaceCards(connect(store.home, store.redis_url), store.redis_url or "the store's own Redis")
    count = fill(store.home, cards, now())
    show({"messages": count}, as_json, lambda: Group(Text(f"{count:,} messages of open races brought to Redis")))


def audit_served(store: "Store", as_json: bool) -> None:
    """`velo audit --scores`: exits 1 where a score stands on an instant it may not, or is not made again to the last bit."""
    from serving.score import scorer_of
    from serving.score_audit import audit_scores
    from streams.unbuilt_log import UnbuiltLog

    scorer = scorer_of(store, UnbuiltLog(store.home))
    with steps(as_json) as progress:
        report = audit_scores(scorer, now(), lambda done, total: progress("scores", done, total))
    told = [("scores served", report.scores), ("made again the same", report.same), *report.kinds.items()]
    told += [("later than the tables", report.later)]
    lines = [
        Text(f"  {one.kind}: {one.where} {one.race_id} as of {one.as_of}: {one.what}") for one in report.differences
    ]
    show(report, as_json, lambda: Group(facts("served scores", told), *lines))
    if report.found:
        raise typer.Exit(1)


def _to_log(store: "Store", clock: Callable[[], datetime]) -> "OddsWriter":
    from serving.api.problems import NotTaken
    from velo.storage.log.turns import SharedWriter

    writer = SharedWriter(store, clock)

    def tell(message: "Given") -> tuple[str, int | None]:
        try:
            return "log", writer.append(message).seq
        except (UserError, OSError) as failed:
            raise NotTaken(f"the message could not be taken ({failed}): send it again") from None
        except Refused as why:
            raise UserError(str(why)) from None

    return tell


def _to_feed(store: "Store", key: str) -> "OddsWriter":
    import orjson

    from feature_repo.stores.redis_client import connect
    from serving.api.problems import NotTaken
    from streams.feeds.redis_stream import put
    from velo.racing.messages import to_record

    url = store.redis_url or "the store's own Redis"
    client: Redis | RedisCluster | None = None

    def tell(message: "Given") -> tuple[str, int | None]:
        nonlocal client
        held, client = client, None
        try:
            held = held or connect(store.home, store.redis_url)
            put(held, url, key, [orjson.dumps(to_record(message))])
        except UserError as failed:
            raise NotTaken(str(failed)) from None
        # one that failed is not used again: the store's own Redis may stand elsewhere by now
        client = held
        return "feed", None

    return tell
