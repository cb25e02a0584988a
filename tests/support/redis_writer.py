"""Rows for Redis, and a process that writes them: `python -m tests.support.redis_writer URL DAY...`, without Feast."""

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from tests.support.changelogs import START
from velo.feature_repo.catalogue.families import BY_VIEW, Family
from velo.feature_repo.stores.redis_client import connect_url
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_writer import RowWriter

HORSES = 300


def table(family: Family, rows: Sequence[tuple[tuple[str, ...], datetime, float | None]]) -> pa.Table:
    """Rows of (key, event time, value), the value put in every column that is no instant."""
    columns: dict[str, pa.Array] = {
        key: pa.array([row[0][at] for row in rows], pa.string()) for at, key in enumerate(family.keys)
    }
    for feature in family.features:
        kind = pa.int32() if feature.kind == "int" else pa.float64()
        columns[feature.name] = pa.array([row[2] for row in rows], pa.float64()).cast(kind)
    instants = pa.timestamp("us", "UTC")
    until = [None if row[2] is None else row[1] + timedelta(days=1) for row in rows]
    columns["valid_until"] = pa.array(until, instants)
    return pa.table(columns | {"event_timestamp": pa.array([row[1] for row in rows], instants)})


def main(url: str, days: list[int]) -> None:
    """Offer a row of every horse for each day, in the order given."""
    form = BY_VIEW["horse_form"]
    writer = RowWriter(connect_url(url), url)
    for day in days:
        offered = [((f"h{at}",), START + timedelta(days=day), float(day)) for at in range(HORSES)]
        writer.write_rows(Layout.of(form), table(form, offered), 1)


if __name__ == "__main__":
    main(sys.argv[1], [int(day) for day in sys.argv[2:]])
