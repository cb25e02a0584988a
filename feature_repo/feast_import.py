"""What must happen before `import feast`, so that it takes one second instead of four and changes no metric of ours."""

import sys
from typing import Any


def prepare_feast() -> None:
    """Call it before Feast is imported; it has no effect afterwards.

    typeguard's decorator returns its target unchanged, as `python -O` does: it parses a module again for each method
    that it decorates, and mypy checks our calls of Feast instead. prometheus_client is imported first, because Feast
    sets PROMETHEUS_MULTIPROC_DIR, under which all registries of a process count into the same files.
    """
    if "feast" not in sys.modules:
        import prometheus_client  # noqa: F401
        import typeguard

        typeguard.typechecked = _unchanged


def _unchanged(target: Any = None, **_: Any) -> Any:
    return _unchanged if target is None else target
