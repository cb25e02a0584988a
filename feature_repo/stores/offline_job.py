"""Feast's retrieval job: a query that runs when its result is requested."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.feature_view_projection import FeatureViewProjection
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage
from feast.types import from_feast_to_pyarrow_type

from velo.errors import UserError
from velo.feature_repo.stores.changelog import Table

if TYPE_CHECKING:
    import pandas as pd


def entity_rows(entity_df: pd.DataFrame | pa.Table) -> tuple[pa.Table, str]:
    """The entity rows as Arrow, and the name of their column of instants (converted to UTC, µs; naive instants are UTC)."""
    if isinstance(entity_df, pa.Table):
        table, frame = entity_df, entity_df.schema.empty_table().to_pandas()
    else:
        frame = entity_df
        try:
            table = pa.Table.from_pandas(entity_df, preserve_index=False).replace_schema_metadata(None)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as mixed:
            raise UserError(f"the entity rows have a column of mixed types ({mixed}): cast ids to text") from None
    at = infer_event_timestamp_from_entity_df(dict(zip(frame.columns, frame.dtypes, strict=True)))
    column = table.column(at)
    if not pa.types.is_timestamp(column.type):
        parsed = pd.to_datetime(column.to_pandas(), utc=True)
        column = pa.chunked_array([pa.Array.from_pandas(parsed)])
    if column.type.tz is None:
        column = column.cast(pa.timestamp("us"), safe=False)
    instants = column.cast(pa.timestamp("us", "UTC"), safe=False)
    return table.set_column(table.column_names.index(at), at, instants), at


def with_text_keys(rows: pa.Table, tables: Sequence[Table]) -> pa.Table:
    """Convert key columns that are categories, or all null, to text."""
    for key in {column for table in tables for _, column in table.keys}:
        if key in rows.column_names:
            kind = rows.column(key).type
            if pa.types.is_null(kind) or pa.types.is_dictionary(kind):
                rows = rows.set_column(rows.column_names.index(key), key, rows.column(key).cast(pa.string()))
    return rows


class AsofRetrievalJob(RetrievalJob):
    """A query over the generation of the feature tables that is current when the job runs."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        on_demand: Sequence[OnDemandFeatureView],
        metadata: RetrievalMetadata | None,
        repo_path: Path | None,
        *,
        full_feature_names: bool = False,
    ) -> None:
        self._run = run
        self._full_feature_names = full_feature_names
        self._on_demand = list(on_demand)
        self._metadata = metadata
        self._repo_path = repo_path

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        """Run the query and add on-demand features; `timeout` is ignored."""
        table = self._run()
        for view in self._on_demand:
            table = self._with_on_demand(table, view)
        return table

    def _to_df_internal(self, timeout: int | None = None) -> "pd.DataFrame":
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def _with_on_demand(self, table: pa.Table, view: OnDemandFeatureView) -> pa.Table:
        """Append the features of an on-demand view. Passes only its inputs: Feast converts every column it gets to lists."""
        inputs = {
            f"{_used_name(projection)}__{feature.name}" if self._full_feature_names else feature.name
            for projection in view.source_feature_view_projections.values()
            for feature in projection.features
        } | set(view.get_request_data_schema())
        missing = sorted(inputs - set(table.column_names))
        if missing:
            raise UserError(f"the entity rows lack {', '.join(missing)}, inputs of {view.name}: add them")
        output = view.transform_arrow(table.select(sorted(inputs)), self._full_feature_names)
        prefix = f"{_used_name(view.projection)}__" if self._full_feature_names else ""
        wanted = self._wanted_of(view)
        for feature in view.features:
            if feature.name in wanted:
                column = output.column(prefix + feature.name).cast(from_feast_to_pyarrow_type(feature.dtype))
                table = table.append_column(prefix + feature.name, column)
        return table

    def _wanted_of(self, view: OnDemandFeatureView) -> set[str]:
        refs = self._metadata.features if self._metadata else []
        return {ref.split(":", 1)[1] for ref in refs if ref.split(":", 1)[0] == _used_name(view.projection)}

    @property
    def full_feature_names(self) -> bool:
        """Whether column names begin with the view's name."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Empty: the job has applied the on-demand views itself."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """The requested features, and the keys and instants of the entity rows."""
        return self._metadata

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:  # noqa: FBT001, FBT002 Feast's interface
        """Write the result to one local Parquet file; refuses to replace a file unless `allow_overwrite`."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise UserError(f"{type(storage).__name__} is not supported: save to SavedDatasetFileStorage(path=…)")
        path = Path(FileSource.get_uri_for_file_path(self._repo_path, storage.file_options.uri))
        if path.exists() and not allow_overwrite:
            raise UserError(f"{path} exists: give allow_overwrite=True, or another path")
        aside = path.with_name(f".{path.name}.tmp")
        pq.write_table(self.to_arrow(), aside)
        aside.replace(path)

    def to_sql(self) -> str:
        """Refuse: the join does not run as SQL."""
        raise UserError(
            "to_sql() is not supported by this offline store, whose join does not run as SQL: use to_arrow() or to_df(), or "
            "query the tables with `velo sql`"
        )

    def supports_remote_storage_export(self) -> bool:
        """Return False: results are local."""
        return False

    def to_remote_storage(self) -> list[Any]:
        """Refuse."""
        raise UserError("remote storage is not supported by this offline store: use to_arrow() and write it yourself")


def _used_name(projection: FeatureViewProjection) -> str:
    used: str = projection.name_to_use()  # type: ignore[no-untyped-call]  # Feast's
    return used
