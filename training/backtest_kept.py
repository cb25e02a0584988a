"""Read and write stored backtests: out-of-fold predictions and their report, in `$VELO_HOME/backtests/<id>/`.

`predictions.parquet` has one row per starter of the tested days, ordered by race day, race and horse; `backtest.json` is the
report. The id is a hash of the recipe, the days and the data, so a repeated backtest replaces its own folder.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from velo.errors import UserError
from velo.resampling import Days
from velo.storage.atomic_files import exchange, sole_writer, sync_file, sync_folder, write_atomically
from velo.storage.store import Home
from velo.training.backtest_metrics import BacktestPeriod
from velo.training.by_race import Floats, starts_of
from velo.training.final_window import fingerprint
from velo.training.prices import closing_line_value

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

    Columns: `race_id`, `horse_id`, `fold`, `share` (of the win), `sp_decimal`, `taken` and `closing` (decimal prices known
    before the off, `velo.training.prices`), `pi`, `market` (π^β), the `SUBJECTS` and `blend_raw`.
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
        clv = closing_line_value(taken, self.columns["closing"])
        return BacktestPeriod(
            self.chances(subject), self.columns["pi"], decided_at, sp, self.columns["share"], starts, days, clv
        )

    def fingerprint(self) -> str:
        """SHA-256 of the predictions and the outcomes."""
        return fingerprint({name: values for name, values in self.columns.items() if name != "race_date"})


def plain(value: Any) -> Any:
    """Convert a report to types that JSON supports: NaN becomes null, a verdict its words."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime | date):
        return value.isoformat()
    return None if isinstance(value, float) and value != value else value


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
