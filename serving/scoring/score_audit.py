"""`velo audit --scores`: check the instant of every served score, and compute the score again from the tables as of it."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Final, Literal

from velo.errors import UserError
from velo.feature_repo.catalogue import columns
from velo.racing.cards import first_result
from velo.racing.clock import to_text
from velo.racing.messages import Market, Message, Racecard, Result, from_record
from velo.serving.scoring.history import TablesBehind
from velo.serving.scoring.score_log import Served, served
from velo.serving.scoring.scored import RaceSnapshot, ScoredRace, scored_race
from velo.serving.scoring.scorer import Scorer
from velo.training.bundle import Bundle

SHOWN: Final = 20
SHOWN_COLUMNS: Final = 5
AT_ONCE: Final = 256
"""Scores computed again in one read of the tables."""
_Key = tuple[object, ...]
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
    """Check the instant of every served score, and compute each again from the tables as of that instant.

    A score's instant is before its race's first result, and not after the clock when it was served. Scores of one race,
    instant and model are computed once.
    """
    lines = list(served(scorer.history.store.home))
    bundle_of = cache(scorer.bundles.of)
    reads = cache(lambda model: frozenset(columns.inputs_of(bundle_of(model).features)))
    made: dict[_Key, ScoredRace | UserError] = {}
    kinds: Counter[Kind] = Counter()
    same = later = 0
    differences: list[ScoreFault] = []
    for done, (where, score) in enumerate(lines):
        if done % AT_ONCE == 0:
            progress(done, len(lines))
            ahead = {_key(each): each for _, each in lines[done : done + AT_ONCE] if each is not None}
            new = {key: each for key, each in ahead.items() if key not in made}
            made.update(zip(new, _again(scorer, bundle_of, list(new.values()), now), strict=True))
        faults = list[tuple[Kind, str]]()
        if score is None:
            faults.append((DAMAGED, "the line is damaged: it was changed, or cut short by a crash"))
        else:
            faults += _untimely(scorer, score)
            again = made[_key(score)]
            if isinstance(again, TablesBehind):
                later += 1
            elif what := str(again) if isinstance(again, UserError) else difference(score, again, reads(score.model)):
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


def _key(score: Served) -> _Key:
    """The inputs of a score: equal keys make equal scores."""
    return (
        score.race_id, score.as_of, score.model, _shows_starting_prices(score), str(score.card), str(score.odds)
    )  # fmt: skip


def _untimely(scorer: Scorer, score: Served) -> list[tuple[Kind, str]]:
    """The faults of a score's instant."""
    faults = list[tuple[Kind, str]]()
    first = scorer.history.seen(score.race_id).first_result
    if first is not None and score.as_of >= first:
        faults.append((LEAK, f"its race's first result was known at {to_text(first)}"))
    if score.as_of > score.scored_at:
        faults.append((FUTURE, f"it was served at {to_text(score.scored_at)}"))
    return faults


def _shows_starting_prices(score: Served) -> bool:
    """Whether its market is that of the result: no odds were known before, and yet it has some."""
    return score.odds_known_at is None and bool(score.market)


def difference(score: Served, again: ScoredRace, reads: Collection[str]) -> str:
    """The first difference between a served score and the one computed again, to the last bit; empty if they are equal.

    `reads` are the columns that the model reads: the formulas of others may have changed since.
    """
    chances = {runner.horse_id: (runner.probability, runner.blended) for runner in again.runners}
    market = {runner.horse_id: runner.market_odds for runner in again.runners if runner.market_odds is not None}
    if chances.keys() != score.chances.keys():
        return f"the runners: served {sorted(score.chances)}, computed again {sorted(chances)}"
    if dict(score.market) != market or score.odds_known_at != again.odds_known_at:
        return f"the odds: served {dict(score.market)}, computed again {market}"
    if differing := score.differing(again.fingerprint, again.column_digests, reads):
        named = ", ".join(differing[:SHOWN_COLUMNS])
        return f"the features: served {score.fingerprint}, computed again {again.fingerprint}, differing in {named}"
    for horse, was in score.chances.items():
        if was != chances[horse]:
            return f"the probability of {horse}: served {was}, computed again {chances[horse]}"
    return ""


def _again(
    scorer: Scorer, bundle_of: Callable[[str], Bundle], scores: Sequence[Served], now: datetime
) -> list[ScoredRace | UserError]:
    """Compute scores again, each as of its instant, in one read of the tables."""
    made = list[ScoredRace | UserError | None]()
    races = list[tuple[Sequence[Message], datetime]]()
    models = list[Bundle]()
    results = list[Result | None]()
    for score in scores:
        try:
            model = bundle_of(score.model)
            messages = scorer.history.messages(score.race_id).messages if score.card is None else messages_posted(score)
        except UserError as why:
            made.append(why)
            continue
        made.append(None)
        races.append((messages, score.as_of))
        models.append(model)
        # a score served while the result arrived knew of it or did not: its market says which
        shown = score.card is None and _shows_starting_prices(score)
        results.append(first_result(messages) if shown else None)
    scored = (
        snapshot if isinstance(snapshot, UserError) else _scored(model, snapshot, now, result)
        for model, snapshot, result in zip(models, scorer.history.snapshots(races), results, strict=True)
    )
    return [next(scored) if why is None else why for why in made]


def _scored(model: Bundle, snapshot: RaceSnapshot, now: datetime, result: Result | None) -> ScoredRace | UserError:
    try:
        return scored_race(model, snapshot, now, result=result)
    except UserError as why:
        return why


def messages_posted(score: Served) -> list[Message]:
    """The card and the odds that came with the request, known as of the score's instant."""
    messages: list[Message] = []
    for record in (score.card, score.odds):
        if record is not None:
            message = from_record(record)
            assert isinstance(message, Racecard | Market)
            messages.append(replace(message, known_at=score.as_of))
    return messages
