"""The same declarations on Spark: its tables equal DuckDB's, and Feast's own Spark store answers as ours does.

PySpark is an extra of its own and wants Java 17; without either these tests say so and are skipped. To run them:
`pip install 'pyspark>=4,<5'`, then `python -m pytest tests/integration/test_spark.py`.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest

from tests.support.cli import velo
from tests.support.logs import a_store, fixed, logged, told
from tests.support.shared import REPO
from tests.support.streaming import NOW, all_rows, assert_same, batch_twin
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.importers.ingest import ingest
from velo.streams.importers.sources.runners import read_runner_tables
from velo.streams.spark import render

pytestmark = pytest.mark.slow

needs_spark = pytest.mark.skipif(
    find_spec("pyspark") is None or shutil.which("java") is None,
    reason="PySpark or Java is not installed: pip install 'pyspark>=4,<5', and Java 17",
)
SMALL = (
    "--master local[1] --driver-memory 1g --driver-java-options -XX:TieredStopAtLevel=1 "
    "--conf spark.ui.enabled=false --conf spark.sql.shuffle.partitions=1 "
    "--conf spark.sql.codegen.wholeStage=false --conf spark.sql.codegen.factoryMode=NO_CODEGEN pyspark-shell"
)
"""One core, and no compiling of what runs once over a small table: most of the time would go there."""
PATIENCE_S = 900
ENVIRON = {
    "PYTHONPATH": str(REPO),
    "PYSPARK_SUBMIT_ARGS": SMALL,
    "SPARK_LOCAL_IP": "127.0.0.1",
    "PYSPARK_PYTHON": sys.executable,
}


@pytest.fixture(scope="module")
def london(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """London's log, built by Spark; the tables of DuckDB beside it, in `duckdb`."""
    return _built(tmp_path_factory.mktemp("spark"), shared, "london", "Europe/London")


def _built(folder: Path, shared: Path, name: str, timezone: str) -> Store:
    store = a_store(folder / "home", timezone)
    table = shared / "conformance" / f"{name}.parquet"
    ingest(store, read_runner_tables([table], store), late=False, clock=fixed(NOW))
    shutil.copytree(folder / "home", folder / "duckdb")
    build(a_store(folder / "duckdb", timezone), NOW)
    environ = {**os.environ, "VELO_HOME": str(store.home.root), "VELO_ENGINE": "spark", **ENVIRON}
    command = [sys.executable, "-m", "velo.cli", "build", "--json"]
    done = subprocess.run(
        command, cwd=REPO, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return store


@needs_spark
@pytest.mark.parametrize(("name", "timezone"), [("london", "Europe/London"), ("hk_amended", "Asia/Hong_Kong")])
def test_every_table_of_spark_is_that_of_duckdb_to_the_bit(
    name: str, timezone: str, shared: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Row by row, column by column, types included; and every probe worked out by the separate program."""
    store = request.getfixturevalue("london") if name == "london" else _built(tmp_path, shared, name, timezone)
    twin = store.home.root.parent / "duckdb" / "offline"
    with duckdb.connect() as connection:
        for family in FAMILIES:
            columns = ", ".join(
                (*family.keys, "event_timestamp", "valid_until", *(feature.name for feature in family.features))
            )
            ours, theirs = (
                f"SELECT {columns} FROM read_parquet('{folder / family.view}/**/*.parquet')"
                for folder in (store.home.offline, twin)
            )
            types = [connection.execute(f"DESCRIBE {each}").fetchall() for each in (ours, theirs)]
            assert types[0] == types[1], family.view
            for each, other in ((ours, theirs), (theirs, ours)):
                odd = connection.execute(f"({each}) EXCEPT ALL ({other})").fetchmany(3)
                assert odd == [], family.view
    conformance = shared / "conformance"
    check = [conformance / "check_probes.py", store.home.offline, conformance / f"{name}_probes.parquet"]
    done = subprocess.run([sys.executable, *map(str, check)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.match(r"(\d+) of \1 probes agree", done.stdout), done.stdout


@needs_spark
def test_a_build_by_duckdb_goes_on_from_one_by_spark(london: Store, tmp_path: Path) -> None:
    """Only what a late result adds is computed, and the tables are those of a build of everything."""
    shutil.copytree(london.home.root, tmp_path / "home", symlinks=True)
    store = a_store(tmp_path / "home")
    logged(store, told("new", None), clock=fixed(NOW))
    report = build(store, NOW)
    assert not report.whole
    assert 0 < sum(report.added.values()) < sum(report.rows.values()) // 4
    assert_same(all_rows(store), all_rows(batch_twin(store, tmp_path / "twin")))


ASKED = """
import sys
import pandas as pd
from feast import FeatureStore

asked = pd.read_parquet(sys.argv[2])
refs = [f"{view}:{name}" for view, names in (one.split("=") for one in sys.argv[4:]) for name in names.split(",")]
feast = FeatureStore(repo_path=sys.argv[1])
feast.get_historical_features(entity_df=asked, features=refs, full_feature_names=True).to_df().to_parquet(sys.argv[3])
"""


@needs_spark
def test_feasts_own_spark_store_over_these_tables_answers_as_ours_does(london: Store, tmp_path: Path) -> None:
    """By another feature_store.yaml alone; every value of 200 rows, keys that are unknown among them."""
    views = ("trainer_velocity", "horse_form", "horse_course")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        runners = f"read_parquet('{london.home.offline / 'runners'}/*.parquet')"
        connection.execute(
            f"""COPY (
                SELECT DISTINCT trainer_id, horse_id, course, off_time - INTERVAL 5 MINUTE AS event_timestamp
                FROM {runners} WHERE trainer_id IS NOT NULL AND type = 'result'
                ORDER BY hash(horse_id, off_time) LIMIT 199
            ) TO '{tmp_path / "some.parquet"}' (FORMAT parquet)"""
        )
        connection.execute(
            f"""COPY (
                FROM '{tmp_path / "some.parquet"}' UNION ALL
                SELECT 'nobody', 'nothing', 'nowhere', TIMESTAMPTZ '2025-01-01 00:00:00+00'
            ) TO '{tmp_path / "asked.parquet"}' (FORMAT parquet)"""
        )
    refs = [f"{view}={','.join(feature.name for feature in BY_VIEW[view].features)}" for view in views]
    environ = {**os.environ, "VELO_HOME": str(london.home.root), **ENVIRON}
    assert (
        velo(
            "features",
            "--entities",
            tmp_path / "asked.parquet",
            "--out",
            tmp_path / "ours.parquet",
            home=london.home.root,
        ).code
        == 0
    )
    for command in (
        [sys.executable, "-m", "feast.cli.cli", "apply"],
        [sys.executable, "-c", ASKED, ".", str(tmp_path / "asked.parquet"), str(tmp_path / "spark.parquet"), *refs],
    ):
        done = subprocess.run(
            command, cwd=REPO / "feature_repo" / "spark", env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    columns = [f"{view}__{feature.name}" for view in views for feature in BY_VIEW[view].features]
    chosen = ", ".join(("trainer_id", "horse_id", "course", "event_timestamp::TIMESTAMPTZ", *columns))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        ours, theirs = (f"SELECT {chosen} FROM '{tmp_path / name}.parquet'" for name in ("ours", "spark"))
        assert connection.execute(f"SELECT count(*) FROM ({theirs})").fetchall() == [(200,)]
        for each, other in ((ours, theirs), (theirs, ours)):
            assert connection.execute(f"({each}) EXCEPT ALL ({other})").fetchmany(3) == []


def test_spark_is_asked_for_every_feature_of_the_catalogue_and_for_no_other_dialect() -> None:
    """Without Spark itself: each family's queries name each feature, and nothing that only DuckDB understands."""
    for family in FAMILIES:
        text = "\n".join(query for _, query in render.queries(family))
        assert all(f" AS {feature.name}" in text for feature in family.features)
        assert not re.search(r"HUGEINT|ASOF|EXCLUDE| // |infinity", text)


def test_an_engine_that_is_not_installed_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    velo("build", "--engine", "spark", home=tmp_path).told("PySpark is not installed", "velo-features[spark]")
