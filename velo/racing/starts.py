"""The measured starts of a race: every runner that ran, by the measures of `velo.racing.measures`."""

from collections import Counter
from collections.abc import Sequence
from math import floor
from typing import NamedTuple

from velo.racing.going import distance_band, draw_cell, going_group
from velo.racing.jurisdiction import DEFAULT, Jurisdiction
from velo.racing.measures import (
    E9,
    LENGTHS_CAP,
    LENGTHS_FLOOR,
    PACE_CAP,
    days_since_1970,
    draw_thirds,
    expected_prb_e9,
    figures_e9,
    inverse_odds,
    market_log_e9,
    prb_e9,
    run_metres,
    time_ms,
)
from velo.racing.messages import FINISHED, RAN, Race, Runner


class Start(NamedTuple):
    """The measures of one start. Fields ending `_e9` are in billionths; None is unknown.

    The Elo fields depend on earlier races: `starts_of` leaves them empty, and the rating step fills them in race order.

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
    place: int | None
    place_known: int
    prb_e9: int | None
    prb_known: int
    exp_e9: int | None
    win_priced: int
    uni_e9: int
    market_e9: int | None
    market_log_e9: int | None
    priced: int
    over_e9: int | None
    over_known: int
    pace_e9: int | None
    pace_known: int
    speed_e9: int | None
    speed_known: int
    figure_e9: int | None
    lengths_e9: int | None
    position: int | None
    field: int
    race_day: int
    day_e9: int
    race_class: int | None
    distance_m: float | None
    weight_lbs: float | None
    official_rating: int | None
    body_weight_lbs: float | None
    elo_rated: int = 0
    horse_elo_e9: int | None = None
    jockey_elo_e9: int | None = None
    trainer_elo_e9: int | None = None
    draw_elo_e9: int | None = None
    suited_elo_e9: int | None = None


def starts_of(race: Race, runners: Sequence[Runner], jurisdiction: Jurisdiction = DEFAULT) -> list[Start]:
    """Measure the starts of one version of a result, in the order of its runners; empty for a void race."""
    starters = [runner for runner in runners if runner.started]
    positions = [runner.position if runner.status == FINISHED else None for runner in starters]
    sharing, total = Counter(positions), len(starters)
    beaten = [
        None if runner.status == RAN else prb_e9(position, sharing[position], total)
        for runner, position in zip(starters, positions, strict=True)
    ]
    columns = (
        starters,
        positions,
        beaten,
        _market_measures(starters, beaten),
        _speeds(race, starters, jurisdiction),
        figures_e9(race, starters),
        draw_thirds([runner.draw for runner in starters]),
    )
    shared = _RaceValues.of(race, total, jurisdiction)
    return [_start(race, shared, *values) for values in zip(*columns, strict=True)]


class _RaceValues(NamedTuple):
    """The values that all starters of a race share."""

    distance_band: str
    going_group: str
    draw_cells: list[str]
    race_day: int
    field: int
    places: int

    @classmethod
    def of(cls, race: Race, starters: int, rules: Jurisdiction) -> "_RaceValues":
        return cls(
            distance_band(race.distance_m, rules),
            going_group(race.going, rules),
            [draw_cell(race.course, race.surface, race.distance_m, race.going, third, rules) for third in range(4)],
            days_since_1970(race.race_date),
            starters,
            rules.places(starters),
        )


def _market_measures(
    starters: Sequence[Runner], beaten: Sequence[int | None]
) -> list[tuple[int, int | None] | tuple[None, None]]:
    """`exp_e9` and `over_e9` of each starter: expected wins, and 1 plus the share of rivals beaten beyond expectation.

    In billionths; None for the whole race if a starter has no odds.
    """
    inverses = [inverse for runner in starters if (inverse := inverse_odds(runner.sp_decimal)) is not None]
    book = sum(inverses)
    if len(inverses) < len(starters) or not book:
        return [(None, None)] * len(starters)
    return [
        (inverse * E9 // book, None if prb is None else E9 + prb - expected_prb_e9(inverse, inverses))
        for inverse, prb in zip(inverses, beaten, strict=True)
    ]


def _speeds(race: Race, starters: Sequence[Runner], jurisdiction: Jurisdiction) -> list[tuple[int | None, int | None]]:
    """`pace_e9` and `speed_e9` of each starter: speed over the mean of its race and over par, in billionths.

    Pace needs two timed starters or more; None is unknown.
    """
    times = [time_ms(runner.finish_time_s) for runner in starters]
    known = [time for time in times if time is not None]
    timed, clocked = (len(known), sum(known)) if len(known) > 1 else (0, 0)
    run_m = run_metres(race.distance_m)
    par_ms = None if run_m is None else jurisdiction.par_time_ms(run_m)
    cap = PACE_CAP * E9
    return [
        (
            min(cap, E9 * clocked // (timed * time)) if timed and time is not None else None,
            None if par_ms is None or time is None else min(cap, E9 * par_ms // time),
        )
        for time in times
    ]


def _start(
    race: Race,
    shared: _RaceValues,
    runner: Runner,
    position: int | None,
    beaten: int | None,
    odds: tuple[int, int | None] | tuple[None, None],
    clock: tuple[int | None, int | None],
    figure: int | None,
    third: int,
) -> Start:
    (expected, over), (pace, speed) = odds, clock
    win, placeless, lengths = int(runner.won), runner.status == RAN, runner.beaten_lengths
    return Start(
        trainer_id=runner.trainer_id,
        jockey_id=runner.jockey_id,
        horse_id=runner.horse_id,
        course=race.course,
        distance_band=shared.distance_band,
        going_group=shared.going_group,
        draw_cell=shared.draw_cells[third],
        one=1,
        win=win,
        place=None if placeless else int(position is not None and position <= shared.places),
        place_known=int(not placeless),
        prb_e9=beaten,
        prb_known=int(beaten is not None),
        exp_e9=expected,
        win_priced=win if expected is not None else 0,
        uni_e9=E9 // shared.field,
        market_e9=None if expected is None else expected * shared.field,
        market_log_e9=None if expected is None else market_log_e9(expected * shared.field),
        priced=int(expected is not None),
        over_e9=over,
        over_known=int(over is not None),
        pace_e9=pace,
        pace_known=int(pace is not None),
        speed_e9=speed,
        speed_known=int(speed is not None),
        figure_e9=figure,
        lengths_e9=None if lengths is None else floor(max(LENGTHS_FLOOR, min(lengths, LENGTHS_CAP)) * E9 + 0.5),
        position=position,
        field=shared.field,
        race_day=shared.race_day,
        day_e9=race.race_date.toordinal() * E9,
        race_class=race.race_class,
        distance_m=race.distance_m,
        weight_lbs=runner.weight_lbs,
        official_rating=runner.official_rating,
        body_weight_lbs=runner.body_weight_lbs,
    )
