"""How Feast's materialisation runs here: one query of the tables, one stream of rows into Redis.

Feast's local engine turns every row into Python objects and keeps only the first Arrow chunk. Not supported, and
refused: feature views with transformations or aggregations of their own.
"""

from collections.abc import Sequence
from typing import Any, Literal

from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.utils import _get_column_names

from velo.errors import UserError


class DirectComputeEngineConfig(FeastConfigBaseModel):  # type: ignore[misc]  # Feast is untyped
    """Nothing to configure."""

    type: Literal["feature_repo.stores.engine.DirectComputeEngine"] = "feature_repo.stores.engine.DirectComputeEngine"


class DirectComputeEngine(ComputeEngine):  # type: ignore[misc]  # Feast is untyped
    """Materialises from `AsofOfflineStore` into `VersionedRedisOnlineStore`.

    Every key with a row that fell, or was written, since the start gets its newest row up to the end.
    """

    def update(
        self,
        project: str,
        views_to_delete: Sequence[FeatureView],
        views_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Nothing to prepare."""

    def teardown_infra(self, project: str, fvs: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Nothing to take down."""

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **options: Any) -> MaterializationJob:
        view = task.feature_view
        job_id = f"{view.name}-{task.start_time}-{task.end_time}"
        try:
            self._write(registry, task)
        except Exception as failed:  # noqa: BLE001 Feast's contract: a job carries its error, the caller raises it
            return LocalMaterializationJob(job_id, MaterializationJobStatus.ERROR, failed)
        return LocalMaterializationJob(job_id, MaterializationJobStatus.SUCCEEDED)

    def _write(self, registry: BaseRegistry, task: MaterializationTask) -> None:
        view = task.feature_view
        if getattr(view, "feature_transformation", None) or getattr(view, "aggregations", None):
            raise UserError(f"{view.name} transforms its source, which this engine does not: materialise plain views")
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        keys, features, event, created = _get_column_names(view, entities)
        pull = self.offline_store.pull_touched if created else self.offline_store.pull_latest_from_table_or_query
        rows = pull(
            config=self.repo_config,
            data_source=view.batch_source,
            join_key_columns=keys,
            feature_name_columns=features,
            timestamp_field=event,
            created_timestamp_column=created,
            start_date=task.start_time,
            end_date=task.end_time,
        ).to_arrow()
        mapped = {**(view.batch_source.field_mapping or {}), event: "event_timestamp"}
        rows = rows.rename_columns([mapped.get(column, column) for column in rows.column_names])
        written = self.online_store.write_table(self.repo_config, view, rows)
        if task.tqdm_builder:
            with task.tqdm_builder(rows.num_rows) as progress:
                progress.update(rows.num_rows)
        if written.skipped:
            print(f"{view.name}: {written.written} rows written, {written.skipped} as new or newer already there")
