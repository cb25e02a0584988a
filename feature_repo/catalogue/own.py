"""A user's own features: Python modules that declare families and request-time features as the catalogue does.

The modules are named by entry points of the group `velo.features`, and by `velo.toml`: the one in the store's home or the
nearest folder above it, else in the current folder or above (`velo.settings.config_file`). The folder of `velo.toml` is
searched for its modules first.

    [features]
    modules = ["my_features"]

A module has `FAMILIES`, `REQUEST_VIEWS` or both. What is declared wrongly is one `UserError`, before anything is written.
"""

import importlib
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from velo.errors import UserError
from velo.feature_repo.catalogue.aggregates import Sum
from velo.feature_repo.catalogue.family import Family
from velo.feature_repo.catalogue.request_view import RequestView
from velo.racing.measures import MEASURES, Measure
from velo.racing.starts import KEYS
from velo.settings import CONFIG, FEATURE_CONFIG

GROUP: Final = "velo.features"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
RESERVED: Final = frozenset(
    "all and any as asc between by case cast check collate column constraint create cross default desc distinct do else "
    "end except false fetch for foreign from full grant group having in inner intersect into is join lateral left like "
    "limit natural not null offset on only or order outer primary references right row select some table then to true "
    "union unique user using when where window with "
    "seq known_at retracted_at race_id result_version race_date off_time runner key_id t place own created_timestamp "
    "event_timestamp valid_until next_loss".split()
) | frozenset(KEYS)
"""Names that mean something else in the queries."""


@dataclass(frozen=True, slots=True)
class Declarations:
    """The declarations of a module; `source` names it in errors."""

    source: str
    families: tuple[Family, ...]
    views: tuple[RequestView, ...]


@cache
def declarations() -> tuple[Declarations, ...]:
    """The declarations of every named module, in order. Raises `UserError` for a module that cannot be read."""
    named = [(entry.value, f"entry point {entry.name}") for entry in sorted(entry_points(group=GROUP))]
    file = FEATURE_CONFIG.read()
    if file is not None:
        named += [(module, f"{file}") for module in _modules_of(file)]
        # the velo.toml of an environment is a link: its modules are beside the file itself
        for folder in dict.fromkeys((file.resolve().parent, file.parent)):
            if named and str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
    return tuple(read(_imported(module, source), module) for module, source in named)


def read(module: ModuleType, source: str) -> Declarations:
    """The declarations of a module."""
    families = _listed(module, "FAMILIES", Family, source)
    views = _listed(module, "REQUEST_VIEWS", RequestView, source)
    if not families and not views:
        raise UserError(
            f"{source} declares neither FAMILIES nor REQUEST_VIEWS: declare one, or take it out of {CONFIG}"
        )
    return Declarations(source, families, views)


def families(shipped: Sequence[Family]) -> tuple[Family, ...]:
    """The families that a user declared, checked against the shipped ones and each other."""
    known = {family.view: "VÉLØ" for family in shipped}
    measures: dict[str, Measure] = {}
    made = []
    for declared in declarations():
        for family in declared.families:
            check_family(family, declared.source, known, measures)
            known[family.view] = declared.source
            made.append(replace(family, owner=family.owner or declared.source))
    return tuple(made)


def request_views(stored: Sequence[Family], shipped: Sequence[RequestView]) -> tuple[RequestView, ...]:
    """The request-time features that a user declared, checked against what is stored."""
    features = {(family.view, feature.name) for family in stored for feature in family.features}
    taken = {view.name for view in shipped} | {family.view for family in stored}
    made = []
    for declared in declarations():
        for view in declared.views:
            where = f"{declared.source}: request view {view.name}"
            _check_name(where, view.name)
            if view.name in taken:
                raise UserError(f"{where}: the name is taken: choose another")
            for feature in view.features:
                _check_name(f"{where}: feature {feature.name}", feature.name)
                if feature.kind not in ("int", "float") or feature.value.kind not in ("whole", "real"):
                    raise UserError(
                        f"{where}: feature {feature.name} is {feature.value.kind}: make it a number, int or float"
                    )
            for read in view.stored:
                if (read.view, read.feature) not in features:
                    raise UserError(f"{where}: no view stores {read.name}: declare it in a family, or correct the name")
            if not view.stored:
                raise UserError(f"{where} reads no stored feature: compare the race with stored(view, feature)")
            taken.add(view.name)
            made.append(replace(view, owner=view.owner or declared.source))
    return tuple(made)


def check_family(family: Family, source: str, known: dict[str, str], measures: dict[str, Measure]) -> None:
    """Raise `UserError` for a family that cannot be added to those `known`, by view; its measures are added to `measures`."""
    where = f"{source}: family {family.view}"
    _check_name(where, family.view)
    if family.view in known:
        raise UserError(f"{where}: the view exists already ({known[family.view]}): choose another name")
    unknown = [key for key in family.keys if key not in KEYS]
    if unknown or not family.keys:
        raise UserError(f"{where} is keyed by {', '.join(family.keys) or 'nothing'}: use keys among {', '.join(KEYS)}")
    if not any(
        isinstance(aggregate, Sum) for aggregate in (*family.career, *(family.windowed if family.windows else ()))
    ):
        raise UserError(f'{where} counts nothing: add Sum("runs", "one"), by which a missing row is known')
    for feature in family.features:
        _check_name(f"{where}: feature {feature.name}", feature.name)
    for measure in family.measures:
        check_measure(measure, where)
        if measures.setdefault(measure.name, measure) is not measure and measures[measure.name] != measure:
            raise UserError(
                f"{where}: measure {measure.name} is declared twice, differently: choose another name for one"
            )


def check_measure(measure: Measure, where: str) -> None:
    """Raise `UserError` for a user's measure that would not be exact."""
    _check_name(f"{where}: measure {measure.name}", measure.name)
    if measure.name in MEASURES:
        raise UserError(f"{where}: measure {measure.name} exists already: choose another name")
    if measure.value is None or not measure.whole:
        raise UserError(
            f"{where}: measure {measure.name} yields a float, and sums of floats depend on their order: "
            "count in small whole units, as in (value * 1000).rounded"
        )
    if measure.value.least < measure.least or measure.value.most > measure.most:
        raise UserError(
            f"{where}: measure {measure.name} is from {measure.value.least} to {measure.value.most}, beyond its bounds "
            f"{measure.least} to {measure.most}: write .within(least, most)"
        )


def _check_name(where: str, name: str) -> None:
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise UserError(f"{where}: {name!r} cannot be a name: use small letters, digits and _, and no word of SQL")


def _modules_of(file: Path) -> list[str]:
    try:
        section = tomllib.loads(file.read_text()).get("features", {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise UserError(f"{file} cannot be read ({' '.join(str(broken).split())}): correct it") from None
    modules = section.get("modules", []) if isinstance(section, dict) else None
    if not isinstance(modules, list) or not all(isinstance(name, str) and name for name in modules):
        raise UserError(f'{file}: features.modules is {modules!r}: list module names, as in modules = ["my_features"]')
    return modules


def _imported(name: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except UserError as refused:
        raise UserError(f"{source}: module {name}: {refused}") from None
    except Exception as broken:  # noqa: BLE001  a user's module may raise anything
        said = " ".join(f"{type(broken).__name__}: {broken}".split())
        raise UserError(f"{source}: module {name} does not import ({said}): correct it, or take it out") from None


def _listed(module: ModuleType, name: str, kind: type, source: str) -> tuple[Any, ...]:
    declared = getattr(module, name, ())
    if not isinstance(declared, tuple | list) or not all(isinstance(item, kind) for item in declared):
        raise UserError(f"{source}: {name} is {declared!r:.80}: make it a tuple of {kind.__name__}")
    return tuple(declared)
