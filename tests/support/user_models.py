"""Models that a user might bring, sound and unsound, named by `tests.support.user_models:NAME`."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from velo.training.dataset.by_race import Floats
from velo.training.dataset.races import Races
from velo.training.race_model import Runners

FORM = "horse_form__prb_ewma"


def pipeline(c: float = 0.01) -> Any:
    """A scikit-learn pipeline that imputes what is missing."""
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=c))


def by_form(runners: Runners) -> Floats:
    """A function that only scores: recent form, 0 where there is none."""
    return np.nan_to_num(4.0 * runners.matrix[:, runners.features.index(FORM)])


def not_a_number(runners: Runners) -> Floats:
    """A function that knows nothing of the first runner."""
    return np.append(np.nan, np.zeros(runners.count - 1))


def one_short(runners: Runners) -> Floats:
    """A function that leaves the last runner out."""
    return np.zeros(runners.count - 1)


class FormModel:
    """The protocol in its shortest form, on one column, with a text form."""

    features = (FORM,)

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def fit(self, runners: Runners, races: Races) -> "FittedForm":
        """A slope per unit of form: the mean form of the winners against that of all runners."""
        form = np.nan_to_num(runners.matrix[:, 0])
        return FittedForm(self.scale * 10.0 * float((races.share @ form) / races.count - form.mean()))

    def from_text(self, text: str) -> "FittedForm":
        """The inverse of `to_text`."""
        return FittedForm(json.loads(text))


class FittedForm:
    """A slope on recent form, which gives probabilities and not utilities."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def probabilities(self, runners: Runners) -> Floats:
        """Odds by form, not normalised."""
        return np.exp(self.slope * np.nan_to_num(runners.matrix[:, 0]))

    def to_text(self) -> str:
        """A number."""
        return json.dumps(self.slope)


class Answers:
    """A model that fits nothing and returns what a function makes of the runners."""

    def __init__(self, answer: Callable[[Runners], Any]) -> None:
        self.answer = answer

    def fit(self, runners: Runners, races: Races) -> "Answers":
        """Learn nothing."""
        return self

    def utilities(self, runners: Runners) -> Any:
        """The answer."""
        return self.answer(runners)


class Leaking:
    """A model that looks a race's result up outside: by the bytes of the runner's columns."""

    def __init__(self, matrix: Floats, share: Floats) -> None:
        self.won = {row.tobytes(): float(win) for row, win in zip(matrix, share, strict=True)}

    def fit(self, runners: Runners, races: Races) -> "Leaking":
        """Learn nothing: it knows."""
        return self

    def utilities(self, runners: Runners) -> Floats:
        """3 nats for the winner."""
        return 3.0 * np.array([self.won.get(row.tobytes(), 0.0) for row in runners.matrix])


class Untold(Answers):
    """A model without a text form."""

    def __init__(self) -> None:
        super().__init__(lambda runners: np.zeros(runners.count))


class Foreign(SimpleImputer):  # type: ignore[misc]  # scikit-learn has no types
    """A step of a pipeline that is not scikit-learn's own."""


def foreign_step() -> Any:
    """A pipeline with a step of the user's own class."""
    return make_pipeline(Foreign(), LogisticRegression(C=0.001, max_iter=20))
