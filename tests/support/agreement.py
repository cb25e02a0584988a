"""Built tables held against the oracle, at every instant that matters."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.support.oracle import Oracle
from tests.support.oracle_starts import instant
from tests.support.stores import Row, changelogs_of
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.racing.clock import MICROSECOND
from velo.storage.log import reader
from velo.storage.store import Store

TOLERANCE = 1e-12


def differences(*stores: Store, families: Sequence[Family] = FAMILIES) -> Iterator[Any]:
    """Each place where the tables of stores that hold one log are not the oracle's, asked of the log as the first holds it.

    At every change of every entity of every view, and a microsecond before it: all features and `valid_until`. The oracle is
    asked at the changes alone: `test_oracle` shows that its values are the same between them.
    """
    log = list(reader.records(stores[0].home))
    oracle, end = Oracle(log, stores[0].timezone.key), instant(log[-1]["known_at"])
    for family in families:
        entities = oracle.entities(family.view)
        keys = {tuple(each.values()) for each in entities}
        tables = [changelogs_of(store, family) for store in stores]
        yield from ((family.view, key) for table in tables for key in table.keys() ^ keys)
        for entity in entities:
            points = oracle.change_points(family.view, entity)
            expected = [None, *(oracle.value(family.view, entity, point) for point in points)]
            for table in tables:
                rows = table.get(tuple(entity.values()), [])
                yield from ((family.view, entity, *found) for found in _apart(rows, points, expected, end))


def _apart(rows: list[Row], points: list[datetime], expected: list[Row | None], end: datetime) -> Iterator[Any]:
    """Where the rows of one entity are not those expected before its first change and from each of them on."""
    times = [row["event_timestamp"] for row in rows]
    if not all(each < next_one for each, next_one in pairwise(times)) or (times and times[-1] > end):
        yield "rows tie, or lie past the log's end", times
    yield from (("changes where nothing does", at) for at in set(times) - set(points))
    for point, before, after in zip(points, expected, expected[1:], strict=False):
        for at, wanted in ((point - MICROSECOND, before), (point, after)):
            place = bisect_right(times, at)
            got = {name: rows[place - 1][name] for name in wanted or ()} if place else None
            if not same(got, wanted):
                yield at, got, wanted


def same(got: Row | None, expected: Row | None) -> bool:
    """Equal counts and instants; ratios, EWMAs, slopes and variances as near as doubles come."""
    if got is None or expected is None:
        return got is expected
    return all(
        got[name] == pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE)
        if isinstance(value, float)
        else got[name] == value
        for name, value in expected.items()
    )
