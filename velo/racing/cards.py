"""The state of a race at an instant: its declared runners, going and odds, from the messages known by then.

`training/dataset/sql/declared.sql` computes the same for all races at once; a test compares the two.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar

from velo.racing.going import distance_band, draw_cell, going_group
from velo.racing.messages import (
    OUTCOMES,
    STARTED,
    GoingChange,
    JockeyChange,
    Market,
    Message,
    NonRunner,
    Race,
    Racecard,
    Reinstated,
    Result,
    Runner,
    instant_of,
)
from velo.racing.race_values import draw_thirds

M = TypeVar("M", Racecard, Market)
Notice = NonRunner | Reinstated | JockeyChange | GoingChange
N = TypeVar("N", NonRunner, Reinstated, JockeyChange, GoingChange)
Source = Literal["racecard", "result version 1"]
FROM_CARD: Final[Source] = "racecard"
FROM_RESULT: Final[Source] = "result version 1"
_NO_OUTCOME: Final[dict[str, Any]] = {**dict.fromkeys(OUTCOMES), "kept": {}}
DRIFT_MINUTES: Final = (60, 30, 10, 5)
"""How many minutes before an instant the odds are compared with those of the instant."""
_MINUTE: Final = timedelta(minutes=1)
FIRST_VERSION: Final = 1
"""The version that bets settle on and labels are made from (contract 3)."""


@dataclass(frozen=True, slots=True)
class Declared:
    """The state of a race at `instant` (UTC).

    `runners` are the declared runners not withdrawn, `withdrawn` the others of the same card; both without outcomes.
    `draw_thirds` is parallel to `runners`. `odds` is the latest snapshot, None if there was none, `earlier_odds` those that it
    is compared with (`earlier_odds`), one for each of `DRIFT_MINUTES`. `source` says where the runners come from: without a
    card by then, the starters of the first result, which was not known then.
    """

    instant: datetime
    race: Race
    runners: tuple[Runner, ...]
    withdrawn: tuple[Runner, ...]
    draw_thirds: tuple[int, ...]
    odds: Market | None
    source: Source
    earlier_odds: tuple[Market | None, ...] = (None,) * len(DRIFT_MINUTES)

    def entity_keys(self) -> list[dict[str, str | None]]:
        """Return the entity keys of each runner, in the order of `runners`; None for a missing key."""
        race = self.race
        return [
            {
                "trainer_id": runner.trainer_id,
                "jockey_id": runner.jockey_id,
                "horse_id": runner.horse_id,
                "course": race.course,
                "distance_band": distance_band(race.distance_m),
                "going_group": going_group(race.going),
                "draw_cell": draw_cell(race.course, race.surface, race.distance_m, race.going, third),
            }
            for runner, third in zip(self.runners, self.draw_thirds, strict=True)
        ]


def first_result(messages: Iterable[Message]) -> Result | None:
    """Return version 1 of the result of one race; None if there is none."""
    results = (message for message in messages if isinstance(message, Result))
    return next((result for result in results if result.result_version == FIRST_VERSION), None)


def result_known_at(messages: Iterable[Message]) -> datetime | None:
    """Return the instant at which a race's earliest result of any version became known; None without a result."""
    return min((instant_of(message) for message in messages if isinstance(message, Result)), default=None)


def decision_time(messages: Sequence[Message], lead: timedelta) -> datetime | None:
    """Return the decision time of a race: `lead` before the off of the latest card known by then.

    If no card is in time, it counts back from the off of the first result, else of the latest card; None without
    either. If a result became known before that off, it counts back from the instant of that result.
    """
    known_at = result_known_at(messages)

    def decided(off_time: datetime) -> datetime:
        return (off_time if known_at is None else min(off_time, known_at)) - lead

    cards = _by_known_at(messages, Racecard)
    timely = [card for card in cards if instant_of(card) <= decided(card.race.off_time)]
    result = first_result(messages)
    if not timely and result is not None:
        return decided(result.race.off_time)
    cards = timely or cards
    return decided(cards[-1].race.off_time) if cards else None


def declared_at(messages: Sequence[Message], instant: datetime) -> Declared | None:
    """Return the state of a race at an instant, from all messages of that race in any order.

    Race and runners are those of the latest card known by then, less the withdrawn horses (`withdrawn_since`). The last
    message decides the going and each jockey; a card without a value leaves the earlier one in force. Without a card,
    race and runners are those of the first result; None if there is neither.
    """
    known = _known_by(messages, instant)
    odds, earlier = odds_at(messages, instant)
    cards = [message for message in known if isinstance(message, Racecard)]
    if cards:
        return replace(_from_cards(cards, known, instant, odds), earlier_odds=earlier)
    result = first_result(messages)
    if result is None:
        return None
    ran = [runner for runner in result.runners if runner.started]
    others = [runner for runner in result.runners if not runner.started]
    return replace(_declared(instant, result.race, ran, others, odds, FROM_RESULT), earlier_odds=earlier)


def odds_at(messages: Iterable[Message], instant: datetime) -> tuple[Market | None, tuple[Market | None, ...]]:
    """Return the latest snapshot of a race known by an instant, and the one before it for each of `DRIFT_MINUTES`.

    The one before is of the same source: the last known by that number of minutes before the minute of the instant. It is None
    without such a snapshot, and where it is the latest itself: a market not shown again since did not move in a known way.
    """
    markets = [message for message in messages if isinstance(message, Market) and instant_of(message) <= instant]
    if not markets:
        return None, (None,) * len(DRIFT_MINUTES)
    markets.sort(key=instant_of)
    last = markets[-1]
    same = [market for market in markets if market.source == last.source]
    minute = instant.replace(second=0, microsecond=0)
    earlier = []
    for minutes in DRIFT_MINUTES:
        then = minute - minutes * _MINUTE
        known = next((market for market in reversed(same) if instant_of(market) <= then), None)
        earlier.append(None if known is last else known)
    return last, tuple(earlier)


def withdrawn_since(messages: Sequence[Message], instant: datetime) -> dict[str, datetime]:
    """Return the horses withdrawn at an instant and since when, from the messages of one race in any order.

    A card that marks a horse, or a `NonRunner`, withdraws it. A card that names it without the mark, a `Reinstated`, or
    a result in which it started takes that back. A later card without the horse changes nothing.
    """
    known = _known_by(messages, instant)
    named = _first_named([message for message in known if isinstance(message, Racecard)])
    changes: list[tuple[datetime, bool, str, bool]] = []
    version = 0
    for message in known:
        at = instant_of(message)
        if isinstance(message, Racecard):
            changes += [(at, False, runner.horse_id, not _may_run(runner)) for runner in message.runners]
        elif isinstance(message, Result) and message.result_version > version:
            version = message.result_version
            changes += [(at, False, runner.horse_id, False) for runner in message.runners if runner.started]
        elif isinstance(message, NonRunner | Reinstated):
            effect = takes_effect(message, named.get(message.horse_id))
            # True sorts a message that waited for its card after that card
            changes += [(effect, True, message.horse_id, isinstance(message, NonRunner))] if effect else []
    since: dict[str, datetime] = {}
    for at, _, horse_id, out in sorted(changes, key=lambda change: change[:2]):
        if out:
            since.setdefault(horse_id, at)
        else:
            since.pop(horse_id, None)
    return since


def takes_effect(notice: Notice, declared: Racecard | None) -> datetime | None:
    """Return when a notice takes effect, given the first card that declared its horse or race; None for never.

    At once if that card was known by then; else with that card, if it became known before its off (contract 10).
    """
    if declared is None:
        return None
    at, card_at = instant_of(notice), instant_of(declared)
    if card_at <= at:
        return at
    return card_at if card_at < declared.race.off_time else None


def _known_by(messages: Sequence[Message], instant: datetime) -> list[Message]:
    return sorted((message for message in messages if instant_of(message) <= instant), key=instant_of)


def _first_named(cards: Sequence[Racecard]) -> dict[str, Racecard]:
    """Return the first card that names each horse; `cards` are in order."""
    return {runner.horse_id: card for card in reversed(cards) for runner in card.runners}


def _from_cards(
    cards: Sequence[Racecard], known: Sequence[Message], instant: datetime, odds: Market | None
) -> Declared:
    card, named = cards[-1], _first_named(cards)
    goings = _in_force(known, GoingChange, card, lambda _: cards[0], lambda _: card.race.going is None)
    race = replace(card.race, going=goings[-1].going) if goings else card.race
    riders = {runner.horse_id: runner.jockey_id for runner in card.runners}
    rides = _in_force(
        known, JockeyChange, card, lambda ride: named.get(ride.horse_id), lambda ride: riders.get(ride.horse_id) is None
    )
    changes = {ride.horse_id: ride for ride in rides}
    out = withdrawn_since(known, instant)
    runners = [_with_rider(runner, changes) for runner in card.runners if runner.horse_id not in out]
    return _declared(
        instant, race, runners, [runner for runner in card.runners if runner.horse_id in out], odds, FROM_CARD
    )


def _in_force(
    known: Sequence[Message],
    kind: type[N],
    card: Racecard,
    declared: Callable[[N], Racecard | None],
    silent: Callable[[N], bool],
) -> list[N]:
    """Return the notices of a kind still in force: those after the latest card, and those for which it has no value."""
    notices = []
    for message in known:
        if isinstance(message, kind):
            effect = takes_effect(message, declared(message))
            if effect is not None and (effect >= instant_of(card) or silent(message)):
                notices.append(message)
    return notices


def _declared(
    instant: datetime,
    race: Race,
    runners: Sequence[Runner],
    withdrawn: Sequence[Runner],
    odds: Market | None,
    source: Source,
) -> Declared:
    thirds = draw_thirds([runner.draw for runner in runners])
    before = tuple(without_outcome(runner) for runner in runners)
    return Declared(instant, race, before, tuple(map(without_outcome, withdrawn)), tuple(thirds), odds, source)


def _with_rider(runner: Runner, changes: Mapping[str, JockeyChange]) -> Runner:
    change = changes.get(runner.horse_id)
    return replace(runner, jockey_id=change.jockey_id, jockey=change.jockey) if change else runner


def _may_run(runner: Runner) -> bool:
    return runner.status is None or runner.status in STARTED


def without_outcome(runner: Runner) -> Runner:
    """Return a runner as a card declares it: without its outcome and unknown columns."""
    return replace(runner, **_NO_OUTCOME)


def _by_known_at(messages: Iterable[Message], kind: type[M]) -> list[M]:
    return sorted((message for message in messages if isinstance(message, kind)), key=instant_of)
