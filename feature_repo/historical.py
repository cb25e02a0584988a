"""`velo features`: read a file of entities and instants, and write the same rows with their features, through Feast."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from velo.errors import UserError
from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.families import FAMILIES
from velo.storage.store import Store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class FeaturesReport:
    """The number of rows and columns written, and the views whose keys the entities have."""

    rows: int
    columns: int
    views: tuple[str, ...]


def features_for(store: Store, entities: Path, out: Path) -> FeaturesReport:
    """Join every view whose keys the entities have, as of each row's `event_timestamp` (UTC if it has no offset).

    Request-time features are added if their inputs are among the columns. Every row is kept, in order. Raises `UserError`
    for a file that cannot be read or written, or has no entity column.
    """
    frame = _read(entities)
    columns = set(frame.columns)
    if "event_timestamp" not in columns:
        raise UserError(f"{entities} has no column event_timestamp: add the instant at which to look up each row")
    views = [family for family in FAMILIES if columns.issuperset(family.keys)]
    if not views:
        keys = ", ".join(sorted({key for family in FAMILIES for key in family.keys}))
        raise UserError(f"{entities} has no entity column: name at least one of {keys}")
    from velo.feature_repo.feast_store import apply
    from velo.feature_repo.objects import ON_DEMAND

    refs = [f"{family.view}:{feature.name}" for family in views for feature in family.features]
    refs += [f"{family.view}:valid_until" for family in views]
    inputs = {column.name for column in request_time.REQUEST}
    if request_time.STORED_VIEW in {family.view for family in views} and columns >= inputs:
        refs += [f"{ON_DEMAND}:{column.name}" for column in request_time.FEATURES]
    joined = apply(store).get_historical_features(entity_df=frame, features=refs, full_feature_names=True).to_arrow()
    _write(joined, out)
    return FeaturesReport(joined.num_rows, joined.num_columns, tuple(family.view for family in views))


def _read(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError, UnicodeDecodeError) as refused:
        raise UserError(
            f"{path} cannot be read ({' '.join(str(refused).split())}): give a Parquet or CSV file"
        ) from None
    if "event_timestamp" in frame:
        try:
            frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True, format="ISO8601")
        except (ValueError, TypeError) as refused:
            raise UserError(
                f"{path}: event_timestamp is not a timestamp ({refused}): write ISO 8601 with a UTC offset"
            ) from None
    for column in {request.name for request in request_time.REQUEST} & set(frame.columns):
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
    return frame


def _write(table: object, out: Path) -> None:
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
