"""VÉLØ: a streaming feature store for horse racing.

`store = velo.open(home)` opens a store; docs/python.md describes its methods. A mistake raises `velo.UserError`, whose text
is the one line that the command prints. Nothing heavy is imported before a method needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from velo.errors import UserError

if TYPE_CHECKING:
    from velo.api.race_store import RaceStore
    from velo.api.race_store import open_store as open  # noqa: A004 the module's own name for it is velo.open

__all__ = ["RaceStore", "UserError", "open"]

_LAZY = {"RaceStore": ("velo.api.race_store", "RaceStore"), "open": ("velo.api.race_store", "open_store")}


if not TYPE_CHECKING:  # so that a type checker finds a name that is not here

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'velo' has no attribute {name!r}")
        module, attribute = _LAZY[name]
        value = getattr(import_module(module), attribute)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
