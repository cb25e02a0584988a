"""The interval of a chance holds the rate at which such runners win, as often as it says; without races enough there is none."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from velo.errors import UserError
from velo.storage.store import Home
from velo.storage.table_versions import Formulas
from velo.training import bundle
from velo.training.market.calibration import WINS_A_BIN, CalibrationInterval, fit_interval
from velo.training.model.ensemble import Ensemble, Logit
from velo.training.registry import bundle_writing

Floats = NDArray[np.float64]
DAYS, RACES_A_DAY, FIELD = 120, 8, 10


def seasons(rng: np.random.Generator, bend: float) -> tuple[Floats, Floats, Floats, NDArray[np.datetime64]]:
    """What is said of the runners of a season, who won, what was true, and the days; `bend` 1 says the truth."""
    strength = rng.normal(size=(DAYS * RACES_A_DAY, FIELD))
    true = np.exp(strength)
    true /= true.sum(axis=1, keepdims=True)
    said = true**bend
    said /= said.sum(axis=1, keepdims=True)
    winner = (true.cumsum(axis=1) < rng.random((len(true), 1))).sum(axis=1).clip(max=FIELD - 1)
    share = np.zeros_like(true)
    share[np.arange(len(true)), winner] = 1.0
    days = np.datetime64("2024-01-01") + np.repeat(np.arange(DAYS), RACES_A_DAY * FIELD)
    return said.ravel(), share.ravel(), true.ravel(), days


@pytest.mark.parametrize("bend", [1.0, 1.4], ids=["true", "too sure"])
def test_it_holds_the_rate_of_such_runners_as_often_as_it_says(bend: float) -> None:
    """Over made-up seasons whose truth is known: 95 % of the bounds hold the mean true chance of who is said that much."""
    rng = np.random.default_rng(7)
    held = asked = 0
    for _ in range(12):
        said, share, true, days = seasons(rng, bend)
        band = fit_interval(said, share, days, seed=1)
        assert band is not None
        for low, high in ((0.03, 0.05), (0.08, 0.12), (0.15, 0.25), (0.3, 0.4)):
            such = (said > low) & (said < high)
            bounds = band.interval(np.array([said[such].mean()]))[0]
            held += bool(bounds[0] <= true[such].mean() <= bounds[1])
            asked += 1
    assert 0.85 <= held / asked <= 1.0


def test_bounds_are_chances_and_lie_about_their_own_where_the_model_is_right() -> None:
    said, share, _, days = seasons(np.random.default_rng(3), 1.0)
    band = fit_interval(said, share, days, seed=1)
    assert band is not None
    asked = np.array([1e-9, 0.001, 0.05, 0.2, 0.7, 1.0])
    bounds = band.interval(asked)
    assert bounds.shape == (6, 2)
    assert ((bounds >= 0.0) & (bounds <= 1.0)).all()
    assert (bounds[:, 0] < bounds[:, 1]).all()
    assert (band.runners, band.days, band.wins) == (said.size, DAYS, share.sum())
    middle = band.interval(np.array([0.1]))[0]
    assert 0.07 < middle[0] < 0.1 < middle[1] < 0.13
    assert CalibrationInterval.from_json(band.to_json()) == band


def test_of_too_few_winners_or_days_no_interval_is_made_up() -> None:
    said, share, _, days = seasons(np.random.default_rng(3), 1.0)
    few = int(WINS_A_BIN - 1) * FIELD
    assert fit_interval(said[:few], share[:few], days[:few], seed=1) is None
    assert fit_interval(said, share, np.full(said.size, days[0]), seed=1) is None
    assert fit_interval(said[:0], share[:0], days[:0], seed=1) is None


def test_a_band_of_another_format_is_refused() -> None:
    with pytest.raises(UserError, match="calibration interval format is 9, but this version reads 1"):
        CalibrationInterval.from_json({"format": 9})


def test_a_bundle_keeps_its_bands_and_one_without_has_no_interval(tmp_path: Path) -> None:
    linear = Logit(("weight_lbs",), (0.0,), (1.0,), (0.0,), 1.0, 1, 0.0)
    plain = bundle.Model(Ensemble("tree\n", linear, 0.5))
    band = CalibrationInterval((0.05, 0.2), (0.9, 0.95), (1.1, 1.05), 9_000, 100, 900.0)
    given = {
        "features": ["weight_lbs"],
        "catalogue": "f" * 32,
        "lead_s": 300.0,
        "gate": "not run",
        "mode": "paper only",
    }
    said = np.array([0.05, 0.2])
    for model, expected in ((replace(plain, bands={bundle.OWN: band}), [[0.045, 0.055], [0.19, 0.21]]), (plain, None)):
        bundle_writing.write(Home(tmp_path), model, given, {}, datetime(2024, 1, 1, tzinfo=UTC))
        loaded = bundle.load(Home(tmp_path), Formulas("f" * 32))
        found = loaded.interval(said)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert np.allclose(found, expected)
        assert loaded.interval(said, bundle.BLEND) is None
