"""A stream's state restored from what a build has measured is that of aggregating every result."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings

from tests.support.any_family import families
from tests.support.logs import a_store, fixed, logged
from tests.support.made_once import copied
from tests.support.stores import Conformance
from tests.support.strategies import RandomLog, busy_logs
from tests.support.streaming import NOW
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.racing.messages import Result, from_record
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.aggregation.array_fold import FamilyArrays
from velo.streams.aggregation.history_arrays import _PLACE, _VALUES
from velo.streams.batch.build import build
from velo.streams.batch.formulas import fingerprint
from velo.streams.dataflow.bootstrap import Bootstrap

pytestmark = pytest.mark.slow

NONE_MEASURED = "other formulas"


@pytest.fixture(params=["london", pytest.param("hk_amended", marks=pytest.mark.prove)])
def store(request: pytest.FixtureRequest, conformance: Conformance, tmp_path: Path) -> Store:
    """A store that was built, with amendments and voids, and that has more messages since."""
    made = conformance(request.param).store
    made = a_store(copied(made.home.root, tmp_path / "home"), made.timezone.key)
    last = [message for _, message in reader.messages(made.home) if isinstance(message, Result)][-1]
    assert last.known_at is not None
    with LogWriter.open(made, clock=fixed(last.known_at + timedelta(hours=1))) as writer:
        writer.append(replace(last, runners=last.runners[::-1], result_version=last.result_version + 1))
        writer.append(replace(last, race=replace(last.race, race_id="told since")))
    return made


def test_the_state_from_tables_is_that_of_every_result_wherever_a_stream_begins(store: Store) -> None:
    """Sums, histories, windows and what is due: in the midst of what was built, and after what was known since."""
    ended = reader.end(store.home).next_seq
    for base in (ended // 2, ended):
        laid, folded = ground(store, fingerprint(), base), ground(store, NONE_MEASURED, base)
        assert dict(laid.held.items()) == dict(folded.held.items())
        assert list(contents(laid)) == list(contents(folded)), base


@settings(max_examples=6, phases=(Phase.explicit, Phase.generate), suppress_health_check=[*HealthCheck])
@given(log=busy_logs(), family=families())
def test_the_state_of_a_family_that_nobody_shipped_is_that_of_every_result(log: RandomLog, family: Family) -> None:
    """Whatever its keys and aggregates: as of the middle of what was built, and of its end."""
    assume(log.records)
    with TemporaryDirectory() as folder:
        store = a_store(Path(folder), log.timezone)
        logged(store, *(from_record(record) for record in log.records))
        build(store, NOW, families=(family,))
        ended = reader.end(store.home).next_seq
        for base in (ended // 2, ended):
            laid, folded = (
                ground(store, formulas, base, (family,)) for formulas in (fingerprint((family,)), NONE_MEASURED)
            )
            assert list(contents(laid, (family,))) == list(contents(folded, (family,))), base


def ground(store: Store, formulas: str, base: int, families: Sequence[Family] = FAMILIES) -> Bootstrap:
    """What a stream that begins at a record knows; by other formulas than the tables', nothing is taken of them."""
    made = Bootstrap(store.home, store.timezone, families, formulas).at(base)
    gc.unfreeze()
    return made


def contents(ground: Bootstrap, families: Sequence[Family] = FAMILIES) -> Iterator[tuple[Any, ...]]:
    """All that is known of each key of each view."""
    for family in families:
        yield family.view, ground.fold.families[family.view].today, state_of(ground.fold.families[family.view])


def state_of(state: FamilyArrays) -> dict[tuple[str, ...], Any]:
    """Of each key with a start its career sums, its sums by day, those of its windows, what leaves them next, and its starts."""
    count, windows, history = state._keys.count(state.family.keys), state._windows, state._history
    state._grow(count)
    known = {}
    for slot, key in enumerate(state._keys.texts(state.family.keys, np.arange(count))):
        career = state._career[slot].tolist()
        days, starts = [], []
        if windows is not None:
            entry = int(windows._heads[slot, windows._longest_at])
            while entry:
                days.append((int(windows._day[entry]), windows._sums[entry].tolist()))
                entry = int(windows._next[entry])
        if history is not None:
            place = int(history._places[slot])
            while place:
                order, record = history._past(place)
                starts.append((order, record[_VALUES:].tolist()))
                place = int(record[_PLACE])
        if any(career) or days or starts:
            known[key] = [career, days, starts]
            if windows is not None:
                known[key] += [windows.sums[slot].tolist(), windows._day[windows._heads[slot]].tolist()]
            if history is not None:
                known[key] += [history.newest[slot].tolist(), history.last[slot].tolist(), int(history._off_us[slot])]
    return known
