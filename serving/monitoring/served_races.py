"""The races that the service scored, each by the last score before its decision time, with the values of its features.

The score log has a fingerprint and digests of the features, not the values. The values are computed again from the tables as of
the score's instant: equal fingerprints prove that they are the served ones, to the last bit, and unequal digests name the columns
in which they are not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from velo.drift import CONDITIONS, Conditions
from velo.errors import UserError
from velo.feature_repo.catalogue import columns
from velo.racing.cards import decision_time, first_result, result_known_at
from velo.racing.messages import Message, Result
from velo.serving.scoring.feature_matrix import VIEWS, Flags, Floats, column_digests
from velo.serving.scoring.history import TablesBehind
from velo.serving.scoring.race_messages import UnknownRace, messages_between
from velo.serving.scoring.score_audit import messages_posted
from velo.serving.scoring.score_log import Served, served
from velo.serving.scoring.scored import RaceSnapshot, fingerprint
from velo.serving.scoring.scorer import Scorer
from velo.storage.store import Home
from velo.training import bundle

AT_ONCE: Final = 256
"""Races whose features are computed in one read of the tables."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ServedRace:
    """A served race, its runners in the order of their card.

    `values` are (runners, `columns.COLUMNS`), computed again as of the score's instant; `stale` and `missing` are (runners,
    `VIEWS`). `differing` names the columns in which the served values were others (`Served.differing`). `result` is version 1, None before it.
    """

    score: Served
    day: date
    off_time: datetime
    conditions: tuple[str, ...]
    horses: tuple[str, ...]
    values: Floats
    stale: Flags
    missing: Flags
    differing: tuple[str, ...]
    result: Result | None


@dataclass(frozen=True, slots=True)
class ServedRaces:
    """The served races in order of their off.

    `later` counts races whose instant the tables do not reach yet, `lost` those that cannot be computed again (the race is not in
    the tables, or its model is of other formulas than they are), `damaged` the damaged lines of the log.
    """

    races: tuple[ServedRace, ...]
    later: int
    lost: int
    damaged: int

    def rows(self) -> tuple[Floats, NDArray[np.datetime64], Conditions]:
        """The values of every runner, (rows, columns), with the local race date and the conditions of each."""
        sizes = [len(race.horses) for race in self.races]
        days = np.repeat(np.array([race.day for race in self.races], dtype="datetime64[D]"), sizes)
        conditions = np.repeat(np.array([race.conditions for race in self.races], dtype=np.str_), sizes, axis=0)
        return np.concatenate([race.values for race in self.races]), days, conditions

    def stale_share(self) -> dict[str, float]:
        """The share of runners with a stale row of each view."""
        stale = np.concatenate([race.stale for race in self.races]).mean(axis=0)
        return dict(zip(VIEWS, stale.tolist(), strict=True))


def served_races(scorer: Scorer, lead: timedelta, progress: Progress = lambda done, total: None) -> ServedRaces:
    """Every race in the score log: the last score up to `lead` before its off, or else the first one after that."""
    by_race: dict[str, list[Served]] = {}
    damaged = 0
    others = set[str]()
    reads = cache(partial(_columns_read, scorer.history.store.home))
    for _, score in served(scorer.history.store.home):
        if score is None:
            damaged += 1
        elif reads(score.model) is not None:
            by_race.setdefault(score.race_id, []).append(score)
        else:
            others.add(score.race_id)
    made: list[ServedRace] = []
    later, lost = 0, len(others - by_race.keys())
    asked = sorted(by_race.values(), key=lambda scores: scores[-1].as_of)
    for begin in range(0, len(asked), AT_ONCE):
        progress(begin, len(asked))
        chosen: list[tuple[Served, Sequence[Message], Result | None]] = []
        batch = asked[begin : begin + AT_ONCE]
        held = _messages(scorer, batch)
        for scores in batch:
            found = _chosen(scores, held.get(scores[0].race_id, ()), lead)
            chosen += [found] if found is not None else []
            lost += found is None
        snapshots = scorer.history.snapshots([(messages, score.as_of) for score, messages, _ in chosen])
        for (score, _, result), snapshot in zip(chosen, snapshots, strict=True):
            if isinstance(snapshot, UserError):
                later += isinstance(snapshot, TablesBehind)
                lost += not isinstance(snapshot, TablesBehind)
            else:
                made.append(_served_race(score, snapshot, result, reads(score.model) or frozenset()))
    made.sort(key=lambda race: (race.off_time, race.score.race_id))
    return ServedRaces(tuple(made), later, lost, damaged)


def _columns_read(home: Home, model: str) -> frozenset[str] | None:
    """The columns of `columns.BASE` that a model reads; None where the tables have other formulas of them by now, or it is gone."""
    try:
        if bundle.misfit_of(home, model) is not None:
            return None
        return frozenset(columns.inputs_of(bundle.described(home, model)["features"]))
    except UserError:
        return None


def _messages(scorer: Scorer, batch: Sequence[Sequence[Served]]) -> dict[str, Sequence[Message]]:
    """The messages of the races of some scores, by race id; those of the days of the scores are read at once."""
    instants = [scores[-1].as_of for scores in batch]
    first, last = (min(instants) - timedelta(days=1)).date(), (max(instants) + timedelta(days=2)).date()
    held: dict[str, Sequence[Message]] = {
        str(messages[0].race_id): messages for messages in messages_between(scorer.history.store.home, first, last)
    }
    for scores in batch:
        race_id = scores[0].race_id
        if race_id not in held:
            try:
                held[race_id] = scorer.history.messages(race_id).messages
            except UnknownRace:
                continue
    return held


def _chosen(
    scores: Sequence[Served], messages: Sequence[Message], lead: timedelta
) -> tuple[Served, Sequence[Message], Result | None] | None:
    """The score of a race to look at, the messages that it was computed from, and its result; None if it cannot be computed."""
    # a card that came with a request may be a trial: it counts where the race was not scored otherwise
    scores = [score for score in scores if score.card is None] or scores
    decided, known_at = decision_time(messages, lead), result_known_at(messages)
    timely = [score for score in scores if decided is None or score.as_of <= decided]
    score = max(timely, key=lambda each: (each.as_of, each.scored_at)) if timely else min(scores, key=_instant)
    if known_at is not None and score.as_of >= known_at:
        return None
    made_from = messages if score.card is None else messages_posted(score)
    return (score, made_from, first_result(messages)) if made_from else None


def _instant(score: Served) -> datetime:
    return score.as_of


def _served_race(score: Served, snapshot: RaceSnapshot, result: Result | None, reads: frozenset[str]) -> ServedRace:
    race, matrix = snapshot.race, snapshot.matrix
    return ServedRace(
        score,
        race.race.race_date,
        race.race.off_time,
        tuple(str(race.entity_keys()[0][name]) for name in CONDITIONS),
        tuple(runner.horse_id for runner in race.runners),
        matrix.matrix,
        matrix.stale,
        matrix.missing,
        score.differing(fingerprint(race, matrix), column_digests(matrix), reads),
        result,
    )


def at_decision_time(
    scorer: Scorer, races: Sequence[ServedRace], lead: timedelta
) -> dict[str, tuple[tuple[str, ...], Floats]]:
    """The horses and values of served races that have a result as of their decision times, by race id."""
    found: dict[str, tuple[tuple[str, ...], Floats]] = {}
    known = [race for race in races if race.result is not None and race.score.card is None]
    for begin in range(0, len(known), AT_ONCE):
        asked = list[tuple[Sequence[Message], datetime]]()
        for race in known[begin : begin + AT_ONCE]:
            messages = scorer.history.messages(race.score.race_id).messages
            asked.append((messages, decision_time(messages, lead) or race.score.as_of))
        for snapshot in scorer.history.snapshots(asked):
            if not isinstance(snapshot, UserError):
                horses = tuple(runner.horse_id for runner in snapshot.race.runners)
                found[str(snapshot.race.race.race_id)] = horses, snapshot.matrix.matrix
    return found


def races_differing(races: Sequence[ServedRace]) -> Mapping[str, list[str]]:
    """The races in which each column was served with other values than the tables have, by column."""
    found: dict[str, list[str]] = {}
    for race in races:
        for name in race.differing:
            found.setdefault(name, []).append(race.score.race_id)
    return found
