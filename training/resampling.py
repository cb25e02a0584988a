"""Intervals of backtests by resampling whole race days, as those of paper trading: `velo.resampling`."""

from velo.resampling import LEAST_DAYS, LEVEL, RESAMPLES, Days, Figure

__all__ = ["LEAST_DAYS", "LEVEL", "RESAMPLES", "Days", "Figure"]
