"""Shared set-up of the examples: the same few races in a VÉLØ store and, as plain tables, in stock Feast."""

import contextlib
import csv
import io
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import Int64
from redis import Redis

from velo.feature_repo.feast_store import apply
from velo.feature_repo.stores.embedded_redis import down
from velo.settings import Settings, zone_named
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.importers.ingest import ingest
from velo.streams.importers.sources.runners import read_runner_tables

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
"""The off of the first race. Other instants count days from it."""
Race = Mapping[str, Any]
"""`race_id`, `day` (days after NOON), `trainers` in order of finish, and optionally `result_version` and `known` (days after NOON)."""


def day(number: float) -> datetime:
    """The instant `number` days after NOON."""
    return NOON + timedelta(days=number)


@contextlib.contextmanager
def ours(races: Sequence[Race]) -> Iterator[Store]:
    """Yield a built store with these races in a temporary folder; remove it and its Redis at the end."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Settings(home=Path(folder) / "home", timezone=zone_named("Europe/London"))).save()
        table = Path(folder) / "races.csv"
        with table.open("w", newline="") as file:
            rows = [row for race in races for row in _rows(race)]
            out = csv.DictWriter(file, list(rows[0]))
            out.writeheader()
            out.writerows(rows)
        ingest(store, read_runner_tables([table], store), clock=lambda: NOON)
        build(Store.open(Settings(home=store.home.root)), NOON)
        try:
            yield Store.open(Settings(home=store.home.root))
        finally:
            down(store.home)


@contextlib.contextmanager
def stock(
    rows: Sequence[Mapping[str, Any]], ttl: timedelta = timedelta(0), redis_url: str | None = None
) -> Iterator[FeatureStore]:
    """Yield stock Feast over one table of (trainer_id, event_timestamp, created and numbers), with the view `trainer`.

    The offline store is dask, the online store SQLite or `redis_url`. A `ttl` of zero means no time to live.
    """
    options = Redis.from_url(redis_url).connection_pool.connection_kwargs if redis_url else {}
    # Feast passes these to redis-py, which uses the socket path
    server = f"localhost:0,unix_socket_path={options.get('path')},password={options.get('password')}"
    redis = {"type": "redis", "connection_string": server}
    with tempfile.TemporaryDirectory() as folder, quiet():
        table = Path(folder) / "trainer.parquet"
        frame = pd.DataFrame(rows)
        frame.to_parquet(table)
        numbers = [name for name in frame.columns if name not in ("trainer_id", "event_timestamp", "created")]
        source = FileSource(path=str(table), timestamp_field="event_timestamp", created_timestamp_column="created")
        trainer = Entity(name="trainer_id", join_keys=["trainer_id"], value_type=ValueType.STRING)
        schema = [Field(name=name, dtype=Int64) for name in numbers]
        feast = FeatureStore(
            config=RepoConfig(
                project="stock",
                provider="local",
                registry=str(Path(folder) / "registry.db"),
                online_store=redis if redis_url else {"type": "sqlite", "path": str(Path(folder) / "online.db")},
                offline_store={"type": "dask"},
                entity_key_serialization_version=3,
            )
        )
        feast.apply([trainer, FeatureView(name="trainer", entities=[trainer], ttl=ttl, schema=schema, source=source)])
        yield feast


def ours_at(store: Store, entities: pd.DataFrame, refs: Sequence[str]) -> pd.DataFrame:
    """Join as of each entity row's instant with VÉLØ, through Feast."""
    with quiet():
        return apply(store).get_historical_features(entities, list(refs)).to_df()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress output and warnings of Feast."""
    aside = io.StringIO()
    with contextlib.redirect_stdout(aside), contextlib.redirect_stderr(aside), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _rows(race: Race) -> Iterator[dict[str, Any]]:
    off = day(race["day"])
    known = day(race["known"]) if "known" in race else off + timedelta(minutes=15)
    for place, trainer in enumerate(race["trainers"], start=1):
        yield {
            "race_id": race["race_id"],
            "race_date": off.date().isoformat(),
            "off_time": off.isoformat(),
            "course": "Ascot",
            "horse": f"a horse of {trainer}",
            "trainer": trainer,
            "status": "FINISHED",
            "position": place,
            "result_version": race.get("result_version", 1),
            "known_at": known.isoformat(),
        }
