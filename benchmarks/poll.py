"""`velo bench poll`: a made-up race day with a real stream and service, each race asked for every 20 ms through its result.

A fourth of the races each: the result after the off, before the scheduled off, amended, void. Beside them the log is told
starts of other races of the same horses, riders and trainers. Every answer is held to what the log says of its instant.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote

import duckdb
from rich.table import Table

from benchmarks.page import facts_table
from benchmarks.serve import catch_up, program, served
from benchmarks.stores import machine
from velo.feature_repo.stores import embedded_redis
from velo.racing.messages import FINISHED, Market, Message, NonRunner, Race, Racecard, Result, Runner
from velo.serving.scoring.history import TablesBehind
from velo.serving.scoring.request_deadline import UNHURRIED_S
from velo.serving.scoring.score_audit import audit_scores
from velo.serving.scoring.scorer import scorer_of
from velo.settings import Settings, zone_named
from velo.simulator import SeasonSpec, simulate
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.importers.sources.runners import read_runner_tables
from velo.streams.unbuilt_log import UnbuiltLog
from velo.training.model import ModelOptions
from velo.training.train import train

DAYS: Final = 130
RACES_PER_YEAR: Final = 1500
FIELD: Final = 8
EVERY_S: Final = 0.02
SETTLING_S: Final = 8.0
"""From the start to the first off, and as long after the last."""
AROUND_S: Final = 4.0
"""A race is asked for so long before its result, and after the last version of it."""
AMENDED_AFTER_S: Final = 1.5
ERROR: Final = 500
KINDS: Final = ("late", "early", "amended", "void")
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Polled:
    """A race of the day: when what becomes of it is told, and when its results were known by the log."""

    race: Race
    runners: tuple[Runner, ...]
    kind: str
    result_at: datetime
    known_at: list[datetime]

    def story(self) -> Iterator[tuple[datetime, Message]]:
        """What is told of it after its card, and when."""
        off = self.result_at
        for before_s, turn in ((AROUND_S + 1.0, 0.0), (2.0, 0.5), (0.3, 1.0)):
            prices = {one.horse_id: 3.0 + at + turn for at, one in enumerate(self.runners)}
            yield off - timedelta(seconds=before_s), Market(self.race.race_id, prices, "show")
        yield off - timedelta(seconds=1.0), NonRunner(self.race.race_id, self.runners[-1].horse_id, "lame")
        yield self.result_at, self._result(1)
        if self.kind in ("amended", "void"):
            yield self.result_at + timedelta(seconds=AMENDED_AFTER_S), self._result(2)

    def _result(self, version: int) -> Result:
        ran = self.runners[:-1]
        if version > 1 and self.kind == "void":
            return Result(self.race, tuple(replace(one, status="VOID") for one in ran), version)
        places = [len(ran) - at if version > 1 else at + 1 for at in range(len(ran))]
        runners = (
            replace(one, status=FINISHED, position=at, sp_decimal=4.0) for one, at in zip(ran, places, strict=True)
        )
        return Result(self.race, tuple(runners), version)


@dataclass(frozen=True, slots=True)
class PolledAnswer:
    """What the service said of a race, asked and answered at these instants; no `as_of` where it refused."""

    race_id: str
    asked_at: datetime
    answered_at: datetime
    status: int
    as_of: datetime | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class PollFigures:
    """How many answers came before and after each race's first result, and what is wrong with any.

    `leaks` stand on an instant at or past the result, `future` on one after the answer, `other` came after the result and
    are not of the decision time, features included. `not_made_again` is what the audit could not make again of all scores
    served, `errors` are answers of 500 and more but 503.
    """

    races: int
    starts: int
    seconds: float
    before: int
    after: int
    refused: int
    leaks: int
    future: int
    other: int
    errors: int
    audited: int
    audit: Mapping[str, int]
    machine: str

    @property
    def broken(self) -> bool:
        """Whether any answer is one that may not be, or so few came that it says nothing."""
        few = min(self.before, self.after) < self.races
        return bool(few or self.leaks or self.future or self.other or self.errors or sum(self.audit.values()))


def measure(
    minutes: float, races: int, rate: float, seed: int = 1, progress: Progress = lambda step, done, steps: None
) -> PollFigures:
    """Run a day of so many races in so many minutes, `rate` starts a second of other races beside it, and judge it."""
    with TemporaryDirectory() as scratch:
        lead = timedelta(seconds=min(30.0, 6.0 * minutes))
        store = _made(Path(scratch) / "home", lead, seed)
        try:
            with program(store, "-m", "velo.cli", "stream", "--snapshot-seconds", "1"):
                catch_up(store)
                with served(store, "velo.cli", "serve") as (port, _):
                    day, answers, starts = _run(store, port, minutes, races, rate, progress)
                catch_up(store)
            return _judged(store, day, answers, starts, lead, 60.0 * minutes)
        finally:
            embedded_redis.down(store.home)


def _made(home: Path, lead: timedelta, seed: int) -> Store:
    """A season until yesterday, built, and a small model."""
    today = datetime.now(UTC).date()
    season = home.with_name("season.parquet")
    begin = today - timedelta(days=DAYS)
    spec = SeasonSpec(start=begin, days=DAYS, races_per_year=RACES_PER_YEAR, seed=seed)
    duckdb.from_arrow(simulate(spec)).write_parquet(str(season))
    store = Store.open(Settings(home=home, timezone=zone_named("Europe/London"))).save()
    results = [one for one in read_runner_tables([season], store).messages if one.race.race_date < today]
    with LogWriter.open(store, clock=lambda: datetime.now(UTC)) as writer:
        writer.load(results)
    build(store, datetime.now(UTC))
    store = Store.open(Settings(home))
    few = ModelOptions(rounds=20, leaves=6, threads=1)
    validate, test = today - timedelta(days=50), today - timedelta(days=25)
    train(store, now=datetime.now(UTC), lead=lead, model=few, validate_from=validate, test_from=test)
    return store


def _run(
    store: Store, port: int, minutes: float, races: int, rate: float, progress: Progress
) -> tuple[list[Polled], list[PolledAnswer], int]:
    results = [one for _, one in reader.messages(store.home) if isinstance(one, Result)]
    day = _declared(store, results, minutes, races)
    answers: list[PolledAnswer] = []
    over = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        polls = [pool.submit(_poll, port, day[at::2], answers, over) for at in (0, 1)]
        try:
            starts = _tell(store, day, results, rate, minutes, progress)
        finally:
            over.set()
        for poll in polls:
            poll.result()  # a poll that failed fails the run
    return day, answers, starts


def _declared(store: Store, results: Sequence[Result], minutes: float, count: int) -> list[Polled]:
    """The day's cards, of the horses that ran last; results come evenly between the settling times."""
    latest = {one.horse_id: (one, result.race) for result in results[-600:] for one in result.runners if one.started}
    entered = list(latest.values())[::-1]
    begun = datetime.now(UTC)
    step = (60.0 * minutes - 2 * SETTLING_S) / count
    day = []
    with LogWriter.open(store, clock=lambda: datetime.now(UTC)) as writer:
        for number in range(count):
            field = [entered[(number * FIELD + at) % len(entered)] for at in range(FIELD)]
            result_at = begun + timedelta(seconds=SETTLING_S + step * number)
            kind = KINDS[number % len(KINDS)]
            off = result_at + timedelta(seconds=3.0 if kind == "early" else -3.0)
            race = replace(field[0][1], race_id=f"poll {number}", off_time=off)
            race = replace(race, race_date=off.astimezone(store.timezone).date())
            runners = tuple(
                replace(one, runner_no=at + 1, draw=at + 1, status=None, position=None, sp_decimal=None,
                        beaten_lengths=None, finish_time_s=None, kept={})
                for at, (one, _) in enumerate(field)
            )  # fmt: skip
            writer.append(Racecard(race, runners))
            day.append(Polled(race, runners, kind, result_at, []))
        writer.sync()
    return day


def _tell(
    store: Store, day: Sequence[Polled], results: Sequence[Result], rate: float, minutes: float, progress: Progress
) -> int:
    """Tell what becomes of the races when it is time, and other results between; returns the starts told of those."""
    due = sorted(((at, number, message) for number, one in enumerate(day) for at, message in one.story()),
                 key=lambda told: told[:2])  # fmt: skip
    begun, told, starts = time.monotonic(), 0, 0
    with LogWriter.open(store, clock=lambda: datetime.now(UTC)) as writer:
        while (spent := time.monotonic() - begun) < 60.0 * minutes:
            now = datetime.now(UTC)
            while due and due[0][0] <= now:
                _, number, message = due.pop(0)
                writer.append(message)
                writer.sync()
                if isinstance(message, Result) and (known_at := reader.end(store.home).known_at) is not None:
                    day[number].known_at.append(known_at)
            while starts < rate * spent:
                other = results[-1 - told % len(results)]
                off = now - timedelta(minutes=10)
                day_of = off.astimezone(store.timezone).date()
                race = replace(other.race, race_id=f"beside {told}", off_time=off, race_date=day_of)
                writer.append(Result(race, other.runners))
                told, starts = told + 1, starts + sum(one.started for one in other.runners)
            writer.sync()
            progress("a race day", int(spent), int(60 * minutes))
            time.sleep(0.01)
    return starts


def _poll(port: int, day: Sequence[Polled], answers: list[PolledAnswer], over: threading.Event) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    turn = 0
    while not over.is_set():
        begun, now = time.monotonic(), datetime.now(UTC)
        around = timedelta(seconds=AROUND_S)
        near = [one for one in day if abs(now - one.result_at) < around]
        if near:
            turn += 1
            answers.append(_asked(connection, near[turn % len(near)].race.race_id))
        else:
            connection.close()  # the service closes idle connections; the next request opens a new one
        over.wait(max(0.0, EVERY_S - (time.monotonic() - begun)))


def _asked(connection: HTTPConnection, race_id: str) -> PolledAnswer:
    asked_at = datetime.now(UTC)
    connection.request("GET", f"/v1/races/{quote(race_id)}/score")
    got = connection.getresponse()
    said = json.loads(got.read())
    answered_at = datetime.now(UTC)
    as_of = datetime.fromisoformat(said["as_of"]) if got.status == 200 else None
    return PolledAnswer(race_id, asked_at, answered_at, got.status, as_of, said.get("fingerprint", ""))


def _judged(
    store: Store, day: Sequence[Polled], answers: Sequence[PolledAnswer], starts: int, lead: timedelta, seconds: float
) -> PollFigures:
    """Hold every answer to its race's first result, by the log; and have the audit make all scores again."""
    scorer = scorer_of(store, UnbuiltLog(store.home), patience_s=UNHURRIED_S)
    now = datetime.now(UTC)
    known = {one.race.race_id: one.known_at[0] for one in day if one.known_at}
    decided = {one.race.race_id: min(one.race.off_time, one.known_at[0]) - lead for one in day if one.known_at}
    truth: dict[str, str] = {}
    for race_id in known:
        try:
            truth[race_id] = scorer.score(race_id, now, decided[race_id], with_drivers=False).fingerprint
        except TablesBehind:
            build(store, now)
            truth[race_id] = scorer.score(race_id, now, decided[race_id], with_drivers=False).fingerprint
    count: Counter[str] = Counter()
    for one in answers:
        if one.as_of is None:
            count["refused" if one.status < ERROR or one.status == 503 else "errors"] += 1
            continue
        first = known.get(one.race_id)
        after = first is not None and one.asked_at > first
        count["after" if after else "before"] += 1
        count["leaks"] += first is not None and one.as_of >= first
        count["future"] += one.as_of > one.answered_at
        if after and first is not None:
            same = one.as_of == decided[one.race_id] and one.fingerprint == truth[one.race_id]
            count["other"] += not same
    audit = audit_scores(scorer, now)
    return PollFigures(
        len(known), starts, round(seconds, 1), count["before"], count["after"], count["refused"], count["leaks"],
        count["future"], count["other"], count["errors"], audit.scores, dict(audit.kinds.items()), machine(),
    )  # fmt: skip


def table(figures: PollFigures) -> Table:
    """The figures for the terminal."""
    facts: list[tuple[str, object]] = [
        ("seconds", figures.seconds),
        ("other starts per second", round(figures.starts / figures.seconds)),
        ("answers before the result", figures.before),
        ("answers after the result", figures.after),
        ("refused with 503", figures.refused),
        ("as of the result or later", figures.leaks),
        ("as of a later instant than the answer", figures.future),
        ("after the result, not as of the decision time", figures.other),
        ("errors", figures.errors),
        ("scores audited", figures.audited),
        *((f"audit: {kind}", count) for kind, count in figures.audit.items()),
    ]
    return facts_table(f"{figures.races} races polled past their results ({figures.machine})", facts)
