"""The training set: entity rows, point-in-time features, races and folds."""
