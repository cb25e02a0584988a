"""A backtest of the last 50 days of a made-up season of 300: shorter than any window of the gate."""

from datetime import timedelta
from pathlib import Path

from tests.support.seasons import BUILT_AT, FIRST_DAY, a_season, a_store
from velo.training.evaluation.backtest import backtest
from velo.training.model.trees import ModelOptions
from velo.training.registry.backtests import Predictions, read
from velo.training.reports.backtest_report import BacktestReport

SMALL = ModelOptions(rounds=4, patience=2, leaves=4, learning_rate=0.1, threads=1)


def short_backtest(home: Path) -> tuple[BacktestReport, Predictions]:
    """Its report and its predictions, which the new store at `home` keeps."""
    store = a_store(home, a_season(300))
    since = FIRST_DAY + timedelta(days=250)
    report = backtest(store, now=BUILT_AT, since=since, model=SMALL, refit_months=1, past=2)
    return report, read(store.home, report.backtest)[0]
