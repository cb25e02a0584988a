"""The feature tables as Feast's Spark store wants them named."""

import warnings

from feast.data_source import DataSource
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

from velo.feature_repo.catalogue.families import Family
from velo.storage.store import Home


def spark_table(family: Family, home: Home) -> DataSource:
    """The changelog of a family, read by Spark where the last build or the stream published it."""
    with warnings.catch_warnings():
        # that Feast calls its Spark source experimental is for who chooses it, once, not for each table
        warnings.filterwarnings("ignore", "The spark data source API is an experimental", RuntimeWarning)
        return SparkSource(
            name=f"{family.view}_table",
            path=(home.offline / family.view).as_uri(),
            file_format="parquet",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
            description=f"changelog of {family.view}: a row holds from its event_timestamp until the key's next row",
        )
