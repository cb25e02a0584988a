"""Shards loaded from the starts that a build has measured: each key's sums and history at once, not start by start.

Measuring a start from the log's JSON and aggregating it takes 80 µs; summing in DuckDB and loading key by key takes a tenth
of that. `WindowAggregator.restore` is the plain twin: tests hold the two to the same shards.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.stores.changelog import BY_NAME, engine, scan
from velo.racing.elo import PARTS
from velo.storage import table_versions
from velo.storage.log.format import generation as log_generation
from velo.storage.store import Home
from velo.streams.aggregation.layout import LANE_BITS, DeltaLayout, Key, RememberedStart, Sums
from velo.streams.aggregation.ratings import BETWEEN, MEASURES, Elo, Starter
from velo.streams.aggregation.routing import shard_of
from velo.streams.aggregation.window_state import ShardState, WindowAggregator
from velo.streams.batch.rating import hold_versions, ratings_of
from velo.streams.batch.render import has_key

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT: Final = "1GB"
RACES_AT_ONCE: Final = 5000
LANE_BYTES: Final = LANE_BITS // 8


@dataclass(frozen=True, slots=True)
class MeasuredResults:
    """The Parquet parts of the results and measured starts in the current tables, which hold the log before `next_seq`."""

    results: Sequence[Path]
    starts: Sequence[Path]
    next_seq: int

    @classmethod
    def of(cls, home: Home, fingerprint: str) -> "MeasuredResults":
        """Those of a store; empty where the tables are of another log or of other formulas."""
        folder = table_versions.current(home)
        if folder is None:
            return cls((), (), 0)
        manifest = table_versions.manifest_of(folder)
        if (manifest.log_generation, manifest.fingerprint) != (log_generation(home), fingerprint):
            return cls((), (), 0)
        results, starts = (sorted((folder / kind).glob("*.parquet")) for kind in ("results", "starts"))
        return cls(results, starts, manifest.next_seq if results and starts else 0)

    def load(
        self,
        base: int,
        races: Mapping[int, str],
        shards: Sequence[tuple[Family, WindowAggregator, Sequence[ShardState]]],
        elo: Elo | None,
        go_on: Callable[[], None],
    ) -> frozenset[int]:
        """Load the measured starts of the current results (`races`, seq to race) into empty shards; returns their seqs.

        `elo` gets what every result before record `base` earned; it is empty before, or None where nothing is rated. The
        shards are at the day of the state already. `go_on` is called between families.
        """
        if not self.results or not self.starts:
            return frozenset()
        with engine(MEMORY_LIMIT) as connection:
            connection.execute("CREATE TEMP TABLE holding AS SELECT unnest($seqs::BIGINT[]) AS seq", {"seqs": [*races]})
            results, starts = (scan(parts, BY_NAME) for parts in (self.results, self.starts))
            found = connection.sql(f"SELECT seq FROM {results} SEMI JOIN holding USING (seq)").fetchnumpy()  # noqa: S608
            connection.execute(f"CREATE TEMP VIEW held AS FROM {starts} SEMI JOIN holding USING (seq)")
            go_on()
            if elo is not None:
                results, starts = (
                    f"(FROM {scan(parts, BY_NAME)} WHERE seq < {base})" for parts in (self.results, self.starts)
                )
                _take_over(elo, connection, results, starts)
            for family, aggregator, states in shards:
                go_on()
                _load_family(connection, family, aggregator, states, races)
        return frozenset(found["seq"].tolist())


def _load_family(
    connection: "duckdb.DuckDBPyConnection",
    family: Family,
    aggregator: WindowAggregator,
    states: Sequence[ShardState],
    races: Mapping[int, str],
) -> None:
    layout, count = DeltaLayout.of(family), len(states)
    daily: dict[Key, list[tuple[int, Sums]]] = {}
    if family.windows:
        since = f"race_day > {states[0].today - max(family.windows)}"
        for key, day, sums in _summed(connection, family, "race_day", layout.windowed, since):
            daily.setdefault(key, []).append((day, sums))
    if layout.career or layout.remembered:
        starts_in_order = _remembered(connection, family, layout, races) if layout.remembered else []
        at = 0
        for key, starts, sums in _summed(connection, family, "count(*)", layout.career):
            history = starts_in_order[at : at + starts] if starts_in_order else []
            aggregator.put(states[shard_of(key[0], count)], key, sums, daily.pop(key, ()), history)
            at += starts
    for key, days in daily.items():
        aggregator.put(states[shard_of(key[0], count)], key, 0, days, [])


def _summed(
    connection: "duckdb.DuckDBPyConnection", family: Family, beside: str, measures: Sequence[str], where: str = "true"
) -> Iterator[tuple[Key, int, Sums]]:
    """(key, value of `beside`, sums) for each key in order. A column as `beside` groups: one item for each of its values."""
    keys = ", ".join(family.keys)
    sums = "".join(f", sum(coalesce({measure}, 0))::BIGINT AS sum_{place}" for place, measure in enumerate(measures))
    found = connection.sql(
        f"SELECT {keys}, {beside} AS beside{sums} FROM held WHERE {has_key(family)} AND {where} "  # noqa: S608
        f"GROUP BY ALL ORDER BY {keys}, beside"
    ).fetchnumpy()
    lanes = [found[f"sum_{place}"] for place in range(len(measures))]
    packed = np.column_stack(lanes).astype("<i8").tobytes() if lanes else b""
    size = LANE_BYTES * len(lanes)
    named = zip(*(found[key].tolist() for key in family.keys), strict=True)
    for place, (key, value) in enumerate(zip(named, found["beside"].tolist(), strict=True)):
        yield key, value, int.from_bytes(packed[place * size : (place + 1) * size], "little")


def _remembered(
    connection: "duckdb.DuckDBPyConnection", family: Family, layout: DeltaLayout, races: Mapping[int, str]
) -> list[RememberedStart]:
    """The remembered values of every start, in order of its key and then of its off."""
    measures = "".join(f", {measure} AS value_{place}" for place, measure in enumerate(layout.remembered))
    horse = ", horse_id AS horse" if layout.several_a_race else ""
    found = connection.sql(
        f"SELECT seq, epoch_us(off_time) AS off_us{horse}{measures} FROM held WHERE {has_key(family)} "  # noqa: S608
        f"ORDER BY {', '.join((*family.keys, *family.start_order))}"
    ).fetchnumpy()
    # the same string object for all starts of a race: the histories keep them
    race_ids = [races[seq] for seq in found["seq"].tolist()]
    values = [_or_none(found[f"value_{place}"]) for place in range(len(layout.remembered))]
    horses = found["horse"].tolist() if layout.several_a_race else repeat("", len(race_ids))
    return list(zip(found["off_us"].tolist(), race_ids, horses, *values))  # noqa: B905  repeat has a length of its own


def _take_over(elo: Elo, connection: "duckdb.DuckDBPyConnection", results: str, starts: str) -> None:
    """Load the gains of measured results into an empty `elo`. `results` and `starts` are the SQL of their rows."""
    hold_versions(connection, results, starts)
    for place, part in enumerate(PARTS):
        key = f"concat_ws('{BETWEEN}', {', '.join(part.keys)})"
        elo.credit(place, connection.execute(ratings_of(part, key)).fetchall())
    entries = connection.execute(
        f"""SELECT race_id, CAST(json_group_array(json_array({", ".join((*Starter._fields, *MEASURES[1:]))})) AS VARCHAR)
        FROM rated GROUP BY race_id"""  # noqa: S608 our own names
    )
    while some := entries.fetchmany(RACES_AT_ONCE):
        for race_id, starts_json in some:
            elo.put_aside(race_id, starts_json.encode())


def _or_none(column: Any) -> list[Any]:
    """The values of a column, None for null."""
    values = np.ma.getdata(column)
    if np.ma.is_masked(column):
        values = values.astype(object)
        values[np.ma.getmaskarray(column)] = None
    listed: list[Any] = values.tolist()
    return listed
