"""`velo bench load`: the service under load, with everything that runs beside it, and whether its memory stays flat.

A stream, a follower of a Redis Stream that is the log's one writer, and `velo serve` with several processes. Results come
in by the feed, odds by the service; connections ask for scores, and others listen to events.
"""

import asyncio
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import orjson
from rich.table import Table

from benchmarks.serve import streaming
from benchmarks.stores import machine, processes, program, resident_mb, results_of, run_again, served, store_of
from velo.feature_repo.stores.redis_client import connect
from velo.racing.messages import to_record
from velo.serving.api.access import LOOPBACK
from velo.storage.log import reader
from velo.storage.store import Store
from velo.streams.feeds.redis_stream import put
from velo.text_tables import facts

FEED: Final = "load"
HOST: Final = LOOPBACK[0]
SIZES: Final = (8, 12, 20)
SAMPLE_S: Final = 2.0
WARM_UP_SHARE: Final = 0.3
"""Of the samples of memory the first are of a service that still fills its caches."""
MOST_GROWTH: Final = 0.1
SAID: Final = 5


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The load of a run: its rates, its numbers of clients, and its length."""

    minutes: float = 10.0
    connections: int = 50
    scores_a_second: float = 100.0
    listeners: int = 500
    odds_a_second: float = 20.0
    results_a_second: float = 100.0
    workers: int = 2


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """The measurements. `answers` counts by request and status; memory is of all processes of the service, in MB.

    `events` has the fewest and most events that any listener received while all listened.
    """

    asked: LoadOptions
    machine: str
    answers: dict[str, int]
    p50_ms: float
    p99_ms: float
    shed: float
    said: tuple[str, ...]
    events: tuple[int, int]
    listeners_lost: int
    results: int
    memory_mb: tuple[float, float, float]
    memory_growth: float

    @property
    def broken(self) -> bool:
        """Whether an answer was a 500 or none at all, a listener was lost, or memory did not stay flat."""
        bad = sum(count for what, count in self.answers.items() if what.endswith((" 500", " none")))
        return bool(bad or self.listeners_lost or self.memory_growth > MOST_GROWTH)


@dataclass(slots=True)
class _Seen:
    """The clients' observations."""

    answers: "Counter[str]" = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    said: "Counter[str]" = field(default_factory=Counter)
    events: list[int] = field(default_factory=list)
    lost: int = 0
    memory: list[float] = field(default_factory=list)


def measure(asked: LoadOptions, starts: int, runners: Path | None, timezone: str) -> LoadFigures:
    """Build a store of about `starts` starts, run the stream and the service on it, and load them."""
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        loaded, _ = store_of(Path(scratch) / "home", starts, runners, timezone)
        store, races = stack.enter_context(streaming(loaded, SIZES))
        return _loaded(store, asked, list(races.values()), stack)


def _loaded(store: Store, asked: LoadOptions, races: Sequence[str], stack: ExitStack) -> LoadFigures:
    token = secrets.token_urlsafe(16)
    stack.enter_context(program(store, "-m", "velo.cli", "ingest", "--follow", "--redis", FEED))
    options = ("--workers", str(asked.workers), "--feed", FEED)
    port, process = stack.enter_context(served(store, "velo.cli", "serve", *options, VELO_TOKEN=token))
    seen, stop = _Seen(), threading.Event()
    before = reader.end(store.home).next_seq
    sampling = threading.Thread(target=_sample, args=(process, seen, stop))
    sampling.start()
    try:
        with _results(store, asked, stop):
            asyncio.run(_ask(_Load(asked, port, token, races, seen)))
    finally:
        stop.set()
        sampling.join()
    return _figures(asked, seen, reader.end(store.home).next_seq - before)


def _figures(asked: LoadOptions, seen: _Seen, results: int) -> LoadFigures:
    settled = seen.memory[int(WARM_UP_SHARE * len(seen.memory)) :] or [0.0]
    quarter = max(1, len(settled) // 4)
    first, last = float(np.median(settled[:quarter])), float(np.median(settled[-quarter:]))
    scores = sum(count for what, count in seen.answers.items() if what.startswith("score"))
    shed = (seen.answers["score 503"] + seen.answers["score 429"]) / max(1, scores)
    p50, p99 = (round(1000 * float(np.quantile(seen.seconds or [0.0], at)), 1) for at in (0.5, 0.99))
    return LoadFigures(
        asked, machine(), dict(sorted(seen.answers.items())), p50, p99, round(shed, 5),
        tuple(f"{count}: {what}" for what, count in seen.said.most_common(SAID)),
        (min(seen.events, default=0), max(seen.events, default=0)), seen.lost, results,
        (round(first, 1), round(last, 1), round(max(settled), 1)), round(last / first - 1.0, 4) if first else 0.0,
    )  # fmt: skip


@contextmanager
def _results(store: Store, asked: LoadOptions, stop: threading.Event) -> Iterator[None]:
    """Put results of today on the feed at their rate within the block."""
    every = results_of(store, among_last=2000)
    client = connect(store.home, store.redis_url)

    def send() -> None:
        begun, sent = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - begun) * asked.results_a_second)
            again = (run_again(every[number % len(every)], f"load {number}", store) for number in range(sent, due))
            bodies = [orjson.dumps(to_record(result)) for result in again]
            sent = due
            put(client, "the store's own Redis", FEED, bodies)
            client.xtrim(FEED, maxlen=10_000)
            stop.wait(0.1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


def _sample(process: int, seen: _Seen, stop: threading.Event) -> None:
    while not stop.wait(SAMPLE_S):
        seen.memory.append(sum(map(resident_mb, _tree(process))))


def _tree(process: int) -> list[int]:
    """A process and all below it."""
    below: dict[int, list[int]] = {}
    for child, parent, _ in processes():
        below.setdefault(parent, []).append(child)
    found = [process]
    for parent in found:
        found += below.get(parent, [])
    return found


@dataclass(frozen=True, slots=True)
class _Load:
    asked: LoadOptions
    port: int
    token: str
    races: Sequence[str]
    seen: _Seen


async def _ask(load: _Load) -> None:
    """Everything that clients do, for as long as was asked."""
    horses = {race: await _declared(load, race) for race in load.races}
    until = time.monotonic() + 60.0 * load.asked.minutes
    async with asyncio.TaskGroup() as clients:
        for number in range(load.asked.listeners):
            clients.create_task(_listen(load, until))
            if number % 50 == 49:
                await asyncio.sleep(0.1)
        for number in range(load.asked.connections):
            clients.create_task(_score(load, number, until))
        clients.create_task(_post(load, horses, until))


async def _declared(load: _Load, race: str) -> list[str]:
    reading, writing = await asyncio.open_connection(HOST, load.port)
    _, body = await _request(reading, writing, "GET", f"/v1/races/{quote(race)}")
    writing.close()
    return [load["horse_id"] for load in json.loads(body)["declared"]]


async def _score(load: _Load, number: int, until: float) -> None:
    """One connection that asks at its share of the rate."""
    pause = load.asked.connections / load.asked.scores_a_second
    await asyncio.sleep(pause * number / load.asked.connections)
    path = f"/v1/races/{quote(load.races[number % len(load.races)])}/score"
    await _repeat(load, "score", pause, until, lambda: ("GET", path, None))


async def _post(load: _Load, horses: dict[str, list[str]], until: float) -> None:
    """Odds, one race after another; a new price each time."""
    chance = np.random.default_rng(1)
    turns = iter(range(10**9))

    def odds() -> tuple[str, str, bytes]:
        race = load.races[next(turns) % len(load.races)]
        prices = {horse: round(float(chance.uniform(2.0, 40.0)), 2) for horse in horses[race]}
        return "POST", f"/v1/races/{quote(race)}/odds", orjson.dumps({"prices": prices, "source": "load"})

    await _repeat(load, "odds", 1.0 / load.asked.odds_a_second, until, odds)


async def _repeat(load: _Load, what: str, pause: float, until: float, made: Any) -> None:
    seen = load.seen
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    due = time.monotonic()
    while (begun := time.monotonic()) < until:
        method, path, body = made()
        try:
            if streams is None:
                streams = await asyncio.open_connection(HOST, load.port)
            status, content = await asyncio.wait_for(_request(*streams, method, path, body, load.token), 30.0)
        except (OSError, EOFError, TimeoutError, ValueError) as failed:
            seen.answers[f"{what} none"] += 1
            seen.said[f"{what}: {type(failed).__name__} {failed}"] += 1
            streams = None
        else:
            seen.answers[f"{what} {status}"] += 1
            if what == "score":
                seen.seconds.append(time.monotonic() - begun)
            if status >= 400:
                seen.said[
                    f"{what} {status}: {json.loads(content)['detail'] if content[:1] == b'{' else content[:200]!r}"
                ] += 1
        due = max(due + pause, time.monotonic() - pause)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    if streams is not None:
        streams[1].close()


async def _request(
    reading: asyncio.StreamReader, writing: asyncio.StreamWriter, method: str, path: str, body: bytes | None = None,
    token: str = "",
) -> tuple[int, bytes]:  # fmt: skip
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body or b'')}\r\n\r\n"
    writing.write(head.encode() + (body or b""))
    answer = (await reading.readuntil(b"\r\n\r\n")).decode()
    length = next(
        (line for line in answer.lower().split("\r\n") if line.startswith("content-length:")), "content-length: 0"
    )
    return int(answer.split()[1]), await reading.readexactly(int(length.partition(":")[2]))


async def _listen(load: _Load, until: float) -> None:
    """One listener, which counts its events until the end; a refused one tries again in a second."""
    count = 0
    try:
        while (streams := await _admitted(load)) is None:
            await asyncio.sleep(1.0)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                while part := await streams[0].read(2**16):
                    count += part.count(b"\ndata: ")
                load.seen.lost += 1
                load.seen.said["listener: the service ended it"] += 1
        load.seen.events.append(count)
        streams[1].close()
    except (OSError, EOFError) as failed:
        load.seen.lost += 1
        load.seen.said[f"listener: {type(failed).__name__} {failed}"] += 1


async def _admitted(load: _Load) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    reading, writing = await asyncio.open_connection(HOST, load.port)
    writing.write(f"GET /v1/events HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    status = int((await reading.readuntil(b"\r\n\r\n")).split()[1])
    load.seen.answers[f"events {status}"] += 1
    if status == 200:
        return reading, writing
    writing.close()
    return None


def table(figures: LoadFigures) -> Table:
    """As shown to a person."""
    asked = figures.asked
    title = (
        f"{asked.minutes:g} minutes, {asked.connections} connections, {asked.listeners} listeners, "
        f"{asked.odds_a_second:g} odds/s, {asked.results_a_second:g} results/s, {asked.workers} workers ({figures.machine})"
    )
    first, last, most = figures.memory_mb
    rows: list[tuple[str, object]] = [(f"answers: {what}", count) for what, count in figures.answers.items()]
    rows += [
        ("scores shed", f"{100 * figures.shed:.2f} %"),
        ("a score, ms (p50 / p99)", f"{figures.p50_ms:,} / {figures.p99_ms:,}"),
        ("events a listener had (fewest / most)", f"{figures.events[0]:,} / {figures.events[1]:,}"),
        ("listeners lost", f"{figures.listeners_lost:,}"),
        ("records that reached the log", f"{figures.results:,}"),
        ("memory of the service, MB (begin / end / most)", f"{first:,} / {last:,} / {most:,}"),
        ("growth", f"{100 * figures.memory_growth:+.1f} %"),
    ]
    rows += [("said", remark) for remark in figures.said]
    return facts(title, rows)
