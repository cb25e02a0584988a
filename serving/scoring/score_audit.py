"""`velo audit --scores`: every score that was served, held to its instant and made again from the tables as of it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from velo.errors import UserError
from velo.racing.cards import first_result
from velo.racing.clock import to_text
from velo.racing.messages import Market, Message, Racecard, from_record
from velo.serving.scoring.history import TablesBehind, declared
from velo.serving.scoring.score_log import Served, served
from velo.serving.scoring.scored import ScoredRace, scored_race
from velo.serving.scoring.scorer import Scorer

SHOWN: Final = 20
Kind = Literal["leak", "future", "not reproducible", "damaged"]
LEAK: Final[Kind] = "leak"
"""The score stands on an instant at or past its race's first result: its features may know that result."""
FUTURE: Final[Kind] = "future"
"""The score stands on an instant later than the one it was served at."""
NOT_REPRODUCIBLE: Final[Kind] = "not reproducible"
"""Made again as of its instant, the score is another."""
DAMAGED: Final[Kind] = "damaged"
"""The line of the score log is not what was written."""
KINDS: Final[tuple[Kind, ...]] = (LEAK, FUTURE, NOT_REPRODUCIBLE, DAMAGED)


@dataclass(frozen=True, slots=True)
class ScoreFault:
    """A fault of a served score: where it stands in the score log, of what kind it is, and what is wrong."""

    where: str
    race_id: str
    as_of: datetime | None
    kind: Kind
    what: str


@dataclass(frozen=True, slots=True)
class ScoreAudit:
    """How many served scores there are, how many have no fault, and the first faults that were found.

    `same` is the number of scores that were made again the same and have no other fault. `later` counts those that stand
    on an instant to which the offline tables do not reach yet. `kinds` has the faults by kind; a score may have several,
    and `found` is their sum.
    """

    scores: int
    same: int
    later: int
    found: int
    kinds: Mapping[Kind, int]
    differences: tuple[ScoreFault, ...]


def audit_scores(
    scorer: Scorer, now: datetime, progress: Callable[[int, int], None] = lambda done, total: None
) -> ScoreAudit:
    """Hold every served score to its instant: it is before its race's first result and not after the clock then, and the
    score is made again as of it. Scores of one race, instant and model are made once.
    """
    lines = list(served(scorer.history.store.home))
    made: dict[tuple[object, ...], ScoredRace | UserError] = {}
    kinds: Counter[Kind] = Counter()
    same = later = 0
    differences: list[ScoreFault] = []
    for done, (where, told) in enumerate(lines):
        progress(done, len(lines))
        faults = list[tuple[Kind, str]]()
        if told is None:
            faults.append((DAMAGED, "the line is damaged: it was changed, or cut short by a crash"))
        else:
            faults += _untimely(scorer, told)
            key = (told.race_id, told.as_of, told.model, _shows_starting_prices(told), str(told.card), str(told.odds))
            if key not in made:
                made[key] = _again(scorer, told, now)
            again = made[key]
            if isinstance(again, TablesBehind):
                later += 1
            elif what := str(again) if isinstance(again, UserError) else difference(told, again):
                faults.append((NOT_REPRODUCIBLE, what))
            elif not faults:
                same += 1
        for kind, what in faults:
            kinds[kind] += 1
            if len(differences) < SHOWN:
                race_id, as_of = (told.race_id, told.as_of) if told else ("?", None)
                differences.append(ScoreFault(where, race_id, as_of, kind, what))
    counts = {kind: kinds[kind] for kind in KINDS}
    return ScoreAudit(len(lines), same, later, sum(counts.values()), counts, tuple(differences))


def _untimely(scorer: Scorer, told: Served) -> list[tuple[Kind, str]]:
    """What is wrong with the instant that a score stands on."""
    faults = list[tuple[Kind, str]]()
    first = scorer.history.seen(told.race_id).first_result
    if first is not None and told.as_of >= first:
        faults.append((LEAK, f"its race's first result was known at {to_text(first)}"))
    if told.as_of > told.scored_at:
        faults.append((FUTURE, f"it was served at {to_text(told.scored_at)}"))
    return faults


def _shows_starting_prices(told: Served) -> bool:
    """Whether its market is that of the result: no odds were told before, and yet there are some."""
    return told.odds_known_at is None and bool(told.market)


def difference(told: Served, again: ScoredRace) -> str:
    """What differs of a score made again; nothing where nothing does, to the last bit."""
    chances = {runner.horse_id: (runner.probability, runner.blended) for runner in again.runners}
    market = {runner.horse_id: runner.market_odds for runner in again.runners if runner.market_odds is not None}
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
            past = scorer.history.messages(told.race_id)
            stood = scorer.history.snapshot(past.messages, told.as_of)
            # what was served beside the result's arrival knew of it or did not: its market says which
            result = first_result(past.messages) if _shows_starting_prices(told) else None
            return scored_race(model, stood, now, result=result)
        stood = scorer.history.snapshot(_posted(told), told.as_of)
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
