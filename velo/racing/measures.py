"""The measures of a start, each declared once: its value as an expression, what it says in words, and its bounds (contract 5).

The Python of a measure (`velo.racing.starts`) and its SQL (`velo.streams.batch.measuring`) are rendered from the expression. A
name that ends in `_e9` counts in billionths. Measures are integers, so that any order of summing gives the same bits; the
bounds say where 64-bit sums stay exact, and a family that would exceed them is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from velo.errors import UserError
from velo.racing.expressions import E9, Expression, case, in_words, largest, literal, log2_e9, smallest
from velo.racing.messages import RAN
from velo.racing.race_values import (
    LENGTH_LBS_METRES,
    LENGTHS_CAP,
    LENGTHS_FLOOR,
    MARKET_LOG_EVEN,
    PACE_CAP,
)
from velo.racing.start_columns import CALENDAR_COLUMNS, INT32, Extra, column

DAY_1970: Final = 719_163
"""The ordinal of 1970-01-01: the first day of the year 1 is 1."""


@dataclass(frozen=True)
class Measure:
    """One measure of a start: a number from `least` to `most`, or null.

    `value` is None only for what ratings make. `calendar` says that the measure mostly says when the start was, which a
    model must not learn: every feature of it is kept from models. By default it follows from the columns that `value`
    reads. `units` names what its values count, by default `words`. Raises `UserError` for a value that is not a number.
    """

    name: str
    words: str
    least: int
    most: int
    value: Expression | None = None
    calendar: bool | None = None
    units: str = ""

    def __post_init__(self) -> None:
        if self.value is not None and self.value.kind not in ("whole", "real"):
            raise UserError(f"measure {self.name} is {self.value.kind}, not a number: write .counted for 1 and 0")

    @property
    def whole(self) -> bool:
        """Whether it is an integer."""
        return self.value is None or self.value.kind == "whole"

    @property
    def unit(self) -> str:
        """What its values count."""
        return self.units or self.words

    @property
    def is_count(self) -> bool:
        """Whether it is 1 or 0 for a start."""
        return (self.least, self.most) == (0, 1)

    @property
    def size(self) -> int:
        """The most it can differ from 0."""
        return max(-self.least, self.most)

    @cached_property
    def is_calendar(self) -> bool:
        """Whether a model must not see features of it."""
        if self.calendar is not None:
            return self.calendar
        return self.value is not None and any(column.data in CALENDAR_COLUMNS for column in self.value.columns())

    @property
    def formula(self) -> str:
        """Its expression in words."""
        return "made by ratings" if self.value is None else in_words(self.value)


def unit(measure: str) -> int:
    """The number that one natural unit of a measure counts in it."""
    return E9 if measure.endswith("_e9") else 1


def extra_columns(own: Iterable[Measure]) -> list[Extra]:
    """The columns of a user's own files that some measures read."""
    read = (column.data for measure in own if measure.value is not None for column in measure.value.columns())
    return list(dict.fromkeys(data for data in read if isinstance(data, Extra)))


def _count(name: str, words: str, value: Expression | None, units: str = "starts") -> Measure:
    return Measure(name, words, 0, 1, value, units=units)


def _billionths(name: str, words: str, most: int, value: Expression | None, least: int = 0, units: str = "") -> Measure:
    return Measure(name, words, least * E9, most * E9, value, units=units)


def _number(name: str, words: str, value: Expression | None = None, units: str = "") -> Measure:
    return Measure(name, words, -INT32, INT32, column(name) if value is None else value, units=units)


_FIELD = column("field")
_PLACED = column("status").differs(RAN)
_WIN = column("won").counted
_POSITION = column("position")
_POINTS = 2 * _FIELD - 2 * _POSITION - column("sharing") + 1
# 12th of 11 occurs in results files
_PRB = case(
    ((_FIELD > 1) & _PLACED & ~_POSITION.known, 0),
    ((_FIELD > 1) & _PLACED, largest(E9 * _POINTS, 0) // (2 * (_FIELD - 1))),
).proved(0, E9)
_PRICED = column("book").known
_EXP = (column("inverse") * E9 // column("book")).proved(0, E9)
_MARKET = _EXP * _FIELD
_MARKET_LOG = log2_e9(largest(_MARKET * 2**MARKET_LOG_EVEN // E9, 1))
# against itself a runner's chance is a half
_RIVALS = largest(column("pairing") - E9 // 2, 0) // (_FIELD - 1)
_OVER = case((_PRICED, E9 + _PRB - _RIVALS))
_TIME = column("time_ms")
_PACE = case((column("timed") > 1, smallest(E9 * column("clocked") // (column("timed") * _TIME), PACE_CAP * E9)))
_SPEED = smallest(E9 * column("par_ms") // _TIME, PACE_CAP * E9)


def _rivals_behind(position: Expression) -> Expression:
    """The share of rivals behind a position, in billionths."""
    return case(((_FIELD > 1) & (position <= _FIELD), E9 * (_FIELD - position) // (_FIELD - 1))).proved(0, E9)


_CALL = column("first_call_position")
_EARLY = _rivals_behind(_CALL)
_EARLY_KNOWN = _EARLY.known
_THIRD = E9 // 3


def _section_speed(section: str) -> Expression:
    """The race's mean time of a section over the runner's own, in billionths."""
    timed = column(f"{section}_timed")
    quotient = E9 * column(f"{section}_clocked") // (timed * column(f"{section}_ms"))
    return case((timed > 1, smallest(quotient, PACE_CAP * E9)))


_LATE_SPEED = _section_speed("last")
_BEHIND = column("behind") * LENGTH_LBS_METRES // column("run_m")
_FIGURE = column("scale") + column("weight_e9") + column("mean_behind") - _BEHIND
_LENGTHS = (column("beaten_lengths").clamped(LENGTHS_FLOOR, LENGTHS_CAP) * E9).rounded

_DECLARED: Final = (
    _count("one", "starts", literal(1)),
    _count("win", "wins", _WIN, "wins"),
    # a start without a place (RAN) has no known place and no known rivals beaten
    _count("place", "places", case((_PLACED, (column("places") >= _POSITION).or_else(False).counted)), "places"),  # noqa: FBT003
    _count("place_known", "starts with a known place", _PLACED.counted),
    _billionths("prb_e9", "share of rivals beaten", 1, _PRB, units="share"),
    _count("prb_known", "starts against rivals", _PRB.known.counted),
    _billionths("exp_e9", "wins the market expected", 1, _EXP, units="wins"),
    _count("win_priced", "wins where every starter had odds", case((_PRICED, _WIN), default=0), "wins"),
    _billionths("uni_e9", "wins by chance alone (1 ÷ starters)", 1, E9 // _FIELD, units="wins"),
    _billionths("market_e9", "market's expectation (1 = an average runner)", 500, _MARKET, units="average runners"),
    _billionths(
        "market_log_e9", "log2 of the market's expectation (16 = an average runner)", 33, _MARKET_LOG, units="log2"
    ),
    _count("priced", "starts where every starter had odds", _EXP.known.counted),
    _billionths(
        "over_e9", "share of rivals beaten above what the odds expected (1 = as expected)", 2, _OVER, units="share"
    ),
    _count("over_known", "starts against rivals where every starter had odds", _OVER.known.counted),
    _billionths("pace_e9", "speed against the race's mean", 2, _PACE, units="share of the mean speed"),
    _count("pace_known", "starts timed with a rival", _PACE.known.counted),
    _billionths("speed_e9", "speed against par for the distance", 2, _SPEED, units="share of par speed"),
    _count("speed_known", "timed starts", _SPEED.known.counted),
    _billionths("early_e9", "share of rivals behind at the first call", 1, _EARLY, units="share"),
    _count("early_known", "starts with a known first call", _EARLY_KNOWN.counted),
    _count("led", "starts led at the first call", case((_EARLY_KNOWN, _CALL.equals(1).counted), default=0)),
    _count(
        "held_up",
        "starts in the last third at the first call",
        case((_EARLY_KNOWN, (_EARLY < _THIRD).counted), default=0),
    ),
    _billionths(
        "gained_e9",
        "share of rivals passed from the first call to the finish (1 = none)",
        2,
        E9 + _PRB - _EARLY,
        units="share",
    ),
    _billionths(
        "straight_e9",
        "share of rivals passed from the last call to the finish (1 = none)",
        2,
        E9 + _PRB - _rivals_behind(column("last_call_position")),
        units="share",
    ),
    _billionths(
        "early_speed_e9",
        "speed over the first section against the race's mean",
        2,
        _section_speed("first"),
        units="share of the mean speed",
    ),
    _billionths(
        "late_speed_e9",
        "speed over the last section against the race's mean",
        2,
        _LATE_SPEED,
        units="share of the mean speed",
    ),
    _billionths(
        "finishing_e9",
        "speed over the last section against that of the whole race, relative to the race's mean",
        4,
        smallest(_LATE_SPEED * E9 // _PACE, 4 * E9),
        units="share of the horse's own speed",
    ),
    _count("slow_away_known", "starts with a known break", column("slow_away").known.counted),
    _count("slow_away", "starts slow away", column("slow_away").or_else(False).counted),  # noqa: FBT003
    Measure("hampered", "hampered", 0, 1, column("hampered").counted, units="starts"),
    _number("widest_path", "widest path", units="path from the rail"),
    _billionths("figure_e9", "figure in pounds", 1500, _FIGURE, -1500, "pounds"),
    _billionths("lengths_e9", "lengths behind the winner (30 at most)", 30, _LENGTHS, -1000, "lengths"),
    _number("position", "position", units="place"),
    _number("field", "number of starters", units="starters"),
    _number("race_day", "race day (days since 1970-01-01)", units="days"),
    _billionths(
        "day_e9",
        "day of the race (the first of the year 1 is 1)",
        3_700_000,
        (column("race_day") + DAY_1970) * E9,
        units="days",
    ),
    _number("race_class", "class of the race", units="class"),
    _number("distance_m", "distance in metres", units="metres"),
    _number("weight_lbs", "weight carried in pounds", units="pounds"),
    _number("official_rating", "official rating", units="rating points"),
    _number("body_weight_lbs", "body weight in pounds", units="pounds"),
    _count("elo_rated", "starts rated", None),
    _billionths("horse_elo_e9", "Elo points the horse earned", 32, None, units="Elo points"),
    _billionths("jockey_elo_e9", "Elo points the jockey earned", 32, None, units="Elo points"),
    _billionths("trainer_elo_e9", "Elo points the trainer earned", 32, None, units="Elo points"),
    _billionths("draw_elo_e9", "Elo points the third of the draw earned", 32, None, units="Elo points"),
    _billionths("suited_elo_e9", "Elo points the horse earned by course and distance", 32, None, units="Elo points"),
)
MEASURES: Final[Mapping[str, Measure]] = {measure.name: measure for measure in _DECLARED}
"""Each measure by its name: the field of `velo.racing.starts.Start` and the column of the measured starts."""
