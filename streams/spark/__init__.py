"""The batch build on Spark: the same catalogue and the same measured starts, summed by another engine."""
