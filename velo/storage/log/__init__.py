"""The append-only log: the one source of truth."""
