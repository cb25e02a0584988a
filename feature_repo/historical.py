"""Features of entities at given instants, through Feast's point-in-time join: for `velo features` and for Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from velo.errors import UserError
from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.families import FAMILIES
from velo.storage.store import Store

AT: Final = "event_timestamp"


@dataclass(frozen=True, slots=True)
class JoinedFeatures:
    """The entity rows with their features, in order, and the views that could be joined on the entity columns given."""

    table: pa.Table
    views: tuple[str, ...]


def features_at(store: Store, entities: pa.Table, source: str) -> JoinedFeatures:
    """Join every view whose keys the entities have, as of each row's `event_timestamp` (UTC if it has no offset).

    Request-time features are added if their inputs are among the columns. Every row is kept, in order; columns are named `view__feature`. Raises `UserError`, which names `source`, for rows without entities or instants.
    """
    given = _typed(entities, source)
    columns = set(given.column_names)
    views = [family for family in FAMILIES if columns.issuperset(family.keys)]
    if not views:
        keys = ", ".join(sorted({key for family in FAMILIES for key in family.keys}))
        raise UserError(f"{source} has no entity column: name at least one of {keys}")
    from velo.feature_repo.feast_store import apply

    refs = [f"{family.view}:{feature.name}" for family in views for feature in family.features]
    refs += [f"{family.view}:valid_until" for family in views]
    inputs = {column.name for column in request_time.REQUEST}
    if columns >= inputs:
        joinable = {family.view for family in views}
        requested = [view for view in request_time.VIEWS if joinable.issuperset(view.views)]
        refs += [f"{view.name}:{feature.name}" for view in requested for feature in view.features]
    joined = apply(store).get_historical_features(entity_df=given, features=refs, full_feature_names=True).to_arrow()
    return JoinedFeatures(joined, tuple(family.view for family in views))


def read_entities(path: Path) -> pa.Table:
    """Read a Parquet or CSV file of entity rows, a CSV's columns all text; raises `UserError` where it cannot be read."""
    import pandas as pd
    import pyarrow.parquet

    try:
        if path.suffix == ".csv":
            return pa.Table.from_pandas(pd.read_csv(path, dtype=str), preserve_index=False).replace_schema_metadata(
                None
            )
        return pyarrow.parquet.ParquetFile(path).read()
    except (OSError, ValueError) as refused:
        raise UserError(
            f"{path} cannot be read ({' '.join(str(refused).split())}): give a Parquet or CSV file"
        ) from None


def write(table: pa.Table, out: Path) -> None:
    """Write a table as CSV where the file is named so, else as Parquet; raises `UserError` where it cannot be written."""
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if out.suffix == ".csv":
            pyarrow.csv.write_csv(table, out)
        else:
            pyarrow.parquet.write_table(table, out)
    except OSError as refused:
        raise UserError(
            f"cannot write {out} ({refused.strerror or refused}): name a file in a folder you may write to"
        ) from None


def _typed(entities: pa.Table, source: str) -> pa.Table:
    """Return the entities with instants as UTC timestamps and the request's inputs as numbers, blank where they are none."""
    if AT not in entities.column_names:
        raise UserError(f"{source} has no column {AT}: add the instant at which to look up each row")
    given = entities.set_column(entities.column_names.index(AT), AT, _instants(entities.column(AT), source))
    for name in {column.name for column in request_time.REQUEST} & set(given.column_names):
        column = given.column(name)
        if pa.types.is_string(column.type):
            import pandas as pd

            numbers = pd.to_numeric(column.to_pandas(), errors="coerce").astype("float64")
            given = given.set_column(given.column_names.index(name), name, pa.array(numbers, from_pandas=True))
    return given


def _instants(column: pa.ChunkedArray, source: str) -> pa.ChunkedArray:
    if pa.types.is_string(column.type):
        import pandas as pd

        try:
            parsed = pd.to_datetime(column.to_pandas(), utc=True, format="ISO8601")
        except (ValueError, TypeError) as refused:
            raise UserError(
                f"{source}: {AT} is not a timestamp ({refused}): write ISO 8601 with a UTC offset"
            ) from None
        column = pa.chunked_array([pa.Array.from_pandas(parsed)])
    elif pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if not pa.types.is_timestamp(column.type):
        raise UserError(f"{source}: {AT} is not a timestamp but {column.type}: give timestamps or ISO 8601 text")
    if column.null_count:
        row = pc.index(column.is_null(), value=True).as_py() + 1
        raise UserError(f"{source}: row {row} has no {AT}: fill it in, or leave the row out")
    return column
