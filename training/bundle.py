"""A model as it is kept: a folder of text files, checksummed, loaded only where it fits the store.

`$VELO_HOME/models/<version>/` holds `model.txt` (LightGBM's own text), `metadata.yaml`, `metrics.json` and
`checksums.txt` (SHA-256), and `gate.json` once the gate was asked. `$VELO_HOME/models/current` names the version that serves,
`history.txt` those that served before it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from feature_repo.catalogue import columns
from velo.errors import UserError
from velo.files import make_folder, sync_folder, write_atomically
from velo.store import Home

if TYPE_CHECKING:
    import lightgbm

Floats = NDArray[np.float64]

FORMAT: Final = 1
CURRENT: Final = "current"
CHECKSUMS: Final = "checksums.txt"
NO_GATE: Final = "not run"
PAPER: Final = "paper only"
PASSED: Final = "PASS"
PASSED_MODE: Final = "passed the gate"
GATE: Final = "gate.json"
HISTORY: Final = "history.txt"
FILES: Final = ("model.txt", "metadata.yaml", "metrics.json")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded model. `features` are the columns it takes, in order; `threads` how many a prediction may use."""

    version: str
    features: tuple[str, ...]
    metadata: Mapping[str, Any]
    metrics: Mapping[str, Any]
    booster: "lightgbm.Booster"
    threads: int = 1

    @property
    def gate(self) -> str:
        """What the gate said of it; `not run` where it was never asked."""
        return str(self.metadata["gate"])

    @property
    def mode(self) -> str:
        """What it may be used for."""
        return str(self.metadata["mode"])

    @property
    def lead_s(self) -> float:
        """Seconds before the off at which it was trained to decide."""
        return float(self.metadata["lead_s"])

    def probabilities(self, matrix: Floats) -> Floats:
        """Winning probabilities of the runners of one race, summing to 1; `matrix` has a row of `features` a runner."""
        scores = np.asarray(self.booster.predict(matrix, raw_score=True, num_threads=self.threads), dtype=np.float64)
        raised = np.exp(scores - scores.max())
        # Summed exactly, so that the order in which runners are given changes no bit.
        return np.asarray(raised / fsum(raised.tolist()), dtype=np.float64)

    def contributions(self, matrix: Floats) -> Floats:
        """What each feature adds to each runner's score, (runners, features), against the mean of the race."""
        shap = self.booster.predict(matrix, pred_contrib=True, num_threads=self.threads)
        values = np.asarray(shap, dtype=np.float64)[:, :-1]
        return np.asarray(values - values.mean(axis=0), dtype=np.float64)


def write(home: Home, model_text: str, metadata: Mapping[str, Any], metrics: Mapping[str, Any], now: datetime) -> str:
    """Keep a model as a new version and make it the current one; returns the version.

    The folder appears whole, then the pointer moves. `metadata` needs `features`, `catalogue` (the fingerprint of the
    formulas), `lead_s`, `gate` and `mode`. Raises `UserError` for a feature that the catalogue does not declare.
    """
    columns.refuse_unknown(metadata["features"])
    digest = hashlib.sha256(model_text.encode()).hexdigest()
    version = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:8]}"
    texts = {
        "model.txt": model_text,
        "metadata.yaml": yaml.safe_dump(
            {"format": FORMAT, "version": version} | dict(metadata), sort_keys=False, allow_unicode=True
        ),
        "metrics.json": json.dumps(metrics, indent=2, ensure_ascii=False) + "\n",
    }
    sums = "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in texts.items())
    make_folder(home.models)
    aside = home.models / f".{version}.{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for name, text in (texts | {CHECKSUMS: sums}).items():
        write_atomically(aside / name, text.encode())
    folder = home.models / version
    if folder.exists():
        shutil.rmtree(aside)
    else:
        aside.rename(folder)
        sync_folder(home.models)
    promote(home, version)
    return version


def promote(home: Home, version: str) -> None:
    """Make a version the one that serves; raises `UserError` where there is none of that name.

    A model that has not passed the gate stays for paper only, promoted or not.
    """
    if version not in versions(home):
        raise UserError(
            f"{version!r} is no model of {home.models}: choose one of {', '.join(versions(home)) or 'none'}"
        )
    served = _history(home)
    if not served or served[-1] != version:
        served.append(version)
    _serve(home, served)


def rollback(home: Home) -> str:
    """Make the version that served before the current one serve again, and return it; raises `UserError` where none did."""
    kept = set(versions(home))
    served = [version for version in _history(home)[:-1] if version in kept]
    if not served:
        raise UserError(
            f"no other model served before at {home.models}: promote one of {', '.join(sorted(kept)) or 'none'}"
        )
    _serve(home, served)
    return served[-1]


def judged(home: Home, version: str, verdict: str, of: Mapping[str, Any]) -> str:
    """Keep the gate's verdict on a version, with what it was judged by (`of`); returns what it may be used for."""
    folder = home.models / version
    _check(folder)
    mode = PASSED_MODE if verdict == PASSED else PAPER
    told = {"bundle": _digest(folder), "gate": verdict, "mode": mode} | dict(of)
    write_atomically(folder / GATE, (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode())
    return mode


def described(home: Home, version: str) -> dict[str, Any]:
    """What is kept beside a model: its metadata with the gate's verdict, and its `metrics`; raises as `load` does."""
    folder = home.models / version
    if version not in versions(home):
        raise UserError(f"{version!r} is no model of {home.models}: run `velo train` to make one")
    _check(folder)
    metadata: dict[str, Any] = yaml.safe_load((folder / "metadata.yaml").read_text())
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"model {version} has format {metadata.get('format')!r}, this version reads {FORMAT}: train anew"
        )
    return metadata | _verdict(folder) | {"metrics": json.loads((folder / "metrics.json").read_text())}


def current(home: Home) -> str:
    """The version that serves; raises `UserError` where there is none."""
    return _current(home)


def versions(home: Home) -> list[str]:
    """The versions kept, oldest first."""
    if not home.models.is_dir():
        return []
    return sorted(path.name for path in home.models.iterdir() if path.is_dir() and not path.name.startswith("."))


def load(home: Home, catalogue: str, version: str | None = None) -> Bundle:
    """A version, or the current one, to score with over tables of the formulas `catalogue` (their fingerprint).

    Raises `UserError` where there is none, a file was changed since it was written, or it was trained on other
    formulas.
    """
    import lightgbm

    chosen = version or _current(home)
    folder = home.models / chosen
    metadata = described(home, chosen)
    metrics = metadata.pop("metrics")
    if metadata["catalogue"] != catalogue:
        raise UserError(
            f"model {chosen} was trained on the catalogue {metadata['catalogue'][:8]}, the tables are of "
            f"{catalogue[:8]}: run `velo train` to make one that fits"
        )
    columns.refuse_unknown(metadata["features"])
    booster = lightgbm.Booster(model_str=(folder / "model.txt").read_text())
    return Bundle(chosen, tuple(metadata["features"]), metadata, metrics, booster)


def _current(home: Home) -> str:
    try:
        return (home.models / CURRENT).read_text().strip()
    except FileNotFoundError:
        raise UserError(f"there is no model at {home.models}: run `velo train` first") from None


def _history(home: Home) -> list[str]:
    try:
        return (home.models / HISTORY).read_text().split()
    except FileNotFoundError:
        path = home.models / CURRENT
        return path.read_text().split() if path.exists() else []


def _serve(home: Home, served: Sequence[str]) -> None:
    write_atomically(home.models / HISTORY, "".join(f"{version}\n" for version in served).encode())
    write_atomically(home.models / CURRENT, f"{served[-1]}\n".encode())


def _verdict(folder: Path) -> dict[str, str]:
    """The gate's verdict; none where it was told of other files than these."""
    try:
        told = json.loads((folder / GATE).read_text())
    except FileNotFoundError:
        return {}
    except ValueError as damaged:
        raise UserError(f"{folder / GATE} is damaged ({damaged}): run `velo gate` again") from None
    return {name: told[name] for name in ("gate", "mode")} if told.get("bundle") == _digest(folder) else {}


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest()


def _check(folder: Path) -> None:
    told = _told(folder)
    for name in FILES:
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        if found is None or told.get(name) != found:
            what = "is missing" if found is None else "is not as it was written (its checksum differs)"
            raise UserError(f"model {folder.name}: {name} {what}: restore it, or promote another version")


def _told(folder: Path) -> dict[str, str]:
    try:
        lines: Sequence[str] = (folder / CHECKSUMS).read_text().splitlines()
    except FileNotFoundError:
        raise UserError(f"model {folder.name} has no {CHECKSUMS}: restore it, or promote another version") from None
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines if "  " in line)}
