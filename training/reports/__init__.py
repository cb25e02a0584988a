"""Reports of training and of backtests: terminal tables, HTML page, charts."""
