"""Feast's offline store over the feature tables: point-in-time joins in numpy and Arrow, other queries in DuckDB.

The value at an instant is that of the latest row of the key, and of the one created last if several have the same event
time. Entity rows are never dropped, repeated or reordered.

Not supported, and refused with a remedy: `filter_by_created_timestamp` (a rebuild rewrites history, so the time a row
was written does not show what was known), retrieval by `start_date` or `end_date`, `to_sql()`, sources that are not local
Parquet, logged features, saving to remote storage.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.types import from_feast_to_pyarrow_type

from velo.errors import UserError
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.asof_join import point_in_time
from velo.feature_repo.stores.feast_monitoring import StoresMonitoring
from velo.feature_repo.stores.offline_job import AsofRetrievalJob, entity_rows, with_text_keys
from velo.feature_repo.stores.parts import Snapshot, add_part


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """Options of the offline store.

    `memory_limit` limits DuckDB, which spills to disk beyond it. The point-in-time join does not use DuckDB; its memory
    grows with the entity rows. `threads` limits both; the default is all cores.
    """

    type: str = "velo.feature_repo.stores.offline.AsofOfflineStore"
    memory_limit: str = "1500MB"
    threads: int | None = None


class AsofOfflineStore(StoresMonitoring):
    """Feast's offline store interface; see the module for what it refuses."""

    supports_filter_by_created_timestamp = False

    def ensure_filter_by_created_timestamp_supported(self) -> None:
        """Raise `UserError`: the flag would remove rows that a rebuild wrote again, and would add no safety."""
        raise UserError(
            "filter_by_created_timestamp is not needed here, because event_timestamp already is the instant at which a "
            "value became known: leave it out"
        )

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002 Feast's interface
        **options: Any,
    ) -> RetrievalJob:
        """Return a job that joins features to entity rows as of each row's instant.

        `entity_df` is a pandas frame, an Arrow table, or DuckDB SQL, which may name the requested feature views.
        Instants without a time zone are UTC. Every feature column of the result has its declared type.
        """
        if entity_df is None:
            raise UserError(
                "features by a date range without entity rows are not supported: give entity_df, for instance "
                "`SELECT DISTINCT horse_id, event_timestamp FROM horse_form` as a string"
            )
        if options:
            raise UserError(f"{', '.join(options)} is not supported by this offline store: leave it out")
        sources = [(view, _source_of(view)) for view in feature_views]
        paths = [path_of(config, source) for _, source in sources]
        entities, at = (None, None) if isinstance(entity_df, str) else entity_rows(entity_df)

        def run() -> pa.Table:
            snapshot = Snapshot()
            tables = [
                _table(
                    view, source, snapshot.parts(path), _requested(view, feature_refs), full_names=full_feature_names
                )
                for (view, source), path in zip(sources, paths, strict=True)
            ]
            rows, instant = entities, at
            if isinstance(entity_df, str):
                rows, instant = entity_rows(_queried(config, entity_df, tables))
            assert rows is not None
            assert instant is not None
            return point_in_time(with_text_keys(rows, tables), instant, tables, config.offline_store.threads)

        return AsofRetrievalJob(
            run,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            _metadata(feature_refs, entities, at),
            config.repo_path,
            full_feature_names=full_feature_names,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return a job for the newest row of each key with an event time from `start_date` through `end_date`."""
        return AsofOfflineStore.pull_touched(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
            changed_by=(timestamp_field,),
        )

    @staticmethod
    def pull_touched(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
        is_new: str = "false",
        parts: Sequence[str] | None = None,
        changed_by: Sequence[str] | None = None,
    ) -> RetrievalJob:
        """Return a job for the newest row up to `end_date` of each key that changed since `start_date`.

        A key changed if one of its rows has an event time or a created time since then, or satisfies the SQL `is_new`;
        `changed_by` names the time columns to compare instead.
        An incremental materialisation needs this: a row written after the last run can have an earlier event time (a
        midnight's expiry, a rebuild under corrected formulas) and would otherwise never reach the online store. The job
        reads `parts`, by default those current when it runs.
        """
        times = changed_by or [column for column in (timestamp_field, created_timestamp_column) if column]
        touched = " OR ".join([*(f"{changelog.instant(column)} >= $since" for column in times), is_new])
        return _pull(
            config,
            data_source,
            lambda scan: changelog.latest_sql(
                scan, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column or None, touched
            ),
            {"since": utc(start_date), "until": utc(end_date)},
            [*join_key_columns, *feature_name_columns],
            (timestamp_field, created_timestamp_column or None),
            parts,
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return a job for every row with an event time from `start_date` through `end_date`; None is unbounded."""
        within, values = changelog.within_sql(
            timestamp_field, utc(start_date) if start_date else None, utc(end_date) if end_date else None
        )
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        columns += [created_timestamp_column] if created_timestamp_column else []
        listed = ", ".join(changelog.name(column) for column in columns)
        return _pull(
            config,
            data_source,
            lambda scan: f"SELECT {listed} FROM {scan} WHERE {within}",  # noqa: S608 names are quoted
            dict(values),
            [*join_key_columns, *feature_name_columns],
            (timestamp_field, created_timestamp_column or None),
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to a view as a new part; concurrent writers are safe.

        The columns are the join keys, the features, and the event and created time, in any order, of types that cast
        without loss. The next full build rebuilds the tables from the log alone and drops these rows.
        """
        source = _source_of(feature_view)
        schema = [(entity.name, pa.string()) for entity in feature_view.entity_columns]
        schema += [(feature.name, _arrow_type(feature)) for feature in feature_view.features]
        back = {stored: mapped for mapped, stored in (source.field_mapping or {}).items()}
        schema = [(back.get(column, column), kind) for column, kind in schema]
        times = [column for column in (source.timestamp_field, source.created_timestamp_column) if column]
        schema += [(column, pa.timestamp("us", "UTC")) for column in times]
        table = table.rename_columns([back.get(column, column) for column in table.column_names])
        if set(table.column_names) != {column for column, _ in schema}:
            raise UserError(
                f"rows for {feature_view.name} have the columns {sorted(table.column_names)}, but need exactly "
                f"{sorted(column for column, _ in schema)}: add or drop the columns that differ"
            )
        rows = pa.table({column: table.column(column).cast(kind) for column, kind in schema})
        add_part(path_of(config, source), rows)
        if progress:
            progress(rows.num_rows)

    @staticmethod
    def write_logged_features(*_args: Any, **_kwargs: Any) -> None:
        """Refuse: the score log and the models' records hold what was served."""
        raise UserError("logged features are not supported by this offline store: use Feast's duckdb store for them")

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Accept every source: definitions may be applied before the first build."""


def _pull(
    config: RepoConfig,
    source: DataSource,
    sql: Callable[[str], str],
    values: Mapping[str, datetime],
    columns: Sequence[str],
    times: tuple[str, str | None],
    parts: Sequence[str] | None = None,
) -> RetrievalJob:
    """Return a job that runs `sql(scan)` over a source's current parts, or over `parts`, with `values` bound."""
    path = path_of(config, source)
    read = [changelog.FeatureColumn(column, column, pa.string()) for column in columns]

    def run() -> pa.Table:
        table = changelog.Table(source.name, Snapshot().parts(path) if parts is None else parts, (), *times, read)
        with changelog.engine(config.offline_store.memory_limit, config.offline_store.threads) as connection:
            return connection.sql(sql(table.scan), params=dict(values)).to_arrow_table()

    return AsofRetrievalJob(run, [], None, config.repo_path)


def _table(
    view: FeatureView, source: DataSource, parts: Sequence[str], features: Sequence[str], *, full_names: bool
) -> changelog.Table:
    back = {mapped: stored for stored, mapped in (source.field_mapping or {}).items()}
    prefix = f"{view.projection.name_alias or view.name}__" if full_names else ""
    types = {feature.name: _arrow_type(feature) for feature in view.features}
    named = view.projection.join_key_map or {}
    return changelog.Table(
        view.name,
        parts,
        [(back.get(entity.name, entity.name), named.get(entity.name, entity.name)) for entity in view.entity_columns],
        source.timestamp_field,
        source.created_timestamp_column or None,
        [
            changelog.FeatureColumn(back.get(name, name), prefix + name, types.get(name, pa.float64()))
            for name in features
        ],
        view.ttl or None,
    )


def _requested(view: FeatureView, feature_refs: Sequence[str]) -> list[str]:
    mine = f"{view.projection.name_to_use()}:"  # type: ignore[no-untyped-call]  # Feast's
    return [ref.removeprefix(mine) for ref in feature_refs if ref.startswith(mine)]


def _source_of(view: FeatureView) -> DataSource:
    if view.batch_source is None:
        raise UserError(f"{view.name} has no batch source: give it a FileSource")
    return view.batch_source


def path_of(config: RepoConfig, source: DataSource) -> Path:
    """Return the path of a source's Parquet; raises `UserError` for a source that is not local Parquet."""
    if not isinstance(source, FileSource) or not isinstance(source.file_format, ParquetFormat | None):
        raise UserError(f"{source.name} is not a Parquet FileSource: use Feast's duckdb store for such sources")
    path = FileSource.get_uri_for_file_path(config.repo_path, source.path)
    if "://" in path:
        raise UserError(
            f"{source.path} is remote, but this offline store reads local files only: use Feast's duckdb store"
        )
    return Path(path)


def _queried(config: RepoConfig, sql: str, tables: Sequence[changelog.Table]) -> pa.Table:
    import duckdb

    with changelog.engine(config.offline_store.memory_limit, config.offline_store.threads) as connection:
        for table in tables:
            rows = f"SELECT * EXCLUDE ({changelog.PART}) FROM {table.scan}"  # noqa: S608 our own name
            connection.execute(f"CREATE OR REPLACE VIEW {changelog.name(table.view)} AS {rows}")
        try:
            return connection.sql(sql).to_arrow_table()
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as refused:
            raise UserError(f"DuckDB refuses entity_df as SQL ({refused}): correct it") from None


def _metadata(feature_refs: list[str], entities: pa.Table | None, at: str | None) -> RetrievalMetadata:
    if entities is None or at is None:
        return RetrievalMetadata(features=feature_refs, keys=[])
    span = pc.min_max(entities.column(at)).as_py()
    keys = [column for column in entities.column_names if column != at]
    return RetrievalMetadata(feature_refs, keys, span["min"], span["max"])


def _arrow_type(feature: Any) -> pa.DataType:
    kind = from_feast_to_pyarrow_type(feature.dtype)
    return pa.timestamp("us", "UTC") if pa.types.is_timestamp(kind) else kind


def utc(instant: datetime) -> datetime:
    """Return an instant in UTC; without a time zone it is UTC already."""
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
