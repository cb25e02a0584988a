"""Models of the user: found by `module:factory`, adapted to `velo.training.race_model`, and checked at every call.

A factory returns, or a caller passes, one of: an object with `fit(runners, races)`; a scikit-learn classifier, XGBoost's and
CatBoost's included; a function `(runners) -> utilities` that only scores. Every mistake of such a model is a `UserError` of one
line: the factory, the rule, the remedy.
"""

import copy
import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from velo.errors import UserError
from velo.feature_repo.catalogue import columns
from velo.training.dataset.by_race import Floats, total
from velo.training.dataset.races import Races
from velo.training.market.market import SMALLEST
from velo.training.model.fitting import TreesAndLogit
from velo.training.model.threads import fitting_threads, numeric_threads
from velo.training.model.trees import FEATURES, ModelOptions
from velo.training.race_model import CLASSIFIER, FUNCTION, PROTOCOL, VELO, RaceModel, Runners

_MOVED: Final = {"velo.training.fitting": "velo.training.model.fitting"}
"""Modules of factories that users may have named by an earlier path."""
_LONGEST: Final = 2_000
"""Characters of a parameter that are recorded as they are."""
CHECKED_ALONE: Final = 3
"""Races of a batch that are scored again by themselves."""
TOLERANCE: Final = 1e-6
"""Largest difference in nats between a runner's utility in a batch and alone; a 32-bit model rounds to about 1e-7."""


@dataclass(frozen=True)
class Recipe:
    """The recipe of a model: the unfitted model, its columns and what identifies it.

    `settings` are JSON: equal settings are the same recipe to the ledger of trials and to the gate's verdict. `factory` is
    `module:name`, None for an object that a caller passed; `kind` is one of `VELO`, `CLASSIFIER`, `FUNCTION`, `PROTOCOL`.
    """

    model: RaceModel
    name: str
    kind: str
    settings: Mapping[str, Any]
    features: tuple[str, ...] = FEATURES
    factory: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1


def recipe_for(model: object = None, parameters: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a model: None or `ModelOptions` for VÉLØ's own, `module:factory`, or an object.

    `parameters` are keyword arguments of the factory. Raises `UserError` for a module that does not import, a factory that
    raises, an object that is not a model, and a column that no model may use.
    """
    given = dict(parameters or {})
    if model is None or isinstance(model, ModelOptions | TreesAndLogit):
        own = model if isinstance(model, TreesAndLogit) else TreesAndLogit(model or ModelOptions())
        return Recipe(own, VELO, VELO, asdict(own.options), parameters=given, seed=own.options.seed)
    if isinstance(model, str):
        factory = _imported(model)
        # a function that scores is used as it is; anything else is a factory, called once per refit
        if _scores(factory):
            return _user_recipe(model, partial(_itself, factory), factory, model, given)
        make = partial(_made, model, factory, given)
        return _user_recipe(model, make, make(), model, given)
    if given:
        raise UserError(f"parameters {', '.join(given)} are for a factory: pass module:factory, not an object")
    if inspect.isclass(model):
        raise UserError(
            f"{model.__module__}:{model.__qualname__} is a class: pass an object of it, or its name as text"
        )
    kind = model if inspect.isroutine(model) else type(model)
    name = f"{kind.__module__}:{getattr(kind, '__qualname__', type(model).__qualname__)}"
    return _user_recipe(name, partial(copy.deepcopy, model), model, None, {})


def velo_options(settings: Mapping[str, Any]) -> ModelOptions | None:
    """The options of VÉLØ's own model among stored settings; None if one is missing."""
    # the machine chooses the threads, not the model
    names = {option.name for option in fields(ModelOptions)} - {"threads"}
    return ModelOptions(**{name: settings[name] for name in names}) if names <= settings.keys() else None


def _user_recipe(
    name: str, make: Callable[[], Any], example: object, factory: str | None, parameters: Mapping[str, Any]
) -> Recipe:
    kind = _kind(name, example)
    features = _features(name, example)
    settings = {"model": name, "parameters": _plain(parameters if factory else _state(example))}
    if (source := _source(example)) is not None:
        settings["source_sha256"] = source
    if features != FEATURES:
        settings["features"] = list(features)
    model = UserModel(name, kind, make, features)
    return Recipe(model, name, kind, settings, features, factory, _plain(parameters))


def _kind(name: str, model: object) -> str:
    if callable(getattr(model, "fit", None)):
        return CLASSIFIER if callable(getattr(model, "predict_proba", None)) else PROTOCOL
    if callable(model):
        return FUNCTION
    raise UserError(
        f"{name} is not a model: give it fit(runners, races), or use a scikit-learn classifier or a function of runners"
    )


def _scores(found: object) -> bool:
    """Whether this is a function of runners and not a factory: its one required parameter is named `runners`."""
    if not inspect.isfunction(found):
        return False
    return [name for name, of in inspect.signature(found).parameters.items() if of.default is of.empty] == ["runners"]


def _itself(model: Any) -> Any:
    return model


def _made(name: str, factory: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    with _user_errors(name, "the factory", "call it by hand with the same parameters"):
        return factory(**parameters)


def _imported(reference: str) -> Any:
    """The object of `module:name`; modules in the working directory are found too."""
    module, _, name = reference.partition(":")
    if not module or not name:
        raise UserError(f"{reference!r} is not module:factory: write it like sklearn.linear_model:LogisticRegression")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with _user_errors(reference, f"the import of {module}", "run it in this environment and working directory"):
        found: Any = importlib.import_module(_MOVED.get(module, module))
    for part in name.split("."):
        if not hasattr(found, part):
            raise UserError(f"{reference}: module {module} has no {name!r}: name a factory that it defines")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{reference} is a {type(found).__name__}: name a function or class that makes a model")
    return found


def _features(name: str, model: object) -> tuple[str, ...]:
    """The columns that a model asks for by an attribute `features`; all of them without one."""
    asked = getattr(model, "features", None)
    if asked is None or callable(asked):
        return FEATURES
    chosen = tuple(str(column) for column in asked)
    columns.refuse_unknown(chosen)
    if refused := [column for column in chosen if column not in FEATURES]:
        raise UserError(f"{name} asks for {', '.join(refused)}, which grow with the calendar: leave them out")
    if not chosen or len(set(chosen)) != len(chosen):
        raise UserError(f"{name}.features must name one or more columns, each once")
    return chosen


def _state(model: object) -> Mapping[str, Any]:
    """The parameters or attributes that distinguish two objects of a class."""
    if callable(getattr(model, "get_params", None)):
        params: Mapping[str, Any] = model.get_params()  # type: ignore[attr-defined]
        return params
    return getattr(model, "__dict__", {})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON: a value that JSON does not know is its `repr`, a long one the SHA-256 of it."""
    plain = {}
    for name, value in values.items():
        try:
            text = json.dumps(value, default=repr, sort_keys=True)
        except TypeError:
            text = json.dumps(repr(value))
        if len(text) > _LONGEST:
            text = json.dumps(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")
        plain[str(name)] = json.loads(text)
    return plain


def _source(model: object) -> str | None:
    """SHA-256 of the file that defines a model, so that an edited model is another recipe; None where there is no file."""
    try:
        path = inspect.getsourcefile(model if inspect.isroutine(model) else type(model))
    except TypeError:
        return None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else None


@contextmanager
def _user_errors(name: str, step: str, remedy: str) -> Iterator[None]:
    """Turn any exception of user code into one line; errors that already are one line pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as broke:
        error = " ".join(f"{type(broke).__name__}: {broke}".split())[:300]
        raise UserError(f"{name}: {step} raised {error}: {remedy}") from broke


@dataclass(frozen=True, slots=True)
class UserModel:
    """A user's model in the protocol; every fit begins with a new or copied object, so that no refit knows another."""

    name: str
    kind: str
    make: Callable[[], Any]
    features: tuple[str, ...] = FEATURES

    def fit(self, runners: Runners, races: Races) -> "FittedUserModel":
        """Fit a new object; raises `UserError` where it raises."""
        model = self.make()
        remedy = "fit it by hand on the same columns; missing values are NaN"
        with numeric_threads(fitting_threads()), _user_errors(self.name, f"fit on {races.count:,} races", remedy):
            fitted = self._fit(model, runners.select(self.features), races)
        if not callable(getattr(fitted, "utilities", None)) and not callable(getattr(fitted, "probabilities", None)):
            raise UserError(
                f"{self.name}: fit returned {type(fitted).__name__}, which has neither utilities(runners) nor "
                "probabilities(runners): return the fitted model"
            )
        return FittedUserModel(self.name, fitted, self.features)

    def _fit(self, model: Any, runners: Runners, races: Races) -> Any:
        if self.kind == FUNCTION:
            return ScoringFunction(model)
        if self.kind == CLASSIFIER:
            if type(model).__module__.startswith("catboost"):
                # it would write a folder into the working directory
                model.set_params(allow_writing_files=False)
            empty = np.flatnonzero(np.isnan(runners.matrix).all(axis=0)).tolist()
            unknown = tuple(runners.features[column] for column in empty)
            won = (races.share > 0.0).astype(np.int64)
            return FittedClassifier(model.fit(_frame(runners, unknown), won), unknown)
        return model.fit(runners, races)


@dataclass(frozen=True, slots=True)
class FittedUserModel:
    """A user's fitted model, whose every answer is checked."""

    name: str
    fitted: Any
    features: tuple[str, ...]

    def utilities(self, runners: Runners) -> Floats:
        """Utilities, (runners,); raises `UserError` for a wrong shape, a value that is not finite, or races that are not independent."""
        runners = runners.select(self.features)
        values = self._utilities(runners)
        for number in _some(runners.starts.size):
            begin, size = int(runners.starts[number]), int(runners.sizes[number])
            alone = self._utilities(runners.race(number))
            among = values[begin : begin + size]
            if np.abs((alone - alone[0]) - (among - among[0])).max() > TOLERANCE:
                raise UserError(
                    f"{self.name}: a race has other utilities by itself than among {runners.starts.size:,} races: a model "
                    "must use the runners of the race alone, as it is served"
                )
        return values

    def _utilities(self, runners: Runners) -> Floats:
        probabilities = not callable(getattr(self.fitted, "utilities", None))
        method = "probabilities" if probabilities else "utilities"
        with _user_errors(self.name, method, "call it by hand on the same columns; missing values are NaN"):
            answer = getattr(self.fitted, method)(runners)
        values = _checked(f"{self.name}: {method}", answer, runners)
        if not probabilities:
            return values
        if values.min() < 0.0 or (total(values, runners.starts) <= 0.0).any():
            raise UserError(f"{self.name}: probabilities must be ≥ 0 with a sum above 0 in each race")
        return np.asarray(np.log(np.maximum(values, SMALLEST)), dtype=np.float64)


def _checked(name: str, answer: Any, runners: Runners) -> Floats:
    try:
        values = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} returned {type(answer).__name__}: return one number per runner") from None
    if values.shape != (runners.count,):
        raise UserError(
            f"{name} returned shape {values.shape} for {runners.count:,} runners: return ({runners.count},)"
        )
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        raise UserError(
            f"{name} returned {bad:,} values of {runners.count:,} that are NaN or infinite: return a finite number for every "
            "runner, also where features are missing"
        )
    return values


def _some(races: int) -> list[int]:
    """A few races of a batch, spread over it; none of a single race."""
    return [] if races < 2 else np.unique(np.linspace(0, races - 1, CHECKED_ALONE).astype(int)).tolist()


def _frame(runners: Runners, unknown: tuple[str, ...]) -> Any:
    import pandas as pd

    frame = pd.DataFrame(runners.matrix, columns=list(runners.features))
    # a column without any value has no bins and no mean, which some estimators refuse
    return frame.assign(**dict.fromkeys(unknown, 0.0)) if unknown else frame


@dataclass(frozen=True, slots=True)
class FittedClassifier:
    """A fitted classifier with `predict_proba`: the class 1 is a win; columns have the names of the features.

    `unknown` are columns that no training runner had a value of: they are 0 for every runner.
    """

    estimator: Any
    unknown: tuple[str, ...] = ()

    def probabilities(self, runners: Runners) -> Floats:
        """The probability of a win of each runner, (runners,); not normalised."""
        won = list(self.estimator.classes_).index(1)
        return np.asarray(self.estimator.predict_proba(_frame(runners, self.unknown)), dtype=np.float64)[:, won]


@dataclass(frozen=True, slots=True)
class ScoringFunction:
    """A function of runners that learns nothing; it returns utilities."""

    function: Callable[[Runners], Floats]

    def utilities(self, runners: Runners) -> Floats:
        """The values that the function returns."""
        return self.function(runners)
