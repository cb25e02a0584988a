"""What keeps the stores current: the log, the importers, the batch build and the dataflow."""
