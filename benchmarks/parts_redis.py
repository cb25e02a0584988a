"""The parts of `velo bench` that read from Redis, score a race, and measure Redis's memory."""

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks import online, serve
from benchmarks.charts import growth_chart
from benchmarks.fault_harness import redis_server
from benchmarks.interleaved import Contender, Timing, interleaved
from benchmarks.page import Aim, BenchPart
from benchmarks.parts_batch import LoadedStores
from benchmarks.stores import now, season_at, store_of, versions
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.rebuild_online import rebuild

VIEWS, FEATURES = 5, 3
READ_AIM_MS: Final = 0.8
BYTES_AIM, REBUILD_AIM_S, HORSES = 64.0, 60.0, 100_000
SEASON_DAYS, SEASON_RACES = 180, 20_000
"""The season that is tiled: many horses with few starts each."""
SAMPLE: Final = 2000
OURS_PER_HASH: Final = 3
"""Fields of a view besides features: its time, its version, the packed row."""


def reading(ground: LoadedStores) -> BenchPart:
    """Measure online reads at the shape that Feast publishes."""
    rows, series, aims = [], dict[str, list[tuple[float, Timing]]](), []
    for entities in ground.sizes.entities:
        folder = ground.scratch / f"online-{entities}"
        # Feast's own store reaches Redis by host and port only
        with redis_server(folder) as (url, start):
            start()
            online.fill(url, entities, VIEWS, FEATURES)
            arguments = (folder, url, entities, VIEWS, FEATURES, ground.sizes.requests)
            sides = online.contenders(*arguments, with_feast=ground.sizes.with_feast)
            found = interleaved(sides, ground.sizes.rounds)
        for name, of in found.items():
            if of.failed:
                rows.append((name, f"{entities:,}", f"failed: {of.failed}", "", "", ""))
                continue
            same = of.last["digest"] == found[online.WRITTEN].last["digest"]
            answer = "" if name == online.FLOOR else "the same" if same else "another"
            p99 = f"{of.last['p99']:,.2f}"
            rows.append((name, f"{entities:,}", of.spread.shown(), p99, f"{of.peak_mb:,.0f}", answer))
            series.setdefault(name, []).append((float(entities), of.spread))
        fastest = found[online.WRITTEN]
        if entities == ground.sizes.entities[0] and not fastest.failed:
            met = fastest.spread.median <= READ_AIM_MS if entities == 50 else None
            shape = f"{entities} × {VIEWS} × {FEATURES}"
            aims.append(
                Aim(f"50 × 5 × 3 read ≤ {READ_AIM_MS} ms median", f"{fastest.spread.shown()} ms at {shape}", met)
            )
    return BenchPart(
        "online",
        "Online reads at the shape that Feast publishes",
        f"{VIEWS} views of one entity, {FEATURES} features of each, one request at a time; Feast's documentation claims "
        f"{online.FEAST_SAYS_MS} ms for 50 entities. A round is {ground.sizes.requests} requests and counts with their median.",
        ("contender", "entities", "median ms", "p99 ms, last round", "peak MB", "answer"),
        tuple(rows),
        versions("feast", "redis", "hiredis", "redis-server"),
        notes=(
            (
                'All read the same rows from one Redis over the loopback. "A read written once" is `RedisRows.read` of a prepared `Read`; '
                "the scorer also encodes its read of a card once (`velo.serving.scoring.redis_reader`). The bare pipeline reads one "
                "plain string per entity."
            ),
        ),
        aims=tuple(aims),
        charts={"online": growth_chart("Online reads, 5 views × 3 features", "entities", "ms", series)},
    )


def racing(ground: LoadedStores) -> BenchPart | None:
    """Measure the features and the score of a race card; None in a quick run, which trains no model."""
    sizes = ground.sizes
    if not sizes.race_sizes:
        return None
    figures = serve.measure(
        sizes.race_starts, sizes.race_sizes, sizes.race_requests, 1000.0, ground.results, ground.timezone
    )
    return BenchPart(
        "race",
        "A race card, and its score",
        f"One race at a time, {figures.starts:,} starts known; the stream idle, and while it writes. The spread is over requests.",
        serve.COLUMNS,
        serve.rows_of(figures),
        versions("feast", "lightgbm", "fastapi", "redis", "redis-server"),
    )


def keeping(ground: LoadedStores) -> BenchPart:
    """Measure the memory of a key and a feature in Redis, and the rebuild of an empty Redis."""
    rows, points, aims = list[tuple[str, ...]](), list[tuple[float, Timing]](), list[Aim]()
    days = SEASON_DAYS if ground.sizes.horses[0] > 1000 else 5
    made = ground.scratch / "horses.parquet"
    season = season_at(made, start=date(2024, 1, 1), days=days, races_per_year=SEASON_RACES)
    held, horses_held = _size_of(season)
    for horses in ground.sizes.horses:
        wanted = held if horses <= horses_held else held * -(-horses // horses_held)
        store, starts = store_of(ground.scratch / f"horses-{horses}", wanted, season, "Europe/London")
        of, spread = _filled(store, ground.sizes.rounds)
        rows.append(_kept_row(of, starts, spread))
        points.append((float(of["horses"]), spread))
        # those of the largest store
        aims = _keeping_aims(of, spread)
    return BenchPart(
        "redis",
        "The memory of Redis, and its rebuild",
        f"`velo online rebuild` of all {len(FAMILIES)} views into an emptied Redis, on a simulated season of many horses.",
        (
            "horses", "starts", "keys", "features", "rebuilt in s", "bytes a key", "bytes a feature",
            "by MEMORY USAGE", "MB",
        ),
        tuple(rows),
        versions("redis", "redis-server"),
        notes=(
            ("Features that have a value count. Their bytes are the growth of used_memory divided by their number: Feast's own field, "
            f"a share of the packed row, names, keys and tables. MEMORY USAGE: of {SAMPLE:,} random keys."),
        ),
        aims=tuple(aims),
        charts={"redis": growth_chart("Rebuild of an empty Redis", "horses", "seconds", {"rebuild": points})},
    )  # fmt: skip


def _filled(store: Store, rounds: int) -> tuple[dict[str, Any], Timing]:
    """The contents of a store's Redis after a rebuild from the tables, and the seconds of the rebuilds."""
    build(store, now())
    side = Contender("benchmarks.parts_redis:filling", {"home": str(store.home.root)})
    try:
        found = interleaved({"fill": side}, rounds)["fill"]
        if found.failed:
            raise RuntimeError(found.failed)
        return found.last | _features(connect(store.home), found.last["rows"]), found.spread
    finally:
        embedded_redis.down(store.home)


def _kept_row(of: dict[str, Any], starts: int, spread: Timing) -> tuple[str, ...]:
    return (
        f"{of['horses']:,}",
        f"{starts:,}",
        f"{of['keys']:,}",
        f"{of['features']:,}",
        spread.shown(",.1f"),
        f"{of['used'] / of['keys']:,.0f}",
        f"{of['used'] / of['features']:,.1f}",
        f"{of['per_field']:,.1f}",
        f"{of['used'] / 1e6:,.0f}",
    )


def _keeping_aims(of: dict[str, Any], spread: Timing) -> list[Aim]:
    """The aims, and the figures of a store for them."""
    large, bytes_a_feature = of["horses"] >= HORSES, of["used"] / of["features"]
    return [
        Aim(
            f"Redis ≤ {BYTES_AIM:.0f} bytes a feature in total",
            f"{bytes_a_feature:,.1f} at {of['horses']:,} horses",
            bytes_a_feature <= BYTES_AIM if large else None,
        ),
        Aim(
            f"an empty Redis rebuilt for {HORSES:,} horses ≤ {REBUILD_AIM_S:.0f} s",
            f"{spread.shown(',.1f')} s for {of['horses']:,}",
            spread.median <= REBUILD_AIM_S if large else None,
        ),
    ]


def filling(home: str) -> Callable[[], dict[str, Any]]:
    """A contender that empties Redis, rebuilds it from the tables, and measures its contents."""
    store = Store.open(Settings(home=Path(home)))
    client: Any = connect(store.home)
    with duckdb.connect() as connection:
        tables = str(store.home.offline.resolve() / "horse_form" / "**" / "*.parquet")
        [(horses,)] = connection.execute("SELECT count(DISTINCT horse_id) FROM read_parquet($1)", [tables]).fetchall()

    def once() -> dict[str, Any]:
        client.flushall()
        before = client.info("memory")["used_memory"]
        begun = time.perf_counter()
        report = rebuild(store, client, now())
        taken = time.perf_counter() - begun
        used = client.info("memory")["used_memory"] - before
        rows = sum(report.keys.values())
        return {"taken": taken, "used": used, "keys": client.dbsize(), "rows": rows, "horses": horses}

    return once


def _features(client: Any, rows: int) -> dict[str, float]:
    """The number of features with a value, in all hashes, and their bytes by MEMORY USAGE, in a sample."""
    fields, size, sampled = 0, 0, 0
    keys = client.scan_iter(count=5000, _type="hash")
    for batch in iter(lambda: [key for key, _ in zip(keys, range(5000), strict=False)], []):
        with client.pipeline(transaction=False) as pipe:
            for key in batch:
                pipe.hlen(key)
            fields += sum(pipe.execute())
    sample = [client.randomkey() for _ in range(SAMPLE)]
    for key in sample:
        views = sum(name.startswith(b"_pk:") for name in client.hkeys(key))
        size += client.memory_usage(key)
        sampled += client.hlen(key) - OURS_PER_HASH * views
    return {"features": fields - OURS_PER_HASH * rows, "per_field": size / max(sampled, 1)}


def _size_of(season: Path) -> tuple[int, int]:
    """The number of starts and horses in a runner table."""
    with duckdb.connect() as connection:
        [(starts, horses)] = connection.execute(
            "SELECT count(*) FILTER (status <> 'NR'), count(DISTINCT horse) FROM read_parquet($1)", [str(season)]
        ).fetchall()
    return int(starts), int(horses)
