"""Walk-forward predictions, backtests and their measures."""
