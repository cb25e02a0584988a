"""DuckDB for what tests read: one database a process, for opening one takes as long as fifty queries."""

from functools import cache

import duckdb


@cache
def _database() -> duckdb.DuckDBPyConnection:
    # a test may replace a file within the time stamp of the one before
    return duckdb.connect(config={"enable_external_file_cache": False})


def reading() -> duckdb.DuckDBPyConnection:
    """A connection of its own in UTC: close it, or use it as a context manager."""
    connection = _database().cursor()
    connection.execute("SET TimeZone = 'UTC'")
    return connection
