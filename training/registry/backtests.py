"""Stored backtests, the ledger of trials, and the looks at locked windows.

`$VELO_HOME/backtests/<id>/` holds `predictions.parquet`, one row per starter of the tested days, ordered by race day, race and
horse, and `backtest.json`, the report. The id is a hash of the recipe, the days and the data, so a repeated backtest replaces its
own folder.

`$VELO_HOME/models/trials.ndjson` has one line per backtest, written before its figures are shown: the best of many tries looks
better than it is. `$VELO_HOME/models/final_windows.jsonl` has one line per look at a locked window: a window that is looked at twice
may have been chosen by its outcome. Lines are only appended.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from velo.errors import UserError
from velo.resampling import Days, Figure
from velo.storage.atomic_files import exchange, make_folder, sole_writer, sync_file, sync_folder, write_atomically
from velo.storage.jsonl import plain
from velo.storage.store import Home
from velo.training.dataset.by_race import Floats, starts_of
from velo.training.dataset.entity_rows import closing_line_value
from velo.training.evaluation.metrics import BacktestPeriod
from velo.training.market.blending import FORMAT as BLENDING
from velo.training.market.calibration import FORMAT as CALIBRATION
from velo.training.market.market import proportional
from velo.training.race_model import VELO

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Line = TypeVar("Line", bound=DataclassInstance)
else:
    Line = TypeVar("Line")


LAST: Final = "last"
PREDICTIONS: Final = "predictions.parquet"
REPORT: Final = "backtest.json"
SERVED: Final = "fundamental"
"""The probabilities that a bundle serves: the model without the market, uncalibrated."""
BLENDED: Final = "blend"
"""The probabilities served in addition if every runner has odds."""
SUBJECTS: Final = ("fundamental", "calibrated", "logit", "blend")
"""The probability columns that bets and the gate can use."""


@dataclass(frozen=True)
class Predictions:
    """The tested starters whose race has a market: columns by name, and the local date of each race.

    Columns: `race_id`, `horse_id`, `fold`, `share` (of the win), `sp_decimal`, `taken`, `closing` and `settled` (decimal prices,
    `velo.training.dataset.entity_rows`; older backtests have no `settled`), `pi`, `market` (π^β), the `SUBJECTS` and `blend_raw`.
    """

    columns: dict[str, NDArray[Any]]
    race_dates: NDArray[np.datetime64]
    seed: int
    records: int

    def chances(self, subject: str) -> Floats:
        """The probabilities of one of `SUBJECTS`; raises `UserError` for another."""
        if subject not in SUBJECTS:
            raise UserError(f"{subject!r} was not tested: choose one of {', '.join(SUBJECTS)}")
        return np.asarray(self.columns[subject], dtype=np.float64)

    def season(self, subject: str) -> BacktestPeriod:
        """The period with a subject's probabilities: bets decided at the decision-time price, else SP, and settled at SP."""
        starts = starts_of(self.columns["race"])
        days = Days.of_dates(self.columns["race_date"], self.seed)
        sp = self.columns["sp_decimal"]
        taken = self.columns["taken"]
        decided_at = np.where(np.isnan(taken), sp, taken)
        closing = self.columns["closing"]
        clv = closing_line_value(self.columns.get("settled", taken), closing)
        fair_clv = closing_line_value(1.0 / proportional(taken, starts), 1.0 / proportional(closing, starts))
        return BacktestPeriod(
            self.chances(subject),
            self.columns["pi"],
            decided_at,
            sp,
            self.columns["share"],
            starts,
            days,
            clv,
            fair_clv,
        )

    def fingerprint(self) -> str:
        """SHA-256 of the predictions and the outcomes."""
        return fingerprint({name: values for name, values in self.columns.items() if name != "race_date"})


def recipe_of(settings: Mapping[str, Any], features: Sequence[str], catalogue: str, lead_s: float) -> str:
    """SHA-256 of how a model is made; a backtest holds for models with the same recipe."""
    left_out = {"best_round", "residual_rounds", "threads"}
    options = {name: value for name, value in settings.items() if name not in left_out}
    recipe = {
        "options": options,
        "features": list(features),
        "catalogue": catalogue,
        "lead_s": lead_s,
        "put_together": [BLENDING, CALIBRATION],
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def keep(home: Home, name: str, predictions: Predictions, report: Any) -> Path:
    """Write a backtest atomically and make it the last one; returns its folder."""
    columns = {column: pa.array(values) for column, values in predictions.columns.items()}
    facts = {"seed": predictions.seed, "records": predictions.records}
    table = pa.table(columns).replace_schema_metadata({"velo": json.dumps(facts)})
    folder, aside = home.backtests / name, home.backtests / f".{name}.tmp"
    with sole_writer(home.backtests):
        aside.mkdir()
        pq.write_table(table, aside / PREDICTIONS, compression="zstd")
        sync_file(aside / PREDICTIONS)
        write_atomically(aside / REPORT, (json.dumps(plain(report), indent=2, ensure_ascii=False) + "\n").encode())
        if not exchange(aside, folder):
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        sync_folder(home.backtests)
        shutil.rmtree(aside, ignore_errors=True)
        write_atomically(home.backtests / LAST, f"{name}\n".encode())
    return folder


def last(home: Home) -> str:
    """The id of the last backtest; raises `UserError` if there is none."""
    try:
        return (home.backtests / LAST).read_text().strip()
    except FileNotFoundError:
        raise UserError(f"there is no backtest at {home.backtests}: run `velo backtest` first") from None


def predictions_of(home: Home, name: str) -> pa.Table:
    """Return the stored predictions of a backtest; raises `UserError` if its file is missing or damaged."""
    try:
        return pq.read_table(home.backtests / name / PREDICTIONS)
    except (FileNotFoundError, ValueError) as broken:
        raise UserError(f"backtest {name} cannot be read ({broken}): run `velo backtest` again") from None


def read(home: Home, name: str) -> tuple[Predictions, dict[str, Any]]:
    """Read the predictions and the report of a backtest; raises `UserError` if a file is missing or damaged."""
    table = predictions_of(home, name)
    folder = home.backtests / name
    try:
        report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as broken:
        raise UserError(f"backtest {name} cannot be read ({broken}): run `velo backtest` again") from None
    facts = json.loads(table.schema.metadata[b"velo"])
    columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}
    columns["race_date"] = np.asarray(columns["race_date"], dtype="datetime64[D]")
    dates = columns["race_date"][starts_of(columns["race"])]
    return Predictions(columns, dates, facts["seed"], facts["records"]), report


@dataclass(frozen=True, slots=True)
class StoredBacktest:
    """A stored backtest over local race dates, both included: the model's R² against 1/N, beside the market's and the plain logit's.

    `blend_delta_r2` is the gain of the blend over π^β with its 95 % interval; `roi` is that of the main `strategy` at SP;
    `alarms` counts the alarms that went off.
    """

    backtest: str
    model: str
    since: str
    until: str
    races: int
    r2: Figure
    logit_r2: float | None
    market_r2: float | None
    blend_r2: Figure
    blend_delta_r2: Figure
    calibration_error: float | None
    strategy: str
    roi: Figure
    verdict: str
    alarms: int

    @classmethod
    def of(cls, name: str, report: Mapping[str, Any]) -> "StoredBacktest":
        """The main figures of a stored report; raises KeyError, TypeError or StopIteration for one of an older form."""
        measured = {row["name"]: row for row in report["told"]}
        blend = next(row for row in report["beside"] if (row["name"], row["than"]) == (BLENDED, "market"))
        gate, strategy = report["gate"].get(report["served"]), report["equity"][report["served"]]["strategy"]
        bets = next(bets for bets in report["bets"][report["served"]] if bets["strategy"] == strategy)
        return cls(
            backtest=name,
            model=report.get("model", VELO),
            since=report["since"],
            until=report["until"],
            races=report["races"],
            r2=Figure(**measured["fundamental"]["r2"]),
            logit_r2=measured["logit"]["r2"]["value"],
            market_r2=measured["pi"]["r2"]["value"],
            blend_r2=Figure(**measured[BLENDED]["r2"]),
            blend_delta_r2=Figure(**blend["delta_r2"]),
            calibration_error=measured["fundamental"]["root_mean_gap"]["value"],
            strategy=strategy,
            roi=Figure(**bets["roi"]["0.0"]),
            verdict=gate["verdict"] if gate else "NOT ENOUGH DATA",
            alarms=len(report["alarms"]),
        )


def stored_backtests(home: Home) -> tuple[StoredBacktest, ...]:
    """All stored backtests by period and model; raises `UserError` if there is none, or one is damaged."""
    folders = sorted(path for path in home.backtests.glob("*/") if not path.name.startswith("."))
    if not folders:
        raise UserError(f"there is no backtest at {home.backtests}: run `velo backtest` first")
    found = [StoredBacktest.of(folder.name, read(home, folder.name)[1]) for folder in folders]
    return tuple(sorted(found, key=lambda row: (row.since, row.until, row.model, row.backtest)))


def earlier_backtests(home: Home, but: str, most: int = 10) -> tuple[StoredBacktest, ...]:
    """The stored backtests but one, those of the latest days first; a report of an older form is left out."""
    found = []
    for folder in home.backtests.glob("*/"):
        if folder.name == but or folder.name.startswith("."):
            continue
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError, StopIteration):
            found.append(StoredBacktest.of(folder.name, json.loads((folder / REPORT).read_text(encoding="utf-8"))))
    return tuple(sorted(found, key=lambda each: (each.until, each.since, each.backtest), reverse=True)[:most])


TRIALS: Final = "trials.ndjson"


@dataclass(frozen=True, slots=True)
class Trial:
    """A backtest: its first and last day (both included), the SHA-256 of its recipe and of its data, and the instant it ran (UTC)."""

    backtest: str
    since: str
    until: str
    recipe: str
    data: str
    at: str

    def is_again(self, other: "Trial") -> bool:
        """Whether it repeats the other: the same days, recipe and data give the same figures."""
        return (self.since, self.until, self.recipe, self.data) == (other.since, other.until, other.recipe, other.data)


def trials(folder: Path) -> tuple[Trial, ...]:
    """All trials, oldest first; raises `UserError` if the ledger is damaged."""
    return _read_lines(folder / TRIALS, Trial, "how often a period was tried")


def tried(folder: Path, trial: Trial, now: datetime) -> int:
    """Record a trial; returns the number of different trials that tested any of its days, itself included."""
    before = trials(folder)
    recorded = [*before, trial]
    if any(trial.is_again(earlier) for earlier in before):
        recorded.pop()
    else:
        _append_line(folder / TRIALS, before, replace(trial, at=now.astimezone(UTC).isoformat()))
    return sum(other.since <= trial.until and trial.since <= other.until for other in recorded)


FINAL_WINDOWS: Final = "final_windows.jsonl"


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a final window: its days (both included), data, model, instant (UTC) and number."""

    since: str
    until: str
    fingerprint: str
    model: str
    at: str
    number: int

    def overlaps(self, since: date, until: date) -> bool:
        """Whether any day is in both windows."""
        return self.since <= until.isoformat() and since.isoformat() <= self.until


def fingerprint(columns: Mapping[str, ArrayLike]) -> str:
    """SHA-256 of the window's data: names, lengths and bytes of the columns; texts by their UTF-8."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        values = np.asarray(columns[name])
        if values.dtype.kind in "OU":
            content = json.dumps([None if value is None else str(value) for value in values.tolist()]).encode()
        else:
            # NaN has many bit patterns: they all become one
            known = np.where(np.isnan(values), np.nan, values) if values.dtype.kind == "f" else values
            content = np.ascontiguousarray(known).astype(known.dtype.newbyteorder("<")).tobytes()
        digest.update(f"{name}\0{values.dtype.kind}{values.dtype.itemsize}\0{values.size}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def looks(folder: Path) -> tuple[Look, ...]:
    """All looks, oldest first; raises `UserError` if the record is damaged."""
    return _read_lines(folder / FINAL_WINDOWS, Look, "which windows were looked at")


def look(folder: Path, since: date, until: date, data: str, model: str, now: datetime, *, again: bool = False) -> Look:
    """Record a look at a window before any of it is shown, and return it; `data` is the window's fingerprint.

    Raises `UserError` if one of its days was looked at before, unless `again`, which counts the look. Changed data does not make
    it a first look.
    """
    if since > until:
        raise UserError(f"a window from {since} to {until} has no day: give the earlier day first")
    seen = looks(folder)
    before = [earlier for earlier in seen if earlier.overlaps(since, until)]
    if before and not again:
        last = before[-1]
        changed = "" if last.fingerprint == data else "; its data changed since"
        raise UserError(
            f"{since} to {until} was looked at on {last.at[:10]} with {last.model} ({last.since} to {last.until}){changed}: "
            "choose days that no look has touched, or ask for another look and have it counted"
        )
    number = max((earlier.number for earlier in before), default=0) + 1
    taken = Look(since.isoformat(), until.isoformat(), data, model, now.astimezone(UTC).isoformat(), number)
    _append_line(folder / FINAL_WINDOWS, seen, taken)
    return taken


def _read_lines(path: Path, line: type[Line], says: str) -> tuple[Line, ...]:
    """All records of a file, oldest first, none without the file; a damaged file raises `UserError` that names what it `says`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    try:
        return tuple(line(**json.loads(text)) for text in lines)
    except (ValueError, TypeError) as damaged:
        raise UserError(f"{path} is damaged ({damaged}): restore it, it says {says}") from damaged


def _append_line(path: Path, before: Sequence[Line], record: Line) -> None:
    """Append a record after those `_read_lines`; a crash leaves the file with it or without it."""
    make_folder(path.parent)
    lines = [json.dumps(asdict(each), ensure_ascii=False) for each in (*before, record)]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
