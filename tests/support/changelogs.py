"""Small changelogs of every feature view, made up and seeded, in the layout a build publishes them in."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.storage.store import Home
from velo.storage.table_versions import MANIFEST, NOTHING_KNOWN, Manifest

START = datetime(2024, 1, 1, 12, tzinfo=UTC)
START_US = int(START.timestamp() * 1e6)
DAY_US = 86_400_000_000
CREATED_US = START_US + 900 * DAY_US


@dataclass(frozen=True)
class Size:
    """How many values each key column takes, and how many rows a key of each view has."""

    values: int = 40
    rows_a_key: int = 20
    parts: int = 3


def key_values(column: str, count: int) -> list[str]:
    """The values a key column takes; some hold what a careless key encoding trips over."""
    return [f"{column}:{number}" if number % 5 else f"{column} ’{number}| [*]" for number in range(count)]


def changelog(family: Family, size: Size, rng: np.random.Generator) -> pa.Table:
    """One view's rows: unique by key and instant, a tenth of the values null, some rows all null."""
    pools = [np.array(key_values(key, size.values), dtype=object) for key in family.keys]
    picks = [rng.integers(0, size.values, size.values) for _ in pools]
    rows = size.values * size.rows_a_key
    which = np.repeat(np.arange(size.values), size.rows_a_key)
    event = START_US + rng.choice(800 * 86_400, rows, replace=False) * 1_000_000 + rng.integers(0, 10**6, rows)
    columns: dict[str, pa.Array] = {
        key: pa.array(pool[pick[which]] if len(pools) > 1 else pool[which], pa.string())
        for key, pool, pick in zip(family.keys, pools, picks, strict=True)
    }
    blank = rng.random(rows) < 0.03
    for feature in family.features:
        null = blank | (rng.random(rows) < 0.1)
        if feature.kind == "int":
            columns[feature.name] = pa.array(rng.integers(-50, 20_000, rows), pa.int32(), mask=null)
        else:
            columns[feature.name] = pa.array(rng.normal(size=rows), pa.float64(), mask=null)
    instants = pa.timestamp("us", "UTC")
    until = (event // DAY_US + rng.integers(1, 90, rows)) * DAY_US
    columns["event_timestamp"] = pa.array(event, instants)
    columns["valid_until"] = pa.array(until, instants, mask=blank | (rng.random(rows) < 0.3))
    columns["created_timestamp"] = pa.array(np.full(rows, CREATED_US), instants)
    return pa.table(columns)


def publish(home: Home, tables: dict[str, pa.Table], generation: int = 1, parts: int = 3) -> Path:
    """Lay tables out as a generation of Parquet parts and point `offline` at it, as a build does."""
    folder = home.generations / f"{generation:06d}"
    for view, table in tables.items():
        (folder / view / "deeper").mkdir(parents=True)
        for part in range(parts):
            below = folder / view / ("deeper" if part else "")
            pq.write_table(table.take(list(range(part, table.num_rows, parts))), below / f"part-{part}.parquet")
    rows = {view: table.num_rows for view, table in tables.items()}
    (folder / MANIFEST).write_bytes(Manifest(0, 0, NOTHING_KNOWN, "made up", 1, rows).to_json())
    aside = home.root / ".offline.tmp"
    aside.symlink_to(folder, target_is_directory=True)
    aside.replace(home.offline)
    return folder


def made_up(home: Home, seed: int = 7, size: Size | None = None) -> dict[str, pa.Table]:
    """Publish changelogs of all families in a home; returns them by view."""
    size = size or Size()
    rng = np.random.default_rng(seed)
    tables = {family.view: changelog(family, size, rng) for family in FAMILIES}
    home.root.mkdir(parents=True, exist_ok=True)
    publish(home, tables, parts=size.parts)
    return tables
