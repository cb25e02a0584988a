"""Contenders of the point-in-time join: ours through Feast, Feast's own DuckDB store, DuckDB's ASOF JOIN by hand, polars.

All get the same entity rows and read the same Parquet; equal digests mean equal answers.
"""

import hashlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.interleaved import Contender, Found, interleaved
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES, Family
from velo.feature_repo.feast_store import apply
from velo.feature_repo.stores.parts import Snapshot
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.batch import staging

KEYS: Final = ("trainer_id", "jockey_id", "horse_id", "course", "distance_band", "going_group", "draw_cell")
ROW, AT = "row", "event_timestamp"
OURS, OURS_FRAME = "ours, through Feast", "ours, through Feast, given pandas"
STOCK, RAW, POLARS = "Feast's DuckDB store", "DuckDB ASOF JOIN by hand", "polars join_asof"
HAS_POLARS: Final = importlib.util.find_spec("polars") is not None
Ready = Callable[[], dict[str, Any]]


def joined(
    store: Store, rows: int, scratch: Path, views: Sequence[int], rounds: int, *, stock: bool
) -> dict[int, dict[str, Found]]:
    """Join `rows` entity rows with every contender in turn, for each number of views (the first ones of the catalogue).

    Leaves the entity rows in `scratch`, under the name of `entities_of`.
    """
    write_entities(store, rows, entities_of(scratch, rows))
    return {
        count: interleaved(contenders(store.home.root, entities_of(scratch, rows), count, scratch, stock=stock), rounds)
        for count in views
    }


def entities_of(scratch: Path, rows: int) -> Path:
    """The file of `rows` entity rows."""
    return scratch / f"entities-{rows}.parquet"


def contenders(home: Path, entities: Path, views: int, scratch: Path, *, stock: bool) -> dict[str, Contender]:
    """The contenders that join these entity rows with the first `views` views; a stock store may spill to `scratch`.

    Each gets the rows in the form its users have: DuckDB and ours Arrow (as training does), polars its own frame, Feast's
    store pandas, since it takes nothing else; ours gets pandas too.
    """
    arguments = {"home": str(home), "entities": str(entities), "views": views}
    found = {
        OURS: Contender("benchmarks.joins:through_feast", arguments | {"stock": False, "arrow": True}, scratch),
        OURS_FRAME: Contender("benchmarks.joins:through_feast", arguments | {"stock": False}, scratch),
        RAW: Contender("benchmarks.joins:by_hand", arguments, scratch),
    }
    if HAS_POLARS:
        found[POLARS] = Contender("benchmarks.joins:by_polars", arguments, scratch)
    if stock:
        found[STOCK] = Contender("benchmarks.joins:through_feast", arguments | {"stock": True}, scratch)
    return found


def write_entities(store: Store, rows: int, path: Path) -> None:
    """Write the last starts of a store as of five minutes before their off, then the same a week earlier, until there are
    `rows`."""
    source = staging.parquet(staging.parts_of(store.home, "starts"))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        [(starts,)] = connection.execute(f"SELECT count(*) FROM {source}").fetchall()  # noqa: S608 our own name
        connection.sql(
            f"SELECT (row_number() OVER () - 1)::BIGINT AS {ROW}, * FROM ("  # noqa: S608 our own names
            f"SELECT {', '.join(KEYS)}, off_time - INTERVAL 5 MINUTE - INTERVAL 7 DAY * week AS {AT} "
            f"FROM {source}, range($weeks) weeks(week) ORDER BY week, off_time DESC, race_id, horse_id LIMIT $rows)",
            params={"rows": rows, "weeks": -(-rows // max(starts, 1))},
        ).write_parquet(str(path))


def through_feast(
    home: str,
    entities: str,
    views: int | list[str],
    stock: bool,  # noqa: FBT001 called by name
    arrow: bool = False,  # noqa: FBT001, FBT002 called by name
) -> Ready:
    """Feast's `get_historical_features`, through our offline store or its own."""
    import pandas as pd
    import pyarrow.parquet as pq
    from feast import FeatureStore
    from feast.infra.offline_stores.duckdb import DuckDBOfflineStoreConfig

    feast = apply(Store.open(Settings(home=Path(home))))
    if stock:
        config = feast.config.model_copy(deep=True)
        config.offline_config = {"type": "duckdb"}
        config._offline_store = DuckDBOfflineStoreConfig()  # type: ignore[assignment]  # noqa: SLF001 no other way to swap it
        feast = FeatureStore(config=config)
    families = FAMILIES[:views] if isinstance(views, int) else [BY_VIEW[view] for view in views]
    refs = [f"{family.view}:{feature.name}" for family in families for feature in family.features]
    rows = pq.read_table(entities) if arrow else pd.read_parquet(entities)

    def join() -> dict[str, Any]:
        begun = time.perf_counter()
        joined = feast.get_historical_features(entity_df=rows, features=refs, full_feature_names=True).to_arrow()
        return _answer(begun, joined, [ref.replace(":", "__") for ref in refs])

    return join


def by_hand(home: str, entities: str, views: int) -> Ready:
    """DuckDB's ASOF JOIN, one query with all views; the rows are not ordered."""
    import pyarrow.parquet as pq

    families, parts = FAMILIES[:views], _parts(home)
    rows = pq.read_table(entities)
    names, joins = [], []
    for at, family in enumerate(families):
        names += [f'v{at}."{feature.name}" AS "{_named(family, feature.name)}"' for feature in family.features]
        files = ", ".join(f"'{part}'" for part in parts[family.view])
        on = " AND ".join(f"e.{key} = v{at}.{key}" for key in family.keys)
        joins.append(f"ASOF LEFT JOIN read_parquet([{files}]) v{at} ON {on} AND e.{AT} >= v{at}.event_timestamp")
    query = f"SELECT e.*, {', '.join(names)} FROM entities e {' '.join(joins)}"  # noqa: S608 our own names

    def join() -> dict[str, Any]:
        begun = time.perf_counter()
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("entities", rows)
            return _answer(begun, connection.sql(query).to_arrow_table(), _columns(families))

    return join


def by_polars(home: str, entities: str, views: int) -> Ready:
    """polars' `join_asof`, view by view. It requires both sides sorted by instant; the tables are not."""
    import polars as pl

    families, parts = FAMILIES[:views], _parts(home)
    entity_rows = pl.read_parquet(entities)

    def join() -> dict[str, Any]:
        begun = time.perf_counter()
        rows = entity_rows.sort(AT).lazy()
        for family in families:
            named = {feature.name: _named(family, feature.name) for feature in family.features}
            history = pl.scan_parquet(list(parts[family.view])).select(*family.keys, AT, *named).rename(named)
            rows = rows.join_asof(
                history.sort(AT), on=AT, by=list(family.keys), strategy="backward", check_sortedness=False
            )
        return _answer(begun, rows.collect().to_arrow(), _columns(families))

    return join


def _parts(home: str) -> dict[str, tuple[str, ...]]:
    snapshot, store = Snapshot(), Store.open(Settings(home=Path(home)))
    return {family.view: tuple(map(str, snapshot.parts(store.home.offline / family.view))) for family in FAMILIES}


def _named(family: Family, feature: str) -> str:
    return f"{family.view}__{feature}"


def _columns(families: Sequence[Family]) -> list[str]:
    return [_named(family, feature.name) for family in families for feature in family.features]


def _answer(begun: float, joined: pa.Table, columns: Sequence[str]) -> dict[str, Any]:
    taken = time.perf_counter() - begun
    return {"taken": taken, "rows": joined.num_rows, "digest": _digest(joined, columns)}


def _digest(joined: pa.Table, columns: Sequence[str]) -> str:
    """The digest of an answer: every value of every feature as a double, by entity row."""
    order = np.argsort(joined.column(ROW).to_numpy(), kind="stable")
    whole = hashlib.sha256(joined.column(ROW).to_numpy()[order].tobytes())
    for column in columns:
        values = joined.column(column).cast(pa.float64()).to_numpy(zero_copy_only=False)[order]
        whole.update(np.where(np.isnan(values), np.inf, values).tobytes())
    return whole.hexdigest()
