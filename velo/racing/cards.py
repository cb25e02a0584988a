"""A race as it stood at an instant: who was declared, on what going, at what odds, by what had been told until then.

`training/sql/declared.sql` says the same for all races at once; a test holds the two equal.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, TypeVar

from velo.racing.going import distance_band, draw_cell, going_group
from velo.racing.measures import draw_thirds
from velo.racing.messages import (
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

M = TypeVar("M", Racecard, Market)
Notice = NonRunner | Reinstated | JockeyChange | GoingChange
N = TypeVar("N", NonRunner, Reinstated, JockeyChange, GoingChange)
Source = Literal["racecard", "result version 1"]
FROM_CARD: Final[Source] = "racecard"
FROM_RESULT: Final[Source] = "result version 1"
FIRST_VERSION: Final = 1
"""The version that bets settle on and labels are made from (contract 3)."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A race as it stood at `instant`.

    `runners` are those declared and not withdrawn, `withdrawn` the others of the same card; both without an outcome.
    `draw_thirds` goes with `runners`. `odds` is the latest snapshot told, None where there was none. `source` is what
    named the runners: without a card told by then, the starters of the first result, which was not known then.
    """

    instant: datetime
    race: Race
    runners: tuple[Runner, ...]
    withdrawn: tuple[Runner, ...]
    draw_thirds: tuple[int, ...]
    odds: Market | None
    source: Source

    def entity_keys(self) -> list[dict[str, str | None]]:
        """The entity keys of each runner, in the order of `runners`; None where it has none."""
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
    """Version 1 of the result of one race; None where it was never told."""
    versions = (one for one in messages if isinstance(one, Result) and one.result_version == FIRST_VERSION)
    return next(versions, None)


def result_known_at(messages: Iterable[Message]) -> datetime | None:
    """When a race was first known to be run: the instant of its earliest result, of any version; None before."""
    return min((instant_of(one) for one in messages if isinstance(one, Result)), default=None)


def decision_time(messages: Sequence[Message], lead: timedelta) -> datetime | None:
    """When a race is decided on: `lead` before the off of the latest card that was told by then.

    Where no card was in time, `lead` before the off of its first result, else of its latest card; None without either.
    A result that was known before that off has the race decided `lead` before it was known.
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
    """A race at an instant, from the messages of that one race (in any order, later ones among them).

    The latest card told by then names race and runners; a horse that it marks, or whose withdrawal stands
    (`withdrawn_since`), is withdrawn. Of going and jockey the last word counts, and a card that is silent leaves what
    was told before it. Without a card, race and runners are those of the first result; None where there is neither.
    """
    known = _known_by(messages, instant)
    markets = [one for one in known if isinstance(one, Market)]
    odds = markets[-1] if markets else None
    cards = [one for one in known if isinstance(one, Racecard)]
    if cards:
        return _from_cards(cards, known, instant, odds)
    result = first_result(messages)
    if result is None:
        return None
    ran = [runner for runner in result.runners if runner.started]
    others = [runner for runner in result.runners if not runner.started]
    return _declared(instant, result.race, ran, others, odds, FROM_RESULT)


def withdrawn_since(messages: Sequence[Message], instant: datetime) -> dict[str, datetime]:
    """The horses withdrawn at an instant, each with when it was, from the messages of one race (in any order).

    A card that marks a horse or a `NonRunner` withdraws it; a card that names it without the mark, a `Reinstated` or a
    result in which it started takes that back. Horses that a later card leaves out stay as they were.
    """
    known = _known_by(messages, instant)
    named = _first_named([one for one in known if isinstance(one, Racecard)])
    words: list[tuple[datetime, bool, str, bool]] = []
    version = 0
    for one in known:
        at = instant_of(one)
        if isinstance(one, Racecard):
            words += [(at, False, runner.horse_id, not _may_run(runner)) for runner in one.runners]
        elif isinstance(one, Result) and one.result_version > version:
            version = one.result_version
            words += [(at, False, runner.horse_id, False) for runner in one.runners if runner.started]
        elif isinstance(one, NonRunner | Reinstated):
            effect = takes_effect(one, named.get(one.horse_id))
            # of a message that waited for its card, the card comes first
            words += [(effect, True, one.horse_id, isinstance(one, NonRunner))] if effect else []
    since: dict[str, datetime] = {}
    for at, _, horse_id, out in sorted(words, key=lambda word: word[:2]):
        if out:
            since.setdefault(horse_id, at)
        else:
            since.pop(horse_id, None)
    return since


def takes_effect(notice: Notice, declared: Racecard | None) -> datetime | None:
    """When a notice takes effect, by the first card that named what it is about; None for never.

    At once where that card was told by then; else with that card, if it was told before its off (contract 12).
    """
    if declared is None:
        return None
    at, card_at = instant_of(notice), instant_of(declared)
    if card_at <= at:
        return at
    return card_at if card_at < declared.race.off_time else None


def _known_by(messages: Sequence[Message], instant: datetime) -> list[Message]:
    return sorted((one for one in messages if instant_of(one) <= instant), key=instant_of)


def _first_named(cards: Sequence[Racecard]) -> dict[str, Racecard]:
    """The first card that names each horse, of cards in order."""
    return {runner.horse_id: card for card in reversed(cards) for runner in card.runners}


def _from_cards(
    cards: Sequence[Racecard], known: Sequence[Message], instant: datetime, odds: Market | None
) -> Declared:
    card, named = cards[-1], _first_named(cards)
    goings = _standing(known, GoingChange, card, lambda one: cards[0], lambda one: card.race.going is None)
    race = replace(card.race, going=goings[-1].going) if goings else card.race
    riders = {runner.horse_id: runner.jockey_id for runner in card.runners}
    rides = _standing(
        known, JockeyChange, card, lambda one: named.get(one.horse_id), lambda one: riders.get(one.horse_id) is None
    )
    changes = {one.horse_id: one for one in rides}
    out = withdrawn_since(known, instant)
    stands = [_ridden(runner, changes) for runner in card.runners if runner.horse_id not in out]
    return _declared(
        instant, race, stands, [runner for runner in card.runners if runner.horse_id in out], odds, FROM_CARD
    )


def _standing(
    known: Sequence[Message],
    kind: type[N],
    card: Racecard,
    declared: Callable[[N], Racecard | None],
    silent: Callable[[N], bool],
) -> list[N]:
    """The notices of a kind that the latest card leaves standing: later ones, and those on which it is silent."""
    found = []
    for one in known:
        if isinstance(one, kind):
            effect = takes_effect(one, declared(one))
            if effect is not None and (effect >= instant_of(card) or silent(one)):
                found.append(one)
    return found


def _declared(
    instant: datetime,
    race: Race,
    runners: Sequence[Runner],
    withdrawn: Sequence[Runner],
    odds: Market | None,
    source: Source,
) -> Declared:
    thirds = draw_thirds([runner.draw for runner in runners])
    before = tuple(_without_outcome(runner) for runner in runners)
    return Declared(instant, race, before, tuple(map(_without_outcome, withdrawn)), tuple(thirds), odds, source)


def _ridden(runner: Runner, changes: Mapping[str, JockeyChange]) -> Runner:
    change = changes.get(runner.horse_id)
    return replace(runner, jockey_id=change.jockey_id, jockey=change.jockey) if change else runner


def _may_run(runner: Runner) -> bool:
    return runner.status is None or runner.status in STARTED


def _without_outcome(runner: Runner) -> Runner:
    return replace(
        runner, status=None, position=None, beaten_lengths=None, finish_time_s=None, sp_decimal=None, kept={}
    )


def _by_known_at(messages: Iterable[Message], kind: type[M]) -> list[M]:
    return sorted((one for one in messages if isinstance(one, kind)), key=instant_of)
