"""Declarations of features of the race asked about: what it says of a runner compared with stored values (contract 6).

Each is one declaration: an expression over the columns of `REQUEST` and over stored features of any view. Feast's on-demand
views, training, serving and `velo explain` all compute it from here. NumPy and the standard library alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velo.errors import UserError
from velo.racing.expression_renderers import Arrays
from velo.racing.expressions import Expression, column, in_words
from velo.racing.jurisdiction import DEFAULT, Jurisdiction

RequestKind = Literal["int", "float", "text"]
Values = NDArray[np.float64] | NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class RequestColumn:
    """A request input: what the race asked about says of a runner."""

    name: str
    kind: RequestKind
    words: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored feature of a view, as an input."""

    view: str
    feature: str

    @property
    def name(self) -> str:
        """Its full name."""
        return f"{self.view}__{self.feature}"


REQUEST: Final = (
    RequestColumn("race_day", "int", "race day"),
    RequestColumn("race_class", "int", "class of this race"),
    RequestColumn("distance_m", "float", "distance of this race"),
    RequestColumn("weight_lbs", "float", "weight carried now"),
    RequestColumn("official_rating", "int", "official rating now"),
)
"""Asked with each runner: `race_day` counts days from 1970-01-01 to the race's local date; any may be null."""
LARGEST: Final = 1e300
CLASS_DIRECTION: Final = "class_direction"
_INPUTS: Final = {
    asked_column.name: column(asked_column.name, "real", asked_column.words, -LARGEST / 4, LARGEST / 4, nullable=True)
    for asked_column in REQUEST
}


def asked(name: str) -> Expression:
    """What the race asked about says of the runner: one of `REQUEST`. Raises `UserError` for another name."""
    if name not in _INPUTS:
        raise UserError(f"{name!r} is not asked with a race: use one of {', '.join(_INPUTS)}")
    return _INPUTS[name]


def stored(view: str, feature: str) -> Expression:
    """A stored feature of a view."""
    words = feature.replace("_", " ")
    return column(Stored(view, feature), "real", words, -LARGEST / 4, LARGEST / 4, nullable=True)


@dataclass(frozen=True, slots=True)
class RequestFeature:
    """A feature made at request time; `about` is its formula in words, by default that of its expression."""

    name: str
    kind: RequestKind
    value: Expression
    about: str = ""

    def describe(self) -> str:
        """Its formula in words."""
        return self.about or in_words(self.value)


@dataclass(frozen=True, slots=True)
class RequestView:
    """Features of the race asked about that are made together; `name` prefixes their columns."""

    name: str
    about: str
    features: tuple[RequestFeature, ...]

    @property
    def stored(self) -> tuple[Stored, ...]:
        """The stored features that it reads."""
        read = (column.data for feature in self.features for column in feature.value.columns())
        return tuple(dict.fromkeys(data for data in read if isinstance(data, Stored)))

    @property
    def views(self) -> tuple[str, ...]:
        """The views that it reads."""
        return tuple(dict.fromkeys(feature.view for feature in self.stored))

    @property
    def columns(self) -> tuple[str, ...]:
        """The full names of its features."""
        return tuple(f"{self.name}__{feature.name}" for feature in self.features)

    def computed(self, inputs: Mapping[str, ArrayLike], jurisdiction: Jurisdiction = DEFAULT) -> dict[str, Values]:
        """Its features by name, from the columns of `REQUEST` and its `stored` ones: scalars or arrays of one length.

        A stored one is found by its full name or its own. Null is None or NaN on the way in; on the way out NaN in numbers
        and None in text.
        """
        read: dict[Any, NDArray[np.float64]] = {}

        def value_of(data: Any) -> Any:
            if data == CLASS_DIRECTION:
                return float(jurisdiction.class_direction)
            if data not in read:
                name = data.name if isinstance(data, Stored) else data
                found = inputs[name] if name in inputs or not isinstance(data, Stored) else inputs[data.feature]
                read[data] = np.asarray(found, dtype=np.float64)
            return read[data]

        arrays = Arrays(np, value_of)
        return {feature.name: np.asarray(arrays.of(feature.value)) for feature in self.features}

    def listed(self, inputs: Mapping[str, ArrayLike], jurisdiction: Jurisdiction = DEFAULT) -> dict[str, list[object]]:
        """As `computed`, as lists of plain Python values with None for null, as Feast wants them."""
        made = self.computed(inputs, jurisdiction)
        listed: dict[str, list[object]] = {}
        for feature in self.features:
            # NaN alone differs from itself
            cells = (None if cell != cell else cell for cell in np.atleast_1d(made[feature.name]).tolist())
            listed[feature.name] = [int(cell) if feature.kind == "int" and cell is not None else cell for cell in cells]
        return listed
