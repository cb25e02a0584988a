"""The words of a driver: which story a column belongs to, and what the story says of a runner, with the runner's own values."""

import re
from collections.abc import Callable, Mapping
from math import isnan
from typing import Final

from velo.feature_repo.catalogue.columns import (
    BODY_CHANGE,
    CAREER_MIDPOINT,
    COLUMNS,
    ELO_HORSE_JOCKEY,
    ELO_TOTAL,
    IN_HAND,
    ON_DEMAND,
    WEIGHT_SHARE,
    layoff_band,
)

Values = Mapping[str, float]
MINUS: Final = "\N{MINUS SIGN}"
_SUFFIXES: Final = ("_rank", "_z")
_SIGNED_ZERO: Final = re.compile(r"[+-]0(\.0+)?(?![\d.])")
_BEFORE: Final = {
    "trainer_velocity": "trainer",
    "jockey_velocity": "jockey",
    "partnership_velocity": "trainer and jockey",
}
_CAREER: Final = {"horse_course": "at the course", "horse_distance": "over the distance", "horse_going": "on the going"}


def story_of(column: str) -> str:
    """The story a column belongs to: a view and window, a view's record, or one quantity; ranks go with their feature."""
    suffix = next(
        (ending for ending in _SUFFIXES if column.endswith(ending) and column.removesuffix(ending) in COLUMNS), ""
    )
    name = column.removesuffix(suffix)
    view, _, feature = name.rpartition("__")
    if view in _BEFORE:
        return f"{view}:{feature.rsplit('_', 1)[1]}"
    if view in _CAREER or view == "draw_bias":
        return view
    if view in ("jockey_course", "horse_course_distance", "jockey_elo", "trainer_elo", "draw_elo"):
        return view
    if view == "horse_elo" or name in (ELO_HORSE_JOCKEY, ELO_TOTAL):
        return "elo"
    if view == "horse_ability":
        return _ABILITY.get(feature.split("_")[0], "horse_ability:clock")
    if view == "horse_running":
        return _RUNNING.get(feature.split("_")[0], "horse_running:style")
    if name in IN_HAND:
        return "horse_ability:figure"
    if view == "horse_form":
        return f"{view}:{_FORM.get(feature, feature)}"
    if view and view != ON_DEMAND:
        return name  # a feature that a user declared tells a story of its own
    return _QUANTITY.get(feature, feature)


def words(story: str, values: Values) -> str:
    """A driver in words, with the runner's own values."""
    view, _, which = story.partition(":")
    if view in _BEFORE:
        return _record(values, f"{view}__wins_{which}", f"{view}__runs_{which}", _BEFORE[view], f"in {which[:-1]} days")
    if view in _CAREER:
        return _record(values, f"{view}__wins", f"{view}__starts", "horse", _CAREER[view])
    write = _WORDS.get(story)
    if write:
        return write(values)
    if "__" not in story:
        return story.replace("_", " ")
    name = story.partition("__")[2].replace("_", " ")
    return f"{name} unknown" if _unknown(values[story]) else f"{name} {values[story]:.4g}".replace("-", MINUS)


def words_of_effect(story: str, values: Values, means: Values, effect: float) -> str | None:
    """The words of a story that raises or lowers a chance; None where they would say the opposite."""
    text = words(story, values)
    column, neutral = HIGHER_IS_BETTER.get(story, ("", None))
    if not column or _unknown(values[column]):
        return text
    if (values[column] - means[column]) * effect < 0:
        return None
    if neutral is not None and (values[column] - neutral) * effect < 0:
        return f"{text}, {'above' if effect > 0 else 'below'} the race's average"
    return text


def _record(values: Values, wins: str, runs: str, who: str, where: str) -> str:
    if _unknown(values[runs]) or values[runs] == 0:
        return f"{who} no runs {where}"
    return f"{who} {values[wins]:.0f} from {values[runs]:.0f} {where}"


def _unknown(value: float) -> bool:
    return isnan(value)


def _known(name: str, unknown: str, in_words: Callable[[float], str]) -> Callable[[Values], str]:
    """The words of a known value, else `unknown`."""
    return lambda values: unknown if _unknown(values[name]) else in_words(values[name])


def _number(name: str, text: str, unknown: str, scale: float = 1.0) -> Callable[[Values], str]:
    return _known(name, unknown, lambda value: text.format(value * scale).replace("-", MINUS))


def _signed(name: str, text: str, zero: str, unknown: str) -> Callable[[Values], str]:
    """A number with its sign; `zero` where it rounds to 0, which has none."""

    def in_words(value: float) -> str:
        number = text.format(value)
        return zero if _SIGNED_ZERO.search(number) else number.replace("-", MINUS)

    return _known(name, unknown, in_words)


def _against_the_odds(value: float) -> str:
    points = _points(value)
    if not points:
        return "beat as many rivals lately as its odds implied"
    return f"beat {'more' if value > 1 else 'fewer'} rivals lately than its odds implied, by {points}"


def _rivals_beaten(prb: str, over: str, who: str, unknown: str) -> Callable[[Values], str]:
    """Either value may move the score, so the words state both."""

    def in_words(values: Values) -> str:
        beaten = values[prb]
        if _unknown(beaten):
            return unknown
        share = f"{who} beat {100 * beaten:.0f} % of rivals"
        if _unknown(values[over]):
            return share
        points = _points(values[over])
        if not points:
            return f"{share}, as many as the odds implied"
        return f"{share}, {points} {'more' if values[over] > 1 else 'fewer'} than the odds implied"

    return in_words


def _points(over: float) -> str:
    """The distance from what the odds implied, in percentage points of rivals beaten; empty where it rounds to 0.

    `over` is 1 where the runner beat as many rivals as its odds implied.
    """
    points = round(100 * (over - 1))
    if points == 0:
        return ""
    return f"{abs(points)} point{'s' if abs(points) > 1 else ''}"


def _days(values: Values) -> str:
    days = values["since_last_run__days_since_last_run"]
    if not _unknown(days):
        return f"{days:.0f} days since the last run"
    return layoff_band(values["since_last_run__layoff_band"]) or "last run unknown"


def _passed(gained: float) -> str:
    share = round(100 * (gained - 1))
    if share == 0:
        return "keeps its early place lately"
    return f"{'passes' if share > 0 else 'is passed by'} {abs(share)} % of rivals after the first call lately"


def _last_run(values: Values) -> str:
    position, field = values["horse_form__position_last"], values["horse_form__field_last"]
    if _unknown(field):
        return "no run yet"
    if not _unknown(position):
        return f"{position:.0f} of {field:.0f} last time"
    # a runner that did not finish beat 0 of its rivals; for a runner without a recorded position the share is unknown
    placeless = field > 1 and _unknown(values["horse_form__prb_last"])
    return f"{'place unknown' if placeless else 'did not finish'} of {field:.0f} last time"


def _class(values: Values) -> str:
    change = values["since_last_run__class_change"]
    if _unknown(change) or change == 0:
        return "same class" if change == 0 else "class of the last run unknown"
    return f"{abs(change):.0f} class{'es' if abs(change) > 1 else ''} {'down' if change > 0 else 'up'}"


_FORM: Final = {
    **dict.fromkeys(("starts", "wins", "places", "sr", "place_rate", "prb"), "record"),
    **dict.fromkeys(("prb_ewma", "prb_best", "prb_var"), "form"),
    **dict.fromkeys(("prb_last", "position_last", "field_last", "lengths_last"), "last run"),
    **dict.fromkeys(("market_last", "market_ewma"), "market"),
    **dict.fromkeys(("runs_90d", "runs_365d"), "busy"),
    "last_class": "class",
}
_ABILITY: Final = {
    "over": "horse_ability:odds",
    "market": "horse_form:market",
    "figure": "horse_ability:figure",
    "body": "body weight",
    "day": CAREER_MIDPOINT,
    "runs": "horse_ability:odds",
}
_RUNNING: Final = {
    **dict.fromkeys(("late", "finishing"), "horse_running:late speed"),
    **dict.fromkeys(("gained", "straight", "hampered", "widest", "slow"), "horse_running:trip"),
}
_QUANTITY: Final = {
    "days_since_last_run": "days",
    "layoff_band": "days",
    "class_change": "class",
    "weight_lbs": "weight",
    WEIGHT_SHARE: "weight",
    "body_weight_lbs": "body weight",
    BODY_CHANGE: "body weight change",
    "weight_change_lbs": "weight change",
    "official_rating": "rating",
    "rating_change": "rating change",
    "distance_change_m": "distance change",
}
HIGHER_IS_BETTER: Final[Mapping[str, tuple[str, float | None]]] = {
    "elo": (ELO_TOTAL, 0.0),
    "jockey_elo": ("jockey_elo__elo", 0.0),
    "trainer_elo": ("trainer_elo__elo", 0.0),
    "draw_elo": ("draw_elo__elo", 0.0),
    "draw_bias": ("draw_bias__iv_shrunk_1095d", 1.0),
    "horse_ability:odds": ("horse_ability__over_ewma", 1.0),
    "horse_ability:figure": ("horse_ability__figure_ewma", None),
    "horse_ability:clock": ("horse_ability__speed_ewma", None),
    "horse_running:late speed": ("horse_running__late_speed_ewma", 1.0),
    "horse_form:form": ("horse_form__prb_ewma", None),
    "horse_form:last run": ("horse_form__prb_last", None),
    "horse_form:market": ("horse_form__market_ewma", 1.0),
    "horse_form:record": ("horse_form__sr", None),
    "horse_form:prb_slope": ("horse_form__prb_slope", 0.0),
    **{
        f"{view}:{days}d": (f"{view}__sr_{days}d", None)
        for view in ("trainer_velocity", "jockey_velocity")
        for days in (14, 30, 90)
    },
    **{f"partnership_velocity:{days}d": (f"partnership_velocity__sr_{days}d", None) for days in (90, 365)},
    **{view: (f"{view}__sr", None) for view in _CAREER},
}
"""Stories whose words call a runner good or bad: the column they state, and its value for an average runner, if it has one."""
_WORDS: Final[Mapping[str, Callable[[Values], str]]] = {
    "horse_form:record": lambda values: _record(values, "horse_form__wins", "horse_form__starts", "horse", "in all"),
    "horse_form:form": _number("horse_form__prb_ewma", "beat {:.0f} % of rivals lately", "no form yet", 100.0),
    "horse_form:last run": _last_run,
    "horse_form:market": _number("horse_form__market_ewma", "past odds {:.1f}× an average runner", "no past odds"),
    "horse_form:busy": _number("horse_form__runs_90d", "{:.0f} runs in 90 days", "no run yet"),
    "horse_form:prb_slope": _signed(
        "horse_form__prb_slope", "form trend {:+.2f} a run", "level form", "too few runs for a trend"
    ),
    "horse_form:lengths_ewma": _number("horse_form__lengths_ewma", "beaten {:.1f} lengths lately", "no distances yet"),
    "horse_form:class": _class,
    "horse_form:last_distance_m": _number(
        "horse_form__last_distance_m", "last ran over {:.0f} m", "last distance unknown"
    ),
    "horse_form:last_weight_lbs": _number(
        "horse_form__last_weight_lbs", "carried {:.0f} lb last time", "last weight unknown"
    ),
    "horse_form:last_rating": _number("horse_form__last_rating", "rated {:.0f} last time", "last rating unknown"),
    "horse_ability:odds": _known("horse_ability__over_ewma", "no past odds", _against_the_odds),
    "horse_ability:figure": _number("horse_ability__figure_ewma", "ran to {:.0f} lately", "no figure yet"),
    "horse_ability:clock": _number("horse_ability__speed_ewma", "{:.1f} % of par speed lately", "not timed yet", 100.0),
    "horse_running:style": _number(
        "horse_running__early_ewma", "ahead of {:.0f} % of rivals early on", "early place unknown", 100.0
    ),
    "horse_running:trip": _known("horse_running__gained_ewma", "early place unknown", _passed),
    "rivals_led": _number("rivals_led", "{:.1f} rivals likely to lead", "early pace of the race unknown"),
    "horse_running:late speed": _number(
        "horse_running__late_speed_ewma", "last section at {:.1f} % of its races' mean speed", "no sections yet", 100.0
    ),
    "jockey_course": _rivals_beaten(
        "jockey_course__prb_1095d", "jockey_course__over_1095d", "jockey here", "jockey new here"
    ),
    "horse_course_distance": _rivals_beaten(
        "horse_course_distance__prb",
        "horse_course_distance__over",
        "here at this distance",
        "new to course and distance",
    ),
    "elo": _signed(ELO_TOTAL, "combined Elo {:+.1f}", "combined Elo of an average runner", "no Elo yet"),
    "jockey_elo": _signed(
        "jockey_elo__elo", "jockey's Elo {:+.1f}", "jockey's Elo is average", "jockey without an Elo"
    ),
    "trainer_elo": _signed(
        "trainer_elo__elo", "trainer's Elo {:+.1f}", "trainer's Elo is average", "trainer without an Elo"
    ),
    "draw_elo": _signed("draw_elo__elo", "draw's Elo {:+.1f}", "draw's Elo is average", "draw without an Elo"),
    "draw": _number("draw", "drawn {:.0f}", "no draw"),
    "draw_bias": _number("draw_bias__iv_shrunk_1095d", "draw wins {:.2f}× its share here", "draw unknown here"),
    "days": _days,
    "class": _class,
    "race_class": _number("race_class", "class {:.0f}", "class unknown"),
    "distance_m": _number("distance_m", "{:.0f} m", "distance unknown"),
    "weight": _number("weight_lbs", "carries {:.0f} lb", "weight unknown"),
    "body weight": _number("body_weight_lbs", "weighs {:.0f} lb", "body weight unknown"),
    "body weight change": _signed(
        BODY_CHANGE,
        "body weight {:+.0f} lb since the last run",
        "body weight of the last run",
        "body weight change unknown",
    ),
    CAREER_MIDPOINT: _number(CAREER_MIDPOINT, "its starts are {:.0f} days back on average", "no run yet"),
    "weight change": _signed(
        "since_last_run__weight_change_lbs",
        "weight carried {:+.0f} lb since the last run",
        "same weight as in the last run",
        "weight change unknown",
    ),
    "rating": _number("official_rating", "rated {:.0f}", "no rating"),
    "rating change": _signed(
        "since_last_run__rating_change",
        "rating {:+.0f} since the last run",
        "same rating as in the last run",
        "no rating to compare",
    ),
    "distance change": _signed(
        "since_last_run__distance_change_m",
        "{:+.0f} m since the last run",
        "same distance as the last run",
        "distance change unknown",
    ),
}
