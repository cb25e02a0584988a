"""The stored form of a fitted model: text, or a format that runs no code when it is read; and the environment it needs.

VÉLØ's own is LightGBM's text and JSON; XGBoost's and CatBoost's are their JSON; a scikit-learn estimator is a skops file; a
function is its `module:name` and the SHA-256 of its source. An object of another kind writes and reads its own text. Nothing is
pickled. What cannot be stored so is refused in one line, and can still be backtested.
"""

import json
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from velo.errors import UserError
from velo.training.model.ensemble import Ensemble
from velo.training.race_model import FUNCTION, PROTOCOL, VELO, FittedModel

if TYPE_CHECKING:
    # a server that loads VÉLØ's own model needs none of it
    from velo.training.model.own_models import Recipe

XGBOOST: Final = "xgboost"
CATBOOST: Final = "catboost"
SKLEARN: Final = "sklearn"
_FILE: Final = {XGBOOST: "model.json", CATBOOST: "model.json", SKLEARN: "model.skops", PROTOCOL: "model.user.txt"}
_UNKNOWN: Final = "unknown_columns.json"
_DISTRIBUTIONS: Final = {
    VELO: ("lightgbm",),
    XGBOOST: ("xgboost", "xgboost-cpu"),
    CATBOOST: ("catboost",),
    SKLEARN: ("scikit-learn", "skops"),
}
_HARMLESS: Final = ("numpy.dtype",)
_ONLY_SAME: Final = ("scikit-learn",)
"""Packages whose stored form is of one version: another one may read it and score differently."""


def stored_kind(recipe: "Recipe") -> str:
    """The stored form of a recipe's fitted model, decided before anything is fitted.

    Raises `UserError` for a model that has no safe stored form, or whose package is not installed.
    """
    if recipe.kind == VELO or recipe.kind == FUNCTION:
        if recipe.kind == FUNCTION and recipe.factory is None:
            raise _not_stored(recipe.name, "it is a function without module:name", "name it by module:function")
        return recipe.kind
    example = recipe.model.make()  # type: ignore[attr-defined]
    if recipe.kind == PROTOCOL:
        if recipe.factory is None:
            raise _not_stored(recipe.name, "a bundle records module:factory", "name it by module:factory")
        if not callable(getattr(example, "from_text", None)):
            raise _not_stored(
                recipe.name, "it has no text form", "give it from_text(text), and its fitted model to_text()"
            )
        return PROTOCOL
    kind = _classifier_kind(example)
    if kind == SKLEARN:
        _trusted(recipe.name, _skops(recipe.name).dumps(example))
    return kind


def files_of(fitted: FittedModel, kind: str) -> dict[str, bytes]:
    """The files that store a fitted model, by name; raises `UserError` as `stored_kind` does."""
    if isinstance(fitted, Ensemble):
        return fitted.files()
    from velo.training.model.own_models import FittedUserModel

    assert isinstance(fitted, FittedUserModel)
    if kind == FUNCTION:
        return {}
    if kind == PROTOCOL:
        if not callable(getattr(fitted.fitted, "to_text", None)):
            raise _not_stored(fitted.name, "its fitted model has no to_text()", "add it, the inverse of from_text")
        return {_FILE[kind]: str(fitted.fitted.to_text()).encode()}
    estimator = fitted.fitted.estimator
    beside = {_UNKNOWN: (json.dumps(list(fitted.fitted.unknown), indent=1) + "\n").encode()}
    if kind == XGBOOST:
        return beside | {_FILE[kind]: bytes(estimator.get_booster().save_raw("json"))}
    if kind == CATBOOST:
        return beside | {_FILE[kind]: _through_file(lambda path: estimator.save_model(path, format="json"))}
    content: bytes = _skops(fitted.name).dumps(estimator)
    _trusted(fitted.name, content)
    return beside | {_FILE[kind]: content}


def load_model(described: Mapping[str, Any], files: Mapping[str, bytes]) -> FittedModel:
    """The fitted model of a bundle's metadata and files.

    Raises `UserError` where a package is missing, a module does not import, or the source of a function changed.
    """
    kind = described.get("kind", VELO)
    if kind == VELO:
        return Ensemble.of_files(files)
    from velo.training.model.own_models import FittedClassifier, FittedUserModel

    name = described["model"]["model"]
    if kind in (FUNCTION, PROTOCOL):
        return _of_factory(name, kind, described, files)
    content = files[_FILE[kind]]
    if kind == SKLEARN:
        estimator = _skops(name).loads(content, trusted=_trusted(name, content))
    else:
        estimator = _booster(name, kind, content)
    return FittedUserModel(
        name, FittedClassifier(estimator, tuple(json.loads(files[_UNKNOWN]))), tuple(described["features"])
    )


def _of_factory(name: str, kind: str, described: Mapping[str, Any], files: Mapping[str, bytes]) -> FittedModel:
    from velo.training.model.own_models import FittedUserModel, ScoringFunction, recipe_for

    recipe = recipe_for(described["factory"], described["parameters"])
    before, now = described["model"].get("source_sha256"), recipe.settings.get("source_sha256")
    if before != now:
        raise UserError(
            f"{name}: the source of the model changed since it was stored: restore it, or run `velo train` again"
        )
    model = recipe.model.make()  # type: ignore[attr-defined]
    fitted = ScoringFunction(model) if kind == FUNCTION else model.from_text(files[_FILE[kind]].decode())
    return FittedUserModel(name, fitted, tuple(described["features"]))


def _classifier_kind(estimator: object) -> str:
    package = type(estimator).__module__.split(".")[0]
    return package if package in (XGBOOST, CATBOOST) else SKLEARN


def _booster(name: str, kind: str, content: bytes) -> Any:
    try:
        if kind == XGBOOST:
            import xgboost

            estimator = xgboost.XGBClassifier()
            estimator.load_model(bytearray(content))
            return estimator
        import catboost

        estimator = catboost.CatBoostClassifier()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.json")
            path.write_bytes(content)
            return estimator.load_model(str(path), format="json")
    except ImportError as missing:
        raise UserError(
            f"{name} needs {kind}, which is not installed ({missing}): pip install {_extra(kind)}"
        ) from None


def _through_file(write: Callable[[str], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.json")
        write(str(path))
        return path.read_bytes()


def _skops(name: str) -> Any:
    try:
        import skops.io
    except ImportError:
        raise _not_stored(name, "skops is not installed", f"pip install {_extra('sklearn')}") from None
    return skops.io


def _trusted(name: str, content: bytes) -> list[str]:
    """The types of a skops file beyond skops' own list: those of scikit-learn; raises `UserError` for any other."""
    found = _skops(name).get_untrusted_types(data=content)
    unknown = [kind for kind in found if not kind.startswith("sklearn.") and kind not in _HARMLESS]
    if unknown:
        raise _not_stored(
            name, f"skops does not trust {', '.join(sorted(unknown))}", "use estimators of scikit-learn itself"
        )
    return list(found)


def _not_stored(name: str, reason: str, remedy: str) -> UserError:
    return UserError(f"{name} cannot be stored safely ({reason}): {remedy}, or only backtest it")


def _extra(name: str) -> str:
    return "skops" if name == SKLEARN else f"'velo-features[{name}]'"


def environment(recipe: "Recipe", kind: str) -> dict[str, str]:
    """The Python and package versions that a stored model depends on, by name of the package."""
    names = _DISTRIBUTIONS.get(kind, ())
    if recipe.factory is not None:
        names = (*names, *_imports_of(recipe.factory.partition(":")[0]))
    return {"python": platform.python_version()} | _installed(names)


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in dict.fromkeys(names):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _imports_of(module: str) -> tuple[str, ...]:
    """The distributions of the packages that a module imports by name, and its own."""
    packages = {module.split(".")[0]}
    for value in vars(sys.modules[module]).values():
        packages.add((getattr(value, "__module__", None) or getattr(value, "__name__", None) or "").split(".")[0])
    by_package = metadata.packages_distributions()
    return tuple(sorted({name for package in packages for name in by_package.get(package, ())} - {"velo-features"}))


def differences(described: Mapping[str, Any]) -> tuple[str, ...]:
    """The differences between this environment and that of a bundle's training, one sentence each.

    Only the packages the model needs and Python's minor version count. Raises `UserError` for another version of a package
    whose stored form is read by the same version only.
    """
    kind = described.get("kind", VELO)
    recorded: Mapping[str, str] = described.get("environment") or {
        name: version
        for name, version in described.get("versions", {}).items()
        if name in (*_DISTRIBUTIONS[VELO], "python")
    }
    found = []
    for name, version in recorded.items():
        now = platform.python_version() if name == "python" else _installed((name,)).get(name)
        if name == "python" and now is not None and now.split(".")[:2] == version.split(".")[:2]:
            continue
        if now == version:
            continue
        here = f"this environment has {now}" if now else "it is not installed here"
        text = f"model {described['version']} was trained with {name} {version}, {here}"
        if kind == SKLEARN and name in _ONLY_SAME:
            raise UserError(f"{text}: install {name}=={version}, or run `velo train` again")
        found.append(text)
    return tuple(found)
