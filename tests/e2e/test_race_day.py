"""A race day replayed: what was scored then is what `--as-of` says afterwards, and what training learns from."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.made_once import Seasons, copied
from tests.support.race_days import LEAD, a_day, card_of
from tests.support.seasons import BUILT_AT, a_season, opened
from tests.support.services import a_service
from tests.support.shared import shared_file
from velo.commands.edge import now as current
from velo.feature_repo.stores.embedded_redis import down
from velo.racing.clock import local_date, local_midnight
from velo.racing.messages import GoingChange, JockeyChange, Message, NonRunner, Racecard, Result, Runner
from velo.serving.scoring.feature_matrix import FeatureMatrix
from velo.serving.scoring.history import RaceHistory, declared
from velo.serving.scoring.online_race import CatchingUp
from velo.serving.scoring.scored import ScoredRace
from velo.serving.scoring.scorer import Scorer
from velo.settings import Settings, zone_named
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.importers.sources.runners import read_runner_tables
from velo.training.dataset.training_set import training_set
from velo.training.model.trees import ModelOptions
from velo.training.train import train


@dataclass(frozen=True)
class Told:
    """A race of the day: as it was scored at its decision time."""

    result: Result
    scored: ScoredRace
    vectors: FeatureMatrix


def a_model(store: Store, until: date) -> None:
    few = ModelOptions(rounds=10, leaves=6, threads=1, seeds=1)
    validate, test = until - timedelta(days=60), until - timedelta(days=30)
    train(store, now=BUILT_AT, model=few, validate_from=validate, test_from=test)


def replayed(store: Store, results: list[Result], changes: list[tuple[datetime, Message]]) -> list[Told]:
    """Cards in the morning, then changes, decisions and results as they fell."""
    first = min(each.race.off_time for each in results)
    day_begins = local_midnight(local_date(first, store.timezone), store.timezone)
    gone = {(of.race_id, of.horse_id) for _, of in changes if isinstance(of, NonRunner)}
    steps: list[tuple[datetime, int, Message | Result]] = [(at, 0, message) for at, message in changes]
    for each in results:
        assert each.known_at is not None
        steps += [(each.race.off_time - LEAD, 2, each), (each.known_at, 1, each)]
    found: dict[str, Told] = {}
    with a_day(store, day_begins + timedelta(hours=6)) as day:
        for number, each in enumerate(sorted(results, key=lambda item: item.race_id)):
            scratched = [horse for race_id, horse in gone if race_id == each.race_id]
            day.tell(card_of(each, scratched), day_begins + timedelta(hours=7, seconds=number))
        for at, kind, what in sorted(steps, key=lambda step: step[:2]):
            if kind == 2:
                assert isinstance(what, Result)
                found[what.race_id] = Told(what, *day.score(what.race_id, at))
            else:
                day.tell(replace(what, known_at=None), at)
    build(store, BUILT_AT)
    return list(found.values())


def hold_to_the_past(store: Store, said: list[Told]) -> None:
    """Each score equals `--as-of` its instant, and each vector the training row, to the last bit."""
    fresh = opened_again(store)
    scorer = a_service(fresh, current).scorer
    rows = training_set(fresh)
    races, horses = (np.array(rows.identity[name].to_pylist()) for name in ("race_id", "horse_id"))
    for record in said:
        again = scorer.score(record.result.race_id, BUILT_AT, record.scored.as_of, with_drivers=False)
        assert again.features_from == "offline history"
        assert again.fingerprint == record.scored.fingerprint
        assert [(r.horse_id, r.probability) for r in again.runners] == [
            (r.horse_id, r.probability) for r in record.scored.runners
        ]
        at = {horse: place for place, horse in enumerate(horses) if races[place] == record.result.race_id}
        order = [runner.horse_id for runner in stood(scorer, record)]
        assert set(at) == set(order)
        assert np.array_equal(rows.features[[at[horse] for horse in order]], record.vectors.matrix, equal_nan=True)


def stood(scorer: Scorer, answer: Told) -> list[Runner]:
    return list(declared(scorer.history.messages(answer.result.race_id).messages, answer.scored.as_of).runners)


def opened_again(store: Store) -> Store:
    return Store.open(Settings(home=store.home.root, timezone=store.timezone))


@pytest.fixture(scope="module")
def trained(seasons: Seasons) -> Store:
    """A season with a model; never written to."""
    store = seasons.store(88)
    a_model(store, date(2023, 6, 10))
    return store


@pytest.fixture
def simulated(trained: Store, tmp_path: Path) -> Iterator[tuple[Store, list[Result]]]:
    """A season, and the results of a day after it."""
    store = opened(copied(trained.home.root, tmp_path / "home"))
    later = a_season(1, seed=9, first_day=date(2023, 6, 12))
    results = [message for message in later if isinstance(message, Result) and message.result_version == 1]
    results = [replace(each, runners=tuple(r for r in each.runners if r.started)) for each in results]
    yield store, results
    down(store.home)


def test_a_simulated_day_is_scored_then_as_it_is_known_afterwards(simulated: tuple[Store, list[Result]]) -> None:
    store, results = simulated
    found = replayed(store, results, [])
    assert len(found) == len(results) == 4
    hold_to_the_past(store, found)


def test_a_service_has_loaded_what_a_race_that_was_run_needs_before_anyone_asks(
    simulated: tuple[Store, list[Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, results = simulated
    replayed(store, results, [])
    scorer = a_service(opened_again(store), current).scorer
    last = max(results, key=lambda each: each.race.off_time)
    after = last.race.off_time + timedelta(hours=2)
    scorer.warm_past(after)
    warmed = scorer.history.feast()

    def asked(*_: object) -> None:
        pytest.fail("the history is asked again")

    monkeypatch.setattr(RaceHistory, "snapshot", asked)
    scored = scorer.score(last.race.race_id, after + timedelta(minutes=1))
    assert scored.features_from == "offline history"
    assert scorer.history.feast() is warmed


def test_no_score_sees_half_of_a_result_nor_of_its_amendment_while_the_stream_writes(
    simulated: tuple[Store, list[Result]],
) -> None:
    """Asked without pause by two threads; each answer is what the history says of its instant, to the last bit."""
    store, results = simulated
    first, second = sorted(results, key=lambda each: each.race.off_time)[:2]
    assert first.known_at is not None
    coming = replace(first.race, race_id="to come", off_time=first.race.off_time + timedelta(hours=9))
    entered = card_of(first).runners[:5] + card_of(second).runners[:5]
    amended = tuple(
        replace(runner, position=len(first.runners) + 1 - (runner.position or 1)) for runner in first.runners
    )
    seen: dict[datetime, set[tuple[str, ...]]] = {}
    refused: list[str] = []
    ended = threading.Event()
    with a_day(store, first.race.off_time - timedelta(hours=2)) as day:
        day.tell(Racecard(coming, entered), first.race.off_time - timedelta(hours=1))
        day.score("to come", day.now)

        def ask() -> None:
            while not ended.is_set():
                try:
                    answer = day.scorer.score("to come", day.now, with_drivers=False)
                except CatchingUp as soon:
                    refused.append(str(soon))
                    continue
                seen.setdefault(answer.as_of, set()).add(
                    (answer.fingerprint, *(str(runner.probability) for runner in answer.runners))
                )

        asking = [threading.Thread(target=ask) for _ in range(2)]
        for each in asking:
            each.start()
        try:
            for number, message in enumerate(
                (first, second, replace(first, result_version=2, runners=amended), replace(first, result_version=3))
            ):
                at = first.known_at + timedelta(hours=number)
                day.tell(replace(message, known_at=None), at)
                day.score("to come", at)
        finally:
            ended.set()
            for each in asking:
                each.join()
    build(store, BUILT_AT)
    scorer = a_service(opened_again(store), current).scorer
    assert len(seen) >= 5, "before, and after each of four results"
    for as_of, found in seen.items():
        again = scorer.score("to come", BUILT_AT, as_of, with_drivers=False)
        assert found == {(again.fingerprint, *(str(runner.probability) for runner in again.runners))}
    assert all("a result is being written" in refusal for refusal in refused)


def test_withdrawals_jockeys_and_going_changes_are_followed_and_the_past_before_each_stays(
    simulated: tuple[Store, list[Result]],
) -> None:
    store, results = simulated
    race = results[2]
    off = race.race.off_time
    gone = race.runners[0]
    results[2] = replace(race, runners=(replace(gone, status="NR", position=None, sp_decimal=None), *with_winner(race)))
    other = JockeyChange(race.race_id, race.runners[1].horse_id, "jockey 8", "Jockey 8")
    changes: list[tuple[datetime, Message]] = [
        (off - timedelta(minutes=90), NonRunner(race.race_id, gone.horse_id, "lame")),
        (off - timedelta(minutes=60), other),
        (off - timedelta(minutes=40), GoingChange(race.race_id, "Heavy")),
    ]
    found = replayed(store, results, changes)
    hold_to_the_past(store, found)
    scorer = a_service(opened_again(store), current).scorer

    def then(minutes: int) -> ScoredRace:
        return scorer.score(race.race_id, BUILT_AT, off - timedelta(minutes=minutes), with_drivers=False)

    def rider(scored: ScoredRace) -> str | None:
        return next(runner.jockey_id for runner in scored.runners if runner.horse_id == other.horse_id)

    before, scratched, ridden, heavy = then(91), then(89), then(59), then(39)
    assert len(before.runners) - 1 == len(scratched.runners) == len(ridden.runners)
    assert rider(scratched) != rider(ridden) == "jockey 8"
    assert ridden.going != heavy.going == "Heavy"
    assert len({each.fingerprint for each in (before, scratched, ridden, heavy)}) == 4


def with_winner(race: Result) -> list[Runner]:
    """The runners of a result but its first, in the places they took without it."""
    left = sorted(race.runners[1:], key=lambda runner: runner.position or 99)
    return [replace(each, position=place + 1) for place, each in enumerate(left)]


def test_a_real_day_of_2025_is_scored_then_as_it_is_known_afterwards(tmp_path: Path) -> None:
    """Hong Kong, with half a year before it for a past."""
    wanted = [("race_date", ">=", date(2024, 9, 1)), ("race_date", "<", date(2025, 3, 1))]
    path = tmp_path / "wanted.parquet"
    pq.write_table(pq.read_table(shared_file("data/hk/runners.parquet"), filters=wanted), path)
    zone = zone_named("Asia/Hong_Kong")
    store = Store.open(Settings(home=tmp_path / "home", timezone=zone)).save()
    every = read_runner_tables([path], store).messages
    day = max(each.race.race_date for each in every)
    assert day.year == 2025
    past = [each for each in every if each.race.race_date < day]
    try:
        with LogWriter.open(store, clock=lambda: BUILT_AT) as writer:
            writer.load(past)
        build(store, BUILT_AT)
        a_model(opened_again(store), day)
        results = [each for each in every if each.race.race_date == day]
        found = replayed(opened_again(store), results, [])
        assert len(found) == len(results) >= 8
        assert {each.scored.features_from for each in found} == {"redis"}
        hold_to_the_past(store, found)
    finally:
        down(store.home)
