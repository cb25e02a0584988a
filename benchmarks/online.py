"""Contenders of online reads, at the shape that Feast publishes: entities, views of one entity, features of each view.

One Redis holds the same rows for all, written by our plug-in in Feast's own layout. Requests are sequential.
"""

import contextlib
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.interleaved import Contender
from velo.feature_repo.feast_store import REPO
from velo.feature_repo.stores.redis_client import connect_url
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_rows import Read, RedisRows
from velo.feature_repo.stores.redis_writer import RowWriter
from velo.racing.clock import to_us

FLOOR, WRITTEN, PACKED = "a bare pipeline of as many bytes", "ours, a read written once", "ours, read_packed"
PLUGIN, STOCK = "ours, get_online_features", "Feast's Redis store, get_online_features"
FEAST_SAYS_MS: Final = 5.63
"""What Feast's documents claim for 50 entities, 5 views, 3 features of each."""
AT: Final = datetime(2024, 6, 1, tzinfo=UTC)
WARM_UP: Final = 20
PROJECT: Final = "bench"
Ready = Callable[[], dict[str, Any]]


def contenders(
    folder: Path, url: str, entities: int, views: int, features: int, requests: int, *, with_feast: bool
) -> dict[str, Contender]:
    """The contenders that read the rows of `fill`; a round is `requests` requests, and counts with their median (ms)."""
    arguments = {"url": url, "entities": entities, "views": views, "features": features, "requests": requests}
    bare = {
        FLOOR: Contender("benchmarks.online:floor", arguments),
        WRITTEN: Contender("benchmarks.online:packed", arguments | {"once": True}),
        PACKED: Contender("benchmarks.online:packed", arguments | {"once": False}),
    }
    if not with_feast:
        return bare
    return bare | {
        PLUGIN: Contender("benchmarks.online:through_feast", arguments | {"folder": str(folder), "stock": False}),
        STOCK: Contender("benchmarks.online:through_feast", arguments | {"folder": str(folder), "stock": True}),
    }


def fill(url: str, entities: int, views: int, features: int) -> None:
    """Write a row of each entity in each view, as our plug-in does."""
    writer, keys = RowWriter(connect_url(url)), [(name,) for name in _ids(entities)]
    instants = np.full(entities, to_us(AT))
    for view in range(views):
        values = np.random.default_rng(view).normal(size=(entities, features))
        writer.write(_layout(view, features), keys, instants, values, epoch=1)


def through_feast(folder: str, url: str, entities: int, views: int, features: int, requests: int, stock: bool) -> Ready:  # noqa: FBT001 called by name
    """`get_online_features(...).to_dict()`, through our plug-in or Feast's own Redis store."""
    feast = _feast(Path(folder), url, stock=stock)
    with contextlib.redirect_stdout(io.StringIO()):
        feast.apply(_objects(Path(folder), views, features))
    refs = [f"view_{view}:feature_{at}" for view in range(views) for at in range(features)]
    rows = [{"entity_id": name} for name in _ids(entities)]

    def ask() -> dict[str, list[Any]]:
        return dict(feast.get_online_features(features=refs, entity_rows=rows, full_feature_names=True).to_dict())

    def digest(answer: dict[str, list[Any]]) -> str:
        columns = [answer[f"view_{view}__feature_{at}"] for view in range(views) for at in range(features)]
        return _digest(np.array(columns).T)

    return _measured(ask, digest, requests)


def packed(url: str, entities: int, views: int, features: int, requests: int, once: bool) -> Ready:  # noqa: FBT001 called by name
    """Read packed rows without Feast; the command is encoded once for all requests, or for each."""
    rows, ids = RedisRows(connect_url(url)), _ids(entities)
    wanted = [(_layout(view, features), ids) for view in range(views)]
    read = Read.of(wanted)

    def digest(answer: list[Any]) -> str:
        return _digest(np.hstack([view.values for view in answer]))

    return _measured((lambda: rows.read(read)) if once else (lambda: rows.read_packed(wanted)), digest, requests)


def floor(url: str, entities: int, views: int, features: int, requests: int) -> Ready:
    """Read as many bytes from plain strings, one per entity, with commands encoded once: the lower bound of any store on Redis."""
    client: Any = connect_url(url)
    size = views * (12 + 8 * features)
    return _measured(bare_reads(client, [size] * entities), lambda answer: "", requests)


def bare_reads(client: Any, sizes: Sequence[int]) -> Callable[[], list[Any]]:
    """A function that reads as many plain strings of these numbers of bytes, in one pipeline that is encoded once."""
    names = [f"bench:{at}".encode() for at in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        client.set(name, b"x" * size)
    command = b"".join(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(name), name) for name in names)

    def ask() -> list[Any]:
        connection = client.connection_pool.get_connection()
        connection.send_packed_command([command])
        answers = [connection.read_response() for _ in names]
        client.connection_pool.release(connection)
        return answers

    return ask


def _measured(ask: Callable[[], Any], digest: Callable[[Any], str], requests: int) -> Ready:
    for _ in range(WARM_UP):
        ask()

    def measured() -> dict[str, Any]:
        taken = []
        for _ in range(requests):
            begun = time.perf_counter()
            ask()
            taken.append(1000 * (time.perf_counter() - begun))
        p50, p99 = (float(np.quantile(taken, at)) for at in (0.5, 0.99))
        return {"taken": p50, "p99": p99, "digest": digest(ask())}

    return measured


def _digest(values: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype=np.float64).tobytes()).hexdigest()


def _layout(view: int, features: int) -> Layout:
    return Layout(
        f"view_{view}", ("entity_id",), tuple((f"feature_{at}", "float64") for at in range(features)), PROJECT
    )


def _ids(entities: int) -> list[str]:
    return [f"entity {at}" for at in range(entities)]


def _feast(folder: Path, url: str, *, stock: bool) -> Any:
    from urllib.parse import urlsplit

    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    theirs = {"type": "redis", "connection_string": urlsplit(url).netloc}
    ours = {
        "type": "velo.feature_repo.stores.online.VersionedRedisOnlineStore",
        "home": str(folder),
        "redis_url": url,
    }
    return FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(folder / f"registry-{'stock' if stock else 'ours'}.db"),
            online_store=theirs if stock else ours,
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=3,
            repo_path=REPO,
        )
    )


def _objects(folder: Path, views: int, features: int) -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource
    from feast.types import Float64
    from feast.value_type import ValueType

    entity = Entity(name="entity", join_keys=["entity_id"], value_type=ValueType.STRING)
    return [
        entity,
        *(
            FeatureView(
                name=f"view_{view}",
                entities=[entity],
                schema=[Field(name=f"feature_{at}", dtype=Float64) for at in range(features)],
                source=FileSource(
                    name=f"source_{view}", path=str(folder / "none.parquet"), timestamp_field="event_timestamp"
                ),
                ttl=timedelta(0),
            )
            for view in range(views)
        ),
    ]
