"""Built tables held against the oracle, at every instant that matters."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
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


def differences(store: Store, families: Sequence[Family] = FAMILIES) -> Iterator[Any]:
    """Each place where a store's tables are not the oracle's, asked of the log as the store holds it.

    At every change of every entity of every view, and a microsecond before it: all features and `valid_until`.
    """
    log = list(reader.records(store.home))
    oracle, end = Oracle(log, store.timezone.key), instant(log[-1]["known_at"])
    for family in families:
        tables = changelogs_of(store, family)
        entities = oracle.entities(family.view)
        yield from ((family.view, key) for key in tables.keys() ^ {tuple(each.values()) for each in entities})
        for entity in entities:
            rows = tables.get(tuple(entity.values()), [])
            times = [row["event_timestamp"] for row in rows]
            if not all(each < next_one for each, next_one in pairwise(times)) or (times and times[-1] > end):
                yield family.view, entity, "rows tie, or lie past the log's end", times
            points = oracle.change_points(family.view, entity)
            yield from ((family.view, entity, "changes where nothing does", at) for at in set(times) - set(points))
            for at in (beside for point in points for beside in (point - MICROSECOND, point)):
                place = bisect_right(times, at)
                expected = oracle.value(family.view, entity, at)
                got = {name: rows[place - 1][name] for name in expected or ()} if place else None
                if not same(got, expected):
                    yield family.view, entity, at, got, expected


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
