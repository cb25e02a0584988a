"""Feast's online store on Redis, in which an older row never overwrites a newer one, whatever the order of the writers.

Stock Feast can read its rows. A view of integers, doubles and instants, such as those of the catalogue, is packed; a view
with any other type is written value by value (`value_rows`). Not supported, and refused with a remedy: keys that are not
text (in bulk writes of packed views), Sentinel, the GLIDE client, `key_ttl_seconds` (a row has its own `valid_until`),
`skip_dedup`, vector search. It cannot guard against writers of stock Feast on the same project.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from feast.entity import Entity
from feast.feature_service import FeatureService
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import _redis_key
from feast.infra.online_stores.redis import RedisClient, RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import RepoConfig
from feast.utils import _convert_arrow_to_proto, _get_features
from feast.value_type import ValueType

from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis, value_rows
from velo.feature_repo.stores.materialization_mark import Mark, mark_key
from velo.feature_repo.stores.redis_client import connect_url, is_cluster
from velo.feature_repo.stores.redis_layout import ColumnKind, Layout
from velo.feature_repo.stores.redis_writer import RowWriter, WriteCounts
from velo.feature_repo.stores.registry import epoch_of, settings_for
from velo.feature_repo.stores.value_rows import ValueRow
from velo.racing.clock import to_us
from velo.storage.store import Home

if TYPE_CHECKING:
    import pyarrow as pa

KINDS: dict[ValueType, ColumnKind] = {
    ValueType.INT32: "int32",
    ValueType.INT64: "int64",
    ValueType.DOUBLE: "float64",
    ValueType.UNIX_TIMESTAMP: "instant",
}


class VersionedRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """`home` and `redis_url` override VELO_HOME and REDIS_URL; without a URL the home's own Redis is used."""

    type: str = "velo.feature_repo.stores.online.VersionedRedisOnlineStore"  # type: ignore[assignment]  # a class path
    home: str | None = None
    redis_url: str | None = None


class VersionedRedisOnlineStore(RedisOnlineStore):
    """Implements Feast's online store; the module names what it refuses, `redis_layout` the layout of rows."""

    _url: str | None = None
    _repo_path: Path | None = None

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads are asynchronous; asynchronous writes run in a thread."""
        return SupportedAsyncMethods(read=True, write=True)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows with the epoch of the store's formulas; a row of the same or a later version in Redis stays."""
        if not packs(table):
            rows = [ValueRow(entity, values, 1000 * _us(at)) for entity, values, at, _ in data]
            self._write_values(config, table, rows, progress)
            return
        layout = layout_of(table, config.project)
        values = np.array(
            [[_number(row.get(name), kind) for name, kind in layout.columns] for _, row, _, _ in data],
            dtype=np.float64,
        ).reshape(len(data), len(layout.columns))
        instants = np.array([_us(at) for _, _, at, _ in data], dtype=np.int64)
        keys = [_key(layout, entity) for entity, _, _, _ in data]
        self.writer(config).write(layout, keys, instants, values, epoch_of(self._home(config), table.name))
        if progress:
            progress(len(data))

    async def online_write_batch_async(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:
        """Run `online_write_batch` in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, *args, **kwargs)

    def write_table(
        self, config: RepoConfig, view: FeatureView, rows: "pa.Table", progress: Callable[[int], Any] | None = None
    ) -> WriteCounts:
        """Write an Arrow table of a view's rows in bulk: its keys, its features and `event_timestamp`."""
        if not packs(view):
            return self._write_values(config, view, _value_rows(view, rows), progress)
        layout = layout_of(view, config.project)
        return self.writer(config).write_rows(layout, rows, epoch_of(self._home(config), view.name), progress)

    def mark(self, config: RepoConfig, view: FeatureView) -> Mark:
        """Return the record in Redis of what was materialised of a view."""
        self._remember(config)
        client = self._get_client(config.online_store)
        rows_as = (
            f"{epoch_of(self._home(config), view.name)} {_fields_of(view, config.project).fingerprint} {packs(view)}"
        )
        return Mark(client, self._url or "redis", mark_key(config.project, view.name), rows_as)

    def _write_values(
        self, config: RepoConfig, view: FeatureView, rows: Sequence[ValueRow], progress: Callable[[int], Any] | None
    ) -> WriteCounts:
        client = self.writer(config).client

        def redis_key(entity: EntityKeyProto) -> bytes:
            return _redis_key(config.project, entity, config.entity_key_serialization_version)

        layout = _fields_of(view, config.project)
        epoch = epoch_of(self._home(config), view.name)
        return value_rows.write(client, self._url or "redis", layout, rows, epoch, redis_key, progress)

    def writer(self, config: RepoConfig) -> RowWriter:
        """Return the writer of this store's rows, which does not need Feast."""
        self._remember(config)
        client = self._get_client(config.online_store)
        return RowWriter(client, self._url or "redis")

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete a view's fields from this project's keys, and nothing of other views, projects or programs."""
        self.writer(config).delete_view(_fields_of(table, config.project))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete the rows of these views from Redis, nothing else."""
        for table in tables:
            if getattr(table, "entity_columns", None) and hasattr(table, "batch_source"):
                self.delete_table(config, table)

    def online_read(self, config: RepoConfig, *args: Any, **kwargs: Any) -> Any:
        """Read one view for Feast: (event time, values) per key, in order."""
        self._remember(config)
        return super().online_read(config, *args, **kwargs)

    async def online_read_async(self, config: RepoConfig, *args: Any, **kwargs: Any) -> Any:
        """Read as `online_read` does, asynchronously."""
        self._remember(config)
        return await super().online_read_async(config, *args, **kwargs)

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002 Feast's interface
        *args: Any,
        **kwargs: Any,
    ) -> OnlineResponse:
        """Retrieve online features as Feast does, and restore the on-demand features it drops with full names."""
        asked = entity_rows, registry, project
        answer = super().get_online_features(config, features, *asked, full_feature_names, *args, **kwargs)
        missing = _left_out(answer, features, registry, project) if full_feature_names else []
        return _put_back(answer, super().get_online_features(config, missing, *asked), missing) if missing else answer

    async def get_online_features_async(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002 Feast's interface
        *args: Any,
        **kwargs: Any,
    ) -> OnlineResponse:
        """Retrieve as `get_online_features` does, asynchronously."""
        asked = entity_rows, registry, project
        answer = await super().get_online_features_async(config, features, *asked, full_feature_names, *args, **kwargs)
        missing = _left_out(answer, features, registry, project) if full_feature_names else []
        short = await super().get_online_features_async(config, missing, *asked) if missing else None
        return answer if short is None else _put_back(answer, short, missing)

    def _read_features_per_fv(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:
        self._remember(config)
        super()._read_features_per_fv(config, *args, **kwargs)

    async def _read_features_per_fv_async(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:
        self._remember(config)
        await super()._read_features_per_fv_async(config, *args, **kwargs)

    def _remember(self, config: RepoConfig) -> None:
        """Keep the repository's path: Feast asks for a client without passing it."""
        self._repo_path = config.repo_path

    def _home(self, config: RepoConfig) -> Home:
        return Home(settings_for(config.online_store.home, config.repo_path).home)

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        if self._client is None:
            assert isinstance(online_store_config, VersionedRedisOnlineStoreConfig)
            _refuse_unsupported(online_store_config)
            settings = settings_for(online_store_config.home, self._repo_path)
            Home(settings.home).refuse_environment("online store")
            url = online_store_config.redis_url or settings.redis_url
            self._url = url or embedded_redis.ensure(Home(settings.home))
            self._client = connect_url(self._url)
        return self._client

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        if self._client_async is None:
            from redis import asyncio as redis_asyncio

            clustered = is_cluster(self._get_client(online_store_config))
            assert self._url is not None
            self._client_async = (redis_asyncio.RedisCluster if clustered else redis_asyncio.Redis).from_url(self._url)
        return self._client_async


def packs(view: FeatureView) -> bool:
    """Whether all features of a view can be stored as doubles."""
    return all(feature.dtype.to_value_type() in KINDS for feature in view.features)


def _fields_of(view: FeatureView, project: str) -> Layout:
    """Return the fields of a view in Redis, for features of any type; not for packing its rows."""
    kinds = [(feature.name, KINDS.get(feature.dtype.to_value_type(), "float64")) for feature in view.features]
    return Layout(view.name, tuple(view.join_keys), tuple(kinds), project)


def _value_rows(view: FeatureView, rows: "pa.Table") -> list[ValueRow]:
    """Convert Arrow rows to Feast's values, with event times in nanoseconds."""
    import pyarrow as pa

    source = view.batch_source
    assert source is not None
    nanos = rows.column("event_timestamp").cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_pylist()
    named = rows.rename_columns(
        [source.timestamp_field if name == "event_timestamp" else name for name in rows.column_names]
    )
    at = named.column_names.index(source.timestamp_field)
    coarse = named.column(at).cast(pa.timestamp("us", "UTC"), safe=False)
    batches = named.set_column(at, source.timestamp_field, coarse).combine_chunks().to_batches()
    keys = {entity.name: entity.dtype.to_value_type() for entity in view.entity_columns}
    values = _convert_arrow_to_proto(batches[0], view, keys) if batches else []
    return [ValueRow(entity, row, at) for (entity, row, _, _), at in zip(values, nanos, strict=True)]


def _us(at: datetime) -> int:
    return to_us(at if at.tzinfo else at.replace(tzinfo=UTC))


def layout_of(view: FeatureView, project: str) -> Layout:
    """Return the layout of a feature view in Redis; raises `UserError` for features that do not fit in doubles."""
    columns: list[tuple[str, ColumnKind]] = []
    for feature in view.features:
        kind = KINDS.get(feature.dtype.to_value_type())
        if kind is None:
            raise UserError(
                f"{view.name}.{feature.name} is {feature.dtype}, but this online store packs only "
                f"{', '.join(sorted(kind.name for kind in KINDS))}: use a store of type redis for this view"
            )
        columns.append((feature.name, kind))
    return Layout(view.name, tuple(view.join_keys), tuple(columns), project)


def _refuse_unsupported(config: VersionedRedisOnlineStoreConfig) -> None:
    refused = {
        "redis_type": config.redis_type == RedisType.redis_sentinel,
        "client": config.client != RedisClient.redis,
        "key_ttl_seconds": config.key_ttl_seconds is not None,
        "skip_dedup": config.skip_dedup,
    }
    for option, is_set in refused.items():
        if is_set:
            raise UserError(
                f"online_store.{option} is {getattr(config, option)!r}, which is not supported: leave it out"
            )


def _key(layout: Layout, entity: EntityKeyProto) -> tuple[str, ...]:
    values = dict(zip(entity.join_keys, entity.entity_values, strict=True))
    for name in layout.keys:
        if values[name].WhichOneof("val") != "string_val":
            raise UserError(f"{layout.view}.{name} is not text: cast ids to text before writing")
    return tuple(values[name].string_val for name in layout.keys)


def _number(value: ValueProto | None, kind: ColumnKind) -> float:
    """Return a value as a double, NaN for null; an instant is converted from Feast's seconds to µs."""
    which = value.WhichOneof("val") if value is not None else None
    if which is None or which == "null_val":
        return float("nan")
    number = float(getattr(value, which))
    return number * 1e6 if kind == "instant" else number


def _left_out(
    answer: OnlineResponse, features: list[str] | FeatureService, registry: BaseRegistry, project: str
) -> list[str]:
    """The requested references that an answer with full names lacks.

    Feast 0.67 looks for `view__feature` in the output of a Python on-demand view, which has short names.
    """
    requested: list[str] = _get_features(registry, project, features, allow_cache=True)
    held = set(answer.proto.metadata.feature_names.val)
    return [ref for ref in requested if _full(ref) not in held]


def _put_back(answer: OnlineResponse, short: OnlineResponse, refs: list[str]) -> OnlineResponse:
    """The answer with the features `refs` added from an answer with short names to the same rows."""
    vectors: dict[str, Any] = dict(zip(short.proto.metadata.feature_names.val, short.proto.results, strict=True))
    for ref in refs:
        answer.proto.metadata.feature_names.val.append(_full(ref))
        answer.proto.results.append(vectors[ref.split(":", 1)[1]])
    return answer


def _full(ref: str) -> str:
    return ref.replace(":", "__", 1)
