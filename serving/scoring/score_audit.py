"""`velo audit --scores`: check the instant of every served score, and compute the score again from the tables as of it."""

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
"""The score's `as_of` is at or after its race's first result: its features may know that result."""
FUTURE: Final[Kind] = "future"
"""The score's `as_of` is later than the instant at which it was served."""
NOT_REPRODUCIBLE: Final[Kind] = "not reproducible"
"""A score computed again as of the same instant differs."""
DAMAGED: Final[Kind] = "damaged"
"""The line of the score log was changed or cut short."""
KINDS: Final[tuple[Kind, ...]] = (LEAK, FUTURE, NOT_REPRODUCIBLE, DAMAGED)


@dataclass(frozen=True, slots=True)
class ScoreFault:
    """A fault of a served score: its file and line in the score log (`where`), its kind, and a description (`what`)."""

    where: str
    race_id: str
    as_of: datetime | None
    kind: Kind
    what: str


@dataclass(frozen=True, slots=True)
class ScoreAudit:
    """The number of served scores and of those without a fault, and the first faults.

    `same` counts the scores that were reproduced and have no other fault. `later` counts those with an `as_of` that the
    offline tables do not reach yet. `kinds` has the faults by kind; a score may have several, and `found` is their sum.
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
    """Check that each served score's `as_of` is before its race's first result and not after the clock, and compute it again.

    Scores with the same race, instant and model are computed once.
    """
    lines = list(served(scorer.history.store.home))
    made: dict[tuple[object, ...], ScoredRace | UserError] = {}
    kinds: Counter[Kind] = Counter()
    same = later = 0
    differences: list[ScoreFault] = []
    for done, (where, score) in enumerate(lines):
        progress(done, len(lines))
        faults = list[tuple[Kind, str]]()
        if score is None:
            faults.append((DAMAGED, "the line is damaged: it was changed, or cut short by a crash"))
        else:
            faults += _untimely(scorer, score)
            starting_prices = _shows_starting_prices(score)
            key = (score.race_id, score.as_of, score.model, starting_prices, str(score.card), str(score.odds))
            if key not in made:
                made[key] = _again(scorer, score, now)
            again = made[key]
            if isinstance(again, TablesBehind):
                later += 1
            elif what := str(again) if isinstance(again, UserError) else difference(score, again):
                faults.append((NOT_REPRODUCIBLE, what))
            elif not faults:
                same += 1
        for kind, what in faults:
            kinds[kind] += 1
            if len(differences) < SHOWN:
                race_id, as_of = (score.race_id, score.as_of) if score else ("?", None)
                differences.append(ScoreFault(where, race_id, as_of, kind, what))
    counts = {kind: kinds[kind] for kind in KINDS}
    return ScoreAudit(len(lines), same, later, sum(counts.values()), counts, tuple(differences))


def _untimely(scorer: Scorer, score: Served) -> list[tuple[Kind, str]]:
    """The faults of a score's `as_of`."""
    faults = list[tuple[Kind, str]]()
    first = scorer.history.seen(score.race_id).first_result
    if first is not None and score.as_of >= first:
        faults.append((LEAK, f"its race's first result was known at {to_text(first)}"))
    if score.as_of > score.scored_at:
        faults.append((FUTURE, f"it was served at {to_text(score.scored_at)}"))
    return faults


def _shows_starting_prices(score: Served) -> bool:
    """Whether its market comes from the result: it has odds, although none were known before."""
    return score.odds_known_at is None and bool(score.market)


def difference(score: Served, again: ScoredRace) -> str:
    """How a score computed again differs, to the last bit; empty if it does not."""
    chances = {runner.horse_id: (runner.probability, runner.blended) for runner in again.runners}
    market = {runner.horse_id: runner.market_odds for runner in again.runners if runner.market_odds is not None}
    if chances.keys() != score.chances.keys():
        return f"the runners: served {sorted(score.chances)}, computed again {sorted(chances)}"
    if dict(score.market) != market or score.odds_known_at != again.odds_known_at:
        return f"the odds: served {dict(score.market)}, computed again {market}"
    if score.fingerprint != again.fingerprint:
        return f"the features: served {score.fingerprint}, computed again {again.fingerprint}"
    for horse, was in score.chances.items():
        if was != chances[horse]:
            return f"the probability of {horse}: served {was}, computed again {chances[horse]}"
    return ""


def _again(scorer: Scorer, score: Served, now: datetime) -> ScoredRace | UserError:
    try:
        model = scorer.bundles.of(score.model)
        if score.card is not None:
            return scored_race(model, scorer.history.snapshot(_posted(score), score.as_of), now)
        past = scorer.history.messages(score.race_id)
        snapshot = scorer.history.snapshot(past.messages, score.as_of)
        # a score served as the result arrived may or may not have known it: its market shows which
        result = first_result(past.messages) if _shows_starting_prices(score) else None
        return scored_race(model, snapshot, now, result=result)
    except UserError as why:
        return why


def _posted(score: Served) -> list[Message]:
    """The card and the odds that the request brought, as messages known at `as_of`."""
    messages: list[Message] = []
    for record in (score.card, score.odds):
        if record is not None:
            message = from_record(record)
            assert isinstance(message, Racecard | Market)
            messages.append(replace(message, known_at=score.as_of))
    declared(messages, score.as_of)
    return messages
