"""What is known only when a race is asked about: how it differs from the horse's last start (contract 6).

One declaration and one function for training (Feast's on-demand view) and for serving. numpy alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velo.racing.jurisdiction import DEFAULT, Jurisdiction


@dataclass(frozen=True, slots=True)
class RequestColumn:
    """A request input, or a feature made at request time; `about` is the formula of the latter in words."""

    name: str
    kind: Literal["int", "float", "text"]
    about: str = ""


REQUEST: Final = (
    RequestColumn("race_day", "int"),
    RequestColumn("race_class", "int"),
    RequestColumn("distance_m", "float"),
    RequestColumn("weight_lbs", "float"),
    RequestColumn("official_rating", "int"),
)
"""Asked with each runner: `race_day` counts days from 1970-01-01 to the race's local date; any may be null."""

STORED_VIEW: Final = "horse_form"
STORED: Final = ("last_race_day", "last_class", "last_distance_m", "last_weight_lbs", "last_rating")
"""Read from `STORED_VIEW`, in the order of `REQUEST`."""

FEATURES: Final = (
    RequestColumn("days_since_last_run", "int", "race day − last race day"),
    RequestColumn("layoff_band", "text", "days since the last run, by bands of a lay-off"),
    RequestColumn("class_change", "int", "class of this race − class of the last (+ is easier)"),
    RequestColumn("distance_change_m", "float", "distance of this race − distance of the last"),
    RequestColumn("weight_change_lbs", "float", "weight carried now − weight carried last"),
    RequestColumn("rating_change", "int", "official rating now − official rating last"),
)

DEBUT: Final = "debut"
LAYOFF_DAYS: Final = (7, 14, 30, 60, 120, 365)
"""Last day of each band of a lay-off; longer ones fall in the last band."""
LAYOFF_BANDS: Final = ("0-7", "8-14", "15-30", "31-60", "61-120", "121-365", ">365")


def changes(
    inputs: Mapping[str, ArrayLike], jurisdiction: Jurisdiction = DEFAULT
) -> dict[str, NDArray[np.float64] | NDArray[np.object_]]:
    """The features of `FEATURES`, from the columns of `REQUEST` and `STORED`: scalars or arrays of one length.

    Null is None or NaN on the way in; on the way out NaN in numbers and None in `layoff_band`. `class_change` is
    positive for an easier class, which the jurisdiction's `class_direction` decides (by default class 1 is the best). A horse without a known start is a debut; one whose last
    start is later than the race asked about has neither days nor band.
    """
    asked = {column.name: _numbers(inputs[column.name]) for column in REQUEST}
    last = {name: _numbers(inputs[name]) for name in STORED}
    days = asked["race_day"] - last["last_race_day"]
    days = np.where(days < 0, np.nan, days)
    return {
        "days_since_last_run": days,
        "layoff_band": _bands(days, np.isnan(last["last_race_day"])),
        "class_change": jurisdiction.class_direction * (asked["race_class"] - last["last_class"]),
        "distance_change_m": asked["distance_m"] - last["last_distance_m"],
        "weight_change_lbs": asked["weight_lbs"] - last["last_weight_lbs"],
        "rating_change": asked["official_rating"] - last["last_rating"],
    }


def as_lists(features: Mapping[str, NDArray[np.float64] | NDArray[np.object_]]) -> dict[str, list[object]]:
    """The features as lists of plain Python values with None for null, as Feast wants them."""
    whole = {column.name: column.kind == "int" for column in FEATURES}
    listed: dict[str, list[object]] = {}
    for name, values in features.items():
        # NaN alone differs from itself.
        cells = (None if cell != cell else cell for cell in np.atleast_1d(values).tolist())
        listed[name] = [int(cell) if whole[name] and cell is not None else cell for cell in cells]
    return listed


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _bands(days: NDArray[np.float64], debut: NDArray[np.bool_]) -> NDArray[np.object_]:
    names = np.array([*LAYOFF_BANDS, None, DEBUT], dtype=object)
    band = np.searchsorted(np.array(LAYOFF_DAYS, dtype=np.float64), days, side="left")
    band = np.where(np.isnan(days), len(LAYOFF_BANDS), band)
    return np.asarray(names[np.where(debut, len(LAYOFF_BANDS) + 1, band)], dtype=object)
