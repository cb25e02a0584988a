"""`velo bench serve`: score a race in process and over HTTP, compared with Feast's own reads and a plain read of the same bytes."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from rich.table import Table

from benchmarks import drawn
from benchmarks.online import bare_reads
from benchmarks.stores import machine, now, program, read_up_to, results_of, served, store_of, until
from velo.feature_repo.catalogue import request_time
from velo.feature_repo.feast_store import apply
from velo.feature_repo.objects import SERVICE
from velo.feature_repo.stores import embedded_redis
from velo.racing.messages import Race, Racecard, Runner
from velo.racing.starts import starts_of
from velo.serving.api.app import freeze, keep_freed, thaw
from velo.serving.scoring.drivers import DriverExplainer
from velo.serving.scoring.feature_matrix import entity_rows
from velo.serving.scoring.online_race import CatchingUp
from velo.serving.scoring.request_deadline import UNHURRIED_S
from velo.serving.scoring.scorer import Scorer, scorer_of
from velo.settings import Settings
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.dataflow.metrics import position
from velo.streams.unbuilt_log import UnbuiltLog
from velo.text_tables import table_of
from velo.training.train import train

WARM_UP = 20
"""Requests of each way before the first that is timed; tests use fewer."""
STARTS_A_RESULT: Final = 12.5
SLOW_REQUESTS: Final = 100
"""The most requests of Feast's own reads, and of computed drivers: each takes tens of times as long as a score."""
REASON_LENGTH: Final = 600
GET: Final = "get_online_features().to_dict()"
FEAST_SERVE: Final = "feast serve"
STOCK: Final = (GET, FEAST_SERVE)
DESK: Final = "score and drivers, over HTTP"
"""As the desk requests at each change of the odds, with drivers of features that were explained before."""
DRIVERS: Final = "drivers of new features"
SLOW: Final = (*STOCK, DRIVERS)


@dataclass(frozen=True, slots=True)
class Latencies:
    """One way to request a race, sequentially; milliseconds. Refused requests are counted in `refused` only."""

    what: str
    runners: int
    loaded: bool
    requests: int
    refused: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    races_per_second: float


@dataclass(frozen=True, slots=True)
class ServeFigures:
    """All ways, for each race size, with an idle stream and while it writes `rate` starts per second."""

    starts: int
    rate: float
    machine: str
    measured: list[Latencies]


def measure(
    starts: int, sizes: Sequence[int], requests: int, rate: float, runners: Path | None, timezone: str
) -> ServeFigures:
    """Make a store with `starts` starts, train, declare a race of each size, and request each race in every way."""
    with TemporaryDirectory() as scratch:
        loaded, held = store_of(Path(scratch) / "home", starts, runners, timezone)
        with streaming(loaded, sizes) as (store, races):
            found = _asked(store, races, requests, loaded=False)
            with _results(store, rate, seconds=_enough(requests, len(sizes))):
                found += _asked(store, races, requests, loaded=True)
    return ServeFigures(held, rate, machine(), found)


def pages(starts: int, sizes: Sequence[int], loads: int, runners: Path | None, timezone: str) -> list[drawn.PageLoads]:
    """Make a store as `measure` does, and load the page of each race in Chromium."""
    with TemporaryDirectory() as scratch:
        loaded, _ = store_of(Path(scratch) / "home", starts, runners, timezone)
        with (
            drawn.chromium() as browser,
            streaming(loaded, sizes) as (store, races),
            served(store, "velo.cli", "serve") as (port, _),
        ):
            return drawn.measure(browser, port, races, loads)


@contextmanager
def streaming(loaded: Store, sizes: Sequence[int]) -> Iterator[tuple[Store, dict[int, str]]]:
    """Build a store, train on it, and run a stream; yields the store and a declared race of each size."""
    build(loaded, now())
    store = Store.open(Settings(loaded.home.root))
    train(store, now=now())
    try:
        with program(store, "-m", "velo.cli", "stream"):
            catch_up(store)
            races = declare(store, sizes)
            catch_up(store)
            yield store, races
    finally:
        embedded_redis.down(store.home)


def _asked(store: Store, races: dict[int, str], requests: int, *, loaded: bool) -> list[Latencies]:
    # as `velo serve` does; Feast's own reads in this process benefit too
    keep_freed()
    scorer = scorer_of(store, UnbuiltLog(store.home), deadline_s=UNHURRIED_S, clock=now)
    feast = apply(store)
    scorer.warm()
    freeze()
    found: list[Latencies] = []
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(served(store, of, "serve"))[0] for of in ("velo.cli", "feast.cli.cli"))
        for size, race_id in races.items():
            ways: dict[str, Callable[[], Any]] = {
                "floor: as many bytes, one pipeline": _floor(scorer, race_id),
                "features, in process": partial(_features, scorer, race_id),
                "score, in process": partial(_score, scorer, race_id),
                "score, over HTTP": _http(stack, ours, "GET", f"/v1/races/{quote(race_id)}/score", None),
                DESK: _http(stack, ours, "GET", f"/v1/races/{quote(race_id)}/score?drivers=true", None),
                DRIVERS: _drivers(scorer, race_id),
                GET: _stock(scorer, feast, race_id),
                FEAST_SERVE: _http(stack, theirs, "POST", "/get-online-features", _request(scorer, race_id)),
            }
            for what, ask in ways.items():
                count = min(requests, SLOW_REQUESTS) if what in SLOW else requests
                found.append(_timed(what, size, ask, count, loaded=loaded))
    thaw()
    return found


def read_ms(store: Store, race_id: str, requests: int) -> float:
    """The median milliseconds of a race's features, read in process."""
    scorer = scorer_of(store, UnbuiltLog(store.home), deadline_s=UNHURRIED_S, clock=now)
    return _timed("features", 0, partial(_features, scorer, race_id), requests, loaded=False).p50_ms


def _timed(what: str, size: int, ask: Callable[[], Any], requests: int, *, loaded: bool) -> Latencies:
    taken, refused = [], 0
    begun, reason = 0.0, ""
    for number in range(-WARM_UP, requests):
        if number == 0:
            begun = time.perf_counter()
        at = time.perf_counter()
        try:
            ask()
        except Exception as none:  # noqa: BLE001 any exception counts as refused
            refused += number >= 0
            reason = reason or f"{what}: refused: {type(none).__name__}: {none}"[:REASON_LENGTH]
            continue
        if number >= 0:
            taken.append(time.perf_counter() - at)
    if reason:
        print(reason, file=sys.stderr, flush=True)
    per_second = len(taken) / (time.perf_counter() - begun)
    p50, p99, p999 = (round(1000 * float(np.quantile(taken, at)), 2) if taken else -1.0 for at in (0.5, 0.99, 0.999))
    return Latencies(what, size, loaded, len(taken), refused, p50, p99, p999, round(per_second, 1))


def _read(scorer: Scorer, race_id: str) -> Any:
    """A race's features, requested again while the stream writes a result."""
    found: list[Any] = []

    def read() -> bool:
        with suppress(CatchingUp):
            found.append(scorer.online.features(race_id, now()))
        return bool(found)

    until(read)
    return found[0]


def _features(scorer: Scorer, race_id: str) -> Any:
    instant = now()
    reading, rows, _ = scorer.online.features(race_id, instant)
    return reading.feature_matrix(rows, instant)


def _score(scorer: Scorer, race_id: str) -> Any:
    return scorer.score(race_id, now(), with_drivers=False)


def _drivers(scorer: Scorer, race_id: str) -> Callable[[], Any]:
    reading, rows, _ = _read(scorer, race_id)
    vectors = reading.feature_matrix(rows, now())
    model = scorer.bundles.current()
    return lambda: DriverExplainer().stories(model, vectors, blended=False)


def _floor(scorer: Scorer, race_id: str) -> Callable[[], Any]:
    """Read as many keys of as many bytes each with plain GETs, encoded once, over the same kind of connection."""
    reading, _, _ = _read(scorer, race_id)
    client: Any = scorer.online.redis.client
    sizes = [len(client.hget(key, name) or b"") for key, name in zip(reading.keys, reading.fields, strict=True)]
    return bare_reads(client, sizes)


def _stock(scorer: Scorer, feast: Any, race_id: str) -> Callable[[], Any]:
    reading, _, _ = _read(scorer, race_id)
    rows = entity_rows(reading.race).drop(["event_timestamp"]).to_pylist()
    service = feast.get_feature_service(SERVICE)
    # views share feature names, so Feast requires full names
    return lambda: feast.get_online_features(features=service, entity_rows=rows, full_feature_names=True).to_dict()


def _request(scorer: Scorer, race_id: str) -> bytes:
    reading, _, _ = _read(scorer, race_id)
    columns = entity_rows(reading.race).drop(["event_timestamp"]).to_pydict()
    assert {column.name for column in request_time.REQUEST} <= columns.keys()
    return json.dumps({"feature_service": SERVICE, "entities": columns, "full_feature_names": True}).encode()


def _http(stack: ExitStack, port: int, method: str, path: str, body: bytes | None) -> Callable[[], Any]:
    """A function that sends a request and returns the answer's body, over a connection that the stack closes."""
    connection = stack.enter_context(closing(HTTPConnection("127.0.0.1", port, timeout=10)))
    headers = {"Content-Type": "application/json"} if body else {}

    def ask() -> bytes:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(content.decode())
        return content

    return ask


def declare(store: Store, sizes: Sequence[int]) -> dict[int, str]:
    """Declare a future race of each size, with the horses, jockeys and trainers that ran last."""
    results = results_of(store, among_last=400)
    latest = {start.horse_id: start for result in results for start in starts_of(result.race, result.runners)}
    starts = list(latest.values())[::-1]
    races = {}
    with LogWriter.open(store, clock=now) as writer:
        for size in sizes:
            off = now() + timedelta(hours=6)
            race = Race(
                f"bench-{size}", off.astimezone(store.timezone).date(), off, starts[0].course, race_class=3,
                surface="Turf", going="Good", distance_m=1600.0,
            )  # fmt: skip
            runners = tuple(
                Runner(
                    start.horse_id, runner_no=at + 1, draw=at + 1, jockey_id=start.jockey_id, trainer_id=start.trainer_id,
                    weight_lbs=start.weight_lbs, official_rating=start.official_rating,
                    body_weight_lbs=start.body_weight_lbs,
                )
                for at, start in enumerate(starts[:size])
            )  # fmt: skip
            writer.append(Racecard(race, runners))
            races[size] = race.race_id
    return races


@contextmanager
def _results(store: Store, rate: float, seconds: float) -> Iterator[None]:
    per_second = str(rate / STARTS_A_RESULT)
    begun = reader.end(store.home).next_seq
    with program(store, "-m", "benchmarks.stream", str(store.home.root), per_second, str(seconds)):
        until(lambda: reader.end(store.home).next_seq > begun)
        yield


def _enough(requests: int, sizes: int) -> float:
    return 60.0 + 0.5 * requests * sizes


def at_end(store: Store) -> bool:
    """Whether a running stream has processed the whole log."""
    return read_up_to(store.home, reader.end(store.home).next_seq)


def catch_up(store: Store) -> None:
    """Wait until a running stream has taken the whole log; raises RuntimeError where its position stops for `WAIT_S` seconds."""
    before = -1
    while not at_end(store):
        until(partial(_advanced, store, before))
        before = _next_seq(store)


def _advanced(store: Store, before: int) -> bool:
    return at_end(store) or _next_seq(store) > before


def _next_seq(store: Store) -> int:
    where = position(store.home)
    return -1 if where is None else where.next_seq


COLUMNS: Final = ("what", "runners", "stream", "requests", "refused", "p50 ms", "p99 ms", "p99.9 ms", "races/s")


def rows_of(figures: ServeFigures) -> tuple[tuple[str, ...], ...]:
    """One row per way to read a race, in the order of `COLUMNS`."""
    return tuple(
        (way.what, str(way.runners), f"{figures.rate:,.0f} starts/s" if way.loaded else "idle", f"{way.requests:,}",
         f"{way.refused:,}", f"{way.p50_ms:,.2f}", f"{way.p99_ms:,.2f}", f"{way.p999_ms:,.2f}", f"{way.races_per_second:,.0f}")
        for way in figures.measured
    )  # fmt: skip


def table(figures: ServeFigures) -> Table:
    """The figures for the terminal."""
    title = f"one race at a time, {figures.starts:,} starts known ({figures.machine})"
    return table_of(title, COLUMNS, rows_of(figures), left=("what",))
