"""Feast over a made-up store, and the stock stores over the very same data, for tests that hold one to the other."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from feast.repo_config import RepoConfig
from redis import Redis

from tests.support.changelogs import DAY_US, START_US, Size, key_values, made_up
from velo.feature_repo import feast_store
from velo.feature_repo.catalogue.columns import ON_DEMAND
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES
from velo.feature_repo.objects import feast_objects
from velo.feature_repo.stores.embedded_redis import ensure
from velo.settings import Settings
from velo.storage.store import Home, Store

if TYPE_CHECKING:
    from collections.abc import Iterable

KEYS = ("trainer_id", "jockey_id", "horse_id", "course", "distance_band", "going_group", "draw_cell")
REQUEST = {"race_day": 20_300, "race_class": 3, "distance_m": 1200.0, "weight_lbs": 130.0, "official_rating": 60}


@dataclass(frozen=True)
class MadeUp:
    """A home with made-up changelogs, Feast over it, and what it holds."""

    store: Store
    feast: FeatureStore
    tables: dict[str, pa.Table]

    @property
    def home(self) -> Home:
        return self.store.home


def made_up_feast(root: Path, size: Size | None = None) -> MadeUp:
    tables = made_up(Home(root), size=size)
    store = Store.open(Settings(root))
    return MadeUp(store, feast_store.apply(store), tables)


def stock_feast(made: MadeUp, folder: Path, **stores: Any) -> FeatureStore:
    """Feast with its own stores, its objects applied, over the same tables."""
    feast = FeatureStore(
        config=RepoConfig(
            project="velo",
            provider="local",
            registry=str(folder / "stock.db"),
            entity_key_serialization_version=3,
            repo_path=folder,
            **stores,
        )
    )
    feast.apply(feast_objects(made.home))
    return feast


def stock_redis(made: MadeUp, folder: Path) -> FeatureStore:
    """Feast's own Redis store on the made-up home's server: its options go to redis-py, which knows a socket."""
    options = Redis.from_url(ensure(made.home)).connection_pool.connection_kwargs
    server = f"localhost:0,unix_socket_path={options['path']},password={options['password']}"
    return stock_feast(made, folder, online_store={"type": "redis", "connection_string": server})


def entity_rows(tables: dict[str, pa.Table], count: int, seed: int = 3) -> pd.DataFrame:
    """Entity rows over 900 days, some before all history; their keys met in the tables, unknown to them, and null."""
    chance = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {key: np.array([*key_values(key, 42), None], dtype=object)[chance.integers(0, 43, count)] for key in KEYS}
    )
    for view in ("partnership_velocity", "horse_course", "horse_distance", "horse_going"):
        keys = BY_VIEW[view].keys
        met = tables[view].select(keys).to_pandas().sample(count, replace=True, random_state=seed)
        often = chance.random(count) < 0.5
        frame.loc[often, list(keys)] = met.to_numpy()[often]
    day = chance.integers(-20, 880, count)
    frame["event_timestamp"] = pd.to_datetime((START_US + day * DAY_US) * 1000, utc=True)
    return frame


def stored_refs(views: "Iterable[str]" = ()) -> list[str]:
    """References to every stored feature of the views, or of all."""
    return [
        f"{family.view}:{name}"
        for family in FAMILIES
        if not views or family.view in set(views)
        for name in [*(feature.name for feature in family.features), "valid_until"]
    ]


def on_demand_refs() -> list[str]:
    return [f"{ON_DEMAND}:{name}" for name in ("days_since_last_run", "layoff_band", "class_change")]


def same_values(left: pd.DataFrame, right: pd.DataFrame, columns: list[str]) -> None:
    """Hold two answers to each other, row by row and column by column, null with null."""
    assert len(left) == len(right)
    for column in columns:
        item, other = left[column], right[column]
        if isinstance(item.dtype, pd.DatetimeTZDtype):
            item, other = (pd.to_datetime(each, utc=True).astype("datetime64[us, UTC]") for each in (item, other))
        pd.testing.assert_series_equal(item, other, check_names=False, check_dtype=False, obj=column)
