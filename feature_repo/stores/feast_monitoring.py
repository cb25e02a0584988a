"""The tables of `feast monitor`: what Feast measures of the stored features, one JSON file a table in `$VELO_HOME/monitor/feast`.

Feast computes the measures itself, over the rows of a view by event time. It compares neither race days nor what was served, and
raises no alarm: `velo monitor` does.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from feast.infra.offline_stores.offline_store import OfflineStore
from feast.monitoring.monitoring_utils import monitoring_table_meta, normalize_monitoring_row
from feast.repo_config import RepoConfig

from velo.feature_repo.stores.registry import settings_for
from velo.storage.atomic_files import make_folder, sole_writer, write_atomically
from velo.storage.store import Home

FEATURES = "feature"


class StoresMonitoring(OfflineStore):
    """Feast's interface of an offline store that keeps the measures of `feast monitor`; concurrent writers take turns."""

    @staticmethod
    def ensure_monitoring_tables(config: RepoConfig) -> None:
        """Make the folder of the tables."""
        make_folder(_folder(config))

    @staticmethod
    def save_monitoring_metrics(config: RepoConfig, metric_type: str, metrics: list[dict[str, Any]]) -> None:
        """Add rows to a table; a row replaces the one of the same key."""
        _, columns, keys = monitoring_table_meta(metric_type)
        with sole_writer(make_folder(_folder(config))):
            rows = {_key(row, keys): row for row in _read(config, metric_type)}
            for metric in metrics:
                row = normalize_monitoring_row({name: metric.get(name) for name in columns})
                rows[_key(row, keys)] = row
            _write(config, metric_type, [*rows.values()])

    @staticmethod
    def query_monitoring_metrics(
        config: RepoConfig,
        project: str,
        metric_type: str,
        filters: dict[str, Any] | None = None,
        start_date: date | None = None,
        end_date: date | None = None,
    ) -> list[dict[str, Any]]:
        """The rows of a project, with the values of `filters`, between two dates, both included; in order of their date."""
        wanted = {"project_id": project} if project else {}
        wanted |= {name: value for name, value in (filters or {}).items() if value is not None}
        rows = [row for row in _read(config, metric_type) if _has(row, wanted)]
        first, last = (day.isoformat() if day else None for day in (start_date, end_date))
        dated = [
            row
            for row in rows
            if "metric_date" not in row
            or ((first is None or row["metric_date"] >= first) and (last is None or row["metric_date"] <= last))
        ]
        return sorted(dated, key=lambda row: str(row.get("metric_date", row.get("job_id"))))

    @staticmethod
    def clear_monitoring_baseline(
        config: RepoConfig,
        project: str,
        feature_view_name: str | None = None,
        feature_name: str | None = None,
        data_source_type: str | None = None,
    ) -> None:
        """Make the matching rows no baseline."""
        asked = {
            "project_id": project,
            "feature_view_name": feature_view_name,
            "feature_name": feature_name,
            "data_source_type": data_source_type,
        }
        wanted = {name: value for name, value in asked.items() if value is not None}
        with sole_writer(make_folder(_folder(config))):
            rows = _read(config, FEATURES)
            _write(config, FEATURES, [row | {"is_baseline": False} if _has(row, wanted) else row for row in rows])


def _folder(config: RepoConfig) -> Path:
    return Home(settings_for(repo_path=config.repo_path).home).monitor / "feast"


def _read(config: RepoConfig, metric_type: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads((_folder(config) / f"{metric_type}.json").read_bytes())
    except FileNotFoundError:
        return []
    return rows


def _write(config: RepoConfig, metric_type: str, rows: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(_folder(config) / f"{metric_type}.json", json.dumps(rows).encode())


def _key(row: Mapping[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in keys)


def _has(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in wanted.items())
