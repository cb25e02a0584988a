"""Join all features of the catalogue to entity rows as of each row's instant: one Feast call for training and `--as-of`.

The result has one row per entity row, in order. Null numbers become NaN.
"""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.columns import ASKED, STORED
from velo.feature_repo.catalogue.families import FAMILIES
from velo.storage.store import Store

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore

KEYS: Final = tuple(dict.fromkeys(key for family in FAMILIES for key in family.keys))
ENTITY_COLUMNS: Final = (
    *KEYS, *(column.name for column in request_time.REQUEST), "draw", "body_weight_lbs", "event_timestamp"
)  # fmt: skip
"""Columns of an entity row: the keys (text), the race (`request_time.REQUEST`, draw, body weight), the instant (UTC, µs)."""


def joined_at(store: Store, entities: "pa.Table", feast: "FeatureStore | None" = None) -> "pa.Table":
    """Join feature service `velo_v1` to entity rows of `ENTITY_COLUMNS`; columns are named `view__feature`.

    Registers the catalogue first, unless `feast` over the store is passed. Raises `UserError` if no tables were built.
    """
    from velo.feature_repo.feast_store import apply
    from velo.feature_repo.objects import SERVICE

    feast = feast or apply(store)
    service = feast.get_feature_service(SERVICE)
    job = feast.get_historical_features(
        entity_df=entities.select(ENTITY_COLUMNS), features=service, full_feature_names=True
    )
    joined = job.to_arrow()
    if joined.num_rows != entities.num_rows:
        raise RuntimeError(f"{entities.num_rows} entity rows became {joined.num_rows}")
    return joined


def base_of(joined: "pa.Table") -> dict[str, Any]:
    """The columns of `columns.BASE` from a joined table, as `columns.matrix` takes them."""
    base: dict[str, Any] = {name: numbers(joined.column(name)) for name in (*STORED, *ASKED)}
    for view in request_time.VIEWS:
        for name, feature in zip(view.columns, view.features, strict=True):
            values = joined.column(name)
            base[name] = np.array(values.to_pylist(), dtype=object) if feature.kind == "text" else numbers(values)
    return base


def numbers(column: "pa.ChunkedArray") -> NDArray[np.float64]:
    """Convert a column of numbers to doubles, NaN for null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False))
