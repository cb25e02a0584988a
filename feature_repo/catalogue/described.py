"""What each feature is, for people: formula, unit, window and the meaning of null, all from its declaration.

Feast's fields, `velo catalogue` and its exports show these.
"""

from dataclasses import dataclass
from itertools import product
from typing import Final

from velo.feature_repo.catalogue.aggregates import Aggregate, Measures, OffsetSum, Ratio, Sum
from velo.feature_repo.catalogue.family import Family
from velo.feature_repo.catalogue.recent_aggregates import Last, LastKnown, Recent, Slope, Variance
from velo.feature_repo.catalogue.request_view import RequestView
from velo.racing.measures import Measure

OURS: Final = "velo"
"""The owner of the views that VÉLØ declares."""
ALL_STARTS: Final = "all known starts"
NEVER_NULL: Final = "never null: a key without a known start has no row"


@dataclass(frozen=True, slots=True)
class FeatureDescription:
    """One feature in words; `null` says when it is null."""

    view: str
    name: str
    kind: str
    formula: str
    unit: str
    window: str
    null: str


def described(family: Family) -> tuple[FeatureDescription, ...]:
    """The features of a stored view, in their order."""
    measures = family.known_measures

    def of(declared: Aggregate, window: str, suffix: str = "") -> FeatureDescription:
        words = declared.describe(measures), _unit(declared, measures), window, _null(declared, measures)
        return FeatureDescription(family.view, f"{declared.name}{suffix}", declared.kind, *words)

    return (
        *(of(declared, ALL_STARTS) for declared in family.career),
        *(_recent(family.view, declared, measures[declared.measure]) for declared in family.recent),
        *(
            of(declared, f"the last {days:,} days", f"_{days}d")
            for days, declared in product(family.windows, family.windowed)
        ),
    )


def described_request(view: RequestView) -> tuple[FeatureDescription, ...]:
    """The features of a request-time view, in their order."""
    return tuple(
        FeatureDescription(
            view.name, feature.name, feature.kind, feature.describe(), feature.unit or "not declared",
            "at request time", "null if what it compares is unknown" if feature.value.nullable else "never null",
        )
        for feature in view.features
    )  # fmt: skip


def _recent(view: str, declared: Recent, measure: Measure) -> FeatureDescription:
    formula, unit = declared.describe({measure.name: measure}), measure.unit
    match declared:
        case Last():
            window, null = "the last start", "null if the last start has none"
        case LastKnown():
            window, null = ALL_STARTS, "null if no start has one"
        case Slope() | Variance():
            window, null = (
                f"the last {declared.depth} known values",
                f"null with fewer than {declared.least} known values",
            )
            unit = f"{unit} per start" if isinstance(declared, Slope) else f"{unit}, squared"
        case _:
            window, null = f"the last {declared.depth} known values", "null without a known value"
    return FeatureDescription(view, declared.name, declared.kind, formula, unit, window, null)


def _unit(declared: Aggregate, measures: Measures) -> str:
    if isinstance(declared, Sum | OffsetSum):
        return measures[declared.measure].unit
    over, under = measures[declared.numerator], measures[declared.denominator]
    if over.unit == under.unit:
        return "ratio"
    return f"{over.unit} per start" if over.is_count else over.unit


def _null(declared: Aggregate, measures: Measures) -> str:
    if isinstance(declared, Sum) or (isinstance(declared, Ratio) and declared.prior):
        return NEVER_NULL
    under = declared.denominator if isinstance(declared, Ratio) else declared.known
    return f"null if Σ {measures[under].words} is 0"
