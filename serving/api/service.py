"""The service behind the HTTP interface: its collaborators, and the work of each request."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from velo.errors import UserError
from velo.feature_repo.stores.race_cards import KEEP
from velo.racing.clock import local_date, local_midnight, to_text
from velo.racing.messages import Market, Message, NonRunner, Race, Racecard, Reinstated, Runner
from velo.racing.undeclared import nearest
from velo.serving.api.days import card_of, line_of, undeclared_in
from velo.serving.api.past import Past
from velo.serving.api.schemas import GivenCard, GivenOdds, GivenWithdrawal
from velo.serving.scoring.online_race import AheadOfClock, BeingWritten
from velo.serving.scoring.past_runs import Kind
from velo.serving.scoring.race_messages import UnknownRace, messages_between
from velo.serving.scoring.redis_reader import Busy, OnlineStoreUnavailable
from velo.serving.scoring.scored import ScoredRace
from velo.serving.scoring.scorer import Scorer
from velo.storage.log.format import IDEMPOTENCY_KEY
from velo.storage.store import Store
from velo.training.bundle import BLEND, OWN

P = ParamSpec("P")
T = TypeVar("T")
TRIES: Final = 4
"""The most attempts at work that may succeed a moment later."""
Given = Market | NonRunner | Reinstated
SECONDS: Final = (0.001, 0.002, 0.004, 0.006, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


class OddsWriter(Protocol):
    """Writes odds, a withdrawal or a reinstatement to the log, or to the feed that fills it."""

    def __call__(self, message: Given, kept: Mapping[str, Any]) -> tuple[str, int | None]:
        """Write a message with the fields `kept` beside it. Return `log` and the seq, or `feed` and None.

        Raises `NotTaken` if it cannot be written now.
        """
        ...


class ScoreWriter(Protocol):
    """Logs served scores."""

    def __call__(self, scored: ScoredRace, card: Racecard | None = None, odds: Market | None = None) -> None:
        """Append one served score."""
        ...


class Metrics:
    """The metrics of one process of the service, or of all processes that share a folder, each with its own file."""

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"namespace": "velo_serve", "registry": self.registry}
        self.scored = Histogram(
            "score_seconds", "To score a race, by where its features were.", ["origin"], buckets=SECONDS, **named
        )
        self.refused = Counter("refused", "Requests refused, by status.", ["status"], **named)
        self.listeners = Gauge("listeners", "Who listens to events.", multiprocess_mode="livesum", **named)
        self.over_share = Counter(
            "over_share",
            "Requests and listeners refused or ended because their address held its share.",
            ["queue"],
            **named,
        )
        self.stale = Counter("stale_scores", "Scores in which some value was stale.", **named)

    def refusal(self, status: int, queue: str | None = None) -> None:
        """Count a refused request; `queue` names the queue in which its address used up its share."""
        self.refused.labels(str(status)).inc()
        if queue is not None:
            self.over_share.labels(queue).inc()

    def displaced(self, queue: str) -> None:
        """Count a listener that was replaced by one of another address."""
        self.over_share.labels(queue).inc()

    def written(self) -> bytes:
        """The metrics in Prometheus' text format; of all processes if they share a folder."""
        if self._shared is None:
            return generate_latest(self.registry)
        for path in self._shared.glob("gauge_live*_*.db"):
            process = int(path.stem.rpartition("_")[2])
            if not _runs(process):
                mark_process_dead(process, str(self._shared))  # type: ignore[no-untyped-call]
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(of_all)


@dataclass(frozen=True, slots=True)
class Service:
    """The collaborators of the service: `clock` returns the present (UTC), `write` appends messages, `keep` logs scores.

    `speed` is how many seconds of `clock` pass in one second: pages count down by it.
    """

    store: Store
    scorer: Scorer
    clock: Callable[[], datetime]
    write: OddsWriter
    keep: ScoreWriter
    metrics: Metrics = field(default_factory=Metrics)
    speed: float = 1.0
    past: Past = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "past", Past(self.store, self.scorer))

    def insisted(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Do some work, and retry it after a partly written result, a writer's clock slightly ahead, or a slow online store.

        A slow store is retried only if it answered other requests meanwhile.
        """
        redis = self.scorer.online.redis
        for _ in range(TRIES - 1):
            begun = redis.deadline.monotonic()
            try:
                return work(*args, **named)
            except (BeingWritten, AheadOfClock):
                continue
            except (OnlineStoreUnavailable, Busy):
                if not redis.answered_since(begun):
                    raise
        return work(*args, **named)

    def score(self, race_id: str, as_of: datetime | None, *, with_drivers: bool) -> ScoredRace:
        """Score a race and log the score."""
        with self.metrics.scored.labels("redis" if as_of is None else "history").time():
            scored = self.scorer.score(race_id, self.clock(), as_of, with_drivers=with_drivers)
            self._served(scored)
        return scored

    def score_card(self, given: GivenCard, *, with_drivers: bool) -> ScoredRace:
        """Score the card of a request and log the score."""
        card, odds = _card(given), _odds(given)
        with self.metrics.scored.labels("card").time():
            scored = self.scorer.score_card(card, odds, self.clock(), with_drivers=with_drivers)
            self._served(scored, card, odds)
        return scored

    def day(self, asked: date | None) -> dict[str, Any]:
        """The races of a local date, today's by default, in order of off time."""
        now, zone = self.clock(), self.store.timezone
        today = local_date(now, zone)
        day = asked or today
        messages = self._messages(day, day, now)
        model: dict[str, Any] | None = None
        missing = None
        try:
            bundle = self.scorer.bundles.current()
            model = {"version": bundle.version, "gate": bundle.gate, "mode": bundle.mode}
        except UserError as refused:
            missing = str(refused)
        return {
            "date": day.isoformat(),
            "timezone": zone.key,
            "now": to_text(now),
            "speed": self.speed,
            "simulated": self.store.simulated,
            "model": model,
            "model_missing": missing,
            "races": _lines(messages, now),
            "undeclared": self._undeclared(messages, now),
        }

    def races(self, first: date, last: date) -> list[dict[str, Any]]:
        """The races of some local dates, both included, as `day` lists those of one."""
        now = self.clock()
        return _lines(self._messages(first, last, now), now)

    def _messages(self, first: date, last: date, now: datetime) -> list[Sequence[Message]]:
        """The messages of each race: from Redis, and from the tables those of days that it may have dropped or never had."""
        zone = self.store.timezone
        begin, end = local_midnight(first, zone), local_midnight(last + timedelta(days=1), zone)
        found: dict[str | None, Sequence[Message]] = {
            race.messages[0].race_id: race.messages for race in self.scorer.online.races(begin, end)
        }
        if not found or begin < now - KEEP:
            for messages in messages_between(self.store.home, first, last):
                found.setdefault(messages[0].race_id, messages)
        return list(found.values())

    def _undeclared(self, messages: Sequence[Sequence[Message]], now: datetime) -> list[dict[str, Any]]:
        """Messages known by now about undeclared horses of a day's races, and about any undeclared race."""
        waiting, races = self.scorer.online.waiting()
        by_race = [undeclared_in(_by(of, now)) for of in messages]
        by_race += [undeclared_in(_by(race.messages, now), races) for race in waiting]
        found = [message for of in by_race for message in of if message["declared_at"] is None]
        return sorted(found, key=lambda message: (message["known_at"], message["race_id"]))

    def card(self, race_id: str) -> dict[str, Any]:
        """The state of a race; raises `UnknownRace` if it is not declared."""
        stored = self.scorer.online.stored(race_id)
        now = self.clock()
        card = card_of(stored.messages, now) if stored is not None else None
        if card is None:
            card = card_of(self.scorer.history.messages(race_id).messages, now)
        if card is None:
            raise UnknownRace(f"race {race_id!r} is not declared: see /v1/races")
        return card

    def form(self, race_id: str) -> dict[str, Any]:
        """The form lines of a race and its odds so far; see `Past.form`."""
        return self.past.form(race_id, self.clock())

    def record(self, kind: Kind, key: str) -> dict[str, Any]:
        """The record of a horse, trainer or jockey; see `Past.record`."""
        return self.past.record(kind, key, self.clock())

    def search(self, text: str) -> dict[str, Any]:
        """What has a text in its name; see `Past.search`."""
        return {"matches": self.past.search(text, self.clock())}

    def combinations(self, race_id: str, pool: str, most: int) -> dict[str, Any]:
        """The likeliest combinations of a pool of a race; the score behind them is kept."""
        scored = self.score(race_id, None, with_drivers=False)
        runners = scored.runners
        blended = all(runner.blended is not None for runner in runners)
        win = np.array([runner.blended if blended else runner.probability for runner in runners], dtype=np.float64)
        found = self.scorer.bundles.of(scored.model).combinations(win, pool, most, BLEND if blended else OWN)
        return {
            "race_id": race_id,
            "as_of": to_text(scored.as_of),
            "model": scored.model,
            "pool": pool,
            "combinations": [
                {"horse_ids": [runners[at].horse_id for at in places], "probability": chance, "fair_odds": 1.0 / chance}
                for places, chance in found
            ],
        }

    def take_odds(self, race_id: str, given: GivenOdds, key: str | None = None) -> dict[str, Any]:
        """Write odds of a declared race, once for an idempotency key; raises `UserError` for a horse that is not a runner of it."""
        runners = {runner["horse_id"] for runner in self.card(race_id)["declared"]}
        for name, named in (("prices", given.prices), ("volumes", given.volumes or {})):
            if strangers := sorted(named.keys() - runners):
                raise UserError(f"{name} has {strangers[0]!r}, no runner of {race_id!r}: use the horse_id of its card")
        return self._accept(Market(race_id, given.prices, given.source, volumes=given.volumes or None), key)

    def take_withdrawal(self, race_id: str, given: GivenWithdrawal, key: str | None = None) -> dict[str, Any]:
        """Write the withdrawal of a declared horse, once for an idempotency key; raises `UserError` for any other horse."""
        self._refuse_stranger(race_id, given.horse_id)
        message = NonRunner(race_id, given.horse_id, given.reason, reduction_factor=given.reduction_factor)
        return self._accept(message, key)

    def take_reinstatement(self, race_id: str, horse_id: str, key: str | None = None) -> dict[str, Any]:
        """Write the reinstatement of a withdrawn horse, once for an idempotency key; raises `UserError` for a horse that is not declared."""
        self._refuse_stranger(race_id, horse_id)
        return self._accept(Reinstated(race_id, horse_id), key)

    def _accept(self, message: Given, key: str | None) -> dict[str, Any]:
        into, seq = self.write(message, {} if key is None else {IDEMPOTENCY_KEY: key})
        return {"into": into, "seq": seq}

    def _refuse_stranger(self, race_id: str, horse_id: str) -> None:
        card = self.card(race_id)
        named = [runner["horse_id"] for runner in (*card["declared"], *card["non_runners"])]
        if horse_id not in named:
            near = nearest(horse_id, named)
            raise UserError(
                f"horse_id is {horse_id!r}, which no card of {race_id!r} declares: "
                + ("use the horse_id of its card" if near is None else f"the nearest declared is {near!r}, use that")
            )

    def ready(self) -> dict[str, Any]:
        """Whether a race can be scored now, and the state of each part."""
        state = {"redis": "ok", "model": "ok", "stream": "none has run here"}
        try:
            head = self.scorer.online.head()
            if head is not None:
                state["stream"] = "at the log's end" if head.live else f"catching up, at {to_text(head.known_at)}"
        except UserError as away:
            state["redis"] = state["stream"] = str(away)
        else:
            try:
                self.scorer.online.refuse_not_whole(self.clock())
            except UserError as lost:
                state["redis"] = str(lost)
        try:
            self.scorer.bundles.current()
        except UserError as refused:
            state["model"] = str(refused)
        ready = state["redis"] == state["model"] == "ok" and not state["stream"].startswith("catching up")
        return {"ready": ready, **state}

    def newest_event(self) -> str:
        """The id of the newest event; `0-0` before any."""
        head = self.scorer.online.head()
        return "0-0" if head is None else f"{head.seq + 1}-0"

    def _served(self, scored: ScoredRace, card: Racecard | None = None, odds: Market | None = None) -> None:
        if scored.stale:
            self.metrics.stale.inc()
        self.keep(scored, card, odds)


def _lines(messages: Sequence[Sequence[Message]], now: datetime) -> list[dict[str, Any]]:
    lines = [line for of in messages if (line := line_of(of, now)) is not None]
    return sorted(lines, key=lambda line: (line["off_time"], line["race_id"]))


def _by(messages: Sequence[Message], now: datetime) -> list[Message]:
    return [message for message in messages if message.known_at is not None and message.known_at <= now]


def _card(given: GivenCard) -> Racecard:
    race = Race(
        given.race_id, given.race_date, given.off_time, given.course, race_class=given.race_class,
        surface=given.surface, going=given.going, distance_m=given.distance_m,
    )  # fmt: skip
    runners = tuple(Runner(**runner.model_dump(exclude={"odds"})) for runner in given.runners)
    horses = [runner.horse_id for runner in runners]
    twice = next((horse for horse in horses if horses.count(horse) > 1), None)
    if twice is not None:
        raise UserError(f"{twice!r} is declared twice: a horse runs once in a race")
    return Racecard(race, runners)


def _odds(given: GivenCard) -> Market | None:
    prices = {runner.horse_id: runner.odds for runner in given.runners if runner.odds is not None}
    return Market(given.race_id, prices, "request") if prices else None


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
