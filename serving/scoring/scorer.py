"""Score a race: as of now from Redis, in one round trip and within milliseconds; as of an instant from the history.

It reads the rows that Feast's registry and schema define; the tests compare it with `get_online_features`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Lock
from typing import Final

import numpy as np

from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.race_cards import KEEP
from velo.feature_repo.stores.redis_client import connect_url, refuse_unusable
from velo.feature_repo.stores.whole import Expected
from velo.racing.cards import Declared, decision_time, first_result, odds_at, result_known_at
from velo.racing.clock import from_us, to_text, to_us
from velo.racing.messages import Market, Message, Racecard, Result
from velo.serving.scoring.bundles import Bundles
from velo.serving.scoring.drivers import DriverExplainer
from velo.serving.scoring.feature_matrix import FeatureMatrix
from velo.serving.scoring.history import LogView, RaceHistory, declared
from velo.serving.scoring.online_race import POSTED, AheadOfClock, CachedRace, CatchingUp, OnlineRead, RaceReader
from velo.serving.scoring.race_messages import RaceMessages
from velo.serving.scoring.read_plan import NEVER
from velo.serving.scoring.redis_reader import RedisReader
from velo.serving.scoring.request_deadline import DEADLINE_S, UNHURRIED_S
from velo.serving.scoring.scored import RaceSnapshot, ScoredRace, scored_race
from velo.storage.store import Store
from velo.training.bundle import Bundle

PAST_SCORES_CACHED: Final = 500
"""Scores of the past that are cached."""


class NoFeatures(UserError):
    """The online store holds no feature of any runner, though the tables do."""


@dataclass(slots=True)
class Scorer:
    """Scores the races of one store. Safe for threads.

    Raises `OnlineStoreUnavailable`, `Busy`, `CatchingUp` and `TablesBehind` if a later request may succeed, `UnknownRace`
    and other `UserError`s if it will not.
    """

    online: RaceReader
    bundles: Bundles
    history: RaceHistory
    _past_scores: "OrderedDict[tuple[object, ...], ScoredRace]" = field(default_factory=OrderedDict)
    _explainer: DriverExplainer = field(default_factory=DriverExplainer)
    _lock: Lock = field(default_factory=Lock)

    def warm(self) -> None:
        """Load the model and connect before the first request; a request tries again what fails here."""
        with suppress(UserError):
            model = self.bundles.current()
            blank = np.zeros((2, len(model.features)))
            model.blend(model.probabilities(blank), np.full(2, 2.0), blank)
            model.contributions(blank)
        with suppress(UserError):
            self.online.head()

    def warm_past(self, now: datetime) -> None:
        """Open Feast and score the latest race that was run, so that the first request of the kind does not wait for it."""
        with suppress(UserError):
            self.history.warm()
            stored = self.online.races(now - KEEP, now)
            run = [race.messages[0].race_id for race in stored if result_known_at(race.messages) is not None]
            if run and run[-1] is not None:
                self.score(run[-1], now)

    def score(
        self, race_id: str, now: datetime, as_of: datetime | None = None, *, with_drivers: bool = True
    ) -> ScoredRace:
        """Score a race as of now from Redis; as of an instant, or a race that was run, from the history.

        A race with a result is scored as of its decision time: the current features know the result. The log decides whether it
        has one, and is read again after the features: by then it holds every message that they were made from. An instant at or
        after the first result is refused.
        """
        if as_of is not None and as_of > now:
            raise UserError(f"as_of {to_text(as_of)} is still to come: leave it out to score with what is known now")
        model = self.bundles.current()
        if as_of is None and self.history.seen(race_id).first_result is None:
            with self.online.redis.deadline.shared():
                race = self.online.cached(race_id, now)
                if race is not None:
                    read = self._read(race_id, race, now)
                    if read is not None:
                        return self._score_read(model, read, with_drivers=with_drivers)
        return self._score_past(model, race_id, now, as_of, with_drivers=with_drivers)

    def score_card(
        self, card: Racecard, odds: Market | None, now: datetime, *, with_drivers: bool = True
    ) -> ScoredRace:
        """Score the card of a request, at its odds, with the features as of now."""
        model = self.bundles.current()
        messages: list[Message] = [replace(card, known_at=now)]
        if odds is not None:
            messages.append(replace(odds, known_at=now))
        race = declared(messages, now)
        read = self.online.read(POSTED, CachedRace.of(None, tuple(messages), race, POSTED), now)
        if self._was_run(card.race.race_id, read):
            raise UserError(
                f"race {card.race.race_id!r} has been run, and the features of now know its result: "
                "ask for its score by its id"
            )
        if odds is not None:
            race = replace(race, odds=replace(odds, known_at=read.as_of))
        matrix = read.race.plan.feature_matrix(read.rows, read.read_at)
        return self._scored(
            model, RaceSnapshot(race, matrix, read.as_of, "redis"), read.read_at, with_drivers=with_drivers
        )

    def _read(self, race_id: str, race: CachedRace, now: datetime) -> OnlineRead | None:
        """Read a race to come; None if it has a result by the time it was read."""
        read = self.online.read(race_id, race, now)
        return None if self._was_run(race_id, read) else read

    def _score_read(
        self, model: Bundle, read: OnlineRead, *, with_drivers: bool, notes: Sequence[str] = ()
    ) -> ScoredRace:
        odds, earlier_odds = odds_at(read.race.messages, read.as_of)
        race = replace(read.race.plan.race, odds=odds, earlier_odds=earlier_odds)
        matrix = read.race.plan.feature_matrix(read.rows, read.read_at)
        self._refuse_unfilled(race, matrix)
        snapshot = RaceSnapshot(race, matrix, read.as_of, "redis")
        return self._scored(model, snapshot, read.read_at, notes=notes, with_drivers=with_drivers)

    def _was_run(self, race_id: str, read: OnlineRead) -> bool:
        """Whether a race has a result, checked after its rows were read: by then the log holds every row's cause."""
        seen = self.history.seen(race_id)
        newest_us = int(read.rows.event_us.max(initial=NEVER))
        if newest_us > (NEVER if seen.log_end is None else to_us(seen.log_end)):
            raise CatchingUp(
                f"Redis holds a feature known at {to_text(from_us(newest_us))}, after the end of the log at "
                f"{self.history.store.home.log}: run `velo online rebuild`"
            )
        return seen.first_result is not None or result_known_at(read.race.messages) is not None

    def _score_past(
        self, model: Bundle, race_id: str, now: datetime, as_of: datetime | None, *, with_drivers: bool
    ) -> ScoredRace:
        past, notes = self.history.messages(race_id), list[str]()
        if as_of is None and result_known_at(past.messages) is None:
            scored = self._score_without_card(model, past, now, with_drivers=with_drivers)
            if scored is not None:
                return scored
            past = self.history.messages(race_id)
        now = self.online.present(now)
        if as_of is None:
            as_of = self._decision_time(race_id, past, now, timedelta(seconds=model.lead_s))
            notes.append(f"the race has been run: scored as of its decision time, {as_of:%Y-%m-%d %H:%M:%S} UTC")
        elif (known_at := result_known_at(past.messages)) is not None and as_of >= known_at:
            raise UserError(
                f"as_of {to_text(as_of)} is not before the first result of race {race_id!r}, known at "
                f"{to_text(known_at)}: the features know it then; leave as_of out for the decision time"
            )
        result = _result_by(past.messages, now)
        key = (
            race_id,
            as_of,
            model.version,
            model.gate,
            result is None,
            len(past.messages),
            past.known_at,
            *notes,
            with_drivers,
        )
        if (cached := self._past_scores.get(key)) is not None:
            return replace(cached, scored_at=now)
        snapshot = self.history.snapshot(past.messages, as_of)
        if snapshot.race.source != "racecard":
            notes.append("no racecard was known by then: runners, riders and going are those of the result")
        scored = self._scored(model, snapshot, now, result=result, notes=notes, with_drivers=with_drivers)
        with self._lock:
            self._past_scores[key] = scored
            while len(self._past_scores) > PAST_SCORES_CACHED:
                self._past_scores.popitem(last=False)
        return scored

    def _decision_time(self, race_id: str, past: RaceMessages, now: datetime, lead: timedelta) -> datetime:
        """The decision time of a race that was run; raises `CatchingUp`, or `AheadOfClock` if it is still to come."""
        known_at = result_known_at(past.messages)
        as_of = decision_time(past.messages, lead)
        if known_at is None or as_of is None:
            raise CatchingUp(f"the result of race {race_id!r} cannot be read: run `velo log check`")
        if as_of > now:
            raise AheadOfClock(
                f"race {race_id!r} was run at {to_text(known_at)} by the log's clock, which is ahead of this machine's: "
                "set this machine's clock, or that of the machine that writes the log"
            )
        return as_of

    def _score_without_card(
        self, model: Bundle, past: RaceMessages, now: datetime, *, with_drivers: bool
    ) -> ScoredRace | None:
        """Score a race without a card in Redis, in a store without a stream; None if it has been run."""
        race = declared(past.messages, now)
        race_id = race.race.race_id
        read = self._read(race_id, CachedRace.of(None, past.messages, race, race_id), now)
        if read is None:
            return None
        return self._score_read(model, read, notes=self.history.behind(), with_drivers=with_drivers)

    def _refuse_unfilled(self, race: Declared, matrix: FeatureMatrix) -> None:
        """Raise `NoFeatures` if Redis has no row for a race and the tables have some: Redis was not filled."""
        if matrix.missing.all() and self.history.knows(race):
            raise NoFeatures(
                f"Redis holds no feature of any runner of {race.race.race_id!r}: run `velo build` and `feast "
                "materialize`, or `velo stream`, so that they reach it"
            )

    def _scored(
        self,
        model: Bundle,
        snapshot: RaceSnapshot,
        now: datetime,
        *,
        with_drivers: bool,
        result: Result | None = None,
        notes: Sequence[str] = (),
    ) -> ScoredRace:
        explainer = self._explainer if with_drivers else None
        return scored_race(model, snapshot, now, result=result, notes=notes, explainer=explainer)


def score(
    store: Store,
    race_id: str,
    *,
    log: LogView,
    now: datetime,
    as_of: datetime | None = None,
    clock: Callable[[], datetime] | None = None,
) -> ScoredRace:
    """Score a race with the current model: as of now from Redis, or as of an instant from the offline history.

    A race whose result is in the log is scored as of its decision time, and an instant after the result is refused: the features
    know the result then. `clock` returns the present after each read; without it the present is `now`. Raises `UserError` for a
    race that is unknown or not declared by then, a future instant, a missing or unfit model, and, for a race to come, a Redis
    that cannot be reached or has no row of it.
    """
    return scorer_of(store, log, deadline_s=UNHURRIED_S, clock=clock).score(race_id, now, as_of)


def scorer_of(
    store: Store, log: LogView, *, deadline_s: float = DEADLINE_S, clock: Callable[[], datetime] | None = None
) -> Scorer:
    """The scorer of a store and its log; it connects and loads when first needed. Raises `UserError` for an unusable URL."""
    if store.redis_url is not None:
        refuse_unusable(store.redis_url)
    redis = RedisReader(lambda: _address_of(store), deadline_s)
    history = RaceHistory(store, log)
    return Scorer(RaceReader(redis, history, Expected(store.home), clock), Bundles(store), history)


def _address_of(store: Store) -> str:
    """The address of the store's Redis; starts the embedded one if needed. Raises `UserError` if there is none."""
    if store.redis_url is None:
        return embedded_redis.ensure(store.home)
    connect_url(store.redis_url).close()
    return store.redis_url


def _result_by(messages: Sequence[Message], now: datetime) -> Result | None:
    """Version 1 of a race's result, once it is known."""
    result = first_result(messages)
    return result if result is not None and result.known_at is not None and result.known_at <= now else None
