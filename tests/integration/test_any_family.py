"""Families that nobody shipped: any aggregate of any measure on any key is one function of time in batch and stream."""

import os
from bisect import bisect_right
from datetime import timedelta
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.support.any_family import Twin, families, same
from tests.support.builders import a_log, a_result, a_runner
from tests.support.logs import a_store, logged
from tests.support.replay import Replay, changelog
from tests.support.stores import NOW, changelogs_of
from tests.support.strategies import RandomLog, busy_logs
from velo.errors import UserError
from velo.feature_repo.catalogue.aggregates import Ratio, Sum
from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.catalogue.recent_aggregates import Ewma, Last, Max, Slope
from velo.racing.clock import to_us
from velo.racing.messages import Result, from_record
from velo.storage.log import reader
from velo.streams.batch.build import build

pytestmark = pytest.mark.slow

ASKED = os.environ.get("VELO_EXAMPLES")
EXAMPLES = int(ASKED or "25")
PHASES = tuple(Phase) if ASKED else (Phase.explicit, Phase.generate)
"""A failing example is made small only when asked for: each try costs a quarter of a second."""
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=EXAMPLES, phases=PHASES, suppress_health_check=SLOW)
@given(log=busy_logs(), family=families(), pieces=st.integers(1, 2))
def test_batch_stream_and_brute_force_agree_on_a_family_that_nobody_shipped(
    log: RandomLog, family: Family, pieces: int
) -> None:
    """At every change of every key and a microsecond before; a log built in two pieces has its second half by arrays."""
    assume(log.records)
    timezone = ZoneInfo(log.timezone)
    with TemporaryDirectory() as folder:
        store = a_store(Path(folder), log.timezone)
        half = len(log.records) // pieces
        for piece in filter(None, (log.records[:half], log.records[half:])):
            logged(store, *map(from_record, piece))
            build(store, NOW, families=(family,))
        built = changelogs_of(store, family)
        # as the log's clock has them
        messages = [from_record(record) for record in reader.records(store.home)]
    twin = Twin(family, [message for message in messages if isinstance(message, Result)], timezone)
    streamed = changelog(Replay(timezone, (family,), shards=2), messages).get(family.view, {})
    names = [feature.name for feature in family.features]
    assert streamed.keys() <= twin.by_key.keys()
    assert built.keys() == twin.by_key.keys()
    for key in twin.by_key:
        rows, table = streamed.get(key, []), built[key]
        instants = [row[1] for row in rows]
        points = twin.instants(key) | {row["event_timestamp"] for row in table}
        for at in chain.from_iterable((point - timedelta(microseconds=1), point) for point in points):
            expected = twin.values(key, at)
            place = bisect_right(instants, to_us(at))
            assert same(rows[place - 1][2] if place else None, expected), ("stream", str(family), key, at)
            place = bisect_right(table, at, key=lambda row: row["event_timestamp"])
            found = [table[place - 1][name] for name in names] if place else None
            assert same(found, expected), ("batch", str(family), key, at)


def test_two_runners_of_a_trainer_in_one_race_follow_their_horses_order(tmp_path: Path) -> None:
    """The last start is that of the later name, in whatever order the result names them."""
    family = Family("trainer_last", ("trainer_id",), "a test's", recent=(Last("position_last", "position", "int"),))
    runners = [a_runner("Zebra", 1, trainer="Dreaper"), a_runner("Aardvark", 2, trainer="Dreaper")]
    for number, order in enumerate((runners, runners[::-1])):
        messages = [from_record(record) for record in a_log(a_result(*order))]
        (row,) = changelog(Replay(ZoneInfo("Europe/London"), (family,)), messages)["trainer_last"]["dreaper",]
        store = a_store(tmp_path / str(number))
        logged(store, *messages)
        build(store, NOW, families=(family,))
        (built,) = changelogs_of(store, family)["dreaper",]
        assert row[2] == (1,)
        assert built["position_last"] == 1


@pytest.mark.parametrize(
    ("declared", "fault"),
    [
        ({"career": (Sum("days", "race_day"),)}, "race_day is not a whole number of 0 or more"),
        ({"career": (Sum("lengths", "lengths_e9"),)}, "lengths_e9 is not a whole number of 0 or more"),
        ({"career": (Ratio("day", "day_e9", "one"),)}, "the sum of day_e9 over 16,777,216 starts may not fit"),
        ({"career": (Sum("luck", "luck"),)}, "luck is not a measure of a start"),
        ({"recent": (Last("distance", "distance_m", "int"),)}, "distance_m is not a whole number of 32 bits"),
        ({"recent": (Ewma("weight", "weight_lbs"),)}, "weight_lbs is not a whole number"),
        ({"recent": (Ewma("day", "day_e9"),)}, "sums of day_e9 over 10 starts may not fit"),
        ({"recent": (Max("best", "prb_e9", depth=11),)}, "depth must be 1 to 10, got 11"),
        ({"recent": (Slope("slope", "prb_e9", least=1),)}, "least must be 2 to the depth 6, got 1"),
        ({"career": (Sum("runs", "one"), Sum("runs", "win"))}, "two features have one name: runs"),
    ],
)
def test_a_family_that_batch_and_stream_could_not_both_make_exactly_is_refused(
    declared: dict[str, Any], fault: str
) -> None:
    with pytest.raises(UserError, match=fault):
        Family("trainer_x", ("trainer_id",), "a test's", **declared)
