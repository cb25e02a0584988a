"""The measured starts of a race: every runner that ran, by the measures of `velo.racing.measures`."""

from collections import Counter, namedtuple
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from velo.racing.expression_renderers import compiled
from velo.racing.going import distance_band, draw_cell, going_group
from velo.racing.jurisdiction import DEFAULT, Jurisdiction
from velo.racing.measures import MEASURES, Measure
from velo.racing.messages import FINISHED, Race, Runner
from velo.racing.race_values import (
    LENGTH_LBS_METRES,
    chance_e9,
    days_since_1970,
    draw_thirds,
    figure_lengths_e9,
    figure_scale_e9,
    figure_weight_e9,
    inverse_odds,
    run_metres,
    section_ms,
    time_ms,
    truth,
    whole_number,
)
from velo.racing.start_columns import number_of, python_of, text_of, whole_of

OF_RACE: Final = tuple(name for name, measure in MEASURES.items() if measure.value is not None)
"""The measures that need only the start's own race."""
OF_RATINGS: Final = tuple(name for name, measure in MEASURES.items() if measure.value is None)
"""The measures that ratings make, from every result before."""
KEYS: Final = ("trainer_id", "jockey_id", "horse_id", "course", "distance_band", "going_group", "draw_cell")


def _tuple_of(fields: tuple[str, ...]) -> Any:
    return namedtuple("_Fields", fields)


_Fields: Final = _tuple_of((*KEYS, *OF_RACE, *OF_RATINGS, "own"))


class Start(_Fields):  # type: ignore[misc, valid-type]
    """The keys and measures of one start. Measures ending `_e9` are in billionths; None is unknown.

    `own` has the measures that a user declared, by name. Those of ratings depend on earlier races: `starts_of` leaves them
    0 and None, and the rating step fills them in race order.

    A tuple, because the stream makes and reads one for every start: a frozen dataclass takes four times as long.
    """

    __slots__ = ()

    def measured(self, measure: str) -> Any:
        """A measure by its name, a user's own too."""
        return self.own[measure] if measure in self.own else getattr(self, measure)

    def rated(self, earned: Sequence[int]) -> "Start":
        """The start with what ratings make of it."""
        return tuple.__new__(Start, (*self[:_RATED_AT], 1, *earned, self.own))


_RATED_AT: Final = len(KEYS) + len(OF_RACE)
_UNRATED: Final = (0, *(None for _ in OF_RATINGS[1:]))


def starts_of(
    race: Race, runners: Sequence[Runner], jurisdiction: Jurisdiction = DEFAULT, own: tuple[Measure, ...] = ()
) -> list[Start]:
    """Measure the starts of one version of a result, in the order of its runners; empty for a void race.

    `own` are the measures that a user declared.
    """
    starters = [runner for runner in runners if runner.started]
    if not starters:
        return []
    shared, values = _race_values(race, starters, jurisdiction)
    measured = _measuring(own)
    return [measured(race, shared, *row) for row in values]


class _Shared(NamedTuple):
    """The values that all starters of a race share, named as the columns of `velo.racing.start_columns`."""

    distance_band: str
    going_group: str
    draw_cells: list[str]
    race_day: int
    field: int
    places: int
    run_m: int | None
    par_ms: int | None
    book: int | None
    timed: int
    clocked: int
    first_timed: int
    first_clocked: int
    last_timed: int
    last_clocked: int
    scale: int | None
    mean_behind: int | None


_ROW: Final = (
    "runner", "position", "sharing", "inverse", "pairing", "time_ms", "first_ms", "last_ms", "weight_e9", "behind", "third",
)  # fmt: skip


def _race_values(
    race: Race, starters: Sequence[Runner], jurisdiction: Jurisdiction
) -> tuple[_Shared, "zip[tuple[Any, ...]]"]:
    """The values that need the whole race: the shared values, and for each starter the values of `_ROW`."""
    field = len(starters)
    positions = [runner.position if runner.status == FINISHED else None for runner in starters]
    sharing = Counter(positions)
    inverses = [inverse_odds(runner.sp_decimal) for runner in starters]
    priced = [inverse for inverse in inverses if inverse is not None]
    book = sum(priced) or None if len(priced) == field else None
    pairings = [chance_e9(inverse, priced) for inverse in priced] if book and field > 1 else [None] * field
    times = [time_ms(runner.finish_time_s) for runner in starters]
    firsts = [section_ms(runner.first_section_ms) for runner in starters]
    lasts = [section_ms(runner.last_section_ms) for runner in starters]
    known_times, known_firsts, known_lasts = ([ms for ms in of if ms is not None] for of in (times, firsts, lasts))
    run_m = run_metres(race.distance_m)
    weights = [figure_weight_e9(runner.weight_lbs) for runner in starters]
    lengths = [figure_lengths_e9(runner.beaten_lengths) for runner in starters]
    behind = [length for length in lengths if length is not None]
    shared = _Shared(
        distance_band(race.distance_m, jurisdiction),
        going_group(race.going, jurisdiction),
        [draw_cell(race.course, race.surface, race.distance_m, race.going, third, jurisdiction) for third in range(4)],
        days_since_1970(race.race_date),
        field,
        jurisdiction.places(field),
        run_m,
        None if run_m is None else jurisdiction.par_time_ms(run_m),
        book,
        len(known_times),
        sum(known_times),
        len(known_firsts),
        sum(known_firsts),
        len(known_lasts),
        sum(known_lasts),
        figure_scale_e9(race, weights),
        sum(behind) // len(behind) * LENGTH_LBS_METRES // run_m if behind and run_m is not None else None,
    )
    rows = zip(
        starters,
        positions,
        [0 if position is None else sharing[position] for position in positions],
        inverses,
        pairings,
        times,
        firsts,
        lasts,
        weights,
        lengths,
        draw_thirds([runner.draw for runner in starters]),
        strict=True,
    )
    return shared, rows


@lru_cache(maxsize=16)
def _measuring(own: tuple[Measure, ...]) -> Callable[..., Start]:
    """The function from (race, shared values, the values of `_ROW`) to the start."""
    shipped = [measure.value for name, measure in MEASURES.items() if name in OF_RACE]
    values = [value for value in (*shipped, *(measure.value for measure in own)) if value is not None]
    keys = (
        "runner.trainer_id, runner.jockey_id, runner.horse_id, race.course, shared.distance_band, shared.going_group, "
        "shared.draw_cells[third]"
    )

    def made(values: list[str]) -> str:
        owned = ", ".join(
            f"{measure.name!r}: {text}" for measure, text in zip(own, values[len(shipped) :], strict=True)
        )
        measures = ", ".join(values[: len(shipped)])
        return f"new(Start, ({keys}, {measures}, *unrated, {f'{{{owned}}}' if own else 'nothing'}))"

    names = {
        "new": tuple.__new__,
        "Start": Start,
        "unrated": _UNRATED,
        "nothing": _NOTHING,
        "number_of": number_of,
        "whole_of": whole_of,
        "text_of": text_of,
        "whole_number": whole_number,
        "truth": truth,
    }
    return compiled(values, ("race", "shared", *_ROW), python_of, made, names)


_NOTHING: Final[dict[str, Any]] = {}
