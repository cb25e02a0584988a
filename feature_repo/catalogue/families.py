"""The catalogue: every stored feature, declared once (contract 6).

The batch SQL, the stream's fold, Feast's schema and the training columns are made from these declarations. To add a
60-day window to a family, add 60 to its `windows`.
"""

from collections.abc import Iterable
from typing import Final

from velo.feature_repo.catalogue import own
from velo.feature_repo.catalogue.aggregates import Aggregate, OffsetSum, Ratio, Sum
from velo.feature_repo.catalogue.family import Family, Feature
from velo.feature_repo.catalogue.recent_aggregates import RECENT_DEPTH, Ewma, Last, Max, Recent, Slope, Variance
from velo.racing.elo import EVEN, RATED
from velo.racing.measures import Measure

__all__ = ["BY_VIEW", "FAMILIES", "OWN_MEASURES", "SHIPPED", "Family", "Feature", "is_rated", "own_measures"]

_RESULTS: Final[tuple[Aggregate, ...]] = (
    Sum("wins", "win"),
    Sum("places", "place"),
    Ratio("sr", "win", "one"),
    Ratio("place_rate", "place", "place_known"),
    Ratio("prb", "prb_e9", "prb_known"),
)
RECORD: Final[tuple[Aggregate, ...]] = (Sum("starts", "one"), *_RESULTS)
VELOCITY: Final[tuple[Aggregate, ...]] = (Sum("runs", "one"), *_RESULTS, Ratio("ae", "win_priced", "exp_e9"))
CURVES: Final[tuple[Recent, ...]] = (
    Last("prb_last", "prb_e9"),
    Ewma("prb_ewma", "prb_e9"),
    Slope("prb_slope", "prb_e9"),
    Variance("prb_var", "prb_e9"),
    Max("prb_best", "prb_e9"),
    Last("market_last", "market_e9"),
    Ewma("market_ewma", "market_e9"),
    Last("lengths_last", "lengths_e9"),
    Ewma("lengths_ewma", "lengths_e9"),
    Last("position_last", "position", "int"),
    Last("field_last", "field", "int"),
    Last("last_race_day", "race_day", "int"),
    Last("last_class", "race_class", "int"),
    Last("last_distance_m", "distance_m"),
    Last("last_weight_lbs", "weight_lbs"),
    Last("last_rating", "official_rating", "int"),
)
ABILITY: Final[tuple[Recent, ...]] = (
    Last("over_last", "over_e9"),
    Ewma("over_ewma", "over_e9"),
    Max("over_best", "over_e9"),
    Last("market_log_last", "market_log_e9"),
    Ewma("market_log_ewma", "market_log_e9"),
    Last("pace_last", "pace_e9"),
    Ewma("pace_ewma", "pace_e9"),
    Max("pace_best", "pace_e9"),
    Last("speed_last", "speed_e9"),
    Ewma("speed_ewma", "speed_e9"),
    Max("speed_best", "speed_e9"),
    Last("figure_last", "figure_e9"),
    Ewma("figure_ewma", "figure_e9"),
    Max("figure_best", "figure_e9"),
    Max("figure_peak", "figure_e9", depth=RECENT_DEPTH),
    Last("body_weight_last", "body_weight_lbs"),
)

IN_RUNNING: Final[tuple[Recent, ...]] = (
    Last("early_last", "early_e9"),
    Ewma("early_ewma", "early_e9"),
    Last("gained_last", "gained_e9"),
    Ewma("gained_ewma", "gained_e9"),
    Last("straight_last", "straight_e9"),
    Ewma("straight_ewma", "straight_e9"),
    Ewma("early_speed_ewma", "early_speed_e9"),
    Last("late_speed_last", "late_speed_e9"),
    Ewma("late_speed_ewma", "late_speed_e9"),
    Max("late_speed_best", "late_speed_e9"),
    Last("finishing_last", "finishing_e9"),
    Ewma("finishing_ewma", "finishing_e9"),
    Last("hampered_last", "hampered", "int"),
    Last("widest_last", "widest_path", "int"),
)


def elo(whose: str) -> tuple[Aggregate, ...]:
    """The aggregates of the Elo rating of one of `velo.racing.elo.PARTS`."""
    return (Sum("rated", RATED), OffsetSum("elo", f"{whose}_elo_e9", RATED, EVEN))


AGAINST_THE_ODDS: Final[tuple[Aggregate, ...]] = (
    Sum("runs", "one"),
    Ratio("sr", "win", "one"),
    Ratio("prb", "prb_e9", "prb_known"),
    Ratio("ae", "win_priced", "exp_e9"),
    Ratio("over", "over_e9", "over_known"),
)


def is_rated(family: Family) -> bool:
    """Whether a family has an Elo rating, which rests on every result before."""
    return any(RATED in aggregate.measures for aggregate in family.career)


def own_measures(families: Iterable[Family]) -> tuple[Measure, ...]:
    """The measures of a user's own that some families use, each once."""
    return tuple({measure.name: measure for family in families for measure in family.measures}.values())


SHIPPED: Final[tuple[Family, ...]] = (
    Family(
        "trainer_velocity",
        ("trainer_id",),
        "how a trainer's runners have gone over rolling windows",
        windows=(14, 30, 90),
        windowed=VELOCITY,
    ),
    Family(
        "jockey_velocity",
        ("jockey_id",),
        "how a jockey's rides have gone over rolling windows",
        windows=(14, 30, 90),
        windowed=VELOCITY,
    ),
    Family(
        "partnership_velocity",
        ("trainer_id", "jockey_id"),
        "how a trainer and a jockey have gone together",
        windows=(90, 365),
        windowed=VELOCITY,
    ),
    Family(
        "horse_form",
        ("horse_id",),
        "a horse's record, form curves and last start",
        career=RECORD,
        recent=CURVES,
        windows=(90, 365),
        windowed=(Sum("runs", "one"),),
    ),
    Family("horse_course", ("horse_id", "course"), "a horse's record at a course", career=RECORD),
    Family("horse_distance", ("horse_id", "distance_band"), "a horse's record over a distance", career=RECORD),
    Family("horse_going", ("horse_id", "going_group"), "a horse's record on a going", career=RECORD),
    Family(
        "draw_bias",
        ("draw_cell",),
        "impact values of a third of the draw on a course, surface, distance and going",
        windows=(1095,),
        windowed=(
            Sum("runs", "one"),
            Sum("wins", "win"),
            Ratio("iv", "win", "uni_e9"),
            Ratio("iv_shrunk", "win", "uni_e9", prior=5),
            Ratio("prb", "prb_e9", "prb_known"),
        ),
    ),
    Family(
        "horse_ability",
        ("horse_id",),
        "what a horse's starts were worth: against the odds, on the clock and in pounds",
        career=(
            Sum("runs", "one"),
            Ratio("over", "over_e9", "over_known"),
            Ratio("market_log", "market_log_e9", "priced"),
            Ratio("pace", "pace_e9", "pace_known"),
            Ratio("speed", "speed_e9", "speed_known"),
            Ratio("day", "day_e9", "one"),
        ),
        recent=ABILITY,
    ),
    Family(
        "horse_running",
        ("horse_id",),
        "where a horse runs in its races, and how fast early and late",
        career=(
            Sum("runs", "one"),
            Ratio("early", "early_e9", "early_known"),
            Ratio("led", "led", "early_known"),
            Ratio("held_up", "held_up", "early_known"),
            Ratio("slow_away", "slow_away", "slow_away_known"),
        ),
        recent=IN_RUNNING,
    ),
    Family(
        "jockey_course",
        ("jockey_id", "course"),
        "how a jockey's rides at a course have gone against the odds",
        windows=(1095,),
        windowed=AGAINST_THE_ODDS,
    ),
    Family(
        "horse_course_distance",
        ("horse_id", "course", "distance_band"),
        "what a horse's starts over a distance at a course were worth",
        career=(
            Sum("runs", "one"),
            Ratio("prb", "prb_e9", "prb_known"),
            Ratio("over", "over_e9", "over_known"),
            Ratio("market_log", "market_log_e9", "priced"),
            Ratio("speed", "speed_e9", "speed_known"),
            *elo("suited"),
        ),
    ),
    Family("horse_elo", ("horse_id",), "a horse's Elo rating against the market's", career=elo("horse")),
    Family("jockey_elo", ("jockey_id",), "what a jockey adds to a horse's Elo rating", career=elo("jockey")),
    Family("trainer_elo", ("trainer_id",), "what a trainer adds to a horse's Elo rating", career=elo("trainer")),
    Family("draw_elo", ("draw_cell",), "what a third of the draw adds to a horse's Elo rating", career=elo("draw")),
)
FAMILIES: Final = (*SHIPPED, *own.families(SHIPPED))
"""Those above, and those that a user declared (`own`)."""
BY_VIEW: Final = {family.view: family for family in FAMILIES}
OWN_MEASURES: Final = own_measures(FAMILIES)
"""The measures of a user's own in `FAMILIES`."""
