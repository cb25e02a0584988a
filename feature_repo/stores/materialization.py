"""Feast's materialisation as one query of the tables and one bulk write to Redis.

Feast's local engine converts every row to Python objects and keeps only the first Arrow chunk. This one refuses feature
views with transformations or aggregations of their own.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import astuple
from typing import Any, Literal

from feast.entity import Entity
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.utils import _get_column_names

from velo.errors import UserError
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.materialization_mark import Materialized, identity, is_new_sql
from velo.feature_repo.stores.offline import AsofOfflineStore, path_of, utc
from velo.feature_repo.stores.online import VersionedRedisOnlineStore
from velo.feature_repo.stores.parts import Snapshot

logger = logging.getLogger(__name__)


class DirectComputeEngineConfig(FeastConfigBaseModel):
    """Configuration of the engine, which has no options."""

    type: Literal["velo.feature_repo.stores.materialization.DirectComputeEngine"] = (
        "velo.feature_repo.stores.materialization.DirectComputeEngine"
    )


class DirectComputeEngine(ComputeEngine):
    """Materialises from `AsofOfflineStore` into `VersionedRedisOnlineStore`.

    Writes the newest row up to the end time for every key with a row that has an event time or was written since the start
    time, or that this Redis never received (`materialization_mark`). An empty Redis gets the rows of every key.
    """

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Do nothing: the engine needs no preparation."""

    def teardown_infra(self, project: str, fvs: Sequence[Any], entities: Sequence[Entity]) -> None:
        """Do nothing: the engine leaves nothing behind."""

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **options: Any) -> MaterializationJob:
        view = task.feature_view
        job_id = f"{view.name}-{task.start_time}-{task.end_time}"
        try:
            self._write(registry, task)
        except Exception as failed:  # noqa: BLE001 Feast's contract: a job carries its error, the caller raises it
            return LocalMaterializationJob(job_id, MaterializationJobStatus.ERROR, failed)
        return LocalMaterializationJob(job_id, MaterializationJobStatus.SUCCEEDED)

    def _write(self, registry: BaseRegistry, task: MaterializationTask) -> None:
        view, source = task.feature_view, task.feature_view.batch_source
        if source is None or getattr(view, "feature_transformation", None) or getattr(view, "aggregations", None):
            raise UserError(
                f"{view.name} transforms its source, which this engine does not support: materialise views without transformations"
            )
        offline, online = self.offline_store, self.online_store
        if not isinstance(offline, AsofOfflineStore) or not isinstance(online, VersionedRedisOnlineStore):
            raise UserError(
                "batch_engine DirectComputeEngine works only with AsofOfflineStore and VersionedRedisOnlineStore: "
                "leave batch_engine out of feature_store.yaml to use Feast's local engine with other stores"
            )
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        keys, features, event, created = _get_column_names(view, entities)
        path = path_of(self.repo_config, source)
        snapshot = Snapshot()
        parts, folder = snapshot.parts(path), snapshot.folder(path)
        mark = online.mark(self.repo_config, view)
        before, running = mark.begin()
        is_new = is_new_sql(changelog.instant(event), changelog.PART, before, parts, folder)
        rows = offline.pull_touched(
            config=self.repo_config,
            data_source=source,
            join_key_columns=keys,
            feature_name_columns=features,
            timestamp_field=event,
            created_timestamp_column=created,
            start_date=task.start_time,
            end_date=task.end_time,
            is_new=is_new,
            parts=parts,
        ).to_arrow()
        mapped = {**(source.field_mapping or {}), event: "event_timestamp"}
        rows = rows.rename_columns([mapped.get(column, column) for column in rows.column_names])
        with task.tqdm_builder(rows.num_rows) if task.tqdm_builder else nullcontext() as bar:
            written = online.write_table(self.repo_config, view, rows, bar.update if bar else None)
        mark.end(running, Materialized(frozenset(identity(part, folder) for part in parts), utc(task.end_time)))
        if written.skipped:
            logger.info(
                "%s: %d rows written, %d skipped because Redis has the same or a newer version",
                view.name,
                *astuple(written),
            )
