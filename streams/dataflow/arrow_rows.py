"""Rows as Arrow columns, made from buffers: to convert Python values pyarrow would import pandas."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.families import Family
from velo.streams.aggregation.key_codes import Codes
from velo.streams.aggregation.vectorized import Rows, VectorizedColumns

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


def batch_of(rows: Rows, arrays: VectorizedColumns, schema: "pa.Schema", created_us: int) -> "pa.RecordBatch":
    """Return rows as columns of a `schema_of`; `created_us` is when they are written."""
    import pyarrow as pa

    codes = rows.keys.by_column(rows.key_columns, rows.slots)
    columns = [
        _texts(rows.keys.columns[name].texts, of_column)
        for name, of_column in zip(rows.key_columns, codes, strict=True)
    ]
    instants = rows.event_us.astype(np.float64), np.full(len(rows), created_us, np.float64), rows.valid_until()
    numbers = zip((*instants, *arrays.of(rows)), list(schema)[len(columns) :], strict=True)
    columns += [column_of(values, field.type) for values, field in numbers]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _texts(texts: Sequence[str], codes: Codes) -> "pa.Array":
    import pyarrow as pa

    used, places = np.unique(codes, return_inverse=True)
    encoded = [texts[code].encode() for code in used.tolist()]
    ends = np.zeros(len(encoded) + 1, dtype=np.int32)
    np.cumsum(np.fromiter(map(len, encoded), np.int32, len(encoded)), out=ends[1:])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    named = pa.Array.from_buffers(pa.string(), len(encoded), buffers)
    indices = pa.Array.from_buffers(pa.int32(), len(places), [None, pa.py_buffer(places.astype(np.int32))])
    return pa.DictionaryArray.from_arrays(indices, named).dictionary_decode()


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
