"""Features declared outside the package: the trainer's last winner, and a column that only the user's file has."""

from velo.features import (
    Ewma,
    Family,
    LastKnown,
    Measure,
    Ratio,
    RequestFeature,
    RequestView,
    Sum,
    asked,
    case,
    column,
    extra,
    stored,
)

WIN_DAY = Measure("win_day", "day of a win", -719_162, 2_932_896, case((column("won"), column("race_day"))))
TRAINER_WINS = Family(
    "trainer_wins",
    ("trainer_id",),
    "when a trainer last had a winner",
    career=(Sum("runs", "one"),),
    recent=(LastKnown("last_win_day", "win_day"),),
    measures=(WIN_DAY,),
)

_SECTIONAL = (extra("sectional_last_s", least=20, most=60) * 1e9).rounded
SECTIONAL = Measure("sectional_e9", "seconds of the last sectional", 0, 60 * 10**9, _SECTIONAL)
SECTIONAL_KNOWN = Measure("sectional_known", "starts with a sectional", 0, 1, _SECTIONAL.known.counted)
HORSE_SECTIONAL = Family(
    "horse_sectional",
    ("horse_id",),
    "how fast a horse finishes",
    career=(Sum("runs", "one"), Ratio("sectional", "sectional_e9", "sectional_known")),
    recent=(Ewma("sectional_ewma", "sectional_e9"),),
    measures=(SECTIONAL, SECTIONAL_KNOWN),
)

FAMILIES = (TRAINER_WINS, HORSE_SECTIONAL)
REQUEST_VIEWS = (
    RequestView(
        "since_trainer_won",
        "how long ago the trainer last had a winner",
        (RequestFeature("days_since_win", "int", asked("race_day") - stored("trainer_wins", "last_win_day")),),
    ),
)
