"""Data frames: the caller's (pandas, polars, Arrow) to Arrow and back, and the tables of a race and of its scores.

Frames are converted through narwhals or the Arrow stream interface. A table of a race or of scores has one row per runner.
"""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import narwhals as nw
import pyarrow as pa

from velo.api.values import Library, files
from velo.errors import UserError

if TYPE_CHECKING:
    from velo.serving.scoring.scored import ScoredRace


INSTANT: Final = pa.timestamp("us", "UTC")
TEXTS: Final = pa.list_(pa.string())
RACE: Final = pa.schema(
    [
        ("race_id", pa.string()), ("race_no", pa.int32()), ("course", pa.string()), ("race_name", pa.string()),
        ("off_time", INSTANT), ("going", pa.string()), ("distance_m", pa.float64()), ("race_class", pa.int32()),
        ("surface", pa.string()), ("as_of", INSTANT), ("runner_no", pa.int32()), ("draw", pa.int32()),
        ("horse_id", pa.string()), ("horse", pa.string()), ("jockey_id", pa.string()), ("jockey", pa.string()),
        ("trainer_id", pa.string()), ("trainer", pa.string()), ("age", pa.int32()), ("sex", pa.string()),
        ("weight_lbs", pa.float64()), ("official_rating", pa.int32()), ("headgear", pa.string()),
        ("non_runner", pa.bool_()), ("odds", pa.float64()), ("status", pa.string()), ("position", pa.int32()),
        ("sp_decimal", pa.float64()),
    ]
)  # fmt: skip
SCORE: Final = pa.schema(
    [
        ("race_id", pa.string()), ("as_of", INSTANT), ("runner_no", pa.int32()), ("draw", pa.int32()),
        ("horse_id", pa.string()), ("horse", pa.string()), ("jockey", pa.string()), ("trainer", pa.string()),
        ("probability", pa.float64()), ("low", pa.float64()), ("high", pa.float64()), ("fair_odds", pa.float64()),
        ("blended", pa.float64()), ("market_odds", pa.float64()), ("market_source", pa.string()),
        ("missing", TEXTS), ("stale", TEXTS), ("drivers", TEXTS), ("model", pa.string()), ("gate", pa.string()),
        ("mode", pa.string()), ("notes", TEXTS),
    ]
)  # fmt: skip


def to_arrow(frame: object) -> pa.Table:
    """Return a frame as Arrow, with plain text for categories; an index of pandas is left out.

    A column of mixed types becomes text. Raises `UserError` for an object that is not a frame, and for two columns of one name.
    """
    if isinstance(frame, pa.Table):
        return _plain(frame)
    try:
        known = nw.from_native(frame, eager_only=True, pass_through=True)
    except nw.exceptions.DuplicateError as twice:
        names = " ".join(str(twice).split())
        raise UserError(f"the frame has two columns of one name ({names}): leave one of them") from None
    if isinstance(known, nw.DataFrame):
        return _plain(pa.table({str(name): _column(known.get_column(name)) for name in known.columns}))
    if hasattr(frame, "__arrow_c_stream__"):
        return _plain(pa.table(frame))
    raise UserError(
        f"a {type(frame).__name__} is not a data frame: give a frame of pandas or polars, an Arrow table, or a file"
    )


def tables(source: Any) -> list[Path | pa.Table]:
    """Return the files of a source, or its frame as an Arrow table."""
    return [*files(source)] if isinstance(source, str | os.PathLike | list | tuple) else [to_arrow(source)]


def like(table: pa.Table, frame: object) -> Any:
    """Return a table in the library of `frame`; a pandas frame keeps its index where the rows are as many."""
    known = nw.from_native(frame, eager_only=True, pass_through=True)
    if isinstance(frame, pa.Table) or not isinstance(known, nw.DataFrame):
        return table
    made = nw.from_arrow(table, backend=known.implementation).to_native()
    index = nw.maybe_get_index(known)
    if index is not None and len(made) == len(index):
        made.index = index
    return made


def in_library(table: pa.Table, library: Library) -> Any:
    """Return a table as a frame of one of `LIBRARIES`."""
    return table if library == "pyarrow" else nw.from_arrow(table, backend=library).to_native()


def _column(series: "nw.Series[Any]") -> pa.Array:
    try:
        return series.to_arrow()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        values = zip(series.to_list(), series.is_null().to_list(), strict=True)
        return pa.array([None if missing else str(value) for value, missing in values], pa.string())


def _plain(table: pa.Table) -> pa.Table:
    fields = [field.with_type(_plain_type(field.type)) for field in table.schema]
    return table.replace_schema_metadata(None).cast(pa.schema(fields))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def race_table(card: Mapping[str, Any], as_of: datetime) -> pa.Table:
    """Return the runners and then the non-runners of a card as `velo.serving.api.days.card_of` returns it."""
    race = {name: card[name] for name in RACE.names if name in card} | {
        "off_time": datetime.fromisoformat(card["off_time"]),
        "as_of": as_of,
    }
    rows = [
        race | runner | {"non_runner": non_runner}
        for non_runner, runners in ((False, card["declared"]), (True, card["non_runners"]))
        for runner in runners
    ]
    return pa.Table.from_pylist(rows, schema=RACE)


def score_table(scored: "ScoredRace") -> pa.Table:
    """Return a scored race, its most likely runner first; `low` and `high` bound the win rate at 95 %, null without bounds.

    `missing` and `stale` name the feature views a runner has no row in, or an outdated one. Model, gate, mode and notes
    are those of the race, in every row.
    """
    race = {name: getattr(scored, name) for name in ("race_id", "as_of", "model", "gate", "mode", "notes")}
    rows = [
        race
        | {name: getattr(runner, name) for name in SCORE.names if name not in race and hasattr(runner, name)}
        | dict(zip(("low", "high"), runner.interval or (None, None), strict=True))
        | {"drivers": [driver.words for driver in runner.drivers]}
        for runner in scored.runners
    ]
    return pa.Table.from_pylist(rows, schema=SCORE)
