"""Packed rows as Arrow columns, made from buffers: to convert Python values pyarrow would import pandas."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.families import Family
from velo.streams.aggregation.vectorized import VectorizedColumns
from velo.streams.aggregation.window_state import PackedRow

if TYPE_CHECKING:
    import pyarrow as pa


def schema_of(family: Family) -> "pa.Schema":
    """Return the columns of a view's parts, as the batch writes them."""
    import pyarrow as pa

    instant = pa.timestamp("us", "UTC")
    kinds = {"int": pa.int32(), "float": pa.float64()}
    return pa.schema(
        [
            *((key, pa.string()) for key in family.keys),
            ("event_timestamp", instant),
            ("created_timestamp", instant),
            ("valid_until", instant),
            *((feature.name, kinds[feature.kind]) for feature in family.features),
        ]
    )


def batch_of(
    rows: Sequence[PackedRow], arrays: VectorizedColumns, schema: "pa.Schema", created_us: int
) -> "pa.RecordBatch":
    """Return rows as columns of a `schema_of`; `created_us` is when they are written."""
    import pyarrow as pa

    count = len(rows)
    columns = [_texts(each) for each in zip(*[row[0] for row in rows], strict=True)]
    instants = (
        np.array([row[1] for row in rows], dtype=np.float64),
        np.full(count, created_us, dtype=np.float64),
        np.array([row[5] for row in rows], dtype=np.float64),
    )
    numbers = zip((*instants, *arrays.of(rows)), list(schema)[len(columns) :], strict=True)
    columns += [column_of(values, field.type) for values, field in numbers]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _texts(texts: Sequence[str]) -> "pa.Array":
    import pyarrow as pa

    encoded = [item.encode() for item in texts]
    ends = np.zeros(len(encoded) + 1, dtype=np.int32)
    np.cumsum(np.fromiter(map(len, encoded), np.int32, len(encoded)), out=ends[1:])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def column_of(values: NDArray[np.float64], as_type: "pa.DataType") -> "pa.Array":
    """Return values, NaN for null, as a column of a `schema_of`; an instant in µs is exact as a double until the year 2255."""
    import pyarrow as pa

    whole = np.int32 if pa.types.is_int32(as_type) else np.int64
    kind = np.float64 if pa.types.is_float64(as_type) else whole
    unknown = np.isnan(values)
    validity = None
    if unknown.any():
        validity = pa.py_buffer(np.packbits(~unknown, bitorder="little"))
        values = np.where(unknown, 0.0, values)
    return pa.Array.from_buffers(as_type, len(values), [validity, pa.py_buffer(values.astype(kind, copy=False))])
