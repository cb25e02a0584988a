"""Import Feast without typeguard's run-time checks, which take three of the four seconds of `import feast`."""

import sys
from typing import Any


def skip_type_checks() -> None:
    """Make typeguard's decorator return its target unchanged, as `python -O` does; call it before Feast is imported.

    The decorator parses a module again for each method it decorates. mypy checks our calls of Feast instead. Without
    effect on what is already imported.
    """
    if "feast" not in sys.modules:
        import typeguard

        typeguard.typechecked = _unchanged


def _unchanged(target: Any = None, **_: Any) -> Any:
    return _unchanged if target is None else target
