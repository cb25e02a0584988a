"""From point-in-time rows to a model that can be judged: dataset, splits, model, metrics, backtest, gate, bundle."""
