"""The registry of importers: modules of `velo.streams.importers.sources`, mappings, and entry points of the group `velo.importers`.

Each implements `velo.streams.importers.importer.Importer`: the object `IMPORTER` of a module, that of an entry point, or what a
mapping of `velo.streams.importers.mappings` (`NAME.toml`) declares. The name of the module (`-` for `_`), mapping or entry point
is the name of its command: `velo ingest NAME`, or `velo cards NAME` for `NAME-cards`. The path of a mapping of the user's own is
a name too. Names are listed without importing anything; an importer is imported when it is used.
"""

import pkgutil
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from velo.errors import UserError
from velo.streams.importers import mappings, sources

if TYPE_CHECKING:
    from velo.storage.store import Home
    from velo.streams.importers.importer import Importer, ResultsImporter
    from velo.streams.importers.mapping import SourceMapping

GROUP: Final = "velo.importers"
CARDS: Final = "-cards"
"""The ending of the name of an importer of racecards."""
TOML: Final = ".toml"
"""The ending of the name of a mapping's file."""


def names() -> list[str]:
    """Return the names of all importers, sorted. Raises `UserError` if two have one name."""
    return sorted([*_modules(), *_shipped(), *_plugins()])


def importer(name: str) -> "Importer":
    """Return the importer of a name. Raises `UserError` where there is none, or the package that has it does not work."""
    modules, plugins = _modules(), _plugins()
    if name in modules:
        found: Importer = import_module(modules[name]).IMPORTER
        return found
    if name in _shipped() or name.endswith(TOML):
        from velo.streams.importers.mapped import importer_of

        return importer_of(mapping(name))
    if name not in plugins:
        raise UserError(f"{name!r} is not an importer: use one of {', '.join(names())}")
    point = plugins[name]
    try:
        found = point.load()
    except (ImportError, AttributeError) as broken:
        raise UserError(
            f"the importer {name} cannot be loaded from {point.value} ({broken}): install its package again, or remove it"
        ) from None
    if not callable(getattr(found, "load", None)):
        raise UserError(f"the importer {name} is {point.value}, which has no method load: correct its entry point")
    if getattr(found, "source", None) != name:
        raise UserError(
            f"the importer {name} has the source {getattr(found, 'source', None)!r}: make both names the same"
        )
    return found


def mapping(name: str) -> "SourceMapping":
    """Return a shipped mapping, or the one in a file. Raises `UserError` where the file is wrong, or has an importer's name."""
    from velo.streams.importers.mapping import parse_mapping, read_mapping

    if name in _shipped():
        return parse_mapping(_shipped()[name], name)
    own = read_mapping(Path(name))
    if own.name in names():
        raise UserError(f"{name} has the name {own.name!r}, which is an importer's: give the mapping another name")
    return own


def shipped_mappings() -> "list[SourceMapping]":
    """Return all shipped mappings, by name."""
    return [mapping(name) for name in sorted(_shipped())]


def results_importer(name: str, home: "Home | None" = None) -> "ResultsImporter | None":
    """Return the importer of a source of results; None where no importer of this name reads results.

    A source that is not in the registry is looked for among the mappings that the store at `home` has loaded files by.
    """
    from velo.streams.importers.importer import ResultsImporter

    if name not in names() and not name.endswith(TOML):
        own = home.mappings / f"{name}.toml" if home is not None else None
        if own is None or not own.is_file():
            return None
        name = str(own)
    found = importer(name)
    return found if isinstance(found, ResultsImporter) else None


def results_names() -> list[str]:
    """Return the names of the importers of results, but those of packages that do not work."""
    found = []
    for name in names():
        with suppress(UserError):
            found += [name] if results_importer(name) else []
    return found


@cache
def _modules() -> dict[str, str]:
    """Return the modules of the shipped importers by name."""
    found = (module.name for module in pkgutil.iter_modules(sources.__path__))
    return {name.replace("_", "-"): f"{sources.__name__}.{name}" for name in found}


@cache
def _shipped() -> dict[str, str]:
    """Return the texts of the shipped mappings by name."""
    found = (file for file in files(mappings).iterdir() if file.name.endswith(TOML))
    return {file.name.removesuffix(TOML): file.read_text(encoding="utf-8") for file in found}


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the importers of other packages by name."""
    return _by_name(entry_points(group=GROUP), [*_modules(), *_shipped()])


def _by_name(points: Iterable[EntryPoint], taken: Iterable[str]) -> dict[str, EntryPoint]:
    by_name: dict[str, EntryPoint] = {}
    for point in points:
        if point.name in by_name or point.name in taken:
            other = by_name[point.name].value if point.name in by_name else "VÉLØ"
            raise UserError(
                f"the entry point {point.name} = {point.value} of the group {GROUP} has the name of an importer of {other}: "
                "rename it, or remove its package"
            )
        by_name[point.name] = point
    return by_name
