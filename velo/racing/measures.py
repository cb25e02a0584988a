"""Measures of a start: integers, so that any order of summing gives the same bits (SPEC 5).

The batch computes the same measures in SQL (`streams/batch/sql/`); tests hold the two against each other.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from datetime import date
from math import floor
from typing import Final, NamedTuple

from velo.racing.clock import EPOCH
from velo.racing.going import distance_band, draw_cell, going_group
from velo.racing.messages import FINISHED, Race, Runner

E9: Final = 10**9
LENGTHS_CAP: Final = 30


class Start(NamedTuple):
    """One runner that ran, measured. Fields ending `_e9` are in billionths; None is unknown.

    A tuple, because the stream makes and reads one for every start: a frozen dataclass takes four times as long.
    """

    trainer_id: str | None
    jockey_id: str | None
    horse_id: str
    course: str
    distance_band: str
    going_group: str
    draw_cell: str
    one: int
    win: int
    place: int
    prb_e9: int | None
    prb_known: int
    exp_e9: int | None
    win_priced: int
    uni_e9: int
    market_e9: int | None
    lengths_e9: int | None
    position: int | None
    field: int
    race_day: int
    race_class: int | None
    distance_m: float | None
    weight_lbs: float | None
    official_rating: int | None


def days_since_1970(day: date) -> int:
    """Whole days from 1970-01-01 to a date."""
    return (day - EPOCH.date()).days


def place_terms(starters: int) -> int:
    """How many places count in a field of this many starters: 1 to four runners, 2 to seven, else 3."""
    return 1 if starters <= 4 else 2 if starters <= 7 else 3


def prb_e9(position: int | None, sharing: int, starters: int) -> int | None:
    """Share of rivals beaten in billionths, halves for a dead heat of `sharing`; 0 unplaced, None for a walkover.

    Never negative: a results file can hold 12th of 11.
    """
    if starters == 1:
        return None
    if position is None:
        return 0
    return max(0, E9 * (2 * starters - 2 * position - sharing + 1) // (2 * (starters - 1)))


def inverse_odds(sp_decimal: float | None) -> int | None:
    """A trillion over the odds in thousandths; None where there are no odds (odds of 1 or less are none)."""
    return None if sp_decimal is None or not sp_decimal > 1.0 else 10**12 // floor(1000 * sp_decimal + 0.5)


def draw_thirds(draws: Sequence[int | None]) -> list[int]:
    """Third of the draw (1 low to 3 high) of each of a race's starters; all 0 unless every one of them has a draw."""
    known = [draw for draw in draws if draw]
    if len(known) < len(draws):
        return [0] * len(draws)
    runners = len(known)
    ordered = sorted(known)
    return [-(-3 * (1 + bisect_left(ordered, draw)) // runners) for draw in known]


def starts_of(race: Race, runners: Sequence[Runner]) -> list[Start]:
    """The measured starts of one version of a result, in the order of its runners; empty for a void race."""
    starters = [runner for runner in runners if runner.started]
    total = len(starters)
    positions = [runner.position if runner.status == FINISHED else None for runner in starters]
    sharing = Counter(positions)
    inverses = [inverse_odds(runner.sp_decimal) for runner in starters]
    book = sum(inverse or 0 for inverse in inverses) if None not in inverses else 0
    places = place_terms(total)
    thirds = draw_thirds([runner.draw for runner in starters])
    band, group = distance_band(race.distance_m), going_group(race.going)
    cells = [draw_cell(race.course, race.surface, race.distance_m, race.going, third) for third in range(4)]
    race_day = days_since_1970(race.race_date)
    starts = []
    for runner, position, inverse, third in zip(starters, positions, inverses, thirds, strict=True):
        beaten = prb_e9(position, sharing[position], total)
        expected = (inverse or 0) * E9 // book if book else None
        win = int(position == 1)
        lengths = runner.beaten_lengths
        starts.append(
            Start(
                trainer_id=runner.trainer_id,
                jockey_id=runner.jockey_id,
                horse_id=runner.horse_id,
                course=race.course,
                distance_band=band,
                going_group=group,
                draw_cell=cells[third],
                one=1,
                win=win,
                place=int(position is not None and position <= places),
                prb_e9=beaten,
                prb_known=int(beaten is not None),
                exp_e9=expected,
                win_priced=win if expected is not None else 0,
                uni_e9=E9 // total,
                market_e9=None if expected is None else expected * total,
                lengths_e9=None if lengths is None else floor(min(lengths, LENGTHS_CAP) * E9 + 0.5),
                position=position,
                field=total,
                race_day=race_day,
                race_class=race.race_class,
                distance_m=race.distance_m,
                weight_lbs=runner.weight_lbs,
                official_rating=runner.official_rating,
            )
        )
    return starts
