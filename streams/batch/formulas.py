"""The queries that make each view, and their fingerprints: of all formulas, of each view, and of each feature.

A view's fingerprint covers its own queries and what they read of a start: the queries that measure starts, the jurisdiction,
the measures that its features use and, where it has ratings, their code. So a new measure of one view leaves the others as
they are, and a change to the queries that measure starts changes all.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Final

from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.families import FAMILIES, Family, own_measures
from velo.racing.jurisdiction import DEFAULT, Jurisdiction
from velo.racing.measures import Measure
from velo.storage.table_versions import Manifest, ViewFormulas
from velo.streams.aggregation.ratings import Starter
from velo.streams.batch import measuring, newest_known, render, staging

UNNUMBERED: Final = 0
"""The epoch of formulas that no tables have yet."""


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
    every = staging.formulas(jurisdiction, own_measures(families)) + "".join(
        text for family in families for text in queries(family)
    )
    every += "".join(view.definition for view in request_time.OWN_VIEWS)
    return blake2b(every.encode(), digest_size=16).hexdigest()


def view_formulas(
    families: Iterable[Family] = FAMILIES, jurisdiction: Jurisdiction = DEFAULT
) -> dict[str, ViewFormulas]:
    """The formulas of each view, without an epoch."""
    shared = _measuring(jurisdiction)
    ratings = staging.code_of_modules(staging.RATINGS)
    return {
        family.view: ViewFormulas(
            _hashed(shared, *_measured(family, family.used_measures, ratings), *queries(family)),
            UNNUMBERED,
            {name: _hashed(shared, *_measured(family, used, ratings), *said) for name, used, said in _features(family)},
        )
        for family in families
    }


def at_epochs(
    views: Mapping[str, ViewFormulas], unchanged: set[str], before: Manifest | None, epoch: int
) -> dict[str, ViewFormulas]:
    """The formulas of each view with the epoch of its rows: that of the tables `before` where `unchanged`, else `epoch`."""
    return {
        view: replace(formulas, epoch=before.epoch_of(view) if before and view in unchanged else epoch)
        for view, formulas in views.items()
    }


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


def _features(family: Family) -> Iterator[tuple[str, Collection[str], tuple[str, ...]]]:
    """Each feature's name, its measures, and the text of its formula: keys, span, aggregate."""
    keys = " ".join(family.keys)
    for aggregate in family.career:
        yield aggregate.name, aggregate.measures, (keys, "career", aggregate.sql(str))
    for recent in family.recent:
        order = " ".join(family.start_order)
        value = recent.sql(lambda back, of=recent.measure: f"{of}_{back}", recent.measure)  # type: ignore[misc]
        yield recent.name, (recent.measure,), (keys, order, value)
    for days in family.windows:
        for aggregate in family.windowed:
            yield f"{aggregate.name}_{days}d", aggregate.measures, (keys, f"{days} days", aggregate.sql(str))


def _hashed(*texts: str) -> str:
    return blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()
