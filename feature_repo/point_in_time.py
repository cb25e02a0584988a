"""All features of the catalogue for entity rows, as of each row's instant: one call of Feast for training and `--as-of`.

The answer has a row for each entity row, in order; numbers with NaN for null.
"""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.columns import ASKED, SINCE_LAST_RUN, STORED
from velo.feature_repo.catalogue.families import FAMILIES
from velo.storage.store import Store

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore

KEYS: Final = tuple(dict.fromkeys(key for family in FAMILIES for key in family.keys))
ENTITY_COLUMNS: Final = (
    *KEYS, *(column.name for column in request_time.REQUEST), "draw", "body_weight_lbs", "event_timestamp"
)  # fmt: skip
"""What an entity row has: the keys (text), what the race says (`request_time.REQUEST`, draw, body weight), the instant (UTC, µs)."""


def joined_at(store: Store, entities: "pa.Table", feast: "FeatureStore | None" = None) -> "pa.Table":
    """Feature service `velo_v1` joined to entity rows of `ENTITY_COLUMNS`; columns are named `view__feature`.

    Registers the catalogue first, unless given Feast over the store. Raises `UserError` where no tables were built.
    """
    from velo.feature_repo.feast_store import apply
    from velo.feature_repo.objects import SERVICE

    over = feast or apply(store)
    service = over.get_feature_service(SERVICE)
    job = over.get_historical_features(
        entity_df=entities.select(ENTITY_COLUMNS), features=service, full_feature_names=True
    )
    joined = job.to_arrow()
    if joined.num_rows != entities.num_rows:
        raise RuntimeError(f"{entities.num_rows} entity rows became {joined.num_rows}")
    return joined


def base_of(joined: "pa.Table") -> dict[str, Any]:
    """The columns of `columns.BASE` from Feast's answer, as `columns.matrix` takes them."""
    base: dict[str, Any] = {name: numbers(joined.column(name)) for name in (*STORED, *ASKED)}
    for name, column in zip(SINCE_LAST_RUN, request_time.FEATURES, strict=True):
        values = joined.column(name)
        base[name] = np.array(values.to_pylist(), dtype=object) if column.kind == "text" else numbers(values)
    return base


def numbers(column: "pa.ChunkedArray") -> NDArray[np.float64]:
    """A column of numbers as doubles, NaN for null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False))
