"""What we knew stays as we knew it: nothing told later changes an earlier value."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.support.logs import logged
from tests.support.stores import NOW, Built, Conformance, historical, rows_apart, twin_of
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.feature_repo.feast_store import apply
from velo.racing.clock import local_date, local_midnight
from velo.racing.messages import FINISHED, VOID, Message, Result, Tick
from velo.storage.log import reader
from velo.storage.store import Store
from velo.streams.batch.build import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["hk_amended", "london"])
def before(request: pytest.FixtureRequest, conformance: Conformance) -> Built:
    return conformance(request.param)


@pytest.fixture(scope="module")
def after(before: Built, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Another store with the same log, and then a future: amendments, voids, races long past, a year of new ones."""
    store = twin_of(before.store, tmp_path_factory.mktemp("drift"))
    logged(store, *_future(before.store, before.report.known_at))
    build(store, NOW)
    return store


def test_future_races_and_amendments_change_not_one_earlier_row(before: Built, after: Store) -> None:
    """Every column of every row up to the old end, of a whole build of the longer log."""
    assert sum(build(after, NOW).rows.values()) > 1.15 * sum(before.report.rows.values())
    assert rows_apart(before.store, after, until=before.report.known_at) == []


def test_future_races_and_amendments_change_no_value_that_training_was_given(before: Built, after: Store) -> None:
    """Through Feast: each start of the old log, asked about five minutes before its off."""
    starts = _starts(before.store)
    assert len(starts) > 1_000
    views = ("horse_form", "trainer_velocity", "partnership_velocity", "horse_course")
    feasts = [apply(before.store), apply(after)]
    for family in (BY_VIEW[view] for view in views):
        asked = [(one, at) for one, at in starts if all(one[key] for key in family.keys)]
        old, new = (
            historical(
                feast, family, [{key: one[key] for key in family.keys} for one, _ in asked], [at for _, at in asked]
            )
            for feast in feasts
        )
        assert old == new
        assert any(row["valid_until"] is not None for row in old) == bool(family.windows)


def _starts(store: Store) -> list[tuple[dict[str, str], datetime]]:
    """The keys of every third start as first told, and five minutes before its off."""
    every = [
        (
            {
                "horse_id": runner.horse_id,
                "trainer_id": runner.trainer_id or "",
                "jockey_id": runner.jockey_id or "",
                "course": one.race.course,
            },
            one.race.off_time - timedelta(minutes=5),
        )
        for one in _results(store)
        if one.result_version == 1
        for runner in one.runners
        if runner.started
    ]
    return every[::3]


def _results(store: Store) -> list[Result]:
    return [message for _, message in reader.messages(store.home) if isinstance(message, Result)]


def _future(store: Store, end: datetime) -> list[Message]:
    """Told after the log's end: what was, reversed or voided; races of old days never told of; a season to come."""
    told = _results(store)
    highest = {one.race_id: one for one in sorted(told, key=lambda one: one.result_version)}
    amended = [_amended(one, void=number % 4 == 0) for number, one in enumerate(highest.values()) if number % 5 == 0]
    forgotten = [_renamed(one, "forgotten") for one in told[1::40]]
    first = [one for one in told if one.result_version == 1]
    away = timedelta(days=30 + (end.date() - min(one.race.race_date for one in first)).days)
    to_come = [_renamed(_moved(one, away), "to come") for one in first[::3]]
    late = [replace(one, known_at=end + timedelta(minutes=number)) for number, one in enumerate([*amended, *forgotten])]
    passed = local_date(max(one.known_at for one in to_come if one.known_at), store.timezone) + timedelta(days=100)
    return [*late, *to_come, Tick(local_midnight(passed, store.timezone))]


def _amended(result: Result, *, void: bool) -> Result:
    places = [runner.position for runner in result.runners if runner.status == FINISHED]
    runners = [
        replace(runner, status=VOID, position=None)
        if void
        else replace(runner, position=places.pop())
        if runner.status == FINISHED
        else runner
        for runner in result.runners
    ]
    return replace(result, result_version=result.result_version + 1, runners=tuple(runners))


def _renamed(result: Result, what: str) -> Result:
    return replace(result, race=replace(result.race, race_id=f"{result.race_id} {what}"))


def _moved(result: Result, away: timedelta) -> Result:
    race = replace(result.race, race_date=result.race.race_date + away, off_time=result.race.off_time + away)
    return replace(result, race=race, known_at=(result.known_at or result.race.off_time) + away)
