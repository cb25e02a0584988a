"""The objects that `feast apply` reads here: those of `feature_repo/definitions.py`, with tables that Spark reads."""

import warnings
from pathlib import Path

from feast.data_source import DataSource
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.objects import feast_objects, table_options
from velo.feature_repo.stores.registry import settings_for
from velo.storage.store import Home


def spark_table(family: Family, home: Home) -> DataSource:
    """The changelog of a family in its current generation, as Feast's Spark store reads it."""
    with warnings.catch_warnings():
        # Feast warns once per table that its Spark source is experimental
        warnings.filterwarnings("ignore", "The spark data source API is an experimental", RuntimeWarning)
        return SparkSource(path=(home.offline / family.view).as_uri(), file_format="parquet", **table_options(family))


store_home = Home(settings_for(repo_path=Path.cwd()).home)
globals().update({each.name: each for each in feast_objects(store_home, source=spark_table)})
