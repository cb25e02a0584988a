"""Stored models, stored backtests and the ledgers of trials and looks."""
