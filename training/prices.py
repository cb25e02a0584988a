"""Prices told before the off: what could be had at decision time, and where the market closed.

A price is of the latest snapshot of its race, whoever's it is, as `velo.racing.cards.declared_at` takes it.
"""

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import pyarrow as pa

from velo.feature_repo.point_in_time import numbers
from velo.feature_repo.stores.parts import Snapshot
from velo.storage.store import Home
from velo.training.by_race import Floats
from velo.training.dataset import TrainingSet
from velo.training.entity_rows import told


@dataclass(frozen=True, slots=True)
class Prices:
    """Decimal odds of each row of a training set, NaN where none: at decision time (`taken`), and the last (`closing`).

    The last is SP, and where a runner has none, the last snapshot before the off.
    """

    taken: Floats
    closing: Floats


def prices(home: Home, rows: TrainingSet) -> Prices:
    """The prices of a training set's rows, in their order; raises `UserError` where no tables were built."""
    asked = rows.identity.select(["race_id", "decision_time", "off_time"]).group_by(
        ["race_id", "decision_time", "off_time"]
    )
    with told(home, Snapshot()) as connection:
        connection.register("races", asked.aggregate([]))
        query = files("velo.training").joinpath("sql", "prices.sql").read_text()
        shown = connection.sql(query, params={"lead": rows.provenance.lead}).to_arrow_table()
    ordered = rows.identity.select(["race_id", "horse_id"]).append_column("row", pa.array(np.arange(rows.rows)))
    joined = ordered.join(shown, ["race_id", "horse_id"], join_type="left outer").sort_by("row")
    taken, last_shown = (numbers(joined.column(name)) for name in ("taken", "last_shown"))
    sp = rows.label("sp_decimal")
    return Prices(taken, np.where(np.isnan(sp), last_shown, sp))


def closing_line_value(taken: Floats, closing: Floats) -> Floats:
    """The price taken ÷ the closing price − 1: above 0 where the market came to agree; NaN where either is missing."""
    return np.asarray(taken / closing - 1.0, dtype=np.float64)
