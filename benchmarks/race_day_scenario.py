"""A race day under `velo up` whose processes are killed at random: nothing acknowledged is lost, nothing is stored twice.

Cards and results arrive by a feed in the store's own Redis, odds and withdrawals by the service, and `velo paper` bets beside it.
The scenario takes the part of the service manager, which holds the listening socket and starts a killed `velo up` again, and of a
client that repeats a request without an answer with its `Idempotency-Key`.
"""

import http.client
import itertools
import json
import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from socket import socket
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import orjson

from benchmarks import service_scenarios
from benchmarks.fault_harness import NOTHING, Recovery, Running, Sandbox, small_trees, stopped
from benchmarks.stores import until
from velo.commands.serve import listening
from velo.feature_repo.catalogue import columns
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect_url
from velo.racing.cards import without_outcome
from velo.racing.clock import local_date
from velo.racing.messages import FINISHED, Market, NonRunner, Race, Racecard, Result, to_record
from velo.serving.paper_trading import ledger as paper_ledger
from velo.serving.scoring.request_deadline import UNHURRIED_S
from velo.serving.scoring.score_audit import audit_scores
from velo.serving.scoring.scorer import scorer_of
from velo.storage import jsonl, table_versions
from velo.storage.log import reader
from velo.streams.dataflow.metrics import position
from velo.streams.unbuilt_log import UnbuiltLog
from velo.supervisor import state_of
from velo.training import bundle
from velo.training.model.ensemble import Ensemble, Logit
from velo.training.registry import bundle_writing

HOST: Final = "127.0.0.1"
FEED: Final = "race-day"
FIELD: Final = 8
LEAD_S: Final = 20.0
"""The model's decision time before the off."""
AMENDED: Final = 8
"""Every eighth result is amended."""
PAUSE_S: Final = 0.1
ANSWER_S: Final = 30.0
"""Seconds that the poster waits for an answer before it repeats the request."""
GIVE_UP_S: Final = 180.0
"""Seconds from a message's first request until the poster gives up."""
RETRIED: Final = (429, 503)
"""The answers that say when to repeat the request."""
SUPERVISOR, PAPER, REDIS, WORKER = "supervisor", "paper", "Redis", "service worker"
ROLES: Final = (SUPERVISOR, "stream", "service", WORKER, REDIS, PAPER)


@dataclass(frozen=True, slots=True)
class DaySize:
    """The races of the day, the kills, and the seconds between the first card and the last off."""

    races: int = 40
    kills: int = 30
    seconds: float = 480.0


SIZE = DaySize()
"""Tests use a shorter day."""


@dataclass(slots=True)
class RaceDay:
    """A running day. `posted` has each posted message with its last status (None if it was never answered), `retried` why requests
    were repeated, `killed` the kills by role. `listener` is the service's socket, held as by a service manager.
    """

    sandbox: Sandbox
    races: tuple[Racecard, ...]
    listener: socket
    token: str
    up: Running
    paper: Running
    posted: list[tuple[str, tuple[Any, ...], int | None]] = field(default_factory=list)
    refusals: "Counter[str]" = field(default_factory=Counter)
    retried: "Counter[str]" = field(default_factory=Counter)
    at_first: int = 0
    killed: "Counter[str]" = field(default_factory=Counter)
    answered_at: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    failed: list[BaseException] = field(default_factory=list)


def race_day(sandbox: Sandbox) -> Recovery:
    """Run a day of races under `velo up` and kill its processes; raises RuntimeError if a message or bet is lost or stored twice."""
    sandbox.succeed("ingest", "runners", sandbox.later)
    sandbox.succeed("build")
    _keep_scoring_model(sandbox)
    day = _begun(sandbox)
    begun = time.monotonic()
    try:
        with _beside(day, _send), _beside(day, _post):
            _kill(day, begun + SIZE.seconds)
            until(lambda: day.over.is_set() or day.failed or _keep_running(day))
        _settled(day)
        stopped(day.up)
    finally:
        for running in (day.paper, day.up):
            running.process.terminate()
            running.process.join(60)
        day.listener.close()
    _judge(day)
    answers = Counter(status for _, _, status in day.posted)
    accepted = answers.pop(202, 0)
    never = answers.pop(None, 0)
    again = len(day.posted) - day.at_first - never
    why = ", ".join(f"{count} × {name}" for name, count in day.retried.most_common())
    kills = ", ".join(f"{day.killed[role]} {role}" for role in ROLES if day.killed[role])
    book = paper_ledger.read(sandbox.home)
    bets = sum(len(decision.bets) for decision in book.decisions.values())
    missed = sum(decision.missed is not None for decision in book.decisions.values())
    return Recovery(
        f"of {len(day.posted):,} POSTs {day.at_first:,} answered at the first request, {again:,} at a repeated one ({why}), {never:,} "
        f"never; {accepted:,} accepted, {sum(answers.values()):,} refused with a reason; {bets} paper bets settled, {missed} races "
        f"missed (killed: {kills})",
        NOTHING,
        "by itself; the service manager starts a killed `velo up` again",
        round(float(np.diff([begun, *day.answered_at]).max()), 1),
        results=len(_results_due(day)),
    )


def _keep_scoring_model(sandbox: Sandbox) -> None:
    """Store a small model that scores now."""
    names = tuple(columns.COLUMNS)[:1]
    folder = table_versions.current(sandbox.home)
    assert folder is not None
    metadata = {
        "features": list(names), "catalogue": table_versions.manifest_of(folder).fingerprint, "lead_s": LEAD_S,
        "gate": bundle.NO_GATE, "mode": bundle.PAPER,
    }  # fmt: skip
    model = bundle.Model(Ensemble(small_trees(), Logit(names, (0.0,), (1.0,), (0.5,), 1.0, 1, 0.0), 0.5))
    bundle_writing.write(sandbox.home, model, metadata, {}, datetime.now(UTC))


def _begun(sandbox: Sandbox) -> RaceDay:
    """Start `velo up` and `velo paper`, and make the day's cards; the first off is soon, the last after `SIZE.seconds`."""
    listener, token = listening(HOST, 0), secrets.token_urlsafe(16)
    up, paper = _up(sandbox, listener, token), sandbox.start("paper", "--follow")
    until(lambda: service_scenarios.answer_of(listener.getsockname()[1], "/readyz") == 200)
    begin = datetime.now(UTC) + timedelta(seconds=LEAD_S + 5.0)
    step = timedelta(seconds=(SIZE.seconds - LEAD_S - 5.0) / SIZE.races)
    results = [message for _, message in reader.messages(sandbox.home) if isinstance(message, Result)]
    ran = {runner.horse_id: runner for result in results for runner in result.runners if runner.started}
    horses = [replace(without_outcome(runner), draw=None, runner_no=None) for runner in ran.values()][-FIELD * 20 :]
    cards = []
    for number in range(SIZE.races):
        off = begin + step * number
        race = Race(f"day {number}", local_date(off, sandbox.store.timezone), off, "Ascot", distance_m=1600.0)
        at = number * FIELD % len(horses)
        cards.append(Racecard(race, tuple((horses + horses)[at : at + FIELD])))
    return RaceDay(sandbox, tuple(cards), listener, token, up, paper)


def _up(sandbox: Sandbox, listener: socket, token: str) -> Running:
    options = ("--workers", 2, "--redis", FEED, "--night", "off")
    return sandbox.start("up", *options, listener=listener, VELO_TOKEN=token)


@contextmanager
def _beside(day: RaceDay, work: Any) -> Iterator[None]:
    """Run `work` on a thread within the block; what it raises is raised at the end."""

    def run() -> None:
        try:
            work(day)
        except BaseException as failed:  # noqa: BLE001 raised on the main thread
            day.failed.append(failed)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        day.over.set() if day.failed else None
        thread.join()
    if day.failed:
        raise day.failed[0]


# What is sent


def _results_due(day: RaceDay) -> list[tuple[datetime, Result]]:
    """Each race's result, and the amended ones, with the instants to send them."""
    due = []
    for number, card in enumerate(day.races):
        at = card.race.off_time + timedelta(seconds=1.5)
        ran = card.runners[:-1]
        places = [tuple(range(1, len(ran) + 1)), (2, 1, *range(3, len(ran) + 1))]
        for version in (1, 2) if number % AMENDED == 0 else (1,):
            runners = (
                replace(runner, status=FINISHED, position=place, sp_decimal=4.0 + place)
                for runner, place in zip(ran, places[version - 1], strict=True)
            )
            due.append((at + timedelta(seconds=3.0 * (version - 1)), Result(card.race, tuple(runners), version)))
    return sorted(due, key=lambda item: item[0])


def _send(day: RaceDay) -> None:
    """Send the cards, then each result when it is due; each is repeated until Redis has it on disk."""
    for card in day.races:
        _delivered(day, orjson.dumps(to_record(card)))
    for at, result in _results_due(day):
        while datetime.now(UTC) < at:
            if day.failed:
                return
            time.sleep(PAUSE_S)
        _delivered(day, orjson.dumps(to_record(result)))
    day.over.set()


def _delivered(day: RaceDay, body: bytes) -> None:
    from redis.exceptions import RedisError

    while not day.failed:
        url = embedded_redis.running(day.sandbox.home)
        if url is not None:
            with suppress(RedisError, OSError):
                client: Any = connect_url(url)
                client.xadd(FEED, {b"message": body})
                # the entry is acknowledged once the server has synced it
                if client.execute_command("WAITAOF", 1, 0, 5000)[0] == 1:
                    return
        time.sleep(PAUSE_S)


def _post(day: RaceDay) -> None:
    """Post odds of the races to come in turn, each with new prices, and one withdrawal a race."""
    chance, number = random.Random(2), 0
    withdrawn: set[str] = set()
    while not day.over.is_set():
        coming = [card for card in day.races if card.race.off_time > datetime.now(UTC) + timedelta(seconds=1)]
        if not coming:
            return
        card = coming[number % min(len(coming), 6)]
        race_id, last = card.race.race_id, card.runners[-1].horse_id
        number += 1
        if race_id not in withdrawn and number % 3 == 0:
            status = _answer(day, race_id, "withdrawals", {"horse_id": last, "reason": "lame"})
            day.posted.append(("withdrawal", (race_id, last), status))
            if status == 202:
                withdrawn.add(race_id)
        else:
            prices = {runner.horse_id: round(chance.uniform(2.0, 30.0), 2) for runner in card.runners[:-1]}
            prices[card.runners[0].horse_id] = 2.0 + number / 1000.0  # no two snapshots are equal
            status = _answer(day, race_id, "odds", {"prices": prices, "source": "race-day"})
            day.posted.append(("odds", (race_id, prices[card.runners[0].horse_id]), status))
        time.sleep(PAUSE_S)


def _answer(day: RaceDay, race_id: str, kind: str, body: Any) -> int | None:
    """POST a message as a client should: repeat it with its key until it is accepted or refused for good.

    Returns the last status, None if there was no answer within `GIVE_UP_S`. Raises RuntimeError for an answer that gives no reason.
    """
    headers = {
        "Authorization": f"Bearer {day.token}",
        "Content-Type": "application/json",
        "Idempotency-Key": secrets.token_urlsafe(16),
    }
    path, content = f"/v1/races/{quote(race_id)}/{kind}", json.dumps(body)
    until_s = time.monotonic() + GIVE_UP_S
    for number in itertools.count():
        status, reason, wait = _posted(day, path, content, headers)
        if status not in (None, *RETRIED):
            day.at_first += number == 0
            if status != 202:
                day.refusals[f"{status} {reason}"] += 1
            return status
        day.retried[reason if status is None else str(status)] += 1
        if time.monotonic() > until_s or day.failed:
            return status
        time.sleep(wait)
    raise AssertionError("it is repeated without end")


def _posted(day: RaceDay, path: str, content: str, headers: dict[str, str]) -> tuple[int | None, str, float]:
    """One request: its status (None without an answer), the reason, and the seconds to wait before it is repeated."""
    connection = http.client.HTTPConnection(HOST, day.listener.getsockname()[1], timeout=ANSWER_S)
    try:
        connection.request("POST", path, content, headers)
        answer = connection.getresponse()
        received = answer.read()
    except (OSError, http.client.HTTPException) as failed:
        return None, type(failed).__name__, PAUSE_S
    finally:
        connection.close()
    day.answered_at.append(time.monotonic())
    if answer.status == 202:
        return 202, "", 0.0
    detail = json.loads(received)["detail"]
    if answer.status >= 500 and answer.status != 503:
        raise RuntimeError(f"POST {path} was answered with {answer.status}: {detail}")
    return answer.status, detail, float(answer.headers.get("Retry-After", PAUSE_S))


# What is killed


def _kill(day: RaceDay, ends: float) -> None:
    """Kill the processes at random instants until `ends`, each role equally often; start again what nothing supervises."""
    chance = day.sandbox.chance
    until(lambda: state_of(day.sandbox.home) is not None)
    begin = time.monotonic()
    instants = sorted(chance.uniform(begin, ends) for _ in range(SIZE.kills))
    roles = [ROLES[number % len(ROLES)] for number in range(SIZE.kills)]
    chance.shuffle(roles)
    for at, role in zip(instants, roles, strict=True):
        until(lambda at=at: day.failed or _keep_running(day) or time.monotonic() >= at)  # type: ignore[misc]
        if day.failed:
            return
        pid = _process_of(day, role)
        while pid is None and not day.failed:
            _keep_running(day)
            role = chance.choice(ROLES)
            pid = _process_of(day, role)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                day.killed[role] += 1


def _process_of(day: RaceDay, role: str) -> int | None:
    """The process of a role now; None while it is being started again."""
    if role in (SUPERVISOR, PAPER):
        running = day.up if role == SUPERVISOR else day.paper
        return running.process.pid if running.process.exitcode is None else None
    if role == REDIS:
        url = embedded_redis.running(day.sandbox.home)
        client: Any = None if url is None else connect_url(url)
        return None if client is None else int(client.info("server")["process_id"])
    programs = (state_of(day.sandbox.home) or {"programs": []})["programs"]
    pids = {program["name"]: program["pid"] for program in programs}
    if role == WORKER:
        workers = service_scenarios.workers(pids["service"]) if pids.get("service") else []
        return day.sandbox.chance.choice(workers) if workers else None
    pid: int | None = pids.get(role)
    return pid


def _keep_running(day: RaceDay) -> bool:
    """Start a killed `velo up` or `velo paper` again; False, so that a wait goes on. Raises RuntimeError if one ended by itself."""
    for name in ("up", "paper"):
        running: Running = getattr(day, name)
        code = running.process.exitcode
        if code is None:
            continue
        if code != -signal.SIGKILL:
            ended = running.ended(0)
            raise RuntimeError(f"velo {name} ended with {code}: {ended and ended.err[-2000:]}")
        again = _up(day.sandbox, day.listener, day.token) if name == "up" else day.sandbox.start("paper", "--follow")
        setattr(day, name, again)
    return False


# What is left


def _settled(day: RaceDay) -> None:
    """Wait until the stream has read every result, and paper trading has settled every bet."""
    home, wanted = day.sandbox.home, len(_results_due(day))

    def complete() -> bool:
        _keep_running(day)
        where = position(home)
        found = sum(message.race_id.startswith("day ") for message in _results(day))
        return found >= wanted and where is not None and where.sealed_seq >= reader.end(home).next_seq

    until(complete, 180.0)
    until(lambda: _keep_running(day) or not paper_ledger.read(home).open(), 60.0)


def _results(day: RaceDay) -> list[Result]:
    return [message for _, message in reader.messages(day.sandbox.home) if isinstance(message, Result)]


def _judge(day: RaceDay) -> None:
    """Compare the log, the ledger and the scores with what was sent, accepted and bet; raises RuntimeError for any difference."""
    home = day.sandbox.home
    messages = [message for _, message in reader.messages(home)]
    wrong = []
    results = Counter((each.race_id, each.result_version) for each in messages if isinstance(each, Result))
    for _, result in _results_due(day):
        wrong += _once(
            f"result {result.race_id} v{result.result_version}", results[result.race_id, result.result_version]
        )
    first = {card.race.race_id: card.runners[0].horse_id for card in day.races}
    stored: Counter[tuple[Any, ...]] = Counter()
    for message in messages:
        if isinstance(message, Market):
            stored["odds", (message.race_id, message.prices.get(first[message.race_id]))] += 1
        elif isinstance(message, NonRunner) and message.race_id in first:
            stored["withdrawal", (message.race_id, message.horse_id)] += 1
    for kind, key in {(kind, key) for kind, key, status in day.posted if status == 202}:
        wrong += _once(f"{kind} {key}", stored[kind, key])
    wrong += [f"{kind} {key} was never answered" for kind, key, status in day.posted if status is None]
    wrong += [f"{key} is stored {count} times" for key, count in stored.items() if count > 1]
    taken = Counter(kind for kind, _, status in day.posted if status == 202)
    wrong += [f"no {kind} was accepted" for kind in ("odds", "withdrawal") if not taken[kind]]
    wrong += _bets(day)
    scorer = scorer_of(day.sandbox.store, UnbuiltLog(home), deadline_s=UNHURRIED_S)
    audit = audit_scores(scorer, datetime.now(UTC))
    wrong += [f"{count} served scores: {kind}" for kind, count in audit.kinds.items() if count]
    if wrong:
        raise RuntimeError(f"{len(wrong)} differences after the day: {wrong[:10]}")


def _bets(day: RaceDay) -> list[str]:
    """Races without a decision, decisions or settlements written twice, and bets that are not settled."""
    home = day.sandbox.home
    lines = (home.paper / paper_ledger.FILE).read_bytes().splitlines()
    entries = [entry for entry in map(jsonl.parse, lines) if entry is not None]
    written = Counter((entry["type"], entry["race_id"], entry["bundle"]) for entry in entries)
    book = paper_ledger.read(home)
    decided = {race_id for race_id, _ in book.decisions}
    wrong = [f"{key} is written {count} times" for key, count in written.items() if count > 1]
    # a race that was off before paper trading wrote its first line is none of its races
    begun = min((decision.written_at for decision in book.decisions.values()), default=datetime.now(UTC))
    races = [card.race.race_id for card in day.races if card.race.off_time > begun]
    wrong += [f"race {race_id} has no decision" for race_id in races if race_id not in decided]
    wrong += [f"the bets on {decision.race_id} are not settled" for decision in book.open()]
    if not any(decision.bets for decision in book.decisions.values()):
        missed = sum(decision.missed is not None for decision in book.decisions.values())
        wrong.append(f"no race was bet on: {missed} of {len(book.decisions)} were missed")
    return wrong


def _once(what: str, count: int) -> list[str]:
    return [] if count == 1 else [f"{what} is stored {count} times"]
