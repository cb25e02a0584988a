"""The book of Elo ratings: what each horse, jockey and trainer has earned by the results told so far, in the log's order.

One for the batch, the stream and their twins: a rating rests on every result before it, so this is the one step that takes
races one after another. What a result earned is put aside with its race: an amended one takes back just that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import orjson

from feature_repo.catalogue.families import Family
from streams.fold.pasts import Shelf
from streams.fold.versions import Change
from streams.packed import Packed
from velo.racing.elo import E9, EVEN, Earned, Standing, earned
from velo.racing.starts import Start

MEASURES: Final = frozenset({"elo_rated", "horse_elo_e9", "jockey_elo_e9", "trainer_elo_e9"})
"""The measures of a start that this book makes; all others need only its own race."""
_COUNT_BITS: Final = 32
_PLACE_BYTES: Final = 8


class Starter(NamedTuple):
    """What is asked of a start: its keys, and the market's view of it (None where a starter has no odds)."""

    horse_id: str
    jockey_id: str | None
    trainer_id: str | None
    market_log_e9: int | None


class Entry(NamedTuple):
    """A rated start as it is put aside: its `Starter`, then its `Earned`."""

    horse_id: str
    jockey_id: str | None
    trainer_id: str | None
    market_log_e9: int
    horse_e9: int
    jockey_e9: int
    trainer_e9: int

    @property
    def starter(self) -> Starter:
        """Who it was, and at what odds."""
        return Starter(self.horse_id, self.jockey_id, self.trainer_id, self.market_log_e9)

    @property
    def earned(self) -> Earned:
        """What it earned."""
        return Earned(self.horse_e9, self.jockey_e9, self.trainer_e9)


class Elo:
    """Every rating as of the last result told. Races whose starters are not all priced, and walkovers, earn nothing."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        # a horse's rating and, below it, how many starts it was rated by
        self._horses: dict[str, int] = {}
        self._jockeys: dict[str, int] = {}
        self._trainers: dict[str, int] = {}
        self._races = Packed()

    def tell(self, race_id: str, starters: Sequence[Starter]) -> list[Earned] | None:
        """What the starters of a result that takes effect earn, in their order: None where they are not rated.

        What an earlier version of the race earned is taken back before; a version that tells the same starters at the same
        odds earns what that one did.
        """
        before = self.held(race_id)
        if before and {one.starter for one in before} == set(starters):
            same = {one.horse_id: one.earned for one in before}
            return [same[one.horse_id] for one in starters]
        if before:
            self._add(before, -1)
            self._races.pop((race_id,))
        market = [one.market_log_e9 for one in starters if one.market_log_e9 is not None]
        if len(starters) < 2 or len(market) < len(starters):
            return None
        made = earned(market, [self._standing(one) for one in starters])
        kept = zip(starters, market, made, strict=True)
        self.hold(race_id, [Entry(*one[:3], told, *got) for one, told, got in kept])
        return made

    def rate(self, change: Change) -> Change:
        """The change with what its starts earn, and what those it takes back had earned."""
        before = {one.horse_id: one.earned for one in self.held(change.race_id)}
        starters = [Starter(one.horse_id, one.jockey_id, one.trainer_id, one.market_log_e9) for one in change.added]
        made = self.tell(change.race_id, starters)
        after = {one.horse_id: got for one, got in zip(starters, made, strict=True)} if made else {}
        return replace(change, retracted=_filled(change.retracted, before), added=_filled(change.added, after))

    def held(self, race_id: str) -> list[Entry]:
        """What the version of a race that holds earned."""
        place = self._races.get((race_id,))
        if place is None:
            return []
        return [Entry(*entry) for entry in orjson.loads(self._shelf.get(int.from_bytes(place, "little")))]

    def hold(self, race_id: str, entries: Sequence[Entry]) -> None:
        """Have a race have earned this: nothing where there are no entries."""
        if not entries:
            return
        self._add(entries, 1)
        self.put_aside(race_id, orjson.dumps([tuple(one) for one in entries]))

    def put_aside(self, race_id: str, entries: bytes) -> None:
        """Remember what a race earned, as JSON, so that it can be taken back; the ratings have it already."""
        self._races.put((race_id,), self._shelf.put(entries).to_bytes(_PLACE_BYTES, "little"))

    def credit(
        self, horses: Mapping[str, tuple[int, int]], jockeys: Mapping[str, int], trainers: Mapping[str, int]
    ) -> None:
        """Take over ratings in billionths, those of horses each with how many starts it was rated by."""
        self._horses |= {name: (rating << _COUNT_BITS) + rated for name, (rating, rated) in horses.items()}
        self._jockeys |= jockeys
        self._trainers |= trainers

    def _add(self, entries: Sequence[Entry], times: int) -> None:
        even = EVEN * E9
        horses, jockeys, trainers = self._horses, self._jockeys, self._trainers
        for horse_id, jockey_id, trainer_id, _, horse_e9, jockey_e9, trainer_e9 in entries:
            horses[horse_id] = horses.get(horse_id, 0) + times * (((horse_e9 - even) << _COUNT_BITS) + 1)
            if jockey_id is not None:
                jockeys[jockey_id] = jockeys.get(jockey_id, 0) + times * (jockey_e9 - even)
            if trainer_id is not None:
                trainers[trainer_id] = trainers.get(trainer_id, 0) + times * (trainer_e9 - even)

    def _standing(self, one: Starter) -> Standing:
        horse = self._horses.get(one.horse_id, 0)
        jockey = 0 if one.jockey_id is None else self._jockeys.get(one.jockey_id, 0)
        trainer = 0 if one.trainer_id is None else self._trainers.get(one.trainer_id, 0)
        return Standing(horse >> _COUNT_BITS, horse & ((1 << _COUNT_BITS) - 1), jockey, trainer)


def _filled(starts: tuple[Start, ...], got: Mapping[str, Earned]) -> tuple[Start, ...]:
    if not got:
        return starts
    return tuple(
        start._replace(
            elo_rated=1, horse_elo_e9=one.horse_e9, jockey_elo_e9=one.jockey_e9, trainer_elo_e9=one.trainer_e9
        )
        for start in starts
        for one in (got[start.horse_id],)
    )


def entries_of(starts: Sequence[Start]) -> list[Entry]:
    """What these starts earned, as it is put aside; none where they are not rated."""
    made = []
    for one in starts:
        told, horse_e9, jockey_e9, trainer_e9 = (
            one.market_log_e9,
            one.horse_elo_e9,
            one.jockey_elo_e9,
            one.trainer_elo_e9,
        )
        if told is not None and horse_e9 is not None and jockey_e9 is not None and trainer_e9 is not None:
            made.append(Entry(one.horse_id, one.jockey_id, one.trainer_id, told, horse_e9, jockey_e9, trainer_e9))
    return made


def parted(families: Sequence[Family]) -> tuple[list[Family], list[Family]]:
    """The families whose measures need only a start's own race, and those of the ratings."""
    rated = [one for one in families if MEASURES & {measure for each in one.career for measure in each.measures}]
    return [one for one in families if one not in rated], rated
