"""`velo bench poll`: a simulated race day with a real stream and service, each race polled every 20 ms past its result.

A quarter of the races each: result after the off, before the scheduled off, amended, void. Meanwhile results of other races
with the same horses, jockeys and trainers are appended. Every answer is checked against the log.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote

from rich.table import Table

from benchmarks.serve import catch_up
from benchmarks.stores import machine, now, program, results_of, run_again, season_at, served
from velo.feature_repo.stores import embedded_redis
from velo.racing.cards import without_outcome
from velo.racing.messages import FINISHED, Market, Message, NonRunner, Race, Racecard, Result, Runner
from velo.serving.scoring.history import TablesBehind
from velo.serving.scoring.request_deadline import UNHURRIED_S
from velo.serving.scoring.score_audit import audit_scores
from velo.serving.scoring.scorer import scorer_of
from velo.settings import Settings, zone_named
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.importers.sources.runners import read_runner_tables
from velo.streams.unbuilt_log import UnbuiltLog
from velo.text_tables import facts
from velo.training.model.trees import ModelOptions
from velo.training.train import train

DAYS: Final = 130
RACES_PER_YEAR: Final = 1500
FIELD: Final = 8
EVERY_S: Final = 0.02
SETTLING_S: Final = 8.0
"""Seconds before the first result, and after the last."""
AROUND_S: Final = 4.0
"""A race is polled from this long before its result until this long after."""
AMENDED_AFTER_S: Final = 1.5
ERROR: Final = 500
KINDS: Final = ("late", "early", "amended", "void")
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class PolledRace:
    """A race of the day: when its result is appended (UTC), and the `known_at` of each version in the log."""

    race: Race
    runners: tuple[Runner, ...]
    kind: str
    result_at: datetime
    known_at: list[datetime]

    def messages(self) -> Iterator[tuple[datetime, Message]]:
        """Its messages after the card, each with the instant to append it."""
        off = self.result_at
        for before_s, turn in ((AROUND_S + 1.0, 0.0), (2.0, 0.5), (0.3, 1.0)):
            prices = {runner.horse_id: 3.0 + at + turn for at, runner in enumerate(self.runners)}
            yield off - timedelta(seconds=before_s), Market(self.race.race_id, prices, "show")
        yield off - timedelta(seconds=1.0), NonRunner(self.race.race_id, self.runners[-1].horse_id, "lame")
        yield self.result_at, self._result(1)
        if self.kind in ("amended", "void"):
            yield self.result_at + timedelta(seconds=AMENDED_AFTER_S), self._result(2)

    def _result(self, version: int) -> Result:
        ran = self.runners[:-1]
        if version > 1 and self.kind == "void":
            return Result(self.race, tuple(replace(runner, status="VOID") for runner in ran), version)
        places = [len(ran) - at if version > 1 else at + 1 for at in range(len(ran))]
        runners = (
            replace(runner, status=FINISHED, position=at, sp_decimal=4.0)
            for runner, at in zip(ran, places, strict=True)
        )
        return Result(self.race, tuple(runners), version)


@dataclass(frozen=True, slots=True)
class PolledAnswer:
    """An answer of the service, with the instants of request and answer (UTC); `as_of` is None if it refused."""

    race_id: str
    asked_at: datetime
    answered_at: datetime
    status: int
    as_of: datetime | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class PollFigures:
    """The answers before and after each race's first result, and the wrong ones.

    `leaks`: as of the first result or later. `future`: as of an instant later than the answer. `other`: requested after the
    result, and not the score of the decision time, features included. `errors`: status 500 and above, except 503. `audit`
    counts, by kind, the served scores that the audit could not reproduce.
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
        """Whether any answer is wrong, or there were too few to judge."""
        few = min(self.before, self.after) < self.races
        return bool(few or self.leaks or self.future or self.other or self.errors or sum(self.audit.values()))


def measure(
    minutes: float, races: int, rate: float, seed: int = 1, progress: Progress = lambda step, done, steps: None
) -> PollFigures:
    """Run a day of `races` races in `minutes`, with `rate` other starts per second, and judge the answers."""
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
    """A store with a season until yesterday, built, and a small model."""
    today = now().date()
    begin, made = today - timedelta(days=DAYS), home.with_name("season.parquet")
    season = season_at(made, start=begin, days=DAYS, races_per_year=RACES_PER_YEAR, seed=seed)
    store = Store.open(Settings(home=home, timezone=zone_named("Europe/London"))).save()
    results = [each for each in read_runner_tables([season], store).messages if each.race.race_date < today]
    with LogWriter.open(store, clock=now) as writer:
        writer.load(results)
    build(store, now())
    store = Store.open(Settings(home))
    options = ModelOptions(rounds=20, leaves=6, threads=1)
    validate, test = today - timedelta(days=50), today - timedelta(days=25)
    train(store, now=now(), lead=lead, model=options, validate_from=validate, test_from=test)
    return store


def _run(
    store: Store, port: int, minutes: float, races: int, rate: float, progress: Progress
) -> tuple[list[PolledRace], list[PolledAnswer], int]:
    results = results_of(store)
    day = _declared(store, results, minutes, races)
    answers: list[PolledAnswer] = []
    over = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        polls = [pool.submit(_poll, port, day[at::2], answers, over) for at in (0, 1)]
        try:
            starts = _append(store, day, results, rate, minutes, progress)
        finally:
            over.set()
        for poll in polls:
            poll.result()  # a poll that failed fails the run
    return day, answers, starts


def _declared(store: Store, results: Sequence[Result], minutes: float, count: int) -> list[PolledRace]:
    """Append the day's cards, with the horses that ran last; results are spread evenly between the settling times."""
    latest = {
        runner.horse_id: (runner, result.race)
        for result in results[-600:]
        for runner in result.runners
        if runner.started
    }
    entered = list(latest.values())[::-1]
    begun = now()
    step = (60.0 * minutes - 2 * SETTLING_S) / count
    day = []
    with LogWriter.open(store, clock=now) as writer:
        for number in range(count):
            field = [entered[(number * FIELD + at) % len(entered)] for at in range(FIELD)]
            result_at = begun + timedelta(seconds=SETTLING_S + step * number)
            kind = KINDS[number % len(KINDS)]
            off = result_at + timedelta(seconds=3.0 if kind == "early" else -3.0)
            race = replace(field[0][1], race_id=f"poll {number}", off_time=off)
            race = replace(race, race_date=off.astimezone(store.timezone).date())
            runners = tuple(
                replace(without_outcome(runner), runner_no=at + 1, draw=at + 1) for at, (runner, _) in enumerate(field)
            )
            writer.append(Racecard(race, runners))
            day.append(PolledRace(race, runners, kind, result_at, []))
        writer.sync()
    return day


def _append(
    store: Store, day: Sequence[PolledRace], results: Sequence[Result], rate: float, minutes: float, progress: Progress
) -> int:
    """Append the races' messages when they are due, and other results between; returns the starts of the latter."""
    due = sorted(((at, number, message) for number, race in enumerate(day) for at, message in race.messages()),
                 key=lambda entry: entry[:2])  # fmt: skip
    begun, count, starts = time.monotonic(), 0, 0
    with LogWriter.open(store, clock=now) as writer:
        while (spent := time.monotonic() - begun) < 60.0 * minutes:
            instant = now()
            while due and due[0][0] <= instant:
                _, number, message = due.pop(0)
                writer.append(message)
                writer.sync()
                if isinstance(message, Result) and (known_at := reader.end(store.home).known_at) is not None:
                    day[number].known_at.append(known_at)
            while starts < rate * spent:
                other = results[-1 - count % len(results)]
                writer.append(run_again(other, f"beside {count}", store))
                count, starts = count + 1, starts + sum(runner.started for runner in other.runners)
            writer.sync()
            progress("a race day", int(spent), int(60 * minutes))
            time.sleep(0.01)
    return starts


def _poll(port: int, day: Sequence[PolledRace], answers: list[PolledAnswer], over: threading.Event) -> None:
    around, turn = timedelta(seconds=AROUND_S), 0
    with closing(HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
        while not over.is_set():
            begun, instant = time.monotonic(), now()
            near = [race for race in day if abs(instant - race.result_at) < around]
            if near:
                turn += 1
                answers.append(_asked(connection, near[turn % len(near)].race.race_id))
            else:
                connection.close()  # the service closes idle connections; the next request opens a new one
            over.wait(max(0.0, EVERY_S - (time.monotonic() - begun)))


def _asked(connection: HTTPConnection, race_id: str) -> PolledAnswer:
    asked_at = now()
    connection.request("GET", f"/v1/races/{quote(race_id)}/score")
    response = connection.getresponse()
    body = json.loads(response.read())
    answered_at = now()
    as_of = datetime.fromisoformat(body["as_of"]) if response.status == 200 else None
    return PolledAnswer(race_id, asked_at, answered_at, response.status, as_of, body.get("fingerprint", ""))


def _judged(
    store: Store,
    day: Sequence[PolledRace],
    answers: Sequence[PolledAnswer],
    starts: int,
    lead: timedelta,
    seconds: float,
) -> PollFigures:
    """Check every answer against its race's first result in the log, and audit all served scores."""
    scorer = scorer_of(store, UnbuiltLog(store.home), deadline_s=UNHURRIED_S)
    instant = now()
    run = [polled for polled in day if polled.known_at]
    known = {polled.race.race_id: polled.known_at[0] for polled in run}
    decided = {polled.race.race_id: min(polled.race.off_time, polled.known_at[0]) - lead for polled in run}
    expected: dict[str, str] = {}
    for race_id in known:
        try:
            score = scorer.score(race_id, instant, decided[race_id], with_drivers=False)
        except TablesBehind:
            build(store, instant)
            score = scorer.score(race_id, instant, decided[race_id], with_drivers=False)
        expected[race_id] = score.fingerprint
    count: Counter[str] = Counter()
    for answer in answers:
        if answer.as_of is None:
            count["refused" if answer.status < ERROR or answer.status == 503 else "errors"] += 1
            continue
        first = known.get(answer.race_id)
        after = first is not None and answer.asked_at > first
        count["after" if after else "before"] += 1
        count["leaks"] += first is not None and answer.as_of >= first
        count["future"] += answer.as_of > answer.answered_at
        if after and first is not None:
            same = answer.as_of == decided[answer.race_id] and answer.fingerprint == expected[answer.race_id]
            count["other"] += not same
    audit = audit_scores(scorer, instant)
    return PollFigures(
        len(known), starts, round(seconds, 1), count["before"], count["after"], count["refused"], count["leaks"],
        count["future"], count["other"], count["errors"], audit.scores, dict(audit.kinds.items()), machine(),
    )  # fmt: skip


def table(figures: PollFigures) -> Table:
    """The figures for the terminal."""
    rows: list[tuple[str, object]] = [
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
    return facts(f"{figures.races} races polled past their results ({figures.machine})", rows)
