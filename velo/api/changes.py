"""Change the formulas of a store without fear: plan, apply, roll back. The commands of these names call these functions."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from velo.api.lineage import LOG, lineage
from velo.api.opened import utc_now
from velo.errors import UserError
from velo.storage import table_versions
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.log.format import generation as log_generation
from velo.storage.store import Home, Store

if TYPE_CHECKING:
    from velo.streams.batch.build import BuildReport
    from velo.streams.batch.rollback import RollbackReport
    from velo.streams.change_plan import TablesPlan

PLAN_FILE: Final = "plan.json"
"""Beside the batch's files: what the last plan expected, for the next apply to compare with."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ModelFit:
    """A stored model: whether it serves, whether it fits the formulas of the tables now and those of the catalogue, and why not."""

    version: str
    serves: bool
    fits_now: bool
    fits_then: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """What `apply` would do: to the tables and Feast's registry, to models, and to what shows values.

    `races_to_come` counts the declared races that the model that serves would score, None where Redis does not run. `dashboards`
    are the parts of the desk and the tables of the warehouse that show a changed view.
    """

    tables: "TablesPlan"
    models: tuple[ModelFit, ...]
    races_to_come: int | None
    dashboards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """The rows of the changed views, the seconds to compute them, and the bytes of their files; of the log before `next_seq`."""

    rows: int
    seconds: float
    bytes: int
    next_seq: int


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """The outcome of an apply: `build` is None where the tables had the catalogue's formulas already.

    `expected` is what the last plan of the same change expected, None without one. `online` says who fills Redis.
    """

    build: "BuildReport | None"
    took: Cost | None
    expected: Cost | None
    online: str


def plan(store: Store, now: datetime, *, keys: int | None, progress: Progress) -> ChangePlan:
    """Compare the catalogue with the tables, by values of `keys` keys of each changed view (None for all).

    Changes nothing that anyone reads. Raises `UserError` where there is no build, or it is of a log since replaced.
    """
    from velo.streams.batch.formulas import view_formulas
    from velo.streams.change_plan import plan as tables_plan
    from velo.streams.status import races_to_come

    found = tables_plan(store, now, keys=keys, progress=progress)
    due = [view for view in found.views if view.change in ("added", "changed")]
    seconds = found.measuring_seconds + sum(view.seconds for view in due)
    rows, size = sum(view.rows_then for view in due), sum(view.bytes for view in due)
    expected = Cost(rows, seconds, size, found.next_seq)
    _keep(store.home, _change(store.home, found.fingerprint), expected)
    then = table_versions.Formulas.of(found.fingerprint, view_formulas())
    models = _models(store.home, then)
    touched = {view.view for view in found.views if view.change != "untouched"}
    return ChangePlan(found, models, races_to_come(store, now), tuple(dashboards_of(touched)))


def apply(store: Store, now: datetime, client: Callable[[], Any], *, progress: Progress) -> ApplyReport:
    """Build the views whose formulas changed, publish them in one step, and have Redis follow.

    A running stream starts itself again and fills Redis. Without one, Redis is filled here if this store had filled it;
    `client` connects to it. Raises `UserError` as a build does.
    """
    from velo.streams.batch.build import build
    from velo.streams.batch.formulas import fingerprint
    from velo.streams.batch.warehouse import make_warehouse

    home, mark = store.home, fingerprint()
    folder = table_versions.current(home)
    if folder is not None and table_versions.manifest_of(folder).fingerprint == mark:
        return ApplyReport(None, None, None, "as before")
    expected, begun = expected_cost(home, mark), time.perf_counter()
    with lineage(store, "apply", utc_now, [LOG]) as run:
        report = build(store, now, progress=progress)
        run.wrote_views(report.computed)
    seconds = time.perf_counter() - begun
    make_warehouse(store)
    files = [part for view in report.computed for part in (report.generation / view).glob("*.parquet")]
    rows = sum(report.rows[view] for view in report.computed)
    took = Cost(rows, seconds, sum(part.stat().st_size for part in files), report.messages)
    return ApplyReport(report, took, expected, _follow(store, now, client, progress))


def rollback(store: Store, now: datetime, client: Callable[[], Any], *, progress: Progress) -> "RollbackReport":
    """Make the tables of the formulas before current again, and have Redis follow as `apply` does.

    Raises `UserError` where none are kept, or the catalogue still has other formulas.
    """
    from velo.streams.batch.rollback import rollback as run
    from velo.streams.batch.warehouse import make_warehouse

    with lineage(store, "rollback", utc_now, [LOG]) as sent:
        report = run(store)
        sent.wrote_views(report.views)
    make_warehouse(store)
    _follow(store, now, client, progress)
    return report


def _follow(store: Store, now: datetime, client: Callable[[], Any], progress: Progress) -> str:
    """Fill a Redis that this store had filled, unless a stream does; returns who does, in words."""
    from velo.feature_repo.catalogue.families import FAMILIES
    from velo.feature_repo.stores.fills import fill_remembered
    from velo.streams.dataflow.metrics import is_streaming
    from velo.streams.rebuild_online import rebuild

    if store.home.parent_store is not None:
        return "none: an environment is not served"
    if is_streaming(store.home):
        return "the running stream starts itself again and fills the changed views"
    if not any(fill_remembered(store.home, family.view) for family in FAMILIES):
        return "never filled: `velo stream` or `velo online rebuild` fills it"
    keys = rebuild(store, client(), now, progress=progress).keys
    return f"filled with {sum(keys.values()):,} rows"


def _models(home: Home, then: table_versions.Formulas) -> tuple[ModelFit, ...]:
    """Each stored model, and whether it fits the formulas of the tables and those of `then`."""
    from velo.training import bundle

    serving = bundle.current(home) if bundle.versions(home) else ""
    found = []
    for version in bundle.versions(home):
        now, reason = bundle.misfit_of(home, version), bundle.misfit(bundle.described(home, version), then)
        found.append(ModelFit(version, version == serving, now is None, reason is None, reason))
    return tuple(found)


def dashboards_of(touched: set[str]) -> Iterator[str]:
    """The parts of the desk and the tables of the warehouse that show some of the views."""
    from velo.serving.api.curves import VIEWS
    from velo.serving.scoring.feature_matrix import FIGURES
    from velo.streams.batch.warehouse import DAILY

    yield from (f"desk: curves of a {kind}" for kind, view in VIEWS.items() if view in touched)
    yield from (f"desk: record {name}" for name, of in FIGURES.items() if of[0].split("__", 1)[0] in touched)
    yield from (f"warehouse: {view}" for view in sorted({*touched, *(f"{each}_daily" for each in touched & {*DAILY})}))


def serving_model(home: Home) -> str:
    """The model that serves, and whether it fits the current tables, in one line."""
    from velo.training import bundle

    try:
        version = bundle.current(home)
        bundle.refuse_misfit(home, version)
    except UserError as none:
        return str(none)
    return f"{version} fits"


def _change(home: Home, fingerprint: str) -> str:
    """The identity of a change: the log, the formulas of the current tables, and those to come."""
    formulas = table_versions.current_formulas(home)
    return f"{log_generation(home)}-{formulas.fingerprint if formulas else None}-{fingerprint}"


def _keep(home: Home, change: str, expected: Cost) -> None:
    text = json.dumps({"change": change, "cost": asdict(expected)})
    write_atomically(make_folder(home.batch) / PLAN_FILE, text.encode())


def expected_cost(home: Home, fingerprint: str) -> Cost | None:
    """What the last plan expected of a change to some formulas; None where it was of another log, tables or formulas, or there was none."""
    try:
        kept = json.loads((home.batch / PLAN_FILE).read_bytes())
        return Cost(**kept["cost"]) if kept["change"] == _change(home, fingerprint) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
