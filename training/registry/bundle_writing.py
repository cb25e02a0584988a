"""Store models as new versions, promote them, roll back, and store the gate's verdict; `velo.training.bundle` describes the files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import yaml

from velo.drift import Profile
from velo.errors import UserError
from velo.feature_repo.catalogue import columns
from velo.storage.atomic_files import sole_writer, sync_folder, write_atomically
from velo.storage.store import Home
from velo.training.bundle import (
    CHECKSUMS,
    FORMAT,
    GATE,
    PAPER,
    PROFILE,
    USER_FORMAT,
    Model,
    digest_of,
    refuse_changed,
    refuse_misfit,
    versions,
)
from velo.training.model.ensemble import Ensemble
from velo.training.race_model import VELO
from velo.training.registry import stored_models

HISTORY: Final = "history.txt"
PASSED: Final = "PASS"
PASSED_MODE: Final = "passed the gate"


def write(
    home: Home,
    model: Model,
    metadata: Mapping[str, Any],
    metrics: Mapping[str, Any],
    now: datetime,
    profile: Profile | None = None,
) -> str:
    """Store a model as a new version, with the profile of its training set, and make it the current one; returns the version.

    The folder appears whole, then the pointer moves. `metadata` needs `features`, `catalogue` (the fingerprint of the
    formulas), `lead_s`, `gate` and `mode`; `reads` is that of `velo.training.bundle.reads_of`. Raises `UserError` for a feature that the catalogue does not declare.
    """
    columns.refuse_unknown(metadata["features"])
    fitted = _files(model)
    digest = hashlib.sha256(b"".join(fitted.values())).hexdigest()
    version = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:8]}"
    head = {"format": FORMAT if model.kind == VELO else USER_FORMAT, "version": version}
    files = fitted | {
        "metadata.yaml": yaml.safe_dump(head | dict(metadata), sort_keys=False, allow_unicode=True).encode(),
        "metrics.json": (json.dumps(metrics, indent=2, ensure_ascii=False) + "\n").encode(),
    }
    if profile is not None:
        files[PROFILE] = profile.to_bytes()
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    with sole_writer(home.models):
        folder = home.models / version
        if not folder.exists():
            aside = home.models / f".{version}.tmp"
            aside.mkdir()
            for name, content in (files | {CHECKSUMS: sums.encode()}).items():
                write_atomically(aside / name, content)
            aside.rename(folder)
            sync_folder(home.models)
        _promote(home, version)
    return version


def promote(home: Home, version: str) -> None:
    """Make a version the one that serves; raises `UserError` if it does not exist or does not fit the current tables.

    A model that has not passed the gate bets on paper only, promoted or not.
    """
    if version not in versions(home):
        raise UserError(
            f"{version!r} is not a model at {home.models}: choose one of {', '.join(versions(home)) or 'none'}"
        )
    with sole_writer(home.models):
        refuse_misfit(home, version)
        _promote(home, version)


def rollback(home: Home) -> str:
    """Make the previous serving version serve again, and return it.

    Raises `UserError` if there is none, or it does not fit the current tables.
    """
    with sole_writer(home.models):
        served = _before_current(home)
        if not served:
            raise UserError(
                f"no other model served before at {home.models}: promote one of {', '.join(versions(home)) or 'none'}"
            )
        refuse_misfit(home, served[-1])
        _serve(home, served)
    return served[-1]


def before_current(home: Home) -> str | None:
    """The version that a rollback would make serve; None if there is none."""
    served = _before_current(home)
    return served[-1] if served else None


def judged(home: Home, version: str, verdict: str, of: Mapping[str, Any]) -> str:
    """Store the gate's verdict on a version, with its evidence (`of`); returns what the version may be used for."""
    folder = home.models / version
    refuse_changed(folder)
    mode = PASSED_MODE if verdict == PASSED else PAPER
    stored = {"bundle": digest_of(folder), "gate": verdict, "mode": mode} | dict(of)
    with sole_writer(home.models):
        write_atomically(folder / GATE, (json.dumps(stored, indent=2, ensure_ascii=False) + "\n").encode())
    return mode


def _files(model: Model) -> dict[str, bytes]:
    on_market: dict[str, Any] | None = None
    trees = ""
    if model.on_market is not None:
        beta, residual = model.on_market
        # VÉLØ's own is the only model that learns on top of the market
        assert isinstance(residual, Ensemble)
        on_market, trees = {"beta": beta, **residual.linear()}, residual.trees
    blend = {
        "blending": None if model.blending is None else model.blending.to_json(),
        "on_market": on_market,
        "bands": {name: band.to_json() for name, band in model.bands.items()},
        "orders": {name: order.to_json() for name, order in model.orders.items()},
    }
    return stored_models.files_of(model.fundamental, model.kind) | {
        "residual.txt": trees.encode(),
        "blend.json": _json(blend).encode(),
    }


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _promote(home: Home, version: str) -> None:
    served = _history(home)
    if not served or served[-1] != version:
        served.append(version)
    _serve(home, served)


def _before_current(home: Home) -> list[str]:
    stored = set(versions(home))
    return [version for version in _history(home)[:-1] if version in stored]


def _history(home: Home) -> list[str]:
    """The versions that served, oldest first, up to the current one.

    A version after the current one never served: the writer was killed while it promoted it.
    """
    path = home.serving_model
    serving = path.read_text().split() if path.exists() else []
    try:
        served = (home.models / HISTORY).read_text().split()
    except FileNotFoundError:
        return serving
    if not serving:
        return []
    while served and served[-1] != serving[0]:
        served.pop()
    return served or serving


def _serve(home: Home, served: Sequence[str]) -> None:
    write_atomically(home.models / HISTORY, "".join(f"{version}\n" for version in served).encode())
    write_atomically(home.serving_model, f"{served[-1]}\n".encode())
