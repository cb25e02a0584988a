"""`velo bench point-in-time`: the join of entity rows with all views, ours beside Feast's own DuckDB store."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import duckdb
import pandas as pd
from rich.table import Table

from benchmarks.ground import Measured, apart, machine, store_of
from feature_repo.catalogue.families import FAMILIES
from feature_repo.feast_store import apply, feature_store
from streams.batch import frames
from streams.batch.build import build
from velo.settings import Settings
from velo.store import Store

KEYS = "trainer_id jockey_id horse_id course distance_band going_group draw_cell".split()


@dataclass(frozen=True, slots=True)
class Figures:
    """One size and store: entity rows in and out, seconds (without starting Feast), rows per second, peak MB."""

    store: str
    rows: int
    rows_out: int
    seconds: float
    rows_per_second: float
    peak_mb: float
    machine: str


def measure(sizes: Sequence[int], stock_rows: int, runners: Path | None, timezone: str) -> list[Figures]:
    """Join each size through both stores, each in a process of its own."""
    figures = []
    with TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        store, _ = store_of(home, max(*sizes, 100_000), runners, timezone)
        build(store, datetime.now(UTC))
        apply(store)
        for size in sizes:
            entities = Path(scratch) / f"entities-{size}.parquet"
            _write_entities(store, size, entities)
            figures.append(
                _figures(
                    "ours (ASOF)",
                    size,
                    apart("benchmarks.point_in_time:join", home=str(home), entities=str(entities), stock=False),
                )
            )
            if size <= stock_rows:
                stock = apart("benchmarks.point_in_time:join", home=str(home), entities=str(entities), stock=True)
                figures.append(_figures("Feast's duckdb", size, stock))
    return figures


def join(home: str, entities: str, stock: bool) -> dict[str, Any]:  # noqa: FBT001 called by name
    """One join of all eight views."""
    import time

    from feast import FeatureStore
    from feast.infra.offline_stores.duckdb import DuckDBOfflineStoreConfig

    feast = feature_store(Store.open(Settings(home=Path(home))))
    if stock:
        config = feast.config.model_copy(deep=True)
        config.offline_config = {"type": "duckdb"}
        config._offline_store = DuckDBOfflineStoreConfig()  # type: ignore[assignment]  # noqa: SLF001 no other way to swap it
        feast = FeatureStore(config=config)
    refs = [f"{family.view}:{feature.name}" for family in FAMILIES for feature in family.features]
    given = pd.read_parquet(entities)
    begun = time.perf_counter()
    joined = feast.get_historical_features(entity_df=given, features=refs, full_feature_names=True).to_arrow()
    return {"seconds": time.perf_counter() - begun, "rows": joined.num_rows, "columns": joined.num_columns}


def table(figures: Sequence[Figures]) -> Table:
    """As shown to a person."""
    shown = Table(title=f"point-in-time join over all views ({figures[0].machine})")
    for name in ("store", "rows in", "rows out", "seconds", "rows/s", "peak MB"):
        shown.add_column(name, justify="left" if name == "store" else "right")
    for one in figures:
        shown.add_row(
            one.store,
            f"{one.rows:,}",
            f"{one.rows_out:,}",
            f"{one.seconds:.2f}",
            f"{one.rows_per_second:,.0f}",
            f"{one.peak_mb:,.0f}",
        )
    return shown


def _figures(store: Literal["ours (ASOF)", "Feast's duckdb"], rows: int, done: Measured) -> Figures:
    seconds = done.result["seconds"]
    return Figures(
        store, rows, done.result["rows"], round(seconds, 3), round(rows / seconds, 1), round(done.peak_mb, 1), machine()
    )


def _write_entities(store: Store, rows: int, path: Path) -> None:
    """The last starts of a store, each five minutes before its off."""
    columns = ", ".join(KEYS)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        source = frames.parquet(frames.parts_of(store.home, "starts"))
        connection.sql(
            f"SELECT {columns}, off_time - INTERVAL 5 MINUTE AS event_timestamp FROM {source} "  # noqa: S608 our own names
            "ORDER BY off_time DESC LIMIT $rows",
            params={"rows": rows},
        ).write_parquet(str(path))
