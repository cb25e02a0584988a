"""Elo ratings: what each part of a start has earned by the results so far, in log order.

Batch and stream use the same code: a rating depends on every result before it, so this is the one step that takes races one
after another. What a result earned is spilled with its race, so that an amended result takes back exactly that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import orjson

from velo.feature_repo.catalogue.families import Family, is_rated
from velo.racing.elo import E9, EVEN, PARTS, RATED, Earned, Standing, earned
from velo.racing.starts import Start
from velo.storage.compact_map import CompactMap
from velo.streams.aggregation.result_delta import ResultDelta
from velo.streams.aggregation.spill import Spill

MEASURES: Final = (RATED, *(part.measure for part in PARTS))
"""The measures of a start that ratings make; all others need only its own race."""
_COUNT_BITS: Final = 32
_COUNT: Final = (1 << _COUNT_BITS) - 1
_PLACE_BYTES: Final = 8
_EVEN_E9: Final = EVEN * E9
REVISION: Final = 1
"""Raised when a fault in stored ratings is fixed: each store then rates its starts again at its next build."""
BETWEEN: Final = "\x1f"
"""Separates the keys of a part that has several."""
Keys = tuple[str | None, ...]
"""The rated key of each of `PARTS` for one start; None where it is unknown."""


class Starter(NamedTuple):
    """The part of a start that ratings need: its keys, and the log of its market chance in billionths (None without odds)."""

    horse_id: str
    jockey_id: str | None
    trainer_id: str | None
    draw_cell: str
    course: str
    distance_band: str
    market_log_e9: int | None

    @property
    def keys(self) -> Keys:
        """The rated key of each of `PARTS`."""
        horse_course_distance = f"{self.horse_id}{BETWEEN}{self.course}{BETWEEN}{self.distance_band}"
        return self.horse_id, self.jockey_id, self.trainer_id, self.draw_cell, horse_course_distance


class Entry(NamedTuple):
    """A rated start, as it is spilled."""

    starter: Starter
    earned: Earned


class Elo:
    """Every rating as of the last result. A race with an unpriced starter, and a walkover, earn nothing."""

    def __init__(self, spill: Spill) -> None:
        self._spill = spill
        # one map a part. A horse's value has its rating above the low 32 bits, and there the number of its rated starts
        self._ratings: list[dict[str, int]] = [{} for _ in PARTS]
        self._races = CompactMap()

    def tell(self, race_id: str, starters: Sequence[Starter]) -> list[Earned] | None:
        """What the starters of a result that takes effect earn, in their order: None where they are not rated.

        What an earlier version of the race earned is taken back first. A version with the same starters at the same odds
        earns what that one did, even if some have another horse's, jockey's or trainer's key now.
        """
        return self._earn(race_id, starters, self.held(race_id))

    def rate(self, change: ResultDelta) -> ResultDelta:
        """The delta with what its added starts earn, and what its retracted starts had earned."""
        entries = self.held(change.race_id)
        made = self._earn(change.race_id, [_starter(one) for one in change.added], entries)
        added = tuple(map(_rated, change.added, made)) if made else change.added
        if not entries:
            return replace(change, added=added)
        before = {one.starter.horse_id: one.earned for one in entries}
        return replace(
            change, retracted=tuple(_rated(one, before[one.horse_id]) for one in change.retracted), added=added
        )

    def held(self, race_id: str) -> list[Entry]:
        """What the current version of a race earned; empty where it is not rated."""
        place = self._races.get((race_id,))
        if place is None:
            return []
        rows = orjson.loads(self._spill.get(int.from_bytes(place, "little")))
        known = len(Starter._fields)
        return [Entry(Starter(*row[:known]), tuple(row[known:])) for row in rows]

    def hold(self, race_id: str, entries: Sequence[Entry]) -> None:
        """Record what a race earned, and add it to the ratings."""
        if entries:
            self._add(((one.starter.keys, one.earned) for one in entries), 1)
            self._put_aside(race_id, entries)

    def put_aside(self, race_id: str, entries: bytes) -> None:
        """Record what a race earned without adding it to the ratings: JSON rows of a `Starter` and its `Earned`."""
        self._races.put((race_id,), self._spill.put(entries).to_bytes(_PLACE_BYTES, "little"))

    def credit(self, place: int, rated: Iterable[tuple[str, int, int]]) -> None:
        """Set the ratings of one of `PARTS`, given as (key, rating in billionths, number of rated starts)."""
        shift = 0 if place else _COUNT_BITS
        self._ratings[place] |= {key: (rating << shift) + (0 if place else count) for key, rating, count in rated}

    def _earn(self, race_id: str, starters: Sequence[Starter], before: Sequence[Entry]) -> list[Earned] | None:
        same = earned_before(before, starters) if before else None
        if same is not None:
            if {entry.starter for entry in before} != set(starters):
                self._add(((entry.starter.keys, entry.earned) for entry in before), -1)
                self._add(((starter.keys, got) for starter, got in zip(starters, same, strict=True)), 1)
                self._put_aside(race_id, zip(starters, same, strict=True))
            return same
        if before:
            self._add(((one.starter.keys, one.earned) for one in before), -1)
            self._races.pop((race_id,))
        market = [one.market_log_e9 for one in starters if one.market_log_e9 is not None]
        if len(starters) < 2 or len(market) < len(starters):
            return None
        keys = [one.keys for one in starters]
        made = earned(market, [self._standing(one) for one in keys])
        self._add(zip(keys, made, strict=True), 1)
        self._put_aside(race_id, zip(starters, made, strict=True))
        return made

    def _put_aside(self, race_id: str, entries: Iterable[tuple[Starter, Earned]]) -> None:
        self.put_aside(race_id, orjson.dumps([(*starter, *got) for starter, got in entries]))

    def _add(self, earned_by: Iterable[tuple[Keys, Earned]], times: int) -> None:
        horses, others = self._ratings[0], self._ratings[1:]
        for (horse, *keys), (horse_e9, *rest) in earned_by:
            assert horse is not None
            horses[horse] = horses.get(horse, 0) + times * (((horse_e9 - _EVEN_E9) << _COUNT_BITS) + 1)
            for ratings, key, got in zip(others, keys, rest):  # noqa: B905  equal lengths, and this runs for every start
                if key is not None:
                    ratings[key] = ratings.get(key, 0) + times * (got - _EVEN_E9)

    def _standing(self, keys: Keys) -> Standing:
        # None is never a key of the maps, so an unknown key has rating 0
        horse, *rest = [of.get(key, 0) for of, key in zip(self._ratings, keys)]  # type: ignore[arg-type]  # noqa: B905
        return Standing(horse & _COUNT, (horse >> _COUNT_BITS) + sum(rest))


def parted(families: Sequence[Family]) -> tuple[list[Family], list[Family]]:
    """The families whose measures need only a start's own race, and those of the ratings."""
    return [one for one in families if not is_rated(one)], [one for one in families if is_rated(one)]


def _starter(start: Start) -> Starter:
    return Starter(
        start.horse_id,
        start.jockey_id,
        start.trainer_id,
        start.draw_cell,
        start.course,
        start.distance_band,
        start.market_log_e9,
    )


def earned_before(before: Sequence[Entry], starters: Sequence[Starter]) -> list[Earned] | None:
    """What the starters earned in the version before, in their order; None where that had other starters or odds.

    A horse that is missing and a single new one are the same horse under another key.
    """
    by_horse = {entry.starter.horse_id: entry for entry in before}
    horses = {starter.horse_id for starter in starters}
    new, gone = horses - by_horse.keys(), by_horse.keys() - horses
    if len(before) != len(starters) or len(new) > 1 or len(gone) != len(new):
        return None
    for horse, held in zip(new, gone, strict=True):
        by_horse[horse] = by_horse[held]
    for starter in starters:
        held_as = by_horse[starter.horse_id].starter
        same = held_as._replace(horse_id=starter.horse_id, jockey_id=starter.jockey_id, trainer_id=starter.trainer_id)
        if same != starter:
            return None
    return [by_horse[starter.horse_id].earned for starter in starters]


def _rated(start: Start, got: Earned) -> Start:
    return start.rated(got)
