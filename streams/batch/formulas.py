"""The queries that make each view, and their fingerprints: of all formulas, of each view, and of each feature.

A view's fingerprint covers its own queries and what they read of a start: the queries that measure starts, the jurisdiction,
the measures that its features use and, where it has ratings, their code. So a new measure of one view leaves the others as
they are, and a change to the queries that measure starts changes all. A feature's covers the queries of its view with it alone,
and those of a view with every kind of feature: another feature of its view leaves it as it is, a change to how queries are made does not.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.aggregates import Sum
from velo.feature_repo.catalogue.families import FAMILIES, Family, own_measures
from velo.feature_repo.catalogue.recent_aggregates import Last
from velo.racing.jurisdiction import DEFAULT, Jurisdiction
from velo.racing.measures import Measure
from velo.storage.table_versions import Manifest, ViewFormulas
from velo.streams.aggregation.ratings import Starter
from velo.streams.batch import measuring, newest_known, render, staging

_STARTS: Final = Sum("starts", "one")
_EVERY_KIND: Final[dict[str, Any]] = {
    "career": (_STARTS,),
    "recent": (Last("last", "race_day"),),
    "windows": (1,),
    "windowed": (_STARTS,),
}
"""One feature of each kind: how a view's queries are made where it has several."""
UNNUMBERED: Final = 0
"""The epoch of formulas that no tables have yet."""
REMEMBERED: Final = 64
"""The most fingerprints of each kind that are kept in memory: a process asks for those of one catalogue again and again."""


def steps(family: Family) -> list[tuple[str, str]]:
    """The temporary tables of a family and their queries, in order."""
    made = [
        ("keys", render.key_ids(family)),
        *([("days_out_of_order", render.days_out_of_order(family))] if family.windows else []),
        ("moments", render.moments(family)),
        ("deltas", render.deltas(family)),
        ("changes", render.changes(family)),
    ]
    if family.windows:
        made.append(("late_losses", render.late_losses(family)))
    return made


def queries(family: Family) -> list[str]:
    """The queries of a family in the order in which they run; the last one makes its table."""
    recent = [newest_known.starts_in_order(family), newest_known.recents(family)] if family.recent else []
    return [text for _, text in steps(family)] + recent + [render.table(family)]


def fingerprint(families: tuple[Family, ...] = FAMILIES, jurisdiction: Jurisdiction = DEFAULT) -> str:
    """The identity of all formulas: a hash of the queries that make every table, and of those that measure a start.

    A user's own request-time formulas count too, though no table has them: models are trained on their values.
    """
    return _fingerprint(families, jurisdiction, tuple(view.definition for view in request_time.OWN_VIEWS))


@lru_cache(REMEMBERED)
def _fingerprint(families: tuple[Family, ...], jurisdiction: Jurisdiction, own_definitions: tuple[str, ...]) -> str:
    every = staging.formulas(jurisdiction, own_measures(families)) + "".join(
        text for family in families for text in queries(family)
    )
    return blake2b((every + "".join(own_definitions)).encode(), digest_size=16).hexdigest()


def view_formulas(
    families: Iterable[Family] = FAMILIES, jurisdiction: Jurisdiction = DEFAULT
) -> dict[str, ViewFormulas]:
    """The formulas of each view, without an epoch."""
    return {family.view: _view_formulas(family, jurisdiction) for family in families}


@lru_cache(REMEMBERED)
def _view_formulas(family: Family, jurisdiction: Jurisdiction) -> ViewFormulas:
    shared, ratings = _measuring(jurisdiction), staging.code_of_modules(staging.RATINGS)
    return ViewFormulas(
        _hashed(shared, *_measured(family, family.used_measures, ratings), *queries(family)),
        UNNUMBERED,
        _feature_formulas(family, shared, ratings),
    )


def differing_views(manifest: Manifest, families: Iterable[Family] = FAMILIES) -> str:
    """The views, by name, that differ between the catalogue and a generation: their formulas, or that one side alone has them."""
    views = view_formulas(families)
    return ", ".join(sorted((views.keys() | manifest.rows.keys()) - manifest.unchanged("", views)))


def at_epochs(
    views: Mapping[str, ViewFormulas], unchanged: set[str], before: Manifest | None, epoch: int
) -> dict[str, ViewFormulas]:
    """The formulas of each view with the epoch of its rows: that of the tables `before` where `unchanged`, else `epoch`."""
    return {
        view: replace(formulas, epoch=before.epoch_of(view) if before and view in unchanged else epoch)
        for view, formulas in views.items()
    }


@lru_cache(REMEMBERED)
def _measuring(jurisdiction: Jurisdiction) -> str:
    """What every measure rests on: the queries that measure starts, without the measures, and the jurisdiction's rules."""
    nothing_measured = dict.fromkeys(("$measures", "$own_columns", "$own_names"), "")
    return staging.measuring_text(
        measuring.constants(jurisdiction, ()) | nothing_measured, jurisdiction, staging.GOINGS
    )


def _measured(family: Family, used: Collection[str], ratings: str) -> list[str]:
    """The SQL of some measures of a family, and the code of the ratings where those make any."""
    rated = any(family.known_measures[name].value is None for name in used)
    read = {*used, *(Starter._fields if rated else ())}
    named: list[Measure] = [measure for name, measure in family.known_measures.items() if name in read]
    return [*(measuring.measures_sql((measure,)) for measure in named), *([ratings] if rated else [])]


def _feature_formulas(family: Family, shared: str, ratings: str) -> dict[str, str]:
    every_kind = queries(replace(family, **_EVERY_KIND))
    return {
        name: _hashed(shared, *_measured(alone, alone.used_measures, ratings), *every_kind, *queries(alone))
        for name, alone in _alone(family)
    }


def _alone(family: Family) -> Iterator[tuple[str, Family]]:
    """The name of each feature, and the family with no other."""
    bare = replace(family, career=(), recent=(), windows=(), windowed=())
    for total in family.career:
        yield total.name, replace(bare, career=(total,))
    for recent in family.recent:
        yield recent.name, replace(bare, recent=(recent,))
    for days in family.windows:
        for total in family.windowed:
            yield f"{total.name}_{days}d", replace(bare, windows=(days,), windowed=(total,))


def _hashed(*texts: str) -> str:
    return blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()
