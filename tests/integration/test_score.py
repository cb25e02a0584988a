"""A scored race: the same features whichever way they are read, and what it rests on is shown."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from feast import FeatureStore
from numpy.typing import NDArray
from rich.console import Console

from tests.support.score_races import ABROAD, AFTER, LEAD, NOW, OFF, STRANGERS, a_copy, stood
from tests.support.seasons import BUILT_AT, a_card, a_season, a_store
from tests.support.shared import shared_file
from tests.support.stores import formulas_of
from tests.support.streaming import streamed
from velo.errors import UserError
from velo.feature_repo.catalogue import columns
from velo.feature_repo.feast_store import apply
from velo.feature_repo.stores.embedded_redis import down
from velo.racing.cards import Declared
from velo.racing.messages import NonRunner, Racecard, Result
from velo.serving.scoring.driver_words import story_of, words
from velo.serving.scoring.drivers import DriverExplainer, drivers
from velo.serving.scoring.feature_matrix import FeatureMatrix, offline
from velo.serving.scoring.history import TablesBehind, declared
from velo.serving.scoring.read_plan import ReadPlan
from velo.serving.scoring.redis_reader import OnlineStoreUnavailable, ReadRequest
from velo.serving.scoring.render import race_card, to_json
from velo.serving.scoring.scored import ScoredRace
from velo.serving.scoring.scorer import Scorer, score, scorer_of
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.importers.sources.runners_cards import read_cards
from velo.streams.unbuilt_log import UnbuiltLog
from velo.training.bundle import Bundle, load
from velo.training.dataset.training_set import TrainingSet, training_set
from velo.training.model.trees import FEATURES, ModelOptions
from velo.training.train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A season, a race to come with its card, a small model, and everything materialised into the home's own Redis."""
    made = a_store(tmp_path_factory.mktemp("season") / "home", [*a_season(88), *AFTER])
    few = ModelOptions(rounds=20, leaves=6, threads=1, seeds=1)
    train(made, now=BUILT_AT, model=few, validate_from=date(2023, 4, 23), test_from=date(2023, 5, 11))
    yield made
    down(made.home)


@pytest.fixture(scope="module")
def feast(store: Store) -> FeatureStore:
    over = apply(store)
    over.materialize(start_date=datetime(2023, 1, 1, tzinfo=UTC), end_date=NOW)
    return over


@pytest.fixture(scope="module")
def scorer(store: Store, feast: FeatureStore) -> Scorer:
    """The resident scorer, its Feast the one there is: two in a process thrash."""
    return scorer_over(store, feast)


@pytest.fixture(scope="module")
def rows(store: Store) -> TrainingSet:
    return training_set(store)


@pytest.fixture(scope="module")
def scored(scorer: Scorer) -> ScoredRace:
    return scorer.score("to come", NOW)


def scorer_over(store: Store, feast: FeatureStore | None = None) -> Scorer:
    made = scorer_of(store, UnbuiltLog(store.home), deadline_s=2.0)
    made.history._feast = feast
    return made


def online(scorer: Scorer, race: Declared) -> FeatureMatrix:
    """The rows of a race as the scorer reads them."""
    reading = ReadPlan.of(race)
    answers = scorer.online.redis.ask(ReadRequest.of(race.race.race_id, reading.keys, reading.fields))
    return reading.feature_matrix(reading.rows(answers), race.instant)


# The same features


def test_as_of_the_decision_time_a_race_has_the_training_rows_features_bit_for_bit(
    store: Store, feast: FeatureStore, rows: TrainingSet
) -> None:
    """Races with cards and without, whatever was withdrawn or changed before."""
    races, horses = (np.array(rows.identity[name].to_pylist()) for name in ("race_id", "horse_id"))
    sources = set()
    for race_id in sorted(set(races.tolist()))[10::28]:
        race = stood(store, race_id)
        vectors = offline(store, race, feast)
        sources.add(race.source)
        place = {horse: at for at, horse in enumerate(horses) if races[at] == race_id}
        expected = rows.features[[place[runner.horse_id] for runner in race.runners]]
        assert len(place) == len(race.runners)
        assert np.array_equal(vectors.matrix, expected, equal_nan=True)
    assert sources == {"racecard", "result version 1"}


def test_online_features_at_the_logs_end_equal_the_offline_ones(
    store: Store, feast: FeatureStore, scorer: Scorer
) -> None:
    race = stood(store, "to come", NOW)
    now, then = online(scorer, race), offline(store, race, feast)
    assert np.array_equal(now.matrix, then.matrix, equal_nan=True)
    assert np.array_equal(now.missing, then.missing)
    assert np.array_equal(now.stale, then.stale)
    assert not now.missing.all()


def test_online_features_equal_feasts_own_online_retrieval(store: Store, feast: FeatureStore, scorer: Scorer) -> None:
    race = stood(store, "to come", NOW)
    asked = [
        keys | {"race_day": 19_509, "race_class": 3, "distance_m": 1609.0} | {
            "weight_lbs": runner.weight_lbs, "official_rating": runner.official_rating
        }
        for keys, runner in zip(race.entity_keys(), race.runners, strict=True)
    ]  # fmt: skip
    vectors = online(scorer, race)

    def equal(names: Sequence[str], full_names: bool) -> None:
        refs = [name.replace("__", ":") for name in names]
        answer = feast.get_online_features(refs, asked, full_feature_names=full_names).to_dict()
        for name in names:
            given = answer[name if full_names else name.split("__")[1]]
            expected = [np.nan if value is None else float(value) for value in given]
            assert np.array_equal(vectors.of(name), expected, equal_nan=True), name

    equal(columns.STORED, full_names=True)
    # Feast leaves on-demand features out of an online answer with full names.
    equal([name for name in columns.REQUESTED if not name.endswith("layoff_band")], full_names=False)


# The race


def test_probabilities_sum_to_one_over_those_who_are_left(scored: ScoredRace) -> None:
    assert sum(runner.probability for runner in scored.runners) == pytest.approx(1.0, abs=1e-9)
    assert "horse 7" not in {runner.horse_id for runner in scored.runners}
    assert scored.withdrawn == ("Horse 7",)
    assert len(scored.runners) == 7


def test_now_and_as_of_now_give_the_same_probabilities(scorer: Scorer, scored: ScoredRace) -> None:
    then = scorer.score("to come", NOW, NOW)
    assert (scored.features_from, then.features_from) == ("redis", "offline history")
    assert [runner.probability for runner in then.runners] == [runner.probability for runner in scored.runners]


def test_before_the_withdrawal_the_horse_runs(scorer: Scorer) -> None:
    before = scorer.score("to come", NOW, OFF - timedelta(hours=3))
    assert len(before.runners) == 8
    assert all(runner.market_odds is None for runner in before.runners)


def test_market_odds_are_the_latest_snapshot_and_odds_of_one_are_none(scored: ScoredRace) -> None:
    odds = {runner.horse_id: (runner.market_odds, runner.market_source) for runner in scored.runners}
    assert odds["horse 1"] == (3.5, "show")
    assert odds["horse 2"] == (None, None)


def test_a_debutant_has_no_row_and_the_score_says_so(scored: ScoredRace) -> None:
    debutant = next(runner for runner in scored.runners if runner.horse_id == "a debutant")
    assert {"horse_form", "horse_course", "horse_distance", "horse_going"} <= set(debutant.missing)
    assert "trainer_velocity" not in debutant.missing


def test_values_that_a_window_has_moved_on_from_are_stale(scorer: Scorer) -> None:
    late = scorer.score("to come", NOW + timedelta(days=60))
    assert any("trainer_velocity" in runner.stale for runner in late.runners)
    assert any("stale" in note for note in late.notes)


def test_a_race_that_was_run_is_scored_as_of_its_decision_time_and_says_so(
    store: Store, scorer: Scorer, rows: TrainingSet
) -> None:
    """Today's features know its result. The starting price is shown where no snapshot was, and marked."""
    sources = dict(zip(rows.identity["race_id"].to_pylist(), rows.identity["source"].to_pylist(), strict=True))
    race_id = next(race for race, source in sorted(sources.items(), reverse=True) if source != "racecard")
    run = scorer.score(race_id, NOW)
    assert run.as_of == run.off_time - LEAD
    assert any("scored as of its decision time" in note for note in run.notes)
    assert any("no racecard was known" in note for note in run.notes)
    assert {runner.market_source for runner in run.runners} == {"SP"}
    matrix = rows.matrix(FEATURES)[[race == race_id for race in rows.identity["race_id"].to_pylist()]]
    chances = load(store.home, formulas_of(store.home)).probabilities(matrix)
    assert sorted(chances.tolist()) == sorted(runner.probability for runner in run.runners)


def test_a_race_that_was_run_is_scored_with_no_redis_in_reach_and_one_to_come_is_not(
    store: Store, scorer: Scorer, rows: TrainingSet
) -> None:
    """What was known before its off lies in the tables and the log alone."""
    out_of_reach = replace(store, redis_url="redis://127.0.0.1:1/0")
    run = max(rows.identity["race_id"].to_pylist())
    assert (
        score(out_of_reach, run, log=UnbuiltLog(store.home), now=NOW).fingerprint == scorer.score(run, NOW).fingerprint
    )
    with pytest.raises(OnlineStoreUnavailable, match=r"127\.0\.0\.1:1"):
        score(out_of_reach, "to come", log=UnbuiltLog(out_of_reach.home), now=NOW)


def test_drivers_are_worked_out_once_until_a_feature_or_the_model_is_another(scorer: Scorer, store: Store) -> None:
    """Odds change none of them, and Shapley values take many times what a chance takes."""
    race = stood(store, "to come", NOW)
    vectors = offline(store, race)
    model = load(store.home, formulas_of(store.home))
    worked_out = []

    class Counted(Bundle):
        def contributions(self, matrix: NDArray[np.float64], *, blended: bool = False) -> NDArray[np.float64]:
            worked_out.append(matrix.shape)
            return super().contributions(matrix, blended=blended)

    counted = Counted(*(getattr(model, field_.name) for field_ in fields(Bundle)))
    explainer = DriverExplainer()
    first = explainer.stories(counted, vectors, blended=False)
    assert first == drivers(vectors, model.features, model.contributions(vectors.select(model.features)))
    assert explainer.stories(counted, replace(vectors, matrix=vectors.matrix.copy()), blended=False) is first
    assert len(worked_out) == 1
    moved = vectors.matrix.copy()
    moved[0, columns.COLUMNS.index("weight_lbs")] += 1.0
    explainer.stories(counted, replace(vectors, matrix=moved), blended=False)
    explainer.stories(replace(counted, version="another"), vectors, blended=False)
    assert len(worked_out) == 3


def test_new_odds_do_not_have_the_drivers_worked_out_again(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The desk asks again at every tick of the odds."""
    before = scorer.score("to come", NOW)

    def never(self: Bundle, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        raise AssertionError("worked out again")

    monkeypatch.setattr(Bundle, "contributions", never)
    again = scorer.score("to come", NOW + timedelta(minutes=1))
    assert [runner.drivers for runner in again.runners] == [runner.drivers for runner in before.runners]
    assert any(runner.drivers for runner in again.runners)


def test_the_drivers_are_reported_in_words(scored: ScoredRace) -> None:
    found = [driver.words for runner in scored.runners for driver in runner.drivers]
    assert found
    assert story_of("trainer_velocity__sr_14d_rank") == story_of("trainer_velocity__wins_14d")
    known = {"trainer_velocity__wins_14d": 6.0, "trainer_velocity__runs_14d": 21.0}
    assert words("trainer_velocity:14d", known) == "trainer 6 from 21 in 14 days"
    assert words("trainer_velocity:14d", dict.fromkeys(known, np.nan)) == "trainer no runs in 14 days"


def printed(scored: ScoredRace) -> str:
    console = Console(width=220, record=True, file=StringIO())
    console.print(race_card(scored), soft_wrap=True)
    return console.export_text()


def test_the_card_shows_how_the_odds_drifted(scored: ScoredRace) -> None:
    """ln 1.25 is a quarter longer, ln 0.9 a tenth shorter."""
    runners = list(scored.runners)
    at = next(at for at, runner in enumerate(runners) if runner.horse_id == "horse 1")
    known = {"drift_60m": math.log(1.25), "drift_30m": math.log(0.9), "drift_10m": 0.0, "drift_5m": None}
    moves, why = runners[at].moves, runners[at].unknown_moves
    assert moves is not None
    assert why is not None
    runners[at] = replace(runners[at], moves={**moves, **known}, unknown_moves={"drift_5m": why["drift_5m"]})
    shown = printed(replace(scored, runners=tuple(runners)))
    assert "+25 -10 +0 –" in shown
    assert [minutes for minutes in (60, 30, 10, 5) if f"drift over {minutes} minutes" in shown] == [5]


def test_the_card_shows_model_and_gate_and_the_json_is_plain(scored: ScoredRace) -> None:
    shown = printed(scored)
    for text in (
        scored.model,
        "gate: not run",
        "paper only",
        "Horse 1",
        "non-runner: Horse 7",
        "3.50 show",
        "no row: horse",
        "known at 2023-06-01 12:00:00 UTC: old, 60 minutes before the score",
        "drift over 5 minutes: no odds of that source so long before, or none since",
    ):
        assert text in shown
    plain = json.loads(json.dumps(to_json(scored)))
    assert plain["runners"][0]["probability"] == scored.runners[0].probability
    assert plain["as_of"] == "2023-06-01T13:00:00.000000Z"


# What is refused, or reported


def test_an_unknown_race_is_refused_in_one_line(store: Store) -> None:
    with pytest.raises(UserError, match=r"race 'R9' was never declared nor run here") as refused:
        score(store, "R9", log=UnbuiltLog(store.home), now=NOW)
    assert "\n" not in str(refused.value)


def test_an_instant_to_come_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="is still to come"):
        score(store, "to come", log=UnbuiltLog(store.home), now=NOW, as_of=NOW + timedelta(seconds=1))


def test_a_race_not_declared_by_then_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="had no declared runner by 2023-05-01"):
        score(store, "to come", log=UnbuiltLog(store.home), now=NOW, as_of=datetime(2023, 5, 1, tzinfo=UTC))


def test_an_online_store_that_holds_nothing_gives_no_made_up_number(store: Store, tmp_path: Path) -> None:
    copied = a_copy(store, tmp_path)
    try:
        with pytest.raises(UserError, match="Redis holds no feature of any runner of 'to come': run `velo build`"):
            score(copied, "to come", log=UnbuiltLog(copied.home), now=NOW)
    finally:
        down(copied.home)


NOTHING = "nothing is known of its runners"


def test_a_race_of_strangers_is_scored_and_says_that_nothing_is_known_of_them(
    store: Store, feast: FeatureStore, scorer: Scorer, scored: ScoredRace
) -> None:
    """Not that Redis lacks them: it lacks nothing. The same as of an instant, and of a card that someone brings."""
    now, then = scorer.score("abroad", NOW), scorer.score("abroad", NOW, as_of=NOW - timedelta(hours=1))
    posted = scorer.score_card(a_card(ABROAD, STRANGERS, NOW), None, NOW)
    for race in (now, then, posted):
        assert [note for note in race.notes if note.startswith(NOTHING)]
        assert sum(runner.probability for runner in race.runners) == pytest.approx(1.0, abs=1e-9)
        assert {"horse_form", "trainer_velocity", "jockey_velocity"} <= set(race.missing)
    assert now.fingerprint == then.fingerprint == posted.fingerprint
    assert not [note for note in scored.notes if note.startswith(NOTHING)]


def test_strangers_on_a_course_that_is_known_are_strangers_still(store: Store, scorer: Scorer) -> None:
    """The draw of the course has its figures; of those who run there is none."""
    known = next(message.race for message in a_season(9) if isinstance(message, Racecard))
    race = scorer.score_card(a_card(replace(known, race_id="new"), STRANGERS, NOW), None, NOW)
    assert "draw_bias" not in race.missing
    assert [note for note in race.notes if note.startswith(NOTHING)]


def declared_late(store: Store, folder: Path, cards: Sequence[Racecard]) -> Store:
    """A copy of the store in which a stream took some cards."""
    copied = a_copy(store, folder)
    with LogWriter.open(copied, clock=lambda: NOW) as writer:
        for card in cards:
            writer.append(card)
    streamed(copied, online=True, clock=lambda: NOW)
    return copied


@pytest.mark.parametrize("instant", [None, NOW + timedelta(seconds=1)])
def test_a_race_whose_runners_are_all_withdrawn_is_refused_with_that_reason(
    store: Store, tmp_path: Path, instant: datetime | None
) -> None:
    out = tuple(replace(stranger, status="NR") for stranger in STRANGERS)
    copied = declared_late(store, tmp_path, [Racecard(replace(ABROAD, race_id="all out"), out)])
    try:
        build(copied, BUILT_AT)
        with pytest.raises(UserError, match="all 3 declared runners of race 'all out' were withdrawn by 2023-06-01"):
            score(copied, "all out", log=UnbuiltLog(copied.home), now=NOW + timedelta(seconds=2), as_of=instant)
    finally:
        down(copied.home)


def test_a_void_race_without_a_card_is_refused_with_that_reason() -> None:
    """Nobody withdrew its runners: no card declared them, and none started."""
    void = Result(ABROAD, tuple(replace(stranger, status="VOID") for stranger in STRANGERS), known_at=NOW)
    with pytest.raises(UserError, match="was void, and no racecard of it was known by 2023-06-01"):
        declared([void], NOW)


def test_the_shared_case_of_a_race_with_nobody_known(store: Store, tmp_path: Path) -> None:
    """A card of strangers, and one whose runners are all marked: both are live, in Redis."""
    cards = [shared_file(f"cases/13-nobody-known/{name}.csv") for name in ("card", "all-nr")]
    copied = declared_late(store, tmp_path, read_cards(cards, store).messages)
    try:
        race = score(copied, "D1", log=UnbuiltLog(copied.home), now=NOW + timedelta(seconds=1))
        assert (race.features_from, len(race.runners)) == ("redis", 2)
        assert [note for note in race.notes if note.startswith(NOTHING)]
        with pytest.raises(UserError, match="all 2 declared runners of race 'D2' were withdrawn"):
            score(copied, "D2", log=UnbuiltLog(copied.home), now=NOW + timedelta(seconds=1))
    finally:
        down(copied.home)


def test_an_instant_that_the_tables_do_not_reach_is_refused_and_one_before_is_scored(
    store: Store, tmp_path: Path
) -> None:
    copied = a_copy(store, tmp_path)
    with LogWriter.open(copied, clock=lambda: OFF) as writer:
        writer.append(NonRunner("to come", "horse 1", "lame"))
    log = UnbuiltLog(copied.home)
    with pytest.raises(
        TablesBehind, match=r"the tables hold what was known before 2023-06-01T14:00:00.*run `velo build`"
    ):
        score(copied, "to come", log=log, now=OFF, as_of=OFF)
    before = score(copied, "to come", log=log, now=OFF, as_of=OFF - timedelta(microseconds=1))
    assert "horse 1" in {runner.horse_id for runner in before.runners}
