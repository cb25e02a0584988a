"""State loaded from the starts that a build has measured, in large batches: they need not be read and measured from the log."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from velo.feature_repo.stores.changelog import BY_NAME, engine, scan
from velo.racing.elo import PARTS
from velo.storage import table_versions
from velo.storage.log.format import generation as log_generation
from velo.storage.store import Home
from velo.streams.aggregation.array_fold import ArrayFold
from velo.streams.aggregation.delta_batch import NULL, DeltaBatch
from velo.streams.aggregation.ratings import BETWEEN, MEASURES, Elo, Starter
from velo.streams.batch.rating import hold_versions, ratings_of

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT: Final = "1GB"
RACES_AT_ONCE: Final = 5000
STARTS_AT_ONCE: Final = 20_000


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
        known_at_us: int,
        fold: ArrayFold,
        elo: Elo | None,
        go_on: Callable[[], None],
    ) -> frozenset[int]:
        """Load the measured starts of the current results (`races`, seq to race) into an empty fold; returns their seqs.

        `elo` gets what every result before record `base` earned; it is empty before, or None where nothing is rated. The
        state is as of `known_at_us`. `go_on` is called between batches.
        """
        if not self.results or not self.starts:
            return frozenset()
        with engine(MEMORY_LIMIT) as connection:
            connection.execute("CREATE TEMP TABLE holding AS SELECT unnest($seqs::BIGINT[]) AS seq", {"seqs": [*races]})
            results, starts = (scan(parts, BY_NAME) for parts in (self.results, self.starts))
            # as Arrow: DuckDB imports pandas to answer in numpy
            found = connection.sql(f"SELECT seq FROM {results} SEMI JOIN holding USING (seq)").to_arrow_table()  # noqa: S608
            connection.execute(f"CREATE TEMP VIEW held AS FROM {starts} SEMI JOIN holding USING (seq)")
            go_on()
            if elo is not None:
                results, starts = (
                    f"(FROM {scan(parts, BY_NAME)} WHERE seq < {base})" for parts in (self.results, self.starts)
                )
                _take_over(elo, connection, results, starts)
            for batch in _batches(connection, fold, races, known_at_us):
                go_on()
                fold.restore(batch)
        return frozenset(found["seq"].to_pylist())


def _batches(
    connection: "duckdb.DuckDBPyConnection", fold: ArrayFold, races: Mapping[int, str], known_at_us: int
) -> Iterator[DeltaBatch]:
    """The starts of `held` in order of their off, each race as one message known at `known_at_us`."""
    keys, whole = [*fold.keys.columns], fold.measured.whole
    measures = [
        f"coalesce({name}::BIGINT, {NULL})" if is_whole else f"coalesce({name}::DOUBLE, 'nan')"
        for name, is_whole in whole.items()
    ]
    found = connection.sql(
        f"SELECT seq, epoch_us(off_time) AS off_us, {', '.join((*keys, *measures))} FROM held "  # noqa: S608 declared names
        "ORDER BY off_time, seq, horse_id"
    )
    for table in found.to_arrow_reader(STARTS_AT_ONCE):
        seq, off_us, *columns = table.columns
        texts = {name: column.to_pylist() for name, column in zip(keys, columns, strict=False)}
        values = [column.to_numpy() for column in columns[len(keys) :]]
        of_race = seq.to_numpy()
        first = np.flatnonzero(np.append(True, of_race[1:] != of_race[:-1]))
        message = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(of_race))))
        yield DeltaBatch(
            np.full(len(first), known_at_us, np.int64),
            [races[each] for each in of_race[first].tolist()],
            message,
            np.ones(len(of_race), np.int64),
            off_us.to_numpy(),
            fold.measured,
            fold.measured.bits(values[: fold.measured.wholes], values[fold.measured.wholes :]),
            fold.keys.codes_of_texts(texts),
        )


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
