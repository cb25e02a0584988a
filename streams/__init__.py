"""Keep the stores current: importers, feeds, the batch build and the dataflow."""
