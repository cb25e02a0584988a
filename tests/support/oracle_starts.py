"""What one result record says of its starters: contract 4 and 5 in plain loops, the lower half of the oracle.

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
STARTED = frozenset(("FINISHED", "RAN", "PU", "F", "UR", "BD", "SU", "RO", "REF", "RR", "LFT", "CO", "DNF", "DSQ"))
GOINGS = {
    "fast": ("hard", "firm", "good to firm", "fast", "wet fast", "standard to fast"),
    "good": ("good", "standard"),
    "easy": ("good to soft", "good to yielding", "yielding", "standard to slow", "wet slow", "sealed"),
    "soft": ("soft", "yielding to soft", "soft to heavy", "very soft", "heavy", "slow", "muddy"),
}


@dataclass(frozen=True)
class Start:
    """One runner that ran, by one version of its race; the keys and the measures of contract 4 and 5."""

    race_id: str
    race_date: date
    off_time: datetime
    keys: dict[str, str]
    win: int
    place: int | None
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
    over_e9: int | None
    market_log_e9: int | None
    pace_e9: int | None
    speed_e9: int | None
    figure_e9: int | None
    body_weight_lbs: float | None
    running: "Running"
    elo: dict[tuple[str, ...], int] | None = None


@dataclass(frozen=True)
class Running:
    """What a start did between the off and the finish, by its race; None is unknown."""

    early_e9: int | None
    led: bool
    held_up: bool
    gained_e9: int | None
    straight_e9: int | None
    early_speed_e9: int | None
    late_speed_e9: int | None
    finishing_e9: int | None
    slow_away: bool | None
    hampered: bool | None
    widest_path: int | None


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


# -- contract 4 -----------------------------------------------------------------------------------------------------------


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


# -- contract 5 -----------------------------------------------------------------------------------------------------------


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


def place_e9(runner: Mapping[str, Any], runners: list[Mapping[str, Any]]) -> tuple[int | None, int | None]:
    """Whether it was placed, and its rivals beaten in billionths; of RAN neither is known."""
    if runner["status"] == "RAN":
        return None, None
    if runner["status"] != "FINISHED":
        return 0, percentage_beaten_e9(len(runners), None, 1)
    position = runner["position"]
    level = sum(other["status"] == "FINISHED" and other["position"] == position for other in runners)
    return int(position <= place_limit(len(runners))), percentage_beaten_e9(len(runners), position, level)


def expected_wins_e9(all_odds: list[float | None]) -> list[int | None]:
    """The market's expected wins of each starter, billionths; all null where any starter has no odds."""
    inverse = []
    for odds in all_odds:
        if odds is None:
            return [None] * len(all_odds)
        inverse.append(10**12 // math.floor(1000 * odds + 0.5))
    return [each * E9 // sum(inverse) for each in inverse]


# -- the measures beyond contract 5 ---------------------------------------------------------------------------------------


def over_e9(mine: int, prices: list[float | None], prb_e9: int | None) -> int | None:
    """1 plus the share of rivals beaten less what the odds expected of starter number `mine`, pair by pair."""
    if prb_e9 is None or any(price is None or price <= 1.0 for price in prices):
        return None
    inverse = [10**12 // math.floor(1000 * (price or 0) + 0.5) for price in prices]
    expected = 0
    for other, rival in enumerate(inverse):
        if other != mine:
            expected += inverse[mine] * E9 // max(1, inverse[mine] + rival)
    return E9 + prb_e9 - expected // (len(prices) - 1)


def market_log_e9(exp_e9: int | None, starters: int) -> int | None:
    """16 for an average runner, one more for each doubling; the last, broken doubling counts by the straight line."""
    if exp_e9 is None:
        return None
    left = Fraction(max(1, exp_e9 * starters * 65536 // E9))
    doublings = 0
    while left >= 2:
        left /= 2
        doublings += 1
    return doublings * E9 + math.floor((left - 1) * E9)


def milliseconds(time_s: float | None) -> int | None:
    if time_s is None or time_s < 0.001 or time_s >= 24 * 60 * 60:
        return None
    return math.floor(1000 * time_s + 0.5)


def pace_e9(time_s: float | None, times_s: list[float | None]) -> int | None:
    """The mean time of those timed over its own: 2 at the most, unknown where no rival was timed."""
    own, known = milliseconds(time_s), [ms for ms in map(milliseconds, times_s) if ms is not None]
    if own is None or len(known) < 2:
        return None
    return min(2 * E9, math.floor(Fraction(sum(known), len(known) * own) * E9))


def counted(value: Any, most: int) -> int | None:
    """A whole number from 1 to `most`; anything else is unknown."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 1 <= value <= most else None


def flag(value: Any) -> bool | None:
    return value if value is True or value is False else None


def rivals_behind_e9(position: int | None, starters: int) -> int | None:
    if position is None or starters == 1 or position > starters:
        return None
    return math.floor(Fraction(starters - position, starters - 1) * E9)


def against_the_mean_e9(mine: int | None, everyone: list[int | None]) -> int | None:
    """The mean of the known times over one's own: 2 at the most, unknown where no rival was timed."""
    known = [ms for ms in everyone if ms is not None]
    if mine is None or len(known) < 2:
        return None
    return min(2 * E9, math.floor(Fraction(sum(known), len(known) * mine) * E9))


def running_of(
    runner: Mapping[str, Any], runners: list[Mapping[str, Any]], prb_e9: int | None, pace: int | None
) -> Running:
    starters, day_ms = len(runners), 24 * 60 * 60 * 1000
    call = counted(runner.get("first_call_position"), 100_000)
    early, late = (
        rivals_behind_e9(counted(runner.get(name), 100_000), starters)
        for name in ("first_call_position", "last_call_position")
    )
    first, final = (
        against_the_mean_e9(
            counted(runner.get(name), day_ms - 1), [counted(each.get(name), day_ms - 1) for each in runners]
        )
        for name in ("first_section_ms", "last_section_ms")
    )
    return Running(
        early_e9=early,
        led=early is not None and call == 1,
        held_up=early is not None and early < E9 // 3,
        gained_e9=None if early is None or prb_e9 is None else E9 + prb_e9 - early,
        straight_e9=None if late is None or prb_e9 is None else E9 + prb_e9 - late,
        early_speed_e9=first,
        late_speed_e9=final,
        finishing_e9=None if final is None or not pace else min(4 * E9, final * E9 // pace),
        slow_away=flag(runner.get("slow_away")),
        hampered=flag(runner.get("hampered")),
        widest_path=counted(runner.get("widest_path"), 100_000),
    )


def whole_metres(distance_m: float | None) -> int | None:
    if distance_m is None or distance_m < 100 or distance_m >= 100_000:
        return None
    return math.floor(distance_m + 0.5)


def par_ms(metres: int) -> int:
    """By hand from the table of pars; beyond the last it goes on as between the last two."""
    pars = {0: 0, 800: 45000, 1000: 57600, 1200: 70500, 1600: 96900, 2000: 124000, 2400: 151700}
    pars |= {3200: 208700, 4800: 327000, 7200: 512000}
    knots = sorted(pars)
    below = max(knot for knot in knots[:-1] if knot <= metres)
    above = knots[knots.index(below) + 1]
    return pars[below] + math.floor(Fraction((metres - below) * (pars[above] - pars[below]), above - below))


def speed_e9(time_s: float | None, distance_m: float | None) -> int | None:
    own, metres = milliseconds(time_s), whole_metres(distance_m)
    return None if own is None or metres is None else min(2 * E9, par_ms(metres) * E9 // own)


def top_of_band(text: str | None) -> int | None:
    """The greatest number of up to three digits in a rating band."""
    digits = "".join(each if each in "0123456789" else " " for each in text or "").split()
    return max((int(digit) for digit in digits if len(digit) <= 3), default=None)


def figures_e9(record: Record, runners: list[Mapping[str, Any]]) -> list[int | None]:
    """Pounds: the weight on the scale of the band, and the lengths, each worth 3000 lb over the metres run."""
    top, metres = top_of_band(record.get("rating_band")), whole_metres(record.get("distance_m"))
    weights = [runner.get("weight_lbs") for runner in runners]
    if top is None or metres is None or any(each is None or not 0 <= each < 1000 for each in weights):
        return [None] * len(runners)
    carried = [math.floor((each or 0) * 1e9 + 0.5) for each in weights]
    behind = []
    for runner in runners:
        lengths = runner.get("beaten_lengths")
        behind.append(None if lengths is None or lengths < 0 else math.floor(min(lengths, 15) * 1e9 + 0.5))
    given = [each for each in behind if each is not None]
    found: list[int | None] = []
    for weight, each in zip(carried, behind, strict=True):
        if each is None:
            found.append(None)
            continue
        mean_lbs, own_lbs = sum(given) // len(given) * 3000 // metres, each * 3000 // metres
        found.append(top * E9 - (max(carried) - weight) + mean_lbs - own_lbs)
    return found


def starts_of(record: Record) -> list[Start]:
    """The starts one result record gives, in the order of its runners; none where no runner started (VOID)."""
    runners = [runner for runner in record["runners"] if runner["status"] in STARTED]
    draws = [runner.get("draw") or None for runner in runners]
    positions = [runner.get("position") if runner["status"] == "FINISHED" else None for runner in runners]
    odds = [runner.get("sp_decimal") for runner in runners]
    expected = expected_wins_e9([price if price is not None and price > 1.0 else None for price in odds])
    band, going = distance_band(record.get("distance_m")), going_group(record.get("going"))
    course = record.get("course") or "unknown"
    times, figures = [runner.get("finish_time_s") for runner in runners], figures_e9(record, runners)
    starts = []
    for number, (runner, draw, position, exp_e9) in enumerate(zip(runners, draws, positions, expected, strict=True)):
        placed, prb_e9 = place_e9(runner, runners)
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
                win=int(runner["status"] in ("FINISHED", "RAN") and runner.get("position") == 1),
                place=placed,
                prb_e9=prb_e9,
                exp_e9=exp_e9,
                uni_e9=E9 // len(runners),
                field_size=len(runners),
                position=position,
                beaten_lengths=runner.get("beaten_lengths"),
                race_class=record.get("race_class"),
                distance_m=record.get("distance_m"),
                weight_lbs=runner.get("weight_lbs"),
                official_rating=runner.get("official_rating"),
                over_e9=over_e9(number, odds, prb_e9),
                market_log_e9=market_log_e9(exp_e9, len(runners)),
                pace_e9=pace_e9(times[number], times),
                speed_e9=speed_e9(times[number], record.get("distance_m")),
                figure_e9=figures[number],
                body_weight_lbs=runner.get("body_weight_lbs"),
                running=running_of(runner, runners, prb_e9, pace_e9(times[number], times)),
            )
        )
    return starts
