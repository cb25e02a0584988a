"""The batch build on Spark; master and memory come from Spark's configuration (SPARK_CONF_DIR, PYSPARK_SUBMIT_ARGS).

Spark's tasks measure the log's segments by the same query as the local build, so no measure has a second definition; the sums
are Spark SQL. The store's home must be a folder that all of Spark's machines can read and write.
"""

import logging
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq

from velo.errors import UserError
from velo.feature_repo.catalogue.families import Family
from velo.storage.store import Home
from velo.streams.batch import measuring, staging, start_table
from velo.streams.spark import render

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EXACT: Final = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}
"""Settings that the values depend on: instants are in UTC, and a sum that overflows is an error."""

PLAIN: Final = {"spark.sql.inMemoryColumnarStorage.compressed": "false"}
"""Settings for speed: a cached table lives for one family, so compressing it does not pay."""
PARTITIONS: Final = "spark.sql.shuffle.partitions"
PARTITION_STARTS: Final = 100_000
"""Starts per task. Spark's default is 200 tasks for any size, most of them empty in a small log."""


@contextmanager
def spark_engine() -> Iterator["SparkEngine"]:
    """Yield an engine on its own Spark session; raises `UserError` if PySpark is missing, or Spark fails."""
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException, PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError(
            "the engine is spark, but PySpark is not installed: add the extra, as in `pip install 'velo-features[spark]'`"
        ) from None
    # by default Spark's tasks run the first python3 on the path, which may not have VÉLØ
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        # Spark's progress bar would mix with ours
        builder = SparkSession.builder.appName("velo build").config("spark.ui.showConsoleProgress", "false")
        session = builder.getOrCreate()
    except (PySparkRuntimeError, PySparkException) as failed:
        raise UserError(
            f"Spark does not start ({_first_line(failed)}): it needs Java 17 or later (JAVA_HOME), and the master that "
            "SPARK_CONF_DIR or PYSPARK_SUBMIT_ARGS names"
        ) from None
    try:
        logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)  # it logs what is raised anyway
        session.sparkContext.setLogLevel("ERROR")
        for name, value in (EXACT | PLAIN).items():
            session.conf.set(name, value)
        yield SparkEngine(session)
    except (PySparkException, Py4JError) as failed:
        raise UserError(
            f"Spark failed ({_first_line(failed)}): read its log, then build again; the tables were not changed"
        ) from None
    finally:
        session.stop()


class SparkEngine:
    """The steps of a build that run on Spark."""

    def __init__(self, session: "SparkSession") -> None:
        self._session = session

    def spread(self, measure: staging.Measure, places: Sequence[int], segments: Sequence[Path]) -> list[str]:
        """Measure segments of the log, one task each."""
        if not segments:
            return []
        numbered = list(zip(places, segments, strict=True))
        tasks = self._session.sparkContext.parallelize(numbered, len(numbered))
        lines: list[str] = tasks.map(lambda segment: measure(*segment)).collect()
        return lines

    def lay_out(self, home: Home, timezone: ZoneInfo, families: Collection[Family]) -> None:
        """Create the view `starts`: every start of every version that took effect, with the midnights of its windows."""
        spark, windows = self._session, start_table.windows_of(families)
        for view, kind in (("results", "results"), ("measured", "starts")):
            parts = [str(part) for part in staging.parts_of(home, kind)]
            spark.read.parquet(*parts).createOrReplaceTempView(view)
        self._share_out(spark.table("measured").count())
        spark.sql(measuring.query("applied")).createOrReplaceTempView("applied")
        [(first, last)] = spark.sql("SELECT min(race_date), max(race_date) FROM results").collect()
        midnights = zip(*start_table.midnights_of(first, last, timezone, windows), strict=True)
        days = spark.createDataFrame(list(midnights), "day DATE, midnight_us BIGINT")
        days.selectExpr("day", "timestamp_micros(midnight_us) AS midnight").createOrReplaceTempView("midnights")
        spark.sql(start_table.laid_out(windows, families)).cache().createOrReplaceTempView("starts")

    def _share_out(self, starts: int) -> None:
        """Set the number of tasks by the starts and the cores, unless Spark's settings have it."""
        context = self._session.sparkContext
        if PARTITIONS not in dict(context.getConf().getAll()):
            tasks = max(context.defaultParallelism, -(-starts // PARTITION_STARTS))
            self._session.conf.set(PARTITIONS, str(tasks))

    def write(self, family: Family, folder: Path, name: str, bound: Mapping[str, datetime]) -> int:
        """Write a family's rows later than `$after`, up to `$until`, as parts `name-N.parquet`; returns the number of rows."""
        spark, held = self._session, []
        for view, text in render.queries(family):
            made = spark.sql(_bound(text, bound))
            if view in ("moments", "changes"):
                held.append(made.cache())
            made.createOrReplaceTempView(view)
        aside = folder / f".{name}.tmp"
        ordered = spark.table(family.view).sortWithinPartitions(*family.keys, "event_timestamp")
        ordered.write.mode("overwrite").parquet(aside.as_uri())
        for table in held:
            table.unpersist()
        rows = 0
        for number, part in enumerate(sorted(aside.glob("*.parquet"))):
            rows += pq.read_metadata(part).num_rows
            part.replace(folder / f"{name}-{number:04d}.parquet")
        shutil.rmtree(aside)
        return rows


def _bound(text: str, values: Mapping[str, datetime]) -> str:
    for name, instant in values.items():
        text = text.replace(name, f"TIMESTAMP '{instant.astimezone(UTC).isoformat()}'")
    return text


def _first_line(failed: Exception) -> str:
    return next((line for line in str(failed).splitlines() if line.strip()), type(failed).__name__)
