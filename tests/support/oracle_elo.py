"""Elo ratings by the book: every rating is added up again from all entries of its account that stand, for each race known.

Standard library only, and nothing of the product, so that an error must be made twice to hide.
"""

import math
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction

from tests.support.oracle_starts import E9, Start

SHARES = {
    ("horse_id",): Fraction(35, 100),
    ("jockey_id",): Fraction(2, 100),
    ("trainer_id",): Fraction(5, 1000),
    ("draw_cell",): Fraction(1, 100),
    ("horse_id", "course", "distance_band"): Fraction(1, 10),
}
Key = tuple[str, ...]


class Ledger:
    """What each start of each race has earned, by the races known so far; points are whole billionths."""

    def __init__(self) -> None:
        self.races: dict[str, list[Start]] = {}
        self.accounts: dict[tuple[Key, Key], list[tuple[str, int]]] = defaultdict(list)

    def rated(self, race_id: str, starts: list[Start]) -> list[Start]:
        """The starts of a version that takes effect, with what they earn; the version before it is struck out."""
        before = self.races.get(race_id, [])
        kept = self.kept(before, starts) if before else None
        for names, key in {(names, key) for each in before for names in SHARES if (key := keys(each, names))}:
            account = self.accounts[names, key]
            account[:] = [entry for entry in account if entry[0] != race_id]
        self.races[race_id] = []
        if kept is not None:
            return self.entered(race_id, kept)
        if len(starts) < 2 or any(start.market_log_e9 is None for start in starts):
            return starts
        return self.entered(race_id, self.anew(starts))

    def entered(self, race_id: str, made: list[Start]) -> list[Start]:
        """The starts, whose points now stand in the accounts of their keys."""
        self.races[race_id] = made
        for each in made:
            for names, points in (each.elo or {}).items():
                if key := keys(each, names):
                    self.accounts[names, key].append((race_id, points))
        return made

    def kept(self, before: list[Start], starts: list[Start]) -> list[Start] | None:
        """The starts with what the version before earned, where that had the same horses at the same odds in the same race.

        One horse may have another key: then one key is gone and one is new.
        """
        was = {each.keys["horse_id"]: each for each in before}
        now = {start.keys["horse_id"] for start in starts}
        if len(before) != len(starts) or len(now - set(was)) > 1:
            return None
        other = next(iter(set(was) - now), None)
        pairs = [(was.get(start.keys["horse_id"]) or was[other or ""], start) for start in starts]
        if any(self.ran(old) != self.ran(new) for old, new in pairs):
            return None
        return [replace(new, elo=old.elo) for old, new in pairs]

    def ran(self, start: Start) -> tuple[str, ...]:
        return (
            *(start.keys.get(name, "") for name in ("draw_cell", "course", "distance_band")),
            str(start.market_log_e9),
        )

    def anew(self, starts: list[Start]) -> list[Start]:
        foretold = [sum(self.rating(names, keys(start, names)) for names in SHARES) for start in starts]
        found = [start.market_log_e9 or 0 for start in starts]
        market_mean, expected_mean = (math.floor(Fraction(sum(values), len(starts))) for values in (found, foretold))
        made = []
        for start, market, expected in zip(starts, found, foretold, strict=True):
            surprise = (market - market_mean) - (expected - expected_mean)
            surprise = max(-16 * E9, min(16 * E9, surprise))
            horse = max(SHARES["horse_id",], Fraction(1, 1 + self.starts(start.keys["horse_id"])))
            shares = SHARES | {("horse_id",): horse}
            earned = {names: math.floor(surprise * share) for names, share in shares.items()}
            made.append(replace(start, elo=earned))
        return made

    def rating(self, names: Key, key: Key | None) -> int:
        return sum(points for _, points in self.accounts[names, key]) if key else 0

    def starts(self, horse_id: str) -> int:
        return len(self.accounts[("horse_id",), (horse_id,)])


def keys(start: Start, names: Key) -> Key | None:
    return tuple(start.keys[name] for name in names) if all(name in start.keys for name in names) else None


def balance(names: Key, starts: list[Start]) -> dict[str, int | float | None]:
    """The row of a rating's view: of how many rated starts, and the rating in doublings of the market's expectation."""
    earned = [start.elo[names] for start in starts if start.elo is not None]
    return {"rated": len(earned), "elo": float(Fraction(sum(earned), E9)) if earned else None}
