"""The one step of the batch that is not SQL: a start's Elo gain depends on every earlier result, in order.

The stream's own `Elo` (`velo.streams.aggregation.ratings`) rates race by race, and the starts that a build has just measured get
their gains as columns beside their measures. It takes some fifteen microseconds per start.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from velo.errors import UserError
from velo.racing.elo import E9, EVEN, PARTS, RatedPart
from velo.streams.aggregation.ratings import BETWEEN, MEASURES, Elo, Starter
from velo.streams.aggregation.spill import FileSpill

if TYPE_CHECKING:
    import duckdb

RACES_AT_ONCE: Final = 5000
BUILD_AGAIN: Final = "make room there and repeat the build; where a file is damaged or gone, run `velo build --whole`"
UNRATED: Final = (0, *(None for _ in PARTS))


def rate(
    connection: "duckdb.DuckDBPyConnection",
    folder: Path,
    before: tuple[str, str] | None,
    new: Sequence[tuple[Path, Path]],
) -> None:
    """Add the gains to the parts of starts in `new`: pairs of a part of results and a part of starts, in the log's order.

    `before` is the SQL of the results and starts that are rated already, None for none. The gains of earlier races are spilled
    to a file in `folder`, so that memory does not grow with the log. Parts are replaced atomically. Raises `UserError` where a
    file cannot be read or written.
    """
    elo = Elo(FileSpill(folder, BUILD_AGAIN))
    versions: dict[str, int] = {}
    try:
        if before is not None:
            # only races that may be amended now: their earlier gains are needed to retract them
            races = pa.concat_tables([pq.read_table(results, columns=["race_id"]) for results, _ in new])
            versions = take_over(elo, connection, *before, races.column("race_id").unique().to_pylist())
        for results_part, starts_part in new:
            _rate_part(elo, versions, pq.read_table(results_part), starts_part)
    except (OSError, pa.ArrowInvalid) as failed:
        raise UserError(f"cannot rate the starts kept at {folder} ({failed}): {BUILD_AGAIN}") from failed


def take_over(
    elo: Elo, connection: "duckdb.DuckDBPyConnection", results: str, starts: str, races: Sequence[str] | None = None
) -> dict[str, int]:
    """Load the gains of measured results into an empty `elo`, and spill those of some `races`, or of all.

    Returns the current version of each race. `results` and `starts` are the SQL of their rows.
    """
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE held_versions AS
        SELECT race_id, result_version, min(seq) AS seq FROM {results} GROUP BY race_id, result_version
        QUALIFY row_number() OVER (PARTITION BY race_id ORDER BY result_version DESC) = 1"""  # noqa: S608 our own parts
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW rated AS "  # noqa: S608
        f"SELECT starts.* FROM {starts} AS starts SEMI JOIN held_versions USING (seq) WHERE elo_rated = 1"
    )
    for place, part in enumerate(PARTS):
        elo.credit(place, _ratings(connection, part))
    if races is not None:
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE asked AS SELECT unnest($races::VARCHAR[]) AS race_id", {"races": races}
        )
    asked = "" if races is None else "SEMI JOIN asked USING (race_id)"
    entries = connection.execute(
        f"""SELECT race_id, CAST(json_group_array(json_array({", ".join((*Starter._fields, *MEASURES[1:]))})) AS VARCHAR)
        FROM rated {asked} GROUP BY race_id"""  # noqa: S608
    )
    while some := entries.fetchmany(RACES_AT_ONCE):
        for race_id, text in some:
            elo.put_aside(race_id, text.encode())
    return dict(connection.execute("SELECT race_id, result_version FROM held_versions").fetchall())


def _ratings(connection: "duckdb.DuckDBPyConnection", part: RatedPart) -> list[tuple[str, int, int]]:
    """Return each key of a part with the sum of its gains in billionths and its number of rated starts."""
    known = " AND ".join(f"{key} IS NOT NULL" for key in part.keys)
    return connection.execute(
        f"SELECT concat_ws($between, {', '.join(part.keys)}), (sum({part.measure}) - {EVEN * E9} * count(*))::BIGINT, count(*) "  # noqa: S608
        f"FROM rated WHERE {known} GROUP BY ALL",
        {"between": BETWEEN},
    ).fetchall()


def _rate_part(elo: Elo, versions: dict[str, int], results: pa.Table, part: Path) -> None:
    starts = pq.read_table(part)
    keys = [starts.column(name).to_pylist() for name in Starter._fields]
    rows = {seq: (begin, end) for seq, begin, end in _runs(starts.column("seq").to_numpy())}
    gains: list[tuple[int | None, ...]] = [UNRATED] * starts.num_rows
    ordered = results.select(["seq", "race_id", "result_version"]).sort_by("seq")
    for seq, race_id, version in zip(*(column.to_pylist() for column in ordered.columns), strict=True):
        held = versions.get(race_id)
        if held is not None and version <= held:
            continue
        versions[race_id] = version
        begin, end = rows.get(seq, (0, 0))
        starters = [Starter(*values) for values in zip(*(column[begin:end] for column in keys), strict=True)]
        if got := elo.tell(race_id, starters):
            gains[begin:end] = [(1, *of_start) for of_start in got]
    for place, name in enumerate(MEASURES):
        starts = starts.append_column(name, pa.array([of_start[place] for of_start in gains], pa.int64()))
    aside = part.with_name("." + part.name)
    pq.write_table(starts, aside, compression="lz4")
    aside.replace(part)


def _runs(seqs: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yield each seq with the begin and end of its rows, which are contiguous."""
    begins = np.flatnonzero(np.r_[True, seqs[1:] != seqs[:-1]]) if seqs.size else np.array([], dtype=np.intp)
    yield from zip(seqs[begins].tolist(), begins.tolist(), np.append(begins, seqs.size)[1:].tolist(), strict=True)
