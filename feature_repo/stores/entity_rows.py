"""Convert the entity rows of a point-in-time join to Arrow with UTC instants and text keys."""

from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df

from velo.errors import UserError
from velo.feature_repo.stores.changelog import Table


def entity_rows(entity_df: pd.DataFrame | pa.Table) -> tuple[pa.Table, str]:
    """The entity rows as Arrow, and the name of their column of instants (converted to UTC, µs; naive instants are UTC)."""
    if isinstance(entity_df, pa.Table):
        table, frame = entity_df, entity_df.schema.empty_table().to_pandas()
    else:
        frame = entity_df
        try:
            table = pa.Table.from_pandas(entity_df, preserve_index=False).replace_schema_metadata(None)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as mixed:
            raise UserError(f"the entity rows have a column of mixed types ({mixed}): cast ids to text") from None
    at = infer_event_timestamp_from_entity_df(dict(zip(frame.columns, frame.dtypes, strict=True)))
    column = table.column(at)
    if not pa.types.is_timestamp(column.type):
        parsed = pd.to_datetime(column.to_pandas(), utc=True)
        column = pa.chunked_array([pa.Array.from_pandas(parsed)])
    if column.type.tz is None:
        column = column.cast(pa.timestamp("us"), safe=False)
    instants = column.cast(pa.timestamp("us", "UTC"), safe=False)
    return table.set_column(table.column_names.index(at), at, instants), at


def with_text_keys(rows: pa.Table, tables: Sequence[Table]) -> pa.Table:
    """Convert key columns that are categories, or all null, to text."""
    for key in {column for table in tables for _, column in table.keys}:
        if key in rows.column_names:
            kind = rows.column(key).type
            if pa.types.is_null(kind) or pa.types.is_dictionary(kind):
                rows = rows.set_column(rows.column_names.index(key), key, rows.column(key).cast(pa.string()))
    return rows
