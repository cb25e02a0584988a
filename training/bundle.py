"""A stored model: a folder of checksummed files, loaded only where it fits the store.

`$VELO_HOME/models/<version>/` holds the fundamental model: for VÉLØ's own `model.txt` (LightGBM's text, one model per seed) and `logit.json`, for a
user's the file of `velo.training.registry.stored_models`. `blend.json` and `residual.txt` (LightGBM's text, empty without a residual model)
hold the blend with the market. `profile.npz` describes the values of the training set (`velo.drift`); bundles of earlier releases
have none. `metadata.yaml`, `metrics.json` and `checksums.txt` (SHA-256) describe them, and `gate.json` is the
gate's verdict once it has run. `$VELO_HOME/models/current` names the version that serves, `history.txt` the earlier ones.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from velo.drift import Profile
from velo.errors import UserError
from velo.feature_repo.catalogue import columns
from velo.storage.store import Home
from velo.storage.table_versions import Formulas, current_formulas
from velo.training.dataset.by_race import Floats
from velo.training.market.blending import BENTER, MEAN, MOVES, RESIDUAL, Blending
from velo.training.market.calibration import CalibrationInterval
from velo.training.market.market import SMALLEST, move_inputs
from velo.training.market.places import UNFITTED, Exponents, FinishOrder, likeliest, place_chances
from velo.training.model.ensemble import Ensemble
from velo.training.race_model import VELO, FittedModel, HasContributions, Runners
from velo.training.registry import stored_models

FORMAT: Final = 3
"""The format of a bundle of VÉLØ's own model. Format 2 has one LightGBM model in `model.txt` and in `residual.txt`; format 3 has
one or more, one after another."""
USER_FORMAT: Final = 4
"""The format of a bundle of a user's model."""
READABLE_FORMATS: Final = ("2", "3", "4")
CHECKSUMS: Final = "checksums.txt"
NO_GATE: Final = "not run"
PAPER: Final = "paper only"
GATE: Final = "gate.json"
PROFILE: Final = "profile.npz"
FUNDAMENTAL: Final = "fundamental"
"""What the gate judges by default."""
OWN: Final = "own"
BLEND: Final = "blend"
EVERY: Final = ("residual.txt", "blend.json", "metadata.yaml", "metrics.json")
"""The files of every bundle."""
FILES: Final = ("model.txt", "logit.json", *EVERY)
"""The files of a bundle of VÉLØ's own model."""


@dataclass(frozen=True, slots=True)
class Model:
    """The fitted parts: the fundamental model, its blend with the market, and the model on top of the market (β, model).

    `blending` is None where too few races had a market, `on_market` where it has no part in the blend. `bands` are the
    calibration intervals of `OWN` and `BLEND` probabilities, `orders` their orders of finish; a bundle may have neither. `kind` is
    how the fundamental model is stored.
    """

    fundamental: FittedModel
    blending: Blending | None = None
    on_market: tuple[float, FittedModel] | None = None
    bands: Mapping[str, CalibrationInterval] = field(default_factory=dict)
    orders: Mapping[str, FinishOrder] = field(default_factory=dict)
    kind: str = VELO


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded model. `features` are the columns it takes, in order; `differences` those of its environment from this one."""

    version: str
    features: tuple[str, ...]
    metadata: Mapping[str, Any]
    metrics: Mapping[str, Any]
    model: Model
    differences: tuple[str, ...] = ()

    @property
    def gate(self) -> str:
        """The gate's verdict; `not run` before the gate has judged it."""
        return str(self.metadata["gate"])

    @property
    def mode(self) -> str:
        """The permitted use of the model."""
        return str(self.metadata["mode"])

    @property
    def lead_s(self) -> float:
        """Seconds before the off at which it was trained to decide."""
        return float(self.metadata["lead_s"])

    def probabilities(self, matrix: Floats) -> Floats:
        """Winning probabilities of the runners of one race by the fundamental model, (runners,), with sum 1.

        `matrix` is (runners, features) and has every runner that is to start: each is compared with the others.
        """
        return _softmax(self.model.fundamental.utilities(self._runners(matrix)))

    def calibrated(self, probabilities: Floats) -> Floats:
        """The fundamental probabilities of one race calibrated by regime of their own odds; unchanged without a curve."""
        if self.model.blending is None:
            return probabilities
        return _shared(self.model.blending.own.curve_values(probabilities, 1.0 / probabilities))

    def blend(
        self, probabilities: Floats, market: Floats, matrix: Floats | None = None, moves: Floats | None = None
    ) -> Floats | None:
        """Blended and calibrated probabilities of one race, (runners,), with sum 1.

        `probabilities` are those of `probabilities(matrix)`, `market` decimal odds, NaN if missing. The residual blend and the mean
        need `matrix`; without it the blend is Benter's. `moves` are the market's columns at the decision
        (`velo.feature_repo.catalogue.market_moves`); without them the odds count as unmoved. None unless every runner has odds and
        the bundle has a blend.
        """
        blending = self.model.blending
        if blending is None or not np.all(np.isfinite(market) & (market > 1.0)):
            return None
        log_pi = np.log(_shared(1.0 / market))
        own = blending.benter.alpha * np.log(np.maximum(probabilities, SMALLEST)) + blending.benter.beta * log_pi
        kind, scores = BENTER, own
        if blending.moving is not None:
            kind, scores = MOVES, blending.moving.alpha * np.log(np.maximum(probabilities, SMALLEST))
            scores = scores + blending.moving.beta * log_pi + self._moved(moves, market.size)
        elif blending.kind != BENTER and matrix is not None and self.model.on_market is not None:
            beta, on_market = self.model.on_market
            kind, scores = blending.kind, on_market.utilities(self._runners(matrix)) + beta * log_pi
        if kind == MEAN:
            scores = (own + scores) / 2.0
        return _shared(blending.curves[kind].curve_values(_softmax(scores), market))

    def interval(self, probabilities: Floats, of: str = OWN) -> Floats | None:
        """The 95 % interval of each probability, (runners, 2), of the `OWN` or `BLEND` probabilities; None if the bundle has none.

        `velo.training.market.calibration.CalibrationInterval` says what it covers.
        """
        band = self.model.bands.get(of)
        return None if band is None else band.interval(probabilities)

    def contributions(self, matrix: Floats, *, blended: bool = False) -> Floats:
        """The contribution of each feature to the log of each runner's probability, (runners, features), relative to the race's mean.

        e to its power scales the odds. `blended` is of the blend before its calibration, else of `probabilities`. All 0 for a model
        that cannot say.
        """
        blending = self.model.blending
        if not blended or blending is None:
            return self._contributions(self.model.fundamental, matrix)
        kind = self._kind()
        parts = []
        if kind != RESIDUAL:
            alpha = (blending.moving or blending.benter).alpha
            parts.append(alpha * self._contributions(self.model.fundamental, matrix))
        if kind in (RESIDUAL, MEAN) and self.model.on_market is not None:
            parts.append(self._contributions(self.model.on_market[1], matrix))
        return np.asarray(sum(parts) / len(parts), dtype=np.float64)

    def market_effect(self, market: Floats, moves: Floats | None = None) -> Floats:
        """What the odds add to the log of each blended probability before its calibration, (runners,), against the mean of the race.

        `market` are decimal odds of all runners, `moves` as in `blend`; 0 without a blend.
        """
        blending = self.model.blending
        if blending is None:
            return np.zeros(market.shape)
        kind, betas = self._kind(), []
        if kind != RESIDUAL:
            betas.append((blending.moving or blending.benter).beta)
        if kind in (RESIDUAL, MEAN) and self.model.on_market is not None:
            betas.append(self.model.on_market[0])
        log_pi = np.log(_shared(1.0 / market))
        moved = self._moved(moves, market.size)
        return np.asarray(sum(betas) / len(betas) * (log_pi - log_pi.mean()) + moved - moved.mean(), dtype=np.float64)

    def places(self, win: Floats, places: int, of: str = OWN) -> Floats:
        """The chance of each runner of one race to finish in the first `places`, (runners,), from its chances of winning.

        `of` says whether these are the `OWN` or the `BLEND` probabilities.
        """
        return place_chances(np.maximum(win, SMALLEST), places, self._exponents(win, of))

    def combinations(self, win: Floats, pool: str, most: int, of: str = OWN) -> list[tuple[tuple[int, ...], float]]:
        """The likeliest combinations of one race's runners, likeliest first, each with its chance; see `velo.training.market.places`."""
        return likeliest(np.maximum(win, SMALLEST), self._exponents(win, of), pool, most)

    def _exponents(self, win: Floats, of: str) -> Exponents:
        return self.model.orders.get(of, self.model.orders.get(OWN, UNFITTED)).of(win.size)

    def _kind(self) -> str:
        """The kind of blend that is served: Benter's where the residual model is missing."""
        blending = self.model.blending
        assert blending is not None
        if blending.moving is not None:
            return MOVES
        return BENTER if self.model.on_market is None else blending.kind

    def _moved(self, moves: Floats | None, runners: int) -> Floats:
        """What the moves of the odds add to the score of each runner of one race; 0 without moves, or a blend with them."""
        moving = self.model.blending.moving if self.model.blending is not None else None
        if moving is None or moves is None:
            return np.zeros(runners)
        return np.asarray(move_inputs(moves, np.zeros(1, dtype=np.intp)) @ np.array(moving.moves), dtype=np.float64)

    def _contributions(self, model: FittedModel, matrix: Floats) -> Floats:
        if not isinstance(model, HasContributions):
            return np.zeros(matrix.shape)
        values = model.contributions(self._runners(matrix))
        return np.asarray(values - values.mean(axis=0), dtype=np.float64)

    def _runners(self, matrix: Floats) -> Runners:
        return Runners(matrix, np.zeros(1, dtype=np.intp), self.features)


def _softmax(scores: Floats) -> Floats:
    return _shared(np.exp(scores - scores.max()))


def _shared(values: Floats) -> Floats:
    # an exact sum, so that the order of the runners changes no bit
    return np.asarray(values / fsum(values.tolist()), dtype=np.float64)


def current(home: Home) -> str:
    """The version that serves; raises `UserError` if there is none."""
    try:
        return (home.serving_model).read_text().strip()
    except FileNotFoundError:
        raise UserError(f"there is no model at {home.models}: run `velo train` first") from None


def described(home: Home, version: str) -> dict[str, Any]:
    """A model's metadata with the gate's verdict, and its `metrics`; raises as `load` does."""
    folder = home.models / version
    if version not in versions(home):
        raise UserError(f"{version!r} is not a model at {home.models}: run `velo train` to make one")
    _refuse_other_format(folder)
    refuse_changed(folder)
    metadata: dict[str, Any] = yaml.safe_load((folder / "metadata.yaml").read_text())
    return metadata | _verdict(folder) | {"metrics": json.loads((folder / "metrics.json").read_text())}


def versions(home: Home) -> list[str]:
    """The stored versions, oldest first."""
    if not home.models.is_dir():
        return []
    return sorted(path.name for path in home.models.iterdir() if path.is_dir() and not path.name.startswith("."))


def load(home: Home, formulas: Formulas, version: str | None = None) -> Bundle:
    """Load a version, or the current one, to score with tables of some formulas.

    Raises `UserError` if it does not exist, a file was changed since it was written, it does not fit the formulas, or its
    model cannot be read in this environment.
    """
    chosen = version or current(home)
    folder = home.models / chosen
    metadata = described(home, chosen)
    metrics = metadata.pop("metrics")
    reason = misfit(metadata, formulas)
    if reason is not None:
        raise UserError(f"model {chosen} {reason}: run `velo train` to make one that fits")
    columns.refuse_unknown(metadata["features"])
    differing = stored_models.differences(metadata)
    return Bundle(chosen, tuple(metadata["features"]), metadata, metrics, _model(folder, metadata), differing)


def reads_of(features: Sequence[str], formulas: Formulas) -> dict[str, Any] | None:
    """The fingerprints of the views, stored features and request-time features that a model of some columns reads, for its metadata.

    None where the tables are of an earlier version, which has no fingerprint of each view.
    """
    if not formulas.views:
        return None
    views = {view: formulas.views[view] for view in columns.views_of(features)}
    stored = [f"{view}__{feature}" for view, feature in columns.stored_of(features)]
    marks = {name: formulas.features[name] for name in stored if name in formulas.features}
    return {"views": views, "features": marks, "request_time": columns.request_formulas(features)}


def misfit(metadata: Mapping[str, Any], formulas: Formulas) -> str | None:
    """Why a model does not fit tables of some formulas, in words that follow its name; None where it fits.

    It fits where each stored feature and each request-time feature that it reads has the formula it was trained on. A bundle of
    an earlier version does not record those of features, and fits the formulas of its views; or not those of views either, and
    fits the formulas of the whole catalogue that it was trained on.
    """
    reads = metadata.get("reads")
    if reads is None or not formulas.views:
        if metadata["catalogue"] != formulas.fingerprint:
            return f"was trained on the catalogue {metadata['catalogue'][:8]}, the tables are of {formulas.fingerprint[:8]}"
        if reads is None:
            return None
    pairs: list[tuple[Mapping[str, str], Mapping[str, str]]]
    pairs = [(reads["request_time"], columns.request_formulas())]
    if formulas.views:
        pairs += _differing_views(reads, formulas)
    gone = [name for read, held in pairs for name in read if name not in held]
    if gone:
        return f"reads {', '.join(gone)}, which the catalogue no longer has"
    changed = [name for read, held in pairs for name, mark in read.items() if held[name] != mark]
    return f"reads {', '.join(changed)}, whose formulas changed since it was trained" if changed else None


def _differing_views(
    reads: Mapping[str, Any], formulas: Formulas
) -> Iterator[tuple[Mapping[str, str], Mapping[str, str]]]:
    """What a model reads of each view whose formulas changed, with the formulas to compare: its features, or the view as a whole."""
    for view, mark in reads["views"].items():
        if formulas.views.get(view) == mark:
            continue
        features = {name: of for name, of in reads.get("features", {}).items() if name.startswith(f"{view}__")}
        if features and view in formulas.views:
            yield features, formulas.features
        else:
            yield {view: mark}, formulas.views


def misfit_of(home: Home, version: str) -> str | None:
    """Why a stored version does not fit the current tables, as `misfit`; None where it does, or there are no tables."""
    formulas = current_formulas(home)
    return None if formulas is None else misfit(described(home, version), formulas)


def refuse_misfit(home: Home, version: str) -> None:
    """Raise `UserError` where a version does not fit the current tables, naming those that do."""
    reason = misfit_of(home, version)
    if reason is not None:
        fitting = [other for other in versions(home) if other != version and _fits(home, other)]
        remedy = f"promote {' or '.join(fitting)}, or run `velo train`" if fitting else "run `velo train`"
        raise UserError(f"model {version} {reason}: {remedy}")


def _fits(home: Home, version: str) -> bool:
    """Whether a version is whole and fits the current tables."""
    try:
        return misfit_of(home, version) is None
    except UserError:
        return False


def stored_profile(home: Home, version: str) -> Profile | None:
    """The profile of a version's training set; None if it has none, or one of another form. Raises as `described` does."""
    described(home, version)
    try:
        return Profile.from_bytes((home.models / version / PROFILE).read_bytes())
    except (FileNotFoundError, ValueError):
        # the checksums have just been verified: it is whole, and another release wrote it
        return None


def _model(folder: Path, metadata: Mapping[str, Any]) -> Model:
    stored = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.name not in (*EVERY, PROFILE)}
    fundamental = stored_models.load_model(metadata, stored)
    blend = json.loads((folder / "blend.json").read_text())
    blending = None if blend["blending"] is None else Blending.from_json(blend["blending"])
    residual = blend["on_market"]
    on_market = (
        None
        if residual is None
        else (residual["beta"], Ensemble.of_parts((folder / "residual.txt").read_text(), residual))
    )
    # an older bundle has no bands and no orders
    bands = {name: CalibrationInterval.from_json(band) for name, band in blend.get("bands", {}).items()}
    orders = {name: FinishOrder.from_json(order) for name, order in blend.get("orders", {}).items()}
    return Model(fundamental, blending, on_market, bands, orders, metadata.get("kind", VELO))


def _verdict(folder: Path) -> dict[str, str]:
    """The gate's verdict; empty if it is about other files than these."""
    try:
        verdict = json.loads((folder / GATE).read_text())
    except FileNotFoundError:
        return {}
    except ValueError as damaged:
        raise UserError(f"{folder / GATE} is damaged ({damaged}): run `velo gate` again") from None
    if verdict.get("bundle") != digest_of(folder):
        return {}
    subject = verdict.get("subject", FUNDAMENTAL)
    # the blend may pass while the fundamental probabilities, shown beside it, do not
    return {
        "gate": verdict["gate"] if subject == FUNDAMENTAL else f"{verdict['gate']} (of the {subject})",
        "mode": verdict["mode"],
    }


def digest_of(folder: Path) -> str:
    """The identity of a version's files, to which a verdict refers."""
    return hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest()


def _refuse_other_format(folder: Path) -> None:
    # checked before the checksums: another format has other files
    found = _format(folder)
    if found and found not in READABLE_FORMATS:
        raise UserError(
            f"model {folder.name} has format {found}, but this version reads {FORMAT}: run `velo train` again"
        )


def _format(folder: Path) -> str | None:
    path = folder / "metadata.yaml"
    found = re.match(r"format: (\S+)", path.read_text()) if path.is_file() else None
    return found[1] if found else None


def refuse_changed(folder: Path) -> None:
    """Raise `UserError` if a file of a version differs from what was written."""
    checksums = _checksums(folder)
    for name in dict.fromkeys((*checksums, *(EVERY if _format(folder) == str(USER_FORMAT) else FILES))):
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        if found is None or checksums.get(name) != found:
            what = "is missing" if found is None else "is not as it was written (its checksum differs)"
            raise UserError(f"model {folder.name}: {name} {what}: restore it, or promote another version")


def _checksums(folder: Path) -> dict[str, str]:
    try:
        lines: Sequence[str] = (folder / CHECKSUMS).read_text().splitlines()
    except FileNotFoundError:
        raise UserError(f"model {folder.name} has no {CHECKSUMS}: restore it, or promote another version") from None
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines if "  " in line)}
