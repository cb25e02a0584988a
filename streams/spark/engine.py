"""The batch build's work on Spark, master and memory by Spark's own configuration (SPARK_CONF_DIR, PYSPARK_SUBMIT_ARGS).

The log's segments are measured in Spark's tasks by the one query that measures starts, so no measure has a second
definition; the sums are Spark SQL. The store's home must be a folder that all of Spark's machines see.
"""

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq

from velo.errors import UserError
from velo.feature_repo.catalogue.families import Family
from velo.storage.store import Home
from velo.streams.batch import measuring, staging
from velo.streams.spark import render

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EXACT: Final = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}
"""What the values depend on: instants in UTC, and a sum that overflows is an error."""

PLAIN: Final = {"spark.sql.inMemoryColumnarStorage.compressed": "false"}
"""What only takes time: tables that live for one family are not worth packing."""
PARTITIONS: Final = "spark.sql.shuffle.partitions"
PARTITION_STARTS: Final = 100_000
"""How many starts a task takes. Spark's own habit is 200 tasks whatever the size, most of them empty in a small log."""


@contextmanager
def spark_engine() -> Iterator["SparkEngine"]:
    """An engine on a session of its own; raises `UserError` where PySpark is missing, or Spark fails."""
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException, PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError(
            "the engine is spark, but PySpark is not installed: add the extra, as in `pip install 'velo-features[spark]'`"
        ) from None
    # Spark's tasks would be run by whichever python3 comes first on the path, which need not have VÉLØ
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        # Spark's drawing of its progress would go between the lines of ours
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
            f"Spark gave up ({_first_line(failed)}): look at its log; the tables of before are untouched"
        ) from None
    finally:
        session.stop()


class SparkEngine:
    """One build's work."""

    def __init__(self, session: "SparkSession") -> None:
        self._session = session

    def spread(self, measure: staging.Measure, places: Sequence[int], segments: Sequence[Path]) -> list[str]:
        """Measure some segments, a task each."""
        if not segments:
            return []
        numbered = list(zip(places, segments, strict=True))
        tasks = self._session.sparkContext.parallelize(numbered, len(numbered))
        lines: list[str] = tasks.map(lambda segment: measure(*segment)).collect()
        return lines

    def lay_out(self, home: Home, timezone: ZoneInfo, families: Iterable[Family]) -> None:
        """Have the view `starts`: every start of every version that took effect, with its windows' midnights."""
        spark, windows = self._session, staging.windows_of(families)
        for view, kind in (("results", "results"), ("measured", "starts")):
            parts = [str(part) for part in staging.parts_of(home, kind)]
            spark.read.parquet(*parts).createOrReplaceTempView(view)
        self._share_out(spark.table("measured").count())
        spark.sql(measuring.query("applied")).createOrReplaceTempView("applied")
        [(first, last)] = spark.sql("SELECT min(race_date), max(race_date) FROM results").collect()
        midnights = zip(*staging.midnights_of(first, last, timezone, windows), strict=True)
        days = spark.createDataFrame(list(midnights), "day DATE, midnight_us BIGINT")
        days.selectExpr("day", "timestamp_micros(midnight_us) AS midnight").createOrReplaceTempView("midnights")
        spark.sql(staging.laid_out(windows)).cache().createOrReplaceTempView("starts")

    def _share_out(self, starts: int) -> None:
        """Set as many tasks as the starts need and the cores can use, unless Spark's own settings say how many."""
        context = self._session.sparkContext
        if PARTITIONS not in dict(context.getConf().getAll()):
            tasks = max(context.defaultParallelism, -(-starts // PARTITION_STARTS))
            self._session.conf.set(PARTITIONS, str(tasks))

    def write(self, family: Family, folder: Path, name: str, bound: Mapping[str, datetime]) -> int:
        """Write a family's rows later than `$after`, up to `$until`, as parts `name-N.parquet`; returns how many."""
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
