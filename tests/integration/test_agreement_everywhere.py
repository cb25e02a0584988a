"""One function of time: the batch, the stream and the plain oracle give the same for any log, at every instant."""

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.support.agreement import differences
from tests.support.logs import a_store, logged
from tests.support.stores import NOW, twin_of
from tests.support.strategies import TIMEZONES, busy_logs
from tests.support.streaming import all_rows, assert_online, streamed
from velo.feature_repo.stores.redis_client import connect_url
from velo.racing.messages import Alias, Message, Result, from_record
from velo.settings import Settings
from velo.storage.log.reader import end
from velo.storage.store import Store
from velo.streams.batch.build import build

pytestmark = pytest.mark.slow

ASKED = os.environ.get("VELO_EXAMPLES")
EXAMPLES = int(ASKED or "8")
"""How many tellings are tried, the same ones each time; VELO_EXAMPLES=500 for a long look at others."""
PHASES = tuple(Phase) if ASKED else (Phase.explicit, Phase.generate)
"""A failing telling is made small only when asked for: each try costs a second."""
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@dataclass(frozen=True)
class Telling:
    """A log as it came: loads one after another, and after each what was run on the store.

    A load may bring what belongs before the last one (it is known late), or what was known already. `runs` are
    `build`, `whole` (a build of all), a stream killed after so many batches of so many records, or nothing.
    """

    timezone: str
    loads: list[list[Message]]
    runs: list[str | tuple[int, int] | None]
    batch: int


@st.composite
def aliases(draw: st.DrawFn, messages: list[Message]) -> Alias:
    """That a key of these messages is another, or one that never ran; some ran against each other and are then refused."""
    of = draw(st.sampled_from(("horse", "trainer", "jockey")))
    runners = [runner for message in messages if isinstance(message, Result) for runner in message.runners]
    keys = sorted({key for runner in runners if (key := getattr(runner, f"{of}_id")) is not None}) or ["nobody"]
    return Alias(of, draw(st.sampled_from(keys)), draw(st.sampled_from([*keys, "another"])))


@st.composite
def tellings(draw: st.DrawFn) -> Telling:
    timezone = draw(st.sampled_from(TIMEZONES))
    messages = [from_record(record) for record in draw(busy_logs(timezone)).records]
    assume(messages)
    for alias in draw(st.lists(aliases(messages), max_size=3)):
        place = draw(st.integers(1, len(messages)))
        messages.insert(place, replace(alias, known_at=messages[place - 1].known_at))
        if draw(st.booleans()):
            later = draw(st.integers(place + 1, len(messages)))
            messages.insert(later, Alias(alias.of, alias.key, known_at=messages[later - 1].known_at))
    cuts = sorted(draw(st.sets(st.integers(1, len(messages)), max_size=4)) | {len(messages)})
    loads = [messages[begun:ended] for begun, ended in zip([0, *cuts], cuts, strict=False)]
    for load in loads[:-1]:
        for each in draw(st.lists(st.sampled_from(load), max_size=3, unique_by=id)):
            loads[-1].insert(0, each)
            # no load is left empty: nothing runs on a store without messages
            if draw(st.booleans()) and len(load) > 1:
                load.remove(each)
    stops = st.tuples(st.integers(0, 4), st.sampled_from((1, 3, 20)))
    runs = st.one_of(st.none(), st.just("build"), st.just("whole"), stops, stops)
    return Telling(timezone, loads, [draw(runs) for _ in loads], draw(st.sampled_from((1, 7, 100))))


@settings(max_examples=EXAMPLES, derandomize=ASKED is None, phases=PHASES, suppress_health_check=SLOW)
@given(telling=tellings())
def test_batch_stream_and_oracle_are_one_function_of_time(redis_url: str, telling: Telling) -> None:
    """Every view, feature and `valid_until`, at every change point and a microsecond before, however the log came.

    The stream's own Parquet, wherever it was killed, begun again or overtaken by a build; Redis holds the last rows.
    """
    connect_url(redis_url).flushall()
    with TemporaryDirectory() as folder:
        store = Store.open(Settings(a_store(Path(folder) / "home", telling.timezone).home.root, redis_url=redis_url))
        for messages, run in zip(telling.loads, telling.runs, strict=True):
            logged(store, *messages)
            ran(store, run)
        streamed(store, batch=telling.batch, online=True)
        assert_online(store, all_rows(store))
        built = twin_of(store, Path(folder) / "built")
        build(built, NOW)
        assert list(differences(store, built)) == []


def ran(store: Store, run: str | tuple[int, int] | None) -> None:
    """Do what a telling says happened after a load."""
    if isinstance(run, tuple):
        streamed(store, cut_after=run[0], batch=run[1], online=True, snapshot_every=timedelta(0))
    elif run is not None and end(store.home).next_seq:
        build(store, NOW, whole=run == "whole")
