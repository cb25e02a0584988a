"""`velo train`: a first model on what was known before each race, measured on later days, kept as a bundle."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from importlib.metadata import version as installed
from typing import Any, Final

import numpy as np

from training import bundle
from training.dataset import LEAD, TrainingSet, training_set
from training.declared import Period
from training.metrics import Measured, measure
from training.model import FEATURES, Fitted, Options, fit
from training.races import Races, Split, races_of, split
from velo.store import Store

Progress = Callable[[str, int, int], None]
GATE_RECORDS: Final = 50_000
"""Training records below which no gate will pass a model (SPEC 9)."""
_LIBRARIES: Final = ("lightgbm", "numpy", "feast", "duckdb")


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What was trained and how it did. `records` are the starters it was fitted on, `rows` all that were joined.

    `from_cards` counts races whose runners a racecard named; in the others they are those of the first result.
    """

    version: str
    rows: int
    races: int
    from_cards: int
    left_out: int
    records: int
    features: int
    rounds: int
    train_first_day: str
    train_last_day: str
    validation: Measured
    test: Measured
    gate: str
    mode: str
    caveats: tuple[str, ...]


def train(
    store: Store,
    *,
    now: datetime,
    lead: timedelta = LEAD,
    seed: int = 1,
    period: Period = Period(),  # noqa: B008 frozen
    validate_from: date | None = None,
    test_from: date | None = None,
    options: Options | None = None,
    progress: Progress = lambda step, done, steps: None,
) -> TrainReport:
    """Join, split by race date, fit, measure, and keep the model as the current one.

    The test days are looked at once, with the finished model. Raises `UserError` for a store without results, and
    for too few races.
    """
    chosen = options or Options(seed=seed)
    rows = training_set(store, lead=lead, period=period, progress=progress)
    races = races_of(rows)
    parts = split(races, validate_from, test_from)

    def tell(done: int, rounds: int) -> None:
        progress("grow trees", done, rounds)

    fitted = fit(_of(rows, parts.train), _of(rows, parts.validation), FEATURES, chosen, tell)
    progress("measure", 0, 1)
    validation, test = (_measured(fitted, rows, part) for part in (parts.validation, parts.test))
    metadata = _metadata(store, rows, parts, fitted)
    metrics = {"validation": asdict(validation), "test": asdict(test)}
    kept = bundle.write(store.home, fitted.text, metadata, metrics, now)
    progress("measure", 1, 1)
    cards = rows.identity.column("source").to_numpy(zero_copy_only=False) == "racecard"
    distinct = int(np.unique(rows.races).size)
    return TrainReport(
        version=kept,
        rows=rows.rows,
        races=distinct,
        from_cards=int(np.unique(rows.races[cards]).size),
        left_out=distinct - races.count,
        records=parts.train.rows.size,
        features=len(FEATURES),
        rounds=fitted.rounds,
        train_first_day=str(parts.train.days.min()),
        train_last_day=str(parts.train.days.max()),
        validation=validation,
        test=test,
        gate=bundle.NO_GATE,
        mode=bundle.PAPER,
        caveats=_caveats(rows, parts, test),
    )


def _of(rows: TrainingSet, races: Races) -> tuple[np.ndarray[Any, np.dtype[np.float64]], Races]:
    return rows.matrix(FEATURES)[races.rows], races


def _measured(fitted: Fitted, rows: TrainingSet, races: Races) -> Measured:
    return measure(fitted.probabilities(rows.matrix(FEATURES)[races.rows], races), races, fitted.options.seed)


def _metadata(store: Store, rows: TrainingSet, parts: Split, fitted: Fitted) -> dict[str, Any]:
    made_from = rows.provenance
    return {
        "gate": bundle.NO_GATE,
        "mode": bundle.PAPER,
        "catalogue": made_from.catalogue,
        "lead_s": made_from.lead.total_seconds(),
        "timezone": made_from.timezone,
        "keys": store.keys,
        "log": {"next_seq": made_from.next_seq, "known_at": made_from.known_at.isoformat()},
        "periods": {
            name: {"first_day": str(part.days.min()), "last_day": str(part.days.max()), "races": part.count}
            for name, part in (("train", parts.train), ("validation", parts.validation), ("test", parts.test))
        },
        "records": int(parts.train.rows.size),
        "model": fitted.settings(),
        "versions": {"python": platform.python_version()} | {name: installed(name) for name in _LIBRARIES},
        "features": list(FEATURES),
    }


def _caveats(rows: TrainingSet, parts: Split, test: Measured) -> tuple[str, ...]:
    said = ["the gate was not run: for paper only, whatever the figures say"]
    if parts.train.rows.size <= GATE_RECORDS:
        said.append(f"{parts.train.rows.size:,} training records: the gate asks for more than {GATE_RECORDS:,}")
    if test.margin is None:
        said.append("no race of the test has a starting price for every starter: the market is no yardstick here")
    elif test.margin.high <= 0:
        said.append("worse than the starting prices: no edge over the market is shown or to be expected")
    elif test.margin.low <= 0:
        said.append("no better than the starting prices beyond chance: no edge is shown")
    else:
        said.append("better than the starting prices: look for a leak before believing it")
    carded = int(np.sum(rows.identity.column("source").to_numpy(zero_copy_only=False) == "racecard"))
    if carded < rows.rows:
        said.append(f"{rows.rows - carded:,} rows have the runners and keys of the result, for want of a racecard")
    return tuple(said)
