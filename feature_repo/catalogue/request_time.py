"""The features of the race asked about (contract 6): those declared here, and those that a user declared."""

from collections.abc import Mapping
from typing import Final

from numpy.typing import ArrayLike

from velo.feature_repo.catalogue import own
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.catalogue.request_view import (
    CLASS_DIRECTION,
    REQUEST,
    RequestFeature,
    RequestView,
    asked,
    stored,
)
from velo.racing.expressions import Expression, banded, case, column

__all__ = ["OWN_VIEWS", "REQUEST", "SINCE_LAST_RUN", "VIEWS", "listed_of"]

DEBUT: Final = "debut"
LAYOFF_DAYS: Final = (7, 14, 30, 60, 120, 365)
"""Last day of each band of a lay-off; longer ones fall in the last band."""
LAYOFF_BANDS: Final = ("0-7", "8-14", "15-30", "31-60", "61-120", "121-365", ">365")
_FORM: Final = "horse_form"


def _days() -> Expression:
    """The days since the last run; null where the last start is later than the race asked about."""
    days = asked("race_day") - stored(_FORM, "last_race_day")
    return case((days >= 0, days))


def _class_change() -> Expression:
    direction = column(CLASS_DIRECTION, "real", "direction of the classes", -1, 1, nullable=False)
    return direction * (asked("race_class") - stored(_FORM, "last_class"))


SINCE_LAST_RUN: Final = RequestView(
    "since_last_run",
    "how the race asked about differs from the horse's last start",
    (
        RequestFeature("days_since_last_run", "int", _days(), "race day − last race day", "days"),
        RequestFeature(
            "layoff_band",
            "text",
            case((stored(_FORM, "last_race_day").known, banded(_days(), LAYOFF_DAYS, LAYOFF_BANDS)), default=DEBUT),
            "days since the last run, by bands of a lay-off",
            "band of days",
        ),
        # positive for an easier class, which the jurisdiction's `class_direction` decides
        RequestFeature(
            "class_change", "int", _class_change(), "class of this race − class of the last (+ is easier)", "classes"
        ),
        RequestFeature(
            "distance_change_m",
            "float",
            asked("distance_m") - stored(_FORM, "last_distance_m"),
            "distance of this race − distance of the last",
            "metres",
        ),
        RequestFeature(
            "weight_change_lbs",
            "float",
            asked("weight_lbs") - stored(_FORM, "last_weight_lbs"),
            "weight carried now − weight carried last",
            "pounds",
        ),
        RequestFeature(
            "rating_change",
            "int",
            asked("official_rating") - stored(_FORM, "last_rating"),
            "official rating now − official rating last",
            "rating points",
        ),
    ),
)
SHIPPED: Final = (SINCE_LAST_RUN,)
OWN_VIEWS: Final = own.request_views(FAMILIES, SHIPPED)
VIEWS: Final = (*SHIPPED, *OWN_VIEWS)


def listed_of(name: str, inputs: Mapping[str, ArrayLike]) -> dict[str, list[object]]:
    """The features of the view of a name, as Feast wants them."""
    return next(view for view in VIEWS if view.name == name).listed(inputs)
