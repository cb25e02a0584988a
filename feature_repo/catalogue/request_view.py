"""Declarations of features of the race asked about: what it says of a runner compared with stored values (contract 6).

Each is one declaration: an expression over the columns of `REQUEST` and over stored features of any view. Feast's on-demand
views, training, serving and `velo explain` all compute it from here. NumPy and the standard library alone.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velo.errors import UserError
from velo.racing.expression_renderers import Arrays, Sql
from velo.racing.expressions import COMPARISONS, Expression, column, in_words
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
    declared.name: column(declared, "real", declared.words, -LARGEST / 4, LARGEST / 4, nullable=True)
    for declared in REQUEST
}


def asked(name: str) -> Expression:
    """A value of the requested race or runner: one of `REQUEST`. Raises `UserError` for another name."""
    if name not in _INPUTS:
        raise UserError(f"{name!r} is not asked with a race: use one of {', '.join(_INPUTS)}")
    return _INPUTS[name]


def stored(view: str, feature: str) -> Expression:
    """A stored feature of a view."""
    words = feature.replace("_", " ")
    return column(Stored(view, feature), "real", words, -LARGEST / 4, LARGEST / 4, nullable=True)


@dataclass(frozen=True, slots=True)
class RequestFeature:
    """A feature made at request time; `about` is its formula in words, by default that of its expression, and `unit` its unit.

    `calendar` says that it mostly says which day it is: models do not see it. By default it does where its value would differ
    if all days were later. Raises `UserError` for an expression that reads a column of a start: a start is known only after its race.
    """

    name: str
    kind: RequestKind
    value: Expression
    about: str = ""
    unit: str = ""
    calendar: bool | None = None

    def __post_init__(self) -> None:
        for read in self.value.columns():
            if not isinstance(read.data, Stored | RequestColumn) and read.data != CLASS_DIRECTION:
                raise UserError(
                    f"feature {self.name} reads {in_words(read)!r} of a start, and a start is known only after its race: "
                    "compare what the race says, asked(…), with what was known before it, stored(view, feature)"
                )

    @property
    def stored(self) -> tuple[Stored, ...]:
        """The stored features that it reads."""
        return tuple(dict.fromkeys(read.data for read in self.value.columns() if isinstance(read.data, Stored)))

    def describe(self) -> str:
        """Its formula in words."""
        return self.about or in_words(self.value)

    def is_calendar(self, days: Collection[str]) -> bool:
        """Whether a model must not see it; `days` are the full names of the stored features that say a day."""
        return _shift(self.value, days) != 0 if self.calendar is None else self.calendar


def _shift(value: Expression, days: Collection[str]) -> float | None:
    """By how much a value rises where all days are one day later; None where that is not a fixed number."""
    op, args = value.op, value.args
    if op == "column":
        return float(getattr(value.data, "name", None) in days or value.data == REQUEST[0])
    if op in ("literal", "known"):
        return 0
    shifts = [_shift(arg, days) for arg in args]
    if not any(shifts) and None not in shifts:
        return 0
    if op == "case":
        ends = shifts[1::2] + shifts[-1:]
        return shifts[1] if set(shifts[:-1:2]) == {0} and len(set(ends)) == 1 else None
    first, second = shifts if len(shifts) == 2 else (None, None)
    if first is None or second is None:
        return None
    if op in ("+", "-"):
        return first + second if op == "+" else first - second
    if op == "*":
        factors = [other.data for other in args if other.op == "literal"]
        return (first + second) * factors[0] if factors else None
    same = first if first == second else None
    return 0 if op in COMPARISONS and same is not None else same if op in ("least", "greatest") else None


@dataclass(frozen=True, slots=True)
class RequestView:
    """Features of the race asked about that are made together; `name` prefixes their columns.

    `owner` is who to ask about it: by default the module that declares it.
    """

    name: str
    about: str
    features: tuple[RequestFeature, ...]
    owner: str = ""

    @property
    def stored(self) -> tuple[Stored, ...]:
        """The stored features that it reads."""
        return tuple(dict.fromkeys(read for feature in self.features for read in feature.stored))

    @property
    def views(self) -> tuple[str, ...]:
        """The views that it reads."""
        return tuple(dict.fromkeys(feature.view for feature in self.stored))

    @property
    def columns(self) -> tuple[str, ...]:
        """The full names of its features."""
        return tuple(f"{self.name}__{feature.name}" for feature in self.features)

    @property
    def definition(self) -> str:
        """Its formulas as text: views with equal definitions compute equal values."""
        return "".join(f"{definition}\n" for definition in self.definitions.values())

    @property
    def definitions(self) -> dict[str, str]:
        """The formula of each feature as text, by full name."""
        sql = Sql(lambda data: getattr(data, "name", data))
        return {
            name: f"{name} {feature.kind} {sql.of(feature.value)}"
            for name, feature in zip(self.columns, self.features, strict=True)
        }

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
                found = inputs[data.feature if isinstance(data, Stored) and data.name not in inputs else data.name]
                read[data] = np.asarray(found, dtype=np.float64)
            return read[data]

        arrays = Arrays(np, value_of)
        made = {feature.name: np.asarray(arrays.of(feature.value)) for feature in self.features}
        # Feast stores a whole number, so no other part may see a fraction
        return made | {feature.name: np.trunc(made[feature.name]) for feature in self.features if feature.kind == "int"}

    def listed(self, inputs: Mapping[str, ArrayLike], jurisdiction: Jurisdiction = DEFAULT) -> dict[str, list[object]]:
        """As `computed`, as lists of plain Python values with None for null, as Feast wants them."""
        made = self.computed(inputs, jurisdiction)
        listed: dict[str, list[object]] = {}
        for feature in self.features:
            # NaN alone differs from itself
            cells = (None if cell != cell else cell for cell in np.atleast_1d(made[feature.name]).tolist())
            listed[feature.name] = [int(cell) if feature.kind == "int" and cell is not None else cell for cell in cells]
        return listed
