"""A race as it stood at an instant: who was declared, on what going, at what odds, by what had been told until then.

`training/sql/declared.sql` says the same for all races at once; a test holds the two equal.
"""

from collections.abc import Iterable, Mapping, Sequence
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
    Result,
    Runner,
    instant_of,
)

M = TypeVar("M", Racecard, Market, GoingChange, JockeyChange)
Source = Literal["racecard", "result version 1"]
FROM_CARD: Final[Source] = "racecard"
FROM_RESULT: Final[Source] = "result version 1"
FIRST_VERSION: Final = 1
"""The version that bets settle on and labels are made from (SPEC 3)."""


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


def decision_time(messages: Sequence[Message], lead: timedelta) -> datetime | None:
    """When a race is decided on: `lead` before the off of the latest card that was told by then.

    Where no card was in time, `lead` before the off of its first result, else of its latest card; None without either.
    """
    cards = _by_known_at(messages, Racecard)
    timely = [card for card in cards if instant_of(card) <= card.race.off_time - lead]
    result = first_result(messages)
    if not timely and result is not None:
        return result.race.off_time - lead
    cards = timely or cards
    return cards[-1].race.off_time - lead if cards else None


def declared_at(messages: Sequence[Message], instant: datetime) -> Declared | None:
    """A race at an instant, from the messages of that one race (in any order, later ones among them).

    The latest card told by then names race and runners. A non-runner stays out, whatever card follows; of going and
    jockey the last word counts, and a card that is silent leaves what was told before it. Without a card, race and
    runners are those of the first result; None where there is neither.
    """
    known = [one for one in messages if instant_of(one) <= instant]
    markets = _by_known_at(known, Market)
    odds = markets[-1] if markets else None
    cards = _by_known_at(known, Racecard)
    if cards:
        return _from_card(cards[-1], known, instant, odds)
    result = first_result(messages)
    if result is None:
        return None
    ran = [runner for runner in result.runners if runner.started]
    others = [runner for runner in result.runners if not runner.started]
    return _declared(instant, result.race, ran, others, odds, FROM_RESULT)


def _from_card(card: Racecard, known: Sequence[Message], instant: datetime, odds: Market | None) -> Declared:
    told_at = instant_of(card)
    goings = [one for one in _by_known_at(known, GoingChange) if instant_of(one) > told_at or card.race.going is None]
    race = replace(card.race, going=goings[-1].going) if goings else card.race
    out = {one.horse_id for one in known if isinstance(one, NonRunner)}
    changes = {
        one.horse_id: one
        for one in _by_known_at(known, JockeyChange)
        if instant_of(one) > told_at or _rider_of(card, one.horse_id) is None
    }
    stands = [_ridden(runner, changes) for runner in card.runners if runner.horse_id not in out and _may_run(runner)]
    others = [runner for runner in card.runners if runner.horse_id in out or not _may_run(runner)]
    return _declared(instant, race, stands, others, odds, FROM_CARD)


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


def _rider_of(card: Racecard, horse_id: str) -> str | None:
    return next((runner.jockey_id for runner in card.runners if runner.horse_id == horse_id), None)


def _may_run(runner: Runner) -> bool:
    return runner.status is None or runner.status in STARTED


def _without_outcome(runner: Runner) -> Runner:
    return replace(
        runner, status=None, position=None, beaten_lengths=None, finish_time_s=None, sp_decimal=None, kept={}
    )


def _by_known_at(messages: Iterable[Message], kind: type[M]) -> list[M]:
    return sorted((one for one in messages if isinstance(one, kind)), key=instant_of)
