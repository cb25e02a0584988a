"""What one result record says of its starters: SPEC 4 and 5 in plain loops, the lower half of the oracle.

Standard library only, nothing of the product. `*_e9` are integers in billionths; instants are aware UTC datetimes;
"local" is the zone given.

Shown by the conformance probes: lengths stand as given for anyone who started (a winner's may be 0 or not, a faller's
may be known); a runner that is VOID or NR takes no part in ranks, field size or expected wins; a draw cell with third
0 is a cell like any other.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

Record = Mapping[str, Any]

E9 = 10**9
STARTED = frozenset(("FINISHED", "PU", "F", "UR", "BD", "SU", "RO", "REF", "RR", "LFT", "CO", "DNF", "DSQ"))
GOINGS = {
    "fast": ("hard", "firm", "good to firm", "fast", "wet fast", "standard to fast"),
    "good": ("good", "standard"),
    "easy": ("good to soft", "good to yielding", "yielding", "standard to slow", "wet slow", "sealed"),
    "soft": ("soft", "yielding to soft", "soft to heavy", "very soft", "heavy", "slow", "muddy"),
}


@dataclass(frozen=True)
class Start:
    """One runner that ran, as one version of its race tells it; the keys and the measures of SPEC 4 and 5."""

    race_id: str
    race_date: date
    off_time: datetime
    keys: dict[str, str]
    win: int
    place: int
    prb_e9: int | None
    exp_e9: int | None
    uni_e9: int
    field_size: int
    position: int | None
    beaten_lengths: float | None
    race_class: int | None
    distance_m: float | None
    weight_lbs: float | None
    official_rating: int | None


# -- the clock --------------------------------------------------------------------------------------------------------


def instant(text: str) -> datetime:
    """A log's ISO instant, e.g. 2024-05-01T14:15:00.000000Z, as an aware UTC datetime."""
    return datetime.fromisoformat(text).astimezone(UTC)


def local_midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a local date, in UTC.

    Where the clock jumps over midnight the date begins later by the clock and at the jump in UTC, which is what the
    offset from before the jump (fold=0) gives; where midnight comes twice, fold=0 is the first.
    """
    return datetime(day.year, day.month, day.day, fold=0, tzinfo=zone).astimezone(UTC)


def local_date(at: datetime, zone: ZoneInfo) -> date:
    return at.astimezone(zone).date()


# -- SPEC 4 -----------------------------------------------------------------------------------------------------------


def distance_band(distance_m: float | None) -> str:
    if distance_m is None:
        return "unknown"
    if distance_m < 1300:
        return "sprint"
    if distance_m < 1900:
        return "mile"
    if distance_m < 2700:
        return "middle"
    return "staying"


def going_group(going: str | None) -> str:
    if going is None:
        return "unknown"
    plain = " ".join(re.sub(r"\([^)]*\)", " ", going).split()).casefold()
    for group, words in GOINGS.items():
        if plain in words:
            return group
    return "unknown"


def draw_third(draw: int | None, draws: list[int | None]) -> int:
    """1 to 3 by the rank of `draw` among the starters' `draws`; 0 where any starter's draw is missing."""
    if draw is None or any(other is None for other in draws):
        return 0
    rank = 1 + sum(1 for other in draws if other is not None and other < draw)
    return math.ceil(Fraction(3 * rank, len(draws)))


# -- SPEC 5 -----------------------------------------------------------------------------------------------------------


def place_limit(starters: int) -> int:
    if starters <= 4:
        return 1
    if starters <= 7:
        return 2
    return 3


def percentage_beaten_e9(starters: int, position: int | None, sharing: int) -> int | None:
    if starters == 1:
        return None
    if position is None:
        return 0
    return max(0, E9 * (2 * starters - 2 * position - sharing + 1) // (2 * (starters - 1)))


def expected_wins_e9(all_odds: list[float | None]) -> list[int | None]:
    """The market's expected wins of each starter, billionths; all null where any starter has no odds."""
    inverse = []
    for odds in all_odds:
        if odds is None:
            return [None] * len(all_odds)
        inverse.append(10**12 // math.floor(1000 * odds + 0.5))
    return [one * E9 // sum(inverse) for one in inverse]


def starts_of(record: Record) -> list[Start]:
    """The starts one result record gives, in the order of its runners; none where no runner started (VOID)."""
    runners = [runner for runner in record["runners"] if runner["status"] in STARTED]
    draws = [runner.get("draw") or None for runner in runners]
    positions = [runner.get("position") if runner["status"] == "FINISHED" else None for runner in runners]
    odds = [runner.get("sp_decimal") for runner in runners]
    expected = expected_wins_e9([price if price is not None and price > 1.0 else None for price in odds])
    band, going = distance_band(record.get("distance_m")), going_group(record.get("going"))
    course = record.get("course") or "unknown"
    starts = []
    for runner, draw, position, exp_e9 in zip(runners, draws, positions, expected, strict=True):
        cell = f"{course}|{record.get('surface') or 'unknown'}|{band}|{going}|{draw_third(draw, draws)}"
        keys = {
            "horse_id": runner["horse_id"],
            "trainer_id": runner.get("trainer_id"),
            "jockey_id": runner.get("jockey_id"),
            "course": course,
            "distance_band": band,
            "going_group": going,
            "draw_cell": cell,
        }
        starts.append(
            Start(
                race_id=record["race_id"],
                race_date=date.fromisoformat(record["race_date"]),
                off_time=instant(record["off_time"]),
                keys={name: key for name, key in keys.items() if key is not None},
                win=int(position == 1),
                place=int(position is not None and position <= place_limit(len(runners))),
                prb_e9=percentage_beaten_e9(len(runners), position, positions.count(position)),
                exp_e9=exp_e9,
                uni_e9=E9 // len(runners),
                field_size=len(runners),
                position=position,
                beaten_lengths=runner.get("beaten_lengths"),
                race_class=record.get("race_class"),
                distance_m=record.get("distance_m"),
                weight_lbs=runner.get("weight_lbs"),
                official_rating=runner.get("official_rating"),
            )
        )
    return starts
