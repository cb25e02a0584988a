"""A backtest's outcome: the report, and its figures and predictions as frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from velo.api.frames import in_library
from velo.api.values import Library
from velo.resampling import Figure
from velo.storage.store import Home

if TYPE_CHECKING:
    from velo.training.reports.backtest_report import BacktestReport


@dataclass(frozen=True)
class BacktestResult:
    """One backtest. `report` has every figure, `page` is its HTML report; frames are in the library of the store.

    A figure fills four columns: its value, the ends of its 95 % interval over race days (`_low`, `_high`) and its count (`_n`).
    """

    report: "BacktestReport"
    page: Path
    home: Home
    library: Library

    @property
    def verdict(self) -> str:
        """The gate's verdict on the served probabilities: PASS, FAIL or NOT ENOUGH DATA."""
        return self.report.verdict

    @property
    def alarms(self) -> tuple[str, ...]:
        """The alarms of figures that are too good to be true, in one line each; empty without one."""
        from velo.training.reports.tables import alarm_line

        return tuple(alarm_line(raised) for raised in self.report.alarms)

    @property
    def figures(self) -> Any:
        """One row per set of probabilities (`name`): R², top-1 rate, AUC, calibration gaps and slope."""
        return self._frame(
            {
                "name": row.name,
                **_flat(r2=row.r2, top1=row.top1, slope=row.slope, mean_gap=row.mean_gap, root_mean_gap=row.root_mean_gap),
                "auc": row.auc,
                "plain_error": row.plain_error,
            }
            for row in self.report.told
        )  # fmt: skip

    @property
    def comparisons(self) -> Any:
        """One row per pair: ΔR² and the log-loss margin (nats a race) of `name` over `than`, above 0 if `name` is better."""
        return self._frame(
            {"name": row.name, "than": row.than, **_flat(delta_r2=row.delta_r2, margin=row.margin)}
            for row in self.report.beside
        )

    @property
    def bets(self) -> Any:
        """One row per set of probabilities and strategy: bets, wins, A/E, ROI before commission, profit and drawdown in units."""
        return self._frame(
            {
                "name": name,
                "strategy": row.strategy,
                "bets": row.n,
                "wins": row.wins,
                **_flat(ae_model=row.ae_model, ae_market=row.ae_market, ae_price=row.ae_price, roi=row.roi[0.0]),
                "profit": row.profit,
                "drawdown": row.drawdown,
            }
            for name, rows in self.report.bets.items()
            for row in rows
        )

    @property
    def segments(self) -> Any:
        """One row per segment, the surest first: A/E by the blend and by the market of the starters above it, the blend's gain over it, and who was `right`."""
        return self._frame(
            {
                "by": row.by,
                "value": row.value,
                "races": row.races,
                "runners": row.runners,
                **_flat(ae_model=row.ae_model, ae_market=row.ae_market, gain=row.gain),
                "p_value": row.p_value,
                "right": row.right,
            }
            for row in self.report.segments.segments
        )

    @property
    def predictions(self) -> Any:
        """One row per starter of a tested race that has a market, with every set of probabilities, its prices and outcome."""
        from velo.training.registry.backtests import predictions_of

        return in_library(predictions_of(self.home, self.report.backtest), self.library)

    def _frame(self, rows: Any) -> Any:
        import pyarrow as pa

        table: pa.Table = pa.Table.from_pylist(list(rows))
        return in_library(table, self.library)

    def __repr__(self) -> str:
        from velo.training.reports.tables import first_lines, in_words, what_was_tested

        return "\n".join((*first_lines(self.report), *in_words(self.report), what_was_tested(self.report)))


def _flat(**figures: Figure) -> Mapping[str, float | None]:
    columns: dict[str, float | None] = {}
    for name, figure in figures.items():
        columns |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high, f"{name}_n": figure.n}
    return columns
