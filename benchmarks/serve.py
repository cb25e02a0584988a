"""`velo bench serve`: a race scored in process and over HTTP, beside Feast's own reads of the same features, and the floor."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from rich.table import Table

from benchmarks import CHECKOUT
from benchmarks.page import text_table
from benchmarks.stores import machine, store_of
from velo.feature_repo.catalogue import request_time
from velo.feature_repo.feast_store import REPO, apply
from velo.feature_repo.objects import SERVICE
from velo.feature_repo.stores import embedded_redis
from velo.racing.messages import Race, Racecard, Result, Runner
from velo.racing.starts import starts_of
from velo.serving.api.app import freeze, keep_freed, thaw
from velo.serving.scoring.drivers import DriverExplainer
from velo.serving.scoring.feature_matrix import entity_rows
from velo.serving.scoring.request_deadline import UNHURRIED_S
from velo.serving.scoring.scorer import Scorer, scorer_of
from velo.settings import Settings
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.dataflow.metrics import position
from velo.streams.unbuilt_log import UnbuiltLog
from velo.training.train import train

WARM_UP: Final = 20
STARTS_A_RESULT: Final = 12.5
WAIT_S: Final = 600.0
SLOW_REQUESTS: Final = 100
"""At most so many of each of Feast's own reads, and of drivers worked out: one takes tens of times as long as a score."""
SAID: Final = 600
GET: Final = "get_online_features().to_dict()"
FEAST_SERVE: Final = "feast serve"
STOCK: Final = (GET, FEAST_SERVE)
DESK: Final = "score and drivers, over HTTP"
"""As the desk asks at every tick of the odds: of features that were told before."""
DRIVERS: Final = "drivers of new features"
SLOW: Final = (*STOCK, DRIVERS)


@dataclass(frozen=True, slots=True)
class Latencies:
    """One way to ask for one race, one request at a time; milliseconds. `refused` answers are not among them."""

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
    """All ways, for each size of a race, alone and while the stream writes `rate` starts a second."""

    starts: int
    rate: float
    machine: str
    measured: list[Latencies]


def measure(
    starts: int, sizes: Sequence[int], requests: int, rate: float, runners: Path | None, timezone: str
) -> ServeFigures:
    """Build and stream a store of so many starts, train, declare a race of each size, and ask for them in every way."""
    with TemporaryDirectory() as scratch:
        store, held = store_of(Path(scratch) / "home", starts, runners, timezone)
        build(store, _now())
        store = Store.open(Settings(store.home.root))
        train(store, now=_now())
        try:
            with program(store, "-m", "velo.cli", "stream"):
                catch_up(store)
                races = declare(store, sizes)
                catch_up(store)
                found = _asked(store, races, requests, loaded=False)
                with _results(store, rate, seconds=_enough(requests, len(sizes))):
                    found += _asked(store, races, requests, loaded=True)
        finally:
            embedded_redis.down(store.home)
    return ServeFigures(held, rate, machine(), found)


def _asked(store: Store, races: dict[int, str], requests: int, *, loaded: bool) -> list[Latencies]:
    # as `velo serve` does; Feast's own reads in this process have as much of it
    keep_freed()
    scorer = scorer_of(store, UnbuiltLog(store.home), patience_s=UNHURRIED_S)
    feast = apply(store)
    scorer.warm()
    freeze()
    found: list[Latencies] = []
    with served(store, "velo.cli", "serve") as (ours, _), served(store, "feast.cli.cli", "serve") as (theirs, _):
        for size, race_id in races.items():
            ways: dict[str, Callable[[], Any]] = {
                "floor: as many bytes, one pipeline": _floor(scorer, race_id),
                "features, in process": partial(_features, scorer, race_id),
                "score, in process": partial(_score, scorer, race_id),
                "score, over HTTP": _http(ours, "GET", f"/v1/races/{quote(race_id)}/score", None),
                DESK: _http(ours, "GET", f"/v1/races/{quote(race_id)}/score?drivers=true", None),
                DRIVERS: _drivers(scorer, race_id),
                GET: _stock(scorer, feast, race_id),
                FEAST_SERVE: _http(theirs, "POST", "/get-online-features", _request(scorer, race_id)),
            }
            for what, ask in ways.items():
                asked = min(requests, SLOW_REQUESTS) if what in SLOW else requests
                found.append(_timed(what, size, ask, asked, loaded=loaded))
    thaw()
    return found


def _timed(what: str, size: int, ask: Callable[[], Any], requests: int, *, loaded: bool) -> Latencies:
    taken, refused = [], 0
    begun, said = 0.0, ""
    for number in range(-WARM_UP, requests):
        if number == 0:
            begun = time.perf_counter()
        at = time.perf_counter()
        try:
            ask()
        except Exception as none:  # noqa: BLE001 whatever it is, it is no answer
            refused += number >= 0
            said = said or f"{what}: refused: {type(none).__name__}: {none}"[:SAID]
            continue
        if number >= 0:
            taken.append(time.perf_counter() - at)
    if said:
        print(said, file=sys.stderr, flush=True)
    per_second = len(taken) / (time.perf_counter() - begun)
    p50, p99, p999 = (round(1000 * float(np.quantile(taken, at)), 2) if taken else -1.0 for at in (0.5, 0.99, 0.999))
    return Latencies(what, size, loaded, len(taken), refused, p50, p99, p999, round(per_second, 1))


def _features(scorer: Scorer, race_id: str) -> Any:
    now = _now()
    reading, rows, _ = scorer.online.features(race_id, now)
    return reading.vectors(rows, now)


def _score(scorer: Scorer, race_id: str) -> Any:
    return scorer.score(race_id, _now(), with_drivers=False)


def _drivers(scorer: Scorer, race_id: str) -> Callable[[], Any]:
    reading, rows, _ = scorer.online.features(race_id, _now())
    vectors = reading.vectors(rows, _now())
    model = scorer.bundles.current()
    return lambda: DriverExplainer().tell(model, vectors)


def _floor(scorer: Scorer, race_id: str) -> Callable[[], Any]:
    """As many keys of as many bytes each, in plain GETs written once, over a connection of the same kind."""
    reading, _, _ = scorer.online.features(race_id, _now())
    client: Any = scorer.online.redis.client
    sizes = [len(client.hget(key, name) or b"") for key, name in zip(reading.keys, reading.fields, strict=True)]
    commands = []
    for at, size in enumerate(sizes):
        client.set(f"bench:{at}", b"x" * size)
        name = f"bench:{at}".encode()
        commands.append(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(name), name))
    whole = b"".join(commands)

    def ask() -> Any:
        connection: Any = client.connection_pool.get_connection()
        connection.send_packed_command([whole])
        answers = [connection.read_response() for _ in sizes]
        client.connection_pool.release(connection)
        return answers

    return ask


def _stock(scorer: Scorer, feast: Any, race_id: str) -> Callable[[], Any]:
    reading, _, _ = scorer.online.features(race_id, _now())
    rows = entity_rows(reading.race).drop(["event_timestamp"]).to_pylist()
    service = feast.get_feature_service(SERVICE)
    # several views name a feature alike: Feast answers only by full names
    return lambda: feast.get_online_features(features=service, entity_rows=rows, full_feature_names=True).to_dict()


def _request(scorer: Scorer, race_id: str) -> bytes:
    reading, _, _ = scorer.online.features(race_id, _now())
    columns = entity_rows(reading.race).drop(["event_timestamp"]).to_pydict()
    asked = {one.name for one in request_time.REQUEST}
    assert asked <= columns.keys()
    return json.dumps({"feature_service": SERVICE, "entities": columns, "full_feature_names": True}).encode()


def _http(port: int, method: str, path: str, body: bytes | None) -> Callable[[], Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json"} if body else {}

    def ask() -> bytes:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(said.decode())
        return said

    return ask


def declare(store: Store, sizes: Sequence[int]) -> dict[int, str]:
    """A race to come of each size, of the horses, riders and trainers that ran last."""
    results = [one for _, one in reader.messages(store.home) if isinstance(one, Result)][-400:]
    latest = {start.horse_id: start for one in results for start in starts_of(one.race, one.runners)}
    starts = list(latest.values())[::-1]
    races = {}
    with LogWriter.open(store, clock=_now) as writer:
        for size in sizes:
            off = _now() + timedelta(hours=6)
            race = Race(
                f"bench-{size}", off.astimezone(store.timezone).date(), off, starts[0].course, race_class=3,
                surface="Turf", going="Good", distance_m=1600.0,
            )  # fmt: skip
            runners = tuple(
                Runner(
                    one.horse_id, runner_no=at + 1, draw=at + 1, jockey_id=one.jockey_id, trainer_id=one.trainer_id,
                    weight_lbs=one.weight_lbs, official_rating=one.official_rating,
                    body_weight_lbs=one.body_weight_lbs,
                )
                for at, one in enumerate(starts[:size])
            )  # fmt: skip
            writer.append(Racecard(race, runners))
            races[size] = race.race_id
    return races


@contextmanager
def program(store: Store, *command: str, **more: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A program in a process of its own on a store, ended by SIGTERM; `more` goes into its environment."""
    environ = {**os.environ, "VELO_HOME": str(store.home.root), "PYTHONPATH": str(CHECKOUT), **more}
    process = subprocess.Popen(
        [sys.executable, *command], env=environ, cwd=REPO if "feast.cli.cli" in command else None,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def served(store: Store, module: str, command: str, *options: str, **more: str) -> Iterator[tuple[int, int]]:
    """A service that answers: its port, and its process."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with program(store, "-m", module, command, "--port", str(port), *options, **more) as process:

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{module} {command} ended with {process.returncode}")
            with socket() as one:
                return one.connect_ex(("127.0.0.1", port)) == 0

        wait(answers)
        yield port, process.pid


@contextmanager
def _results(store: Store, rate: float, seconds: float) -> Iterator[None]:
    told = str(rate / STARTS_A_RESULT)
    begun = reader.end(store.home).next_seq
    with program(store, "-m", "benchmarks.stream", str(store.home.root), told, str(seconds)):
        wait(lambda: reader.end(store.home).next_seq > begun)
        yield


def _enough(requests: int, sizes: int) -> float:
    return 60.0 + 0.5 * requests * sizes


def at_end(store: Store) -> bool:
    """Whether a running stream has taken the whole log."""
    where = position(store.home)
    return where is not None and where.at_end and where.next_seq == reader.end(store.home).next_seq


def catch_up(store: Store) -> None:
    """Wait until a running stream has taken the whole log; raises RuntimeError where its position stops for WAIT_S."""
    before = -1
    while not at_end(store):
        wait(partial(_advanced, store, before))
        before = _next_seq(store)


def _advanced(store: Store, before: int) -> bool:
    return at_end(store) or _next_seq(store) > before


def _next_seq(store: Store) -> int:
    where = position(store.home)
    return -1 if where is None else where.next_seq


def wait(until: Callable[[], bool]) -> None:
    """Wait for something that another process does; raises RuntimeError where it never comes to be."""
    deadline = time.monotonic() + WAIT_S
    while not until():
        if time.monotonic() > deadline:
            raise RuntimeError("waited too long")
        time.sleep(0.1)


def _now() -> datetime:
    return datetime.now(UTC)


def table(figures: ServeFigures) -> Table:
    """The figures for the terminal."""
    rows = [
        (way.what, str(way.runners), f"{figures.rate:,.0f} starts/s" if way.loaded else "idle", way.requests, way.refused,
         way.p50_ms, way.p99_ms, way.p999_ms, way.races_per_second)
        for way in figures.measured
    ]  # fmt: skip
    columns = ("what", "runners", "stream", "requests", "refused", "p50 ms", "p99 ms", "p99.9 ms", "races/s")
    return text_table(f"one race at a time, {figures.starts:,} starts known ({figures.machine})", columns, rows)
