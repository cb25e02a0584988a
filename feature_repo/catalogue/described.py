"""What each feature is, for people: formula, unit, window and the meaning of null, all from its declaration.

Feast's fields, `velo catalogue` and its exports show these.
"""

from dataclasses import dataclass
from itertools import product
from typing import Final

from velo.feature_repo.catalogue.aggregates import ALL_STARTS, Aggregate
from velo.feature_repo.catalogue.family import Family
from velo.feature_repo.catalogue.recent_aggregates import Recent
from velo.feature_repo.catalogue.request_view import RequestView

OURS: Final = "velo"
"""The owner of the views that VÉLØ declares."""


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
        words = declared.describe(measures), declared.unit_of(measures), window, declared.null(measures)
        return FeatureDescription(family.view, f"{declared.name}{suffix}", declared.kind, *words)

    def of_recent(declared: Recent) -> FeatureDescription:
        texts = (declared.words, declared.units, declared.window, declared.null)
        words = (declared.described(text, measures) for text in texts)
        return FeatureDescription(family.view, declared.name, declared.kind, *words)

    return (
        *(of(declared, ALL_STARTS) for declared in family.career),
        *map(of_recent, family.recent),
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
