"""Data frames of the caller's library to Arrow and back: pandas, polars and Arrow, through narwhals or the Arrow stream interface."""

from typing import Any

import narwhals as nw
import pyarrow as pa

from velo.api.values import Library
from velo.errors import UserError


def to_arrow(frame: object) -> pa.Table:
    """Return a frame as Arrow, with plain text for categories; an index of pandas is left out.

    A column of mixed types becomes text. Raises `UserError` for what is no frame, or has two columns of one name.
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
