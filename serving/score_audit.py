"""`velo audit --scores`: every score that was served, made again from the tables as of its instant, and held to it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from serving.history import NotYet, declared
from serving.score_log import Served, served
from serving.scored import ScoredRace, scored_race
from serving.scorer import Scorer
from velo.errors import UserError
from velo.racing.messages import Market, Message, Racecard, from_record

SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """A served score that is not made again: where it stands in the score log, and what differs."""

    where: str
    race_id: str
    as_of: datetime | None
    what: str


@dataclass(frozen=True, slots=True)
class ScoreAudit:
    """How many served scores there are, how many were made again the same, and the first that were not.

    `later` counts those that stand on an instant to which the offline tables do not reach yet.
    """

    scores: int
    same: int
    later: int
    found: int
    differences: tuple[Difference, ...]


def audit_scores(
    scorer: Scorer, now: datetime, progress: Callable[[int, int], None] = lambda done, total: None
) -> ScoreAudit:
    """Make every served score again. Scores of one race, instant and model are made once."""
    lines = list(served(scorer.history.store.home))
    made: dict[tuple[object, ...], ScoredRace | UserError] = {}
    same = later = found = 0
    differences: list[Difference] = []
    for done, (where, told) in enumerate(lines):
        progress(done, len(lines))
        if told is None:
            what = "the line is damaged: it was changed, or cut short by a crash"
        else:
            key = (told.race_id, told.as_of, told.model, str(told.card), str(told.odds))
            if key not in made:
                made[key] = _again(scorer, told, now)
            again = made[key]
            if isinstance(again, NotYet):
                later += 1
                continue
            what = str(again) if isinstance(again, UserError) else difference(told, again)
        if not what:
            same += 1
            continue
        found += 1
        if len(differences) < SHOWN:
            differences.append(Difference(where, told.race_id if told else "?", told.as_of if told else None, what))
    return ScoreAudit(len(lines), same, later, found, tuple(differences))


def difference(told: Served, again: ScoredRace) -> str:
    """What differs of a score made again; nothing where nothing does, to the last bit."""
    chances = {one.horse_id: (one.probability, one.blended) for one in again.runners}
    market = {one.horse_id: one.market_odds for one in again.runners if one.market_odds is not None}
    if chances.keys() != told.chances.keys():
        return f"the runners: served {sorted(told.chances)}, made again {sorted(chances)}"
    if dict(told.market) != market or told.odds_known_at != again.odds_known_at:
        return f"the odds: served {dict(told.market)}, made again {market}"
    if told.fingerprint != again.fingerprint:
        return f"the features: served {told.fingerprint}, made again {again.fingerprint}"
    for horse, was in told.chances.items():
        if was != chances[horse]:
            return f"the chance of {horse}: served {was}, made again {chances[horse]}"
    return ""


def _again(scorer: Scorer, told: Served, now: datetime) -> ScoredRace | UserError:
    try:
        model = scorer.bundles.of(told.model)
        if told.card is None:
            past = scorer.history.told(told.race_id)
            stood = scorer.history.stood(past.messages, told.as_of)
            result = scorer.result_known(past.messages, told.scored_at)
            return scored_race(model, stood, now, result=result)
        stood = scorer.history.stood(_posted(told), told.as_of)
        return scored_race(model, stood, now)
    except UserError as why:
        return why


def _posted(told: Served) -> list[Message]:
    messages: list[Message] = []
    for record in (told.card, told.odds):
        if record is not None:
            message = from_record(record)
            assert isinstance(message, Racecard | Market)
            messages.append(replace(message, known_at=told.as_of))
    declared(messages, told.as_of)
    return messages
