"""What we knew stays as we knew it: nothing known later changes an earlier value."""

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
        asked = [(start, at) for start, at in starts if all(start[key] for key in family.keys)]
        old, new = (
            historical(
                feast,
                family,
                [{key: request[key] for key in family.keys} for request, _ in asked],
                [at for _, at in asked],
            )
            for feast in feasts
        )
        assert old == new
        assert any(row["valid_until"] is not None for row in old) == bool(family.windows)


def _starts(store: Store) -> list[tuple[dict[str, str], datetime]]:
    """The keys of every third start when first known, and five minutes before its off."""
    every = [
        (
            {
                "horse_id": runner.horse_id,
                "trainer_id": runner.trainer_id or "",
                "jockey_id": runner.jockey_id or "",
                "course": result.race.course,
            },
            result.race.off_time - timedelta(minutes=5),
        )
        for result in _results(store)
        if result.result_version == 1
        for runner in result.runners
        if runner.started
    ]
    return every[::3]


def _results(store: Store) -> list[Result]:
    return [message for _, message in reader.messages(store.home) if isinstance(message, Result)]


def _future(store: Store, end: datetime) -> list[Message]:
    """Sent after the log's end: what was, reversed or voided; races of old days never known; a season to come."""
    messages = _results(store)
    highest = {message.race_id: message for message in sorted(messages, key=lambda message: message.result_version)}
    amended = [_amended(each, void=number % 4 == 0) for number, each in enumerate(highest.values()) if number % 5 == 0]
    forgotten = [_renamed(message, "forgotten") for message in messages[1::40]]
    first = [message for message in messages if message.result_version == 1]
    away = timedelta(days=30 + (end.date() - min(each.race.race_date for each in first)).days)
    to_come = [_renamed(_moved(each, away), "to come") for each in first[::3]]
    late = [
        replace(each, known_at=end + timedelta(minutes=number)) for number, each in enumerate([*amended, *forgotten])
    ]
    passed = local_date(max(each.known_at for each in to_come if each.known_at), store.timezone) + timedelta(days=100)
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
