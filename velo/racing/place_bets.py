"""How many places a place bet pays on, and which fraction of the win odds an each-way bet gets for a place."""

from dataclasses import dataclass
from typing import Final

from velo.racing.messages import Race


@dataclass(frozen=True, slots=True)
class PlaceTerms:
    """How many places a place bet pays on (0: none), and the fraction of the win odds less 1 that it pays; null for a pool."""

    places: int
    fraction: float | None

    def each_way(self, win: float, placed: float, odds: float) -> float | None:
        """The mean return beyond the stake of one unit each way (half to win, half for a place), at decimal win `odds`.

        `win` and `placed` are probabilities; before commission. None without fixed place odds.
        """
        if self.fraction is None or self.places == 0:
            return None
        return 0.5 * (win * odds - 1.0) + 0.5 * (placed * (1.0 + (odds - 1.0) * self.fraction) - 1.0)


NO_PLACES: Final = PlaceTerms(0, None)
_BRITISH: Final = ((4, NO_PLACES), (7, PlaceTerms(2, 0.25)))
_BRITISH_MORE: Final = PlaceTerms(3, 0.2)
_HANDICAPS: Final = ((11, PlaceTerms(3, 0.2)), (15, PlaceTerms(3, 0.25)))
_HANDICAPS_MORE: Final = PlaceTerms(4, 0.25)
_POOLS: Final = {
    "HK": ((3, NO_PLACES), (6, PlaceTerms(2, None))),
    "HKG": ((3, NO_PLACES), (6, PlaceTerms(2, None))),
    "JPN": ((4, NO_PLACES), (7, PlaceTerms(2, None))),
    "JP": ((4, NO_PLACES), (7, PlaceTerms(2, None))),
}
_POOL_MORE: Final = PlaceTerms(3, None)


def place_terms(race: Race, starters: int) -> PlaceTerms:
    """The terms of a race with `starters` runners; see `terms_of`."""
    return terms_of(race.country, starters, handicap=bool(race.handicap))


def terms_of(country: str | None, starters: int, *, handicap: bool) -> PlaceTerms:
    """The place terms of a field of `starters` runners, by country.

    Hong Kong and Japan: the pools' own places. Elsewhere the standard each-way terms of British bookmakers (Tattersalls' rules
    on betting, rule 5): 5 to 7 runners 1/4 for two places; from 8 1/5 for three; in handicaps of 12 to 15 1/4 for three, from 16
    1/4 for four.
    """
    pool = _POOLS.get((country or "").upper())
    if pool is not None:
        return next((terms for field, terms in pool if starters <= field), _POOL_MORE)
    small = next((terms for field, terms in _BRITISH if starters <= field), None)
    if small is not None:
        return small
    if not handicap:
        return _BRITISH_MORE
    return next((terms for field, terms in _HANDICAPS if starters <= field), _HANDICAPS_MORE)
