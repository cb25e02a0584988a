"""Feast's own Spark store over the same tables: another configuration of the same definitions."""
