"""The model: a softmax within the race, days kept whole and in order, the same seed the same trees, a bundle that fits."""

import math
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from tests.support.made_once import Seasons
from tests.support.seasons import BUILT_AT
from tests.support.stores import formulas_of
from velo.errors import UserError
from velo.feature_repo.catalogue import columns
from velo.feature_repo.catalogue.aggregates import Ratio, Sum
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES, Family
from velo.racing.jurisdiction import DEFAULT
from velo.storage.store import Home, Store
from velo.storage.table_versions import MANIFEST, Formulas, Manifest, ViewFormulas
from velo.streams.batch import render
from velo.streams.batch.formulas import _view_formulas, view_formulas
from velo.training import bundle
from velo.training.dataset.by_race import softmax
from velo.training.dataset.races import Races, races_of, split
from velo.training.dataset.training_set import TrainingSet
from velo.training.evaluation.metrics import first_choice_won, winner_loss
from velo.training.evaluation.quality import measure
from velo.training.market.blending import KINDS
from velo.training.model.ensemble import Ensemble, Logit, fit_logit, importance_of
from velo.training.model.trees import FEATURES, ModelOptions, faded, fit, gradients, grow
from velo.training.race_model import Runners
from velo.training.registry import bundle_writing
from velo.training.reports.train_tables import trained_table
from velo.training.train import TrainReport, train

pytestmark = pytest.mark.slow

SMALL = ModelOptions(rounds=60, patience=60, leaves=8, learning_rate=0.1, threads=1)


@pytest.fixture(scope="module")
def store(seasons: Seasons) -> Store:
    return seasons.store(330)


@pytest.fixture(scope="module")
def rows(seasons: Seasons) -> TrainingSet:
    return seasons.rows(330)


@pytest.fixture(scope="module")
def report(store: Store) -> TrainReport:
    return train(store, now=BUILT_AT, model=SMALL)


def some_races(sizes: list[int], wins: list[float], pi: float = np.nan) -> Races:
    total = sum(sizes)
    starts = np.cumsum([0, *sizes[:-1]]).astype(np.intp)
    days = np.arange("2024-01-01", len(sizes), dtype="datetime64[D]")
    return Races(np.arange(total), starts, np.array(wins), np.full(total, pi), days)


# What a model learns from


def test_a_rating_that_late_races_seldom_have_is_not_learned_from_and_one_that_is_known_as_ever_is() -> None:
    """Beside it a column that nobody may drop: however much fades, only ratings are left out."""
    races = some_races([10] * 1200, [1.0, *[0.0] * 9] * 1200)
    features = ("horse_form__starts", "official_rating", "official_rating_z")
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(races.rows.size, 3))
    # which says who wins, so that trees and logit would use it
    matrix[:, 1] += 2.0 * races.share
    late = np.repeat(races.days > races.days[-1] - np.timedelta64(365, "D"), races.sizes)
    assert not faded(matrix, races, features).any()
    found = grow((matrix, races), features, replace(SMALL, seeds=1), 5)
    assert "official_rating" in importance_of(found.text)
    matrix[late & (rng.random(late.size) < 0.5)] = np.nan
    assert faded(matrix, races, features).tolist() == [False, True, True]
    without = grow((matrix, races), features, replace(SMALL, seeds=1), 5)
    assert not {"official_rating", "official_rating_z"} & importance_of(without.text).keys()
    logit = fit_logit(matrix, races.starts, races.share, features, 1.0, without=faded(matrix, races, features))
    assert [weight == 0.0 for weight in logit.weights] == [False, True, True]


# The objective


def test_probabilities_of_each_race_sum_to_one_however_large_the_scores() -> None:
    scores = np.array([900.0, 901.0, -900.0, 0.0, 0.0])
    chances = softmax(scores, np.array([0, 3]))
    assert chances[:3].sum() == pytest.approx(1.0, abs=1e-12)
    assert chances[3:].tolist() == [0.5, 0.5]
    assert chances[1] / chances[0] == pytest.approx(math.e)


def test_the_gradient_is_the_slope_of_the_winner_log_loss() -> None:
    """Against differences of the loss itself, a dead heat among the races."""
    races = some_races([3, 4], [1, 0, 0, 0.5, 0.5, 0, 0])
    scores = np.random.default_rng(3).normal(size=7)

    def loss(at: NDArray[np.float64]) -> float:
        return float(winner_loss(softmax(at, races.starts), races.share, races.starts).sum())

    first, second = gradients(scores, races)
    step = 1e-5 * np.eye(7)
    slopes = [(loss(scores + each) - loss(scores - each)) / 2e-5 for each in step]
    bends = [(gradients(scores + each, races)[0] - gradients(scores - each, races)[0]) / 2e-5 for each in step]
    np.testing.assert_allclose(first, slopes, atol=1e-8)
    np.testing.assert_allclose(second, np.diag(bends), atol=1e-8)


def test_the_gradient_of_three_places_is_the_slope_of_who_was_next_among_those_left() -> None:
    """Places 1, 2, 3; a dead heat for first with a third; a second of unknown rivals; two seconds, who add nothing."""
    races = replace(
        some_races([3, 4, 3, 3], [1, 0, 0, 0.5, 0.5, 0, 0, 1, 0, 0, 1, 0, 0]),
        place=np.array([1, 2, 3, 1, 1, 3, 4, 1, np.nan, 2, 1, 2, 2]),
    )
    scores = np.random.default_rng(3).normal(size=13)

    def next_of(at: NDArray[np.float64], taken: int, left: list[int], exponent: float) -> float:
        return float(-np.log(np.exp(exponent * at[taken]) / np.exp(exponent * at[left]).sum()))

    def loss(at: NDArray[np.float64]) -> float:
        won = float(winner_loss(softmax(at, races.starts), races.share, races.starts).sum())
        seconds = next_of(at, 1, [1, 2], 0.8) + next_of(at, 9, [8, 9], 0.8)
        return won + 0.5 * seconds + 0.35 * next_of(at, 5, [5, 6], 0.65)

    first, second = gradients(scores, races, places=3)
    step = 1e-5 * np.eye(13)
    slopes = [(loss(scores + each) - loss(scores - each)) / 2e-5 for each in step]
    bends = [
        (gradients(scores + each, races, places=3)[0] - gradients(scores - each, races, places=3)[0]) / 2e-5
        for each in step
    ]
    np.testing.assert_allclose(first, slopes, atol=1e-8)
    np.testing.assert_allclose(second, np.diag(bends), atol=1e-8)
    np.testing.assert_array_equal(gradients(scores, races)[0], gradients(scores, replace(races, place=None))[0])


# The metrics


def test_one_over_n_explains_nothing_and_certainty_everything() -> None:
    races = some_races([2, 4], [1, 0, 0, 1, 0, 0])
    uniform = np.array([0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    assert measure(uniform, races, 1).model.r2.value == pytest.approx(0.0)
    assert measure(races.share, races, 1).model.r2.value == pytest.approx(1.0)
    assert measure(races.share, races, 1).market is None


def test_a_dead_heat_is_worth_half_of_each_winner() -> None:
    races = some_races([3], [0.5, 0.5, 0.0])
    assert winner_loss(np.array([0.5, 0.25, 0.25]), races.share, races.starts)[0] == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(4)
    )


def test_a_tied_first_choice_counts_in_shares() -> None:
    races = some_races([3, 2], [1, 0, 0, 0, 1])
    assert first_choice_won(np.array([0.4, 0.4, 0.2, 0.1, 0.9]), races.share, races.starts).tolist() == [0.5, 1.0]


# The split


def test_no_race_day_is_in_two_parts_and_time_runs_forward(rows: TrainingSet) -> None:
    parts = split(races_of(rows))
    assert parts.train.days.max() < parts.validation.days.min()
    assert parts.validation.days.max() < parts.test.days.min()
    assert sum(part.count for part in (parts.train, parts.validation, parts.test)) == races_of(rows).count


def test_days_may_be_chosen_and_too_few_races_are_refused(rows: TrainingSet) -> None:
    chosen = split(races_of(rows), date(2023, 10, 1), date(2023, 12, 1))
    assert chosen.validation.days.min() >= np.datetime64("2023-10-01")
    assert chosen.test.days.min() >= np.datetime64("2023-12-01")
    with pytest.raises(UserError, match="the test part has 0 races"):
        split(races_of(rows), date(2023, 10, 1), date(2030, 1, 1))


def test_only_starters_are_learned_from_and_every_race_has_its_winner(rows: TrainingSet) -> None:
    races = races_of(rows)
    assert rows.started()[races.rows].all()
    np.testing.assert_allclose(races.total(races.share), 1.0)


# The model


def test_the_same_seed_gives_the_same_trees_and_another_seed_others(rows: TrainingSet) -> None:
    parts = split(races_of(rows))
    matrix = rows.matrix(FEATURES)
    learned, watched = ((matrix[part.rows], part) for part in (parts.train, parts.validation))
    few = replace(SMALL, rounds=15)
    once, again, other = (fit(learned, watched, FEATURES, options) for options in (few, few, replace(few, seed=2)))
    assert once.text == again.text
    assert once.text != other.text


def test_it_learns_what_there_is_and_nothing_from_shuffled_winners(rows: TrainingSet, report: TrainReport) -> None:
    """The season has lasting ability in it. With each race's winner drawn again, later days show no skill."""
    assert (report.test.model.r2.value or 0.0) > 0.05
    races = races_of(rows)
    chance = np.random.default_rng(1)
    share = np.zeros_like(races.share)
    share[races.starts + (chance.random(races.count) * races.sizes).astype(np.intp)] = 1.0
    parts = split(replace(races, share=share))
    matrix = rows.matrix(FEATURES)
    learned, watched = ((matrix[part.rows], part) for part in (parts.train, parts.validation))
    placebo = fit(learned, watched, FEATURES, SMALL)
    found = measure(placebo.probabilities(matrix[parts.test.rows], parts.test), parts.test, 1)
    low = found.model.r2.low
    assert low is not None
    assert low < 0.01


def test_the_report_says_that_no_gate_was_run_and_stands_beside_the_market(report: TrainReport) -> None:
    assert (report.gate, report.mode) == ("not run", "paper only")
    assert report.test.market is not None
    assert report.test.priced_races == report.test.races
    assert any("the gate needs more than 50,000" in line for line in report.caveats)
    console = Console(width=160, record=True, file=StringIO())
    console.print(trained_table(report))
    shown = console.export_text()
    assert report.version in shown
    assert "market π" in shown
    assert [part.name for part in report.parts][1:4] == ["logit", "trees", "fundamental"]
    assert "the baseline to beat" in shown


# The bundle


def test_a_bundle_holds_text_and_plain_arrays_and_remembers_what_made_it(store: Store, report: TrainReport) -> None:
    folder = store.home.models / report.version
    text = [*bundle.FILES, bundle.CHECKSUMS]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*text, bundle.PROFILE])
    for name in text:
        (folder / name).read_text(encoding="utf-8")
    with np.load(folder / bundle.PROFILE, allow_pickle=False) as arrays:
        assert set(FEATURES) <= set(arrays["features"].tolist())
    loaded = bundle.load(store.home, formulas_of(store.home))
    assert loaded.version == report.version
    assert loaded.features == FEATURES
    assert loaded.metadata["catalogue"] == store.epochs[-1]
    assert loaded.metadata["lead_s"] == 300.0
    assert loaded.metadata["model"]["seed"] == SMALL.seed
    assert loaded.metrics["test"] == asdict(report.test)


def test_the_kept_model_is_fitted_on_every_day_and_scores_any_race_alone_as_it_does_among_all(
    store: Store, rows: TrainingSet, report: TrainReport
) -> None:
    """Race by race as serving asks, against all races at once; and again with the runners in another order, to the bit."""
    loaded = bundle.load(store.home, formulas_of(store.home))
    races = races_of(rows)
    assert report.records == races.rows.size
    assert report.train_last_day == str(races.days.max())
    matrix = rows.matrix(FEATURES)[races.rows]
    whole = softmax(loaded.model.fundamental.utilities(Runners(matrix, races.starts, FEATURES)), races.starts)
    rng = np.random.default_rng(1)
    for at, size in list(zip(races.starts.tolist(), races.sizes.tolist(), strict=True))[::40]:
        each = matrix[at : at + size]
        chances = loaded.probabilities(each)
        np.testing.assert_allclose(chances, whole[at : at + size], rtol=1e-12)
        order = rng.permutation(size)
        np.testing.assert_array_equal(loaded.probabilities(each[order]), chances[order])


@pytest.mark.usefixtures("report")
def test_contributions_add_up_to_the_utility(store: Store, rows: TrainingSet) -> None:
    """Summed over the features they are the log of the odds against the race's mean: nothing is left untold."""
    loaded = bundle.load(store.home, formulas_of(store.home))
    races = races_of(rows)
    for at, size in list(zip(races.starts.tolist(), races.sizes.tolist(), strict=True))[::60]:
        each = rows.matrix(FEATURES)[races.rows[at : at + size]]
        logs = np.log(loaded.probabilities(each))
        np.testing.assert_allclose(loaded.contributions(each).sum(axis=1), logs - logs.mean(), atol=1e-9)


def test_a_bundle_blends_with_odds_and_says_none_without_them(
    store: Store, rows: TrainingSet, report: TrainReport
) -> None:
    loaded = bundle.load(store.home, formulas_of(store.home))
    blending = loaded.model.blending
    assert (None if blending is None else blending.kind) == report.blend
    assert report.blend in KINDS
    races = races_of(rows)
    at, size = int(races.starts[-1]), int(races.sizes[-1])
    own = races.rows[at : at + size]
    matrix, odds = rows.matrix(FEATURES)[own], rows.label("sp_decimal")[own]
    chances = loaded.probabilities(matrix)
    for features in (matrix, None):
        blended = loaded.blend(chances, odds, features)
        assert blended is not None
        assert blended.sum() == pytest.approx(1.0, abs=1e-12)
    for of, said in ((bundle.OWN, chances), (bundle.BLEND, loaded.blend(chances, odds, matrix))):
        assert said is not None
        bounds = loaded.interval(said, of)
        if bounds is None:
            # of the blend fewer races are predicted: those after the first fold that it is learned on
            assert of == bundle.BLEND, loaded.model.bands
            continue
        assert ((bounds[:, 0] < bounds[:, 1]) & (bounds >= 0.0).all(axis=1) & (bounds <= 1.0).all(axis=1)).all()
        assert (bounds[:, 0] < 1.2 * said).all()
        assert (bounds[:, 1] > 0.8 * said).all()
    assert loaded.calibrated(chances).sum() == pytest.approx(1.0, abs=1e-12)
    odds[1] = np.nan
    assert loaded.blend(chances, odds, matrix) is None


@pytest.mark.usefixtures("report")
def test_shorter_odds_never_lower_a_blended_chance(store: Store, rows: TrainingSet) -> None:
    """By a tick or by half, of every runner of many races: curves of two odds regimes meet nowhere in a cliff."""
    loaded = bundle.load(store.home, formulas_of(store.home))
    races = races_of(rows)
    matrix, sp = rows.matrix(FEATURES)[races.rows], rows.label("sp_decimal")[races.rows]
    moved = []
    for at, size in list(zip(races.starts.tolist(), races.sizes.tolist(), strict=True))[::10]:
        features, odds = matrix[at : at + size], sp[at : at + size]
        chances = loaded.probabilities(features)
        before = loaded.blend(chances, odds, features)
        if before is None:
            continue
        for times in (0.97, 0.5):
            for runner in range(size):
                shorter = odds.copy()
                shorter[runner] = max(odds[runner] * times, 1.01)
                after = loaded.blend(chances, shorter, features)
                assert after is not None
                moved.append(after[runner] / before[runner])
    assert len(moved) > 500
    assert min(moved) > 1.0


def an_ensemble() -> Ensemble:
    return Ensemble("tree\n", Logit(("weight_lbs",), (0.0,), (1.0,), (0.0,), 1.0, 1, 0.0), 0.5)


def a_model() -> bundle.Model:
    return bundle.Model(an_ensemble())


def a_bundle(
    home: Home, catalogue: str = "f" * 32, features: tuple[str, ...] = ("weight_lbs",), reads: Formulas | None = None
) -> str:
    metadata = {
        "features": list(features),
        "catalogue": catalogue,
        "lead_s": 300.0,
        "gate": "not run",
        "mode": "paper only",
        "reads": None if reads is None else bundle.reads_of(features, reads),
    }
    return bundle_writing.write(home, a_model(), metadata, {}, datetime(2024, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("name", bundle.FILES)
def test_a_bundle_that_was_changed_is_refused(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path)
    path = home.models / a_bundle(home) / name
    path.write_text(path.read_text() + " ")
    with pytest.raises(UserError, match=f"{name} is not as it was written"):
        bundle.load(home, Formulas("f" * 32))
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        bundle.load(home, Formulas("f" * 32))


def test_a_bundle_of_another_catalogue_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    a_bundle(home, "a" * 32)
    with pytest.raises(UserError, match="was trained on the catalogue aaaaaaaa, the tables are of ffffffff"):
        bundle.load(home, Formulas("f" * 32))


def test_a_column_reads_every_input_that_it_changes_with() -> None:
    """Brute force: other values of one input change no column but those that say they read it."""
    chance = np.random.default_rng(1)
    race = np.array([1, 1, 1, 2, 2, 2])

    def values() -> dict[str, NDArray[np.float64]]:
        return {name: chance.uniform(1.0, 7.0, race.size) for name in columns.BASE}

    base, other = values(), values()
    made = columns.matrix(base, race)
    readers: dict[str, set[str]] = {name: set() for name in columns.BASE}
    for name in columns.COLUMNS:
        for read in columns.inputs_of([name]):
            readers[read].add(name)
    for name in columns.BASE:
        changed = columns.matrix(base | {name: other[name]}, race) != made
        found = {column for place, column in enumerate(columns.COLUMNS) if changed[:, place].any()}
        # a rank among three need not change
        assert found <= readers[name]
        assert {column for column in readers[name] if not column.endswith("_rank")} <= found, name


def test_a_column_reads_the_views_of_its_inputs_and_of_its_request_time_features() -> None:
    assert columns.views_of(["weight_lbs"]) == ()
    assert columns.views_of(["trainer_velocity__sr_14d_rank", "in_hand_last"]) == ("horse_ability", "trainer_velocity")
    assert columns.views_of(["since_last_run__days_since_last_run_z"]) == ("horse_form",)
    assert columns.views_of(["elo_ridden"]) == ("horse_elo", "jockey_elo")
    assert [*columns.request_formulas(["seasoned_days"])] == ["since_last_run__days_since_last_run"]


def test_a_model_fits_while_what_it_reads_is_unchanged(tmp_path: Path) -> None:
    home = Home(tmp_path)
    trained = Formulas("a" * 32, {"horse_form": "1", "jockey_elo": "2", "horse_elo": "3"})
    version = a_bundle(home, "a" * 32, ("horse_form__sr", "since_last_run__rating_change"), trained)
    stored = bundle.described(home, version)

    def reason(views: dict[str, str]) -> str | None:
        return bundle.misfit(stored, Formulas("b" * 32, views))

    assert reason({"horse_form": "1", "a_new_view": "4"}) is None
    assert bundle.load(home, Formulas("b" * 32, {"horse_form": "1"})).version == version
    assert reason({"horse_form": "5"}) == "reads horse_form, whose formulas changed since it was trained"
    assert reason({"jockey_elo": "2"}) == "reads horse_form, which the catalogue no longer has"
    asked = stored["reads"]["request_time"]
    assert [*asked] == ["since_last_run__rating_change"]
    edited = stored | {"reads": stored["reads"] | {"request_time": dict.fromkeys(asked, "0" * 16)}}
    assert "since_last_run__rating_change, whose formulas changed" in str(bundle.misfit(edited, trained))


def test_a_model_fits_a_changed_view_while_the_features_that_it_reads_are_unchanged(tmp_path: Path) -> None:
    """It reads the strike rate of 14 days, by its rank, and a horse's last rating, by its change since."""
    trainers = BY_VIEW["trainer_velocity"]

    def formulas(*changed: Family) -> Formulas:
        others = {family.view: family for family in changed}
        return Formulas.of("c" * 32, view_formulas([others.get(family.view, family) for family in FAMILIES]))

    trained = formulas()
    version = a_bundle(
        Home(tmp_path), "a" * 32, ("trainer_velocity__sr_14d_rank", "since_last_run__rating_change"), trained
    )
    stored = bundle.described(Home(tmp_path), version)
    assert stored["reads"]["features"].keys() == {"trainer_velocity__sr_14d", "horse_form__last_rating"}
    wider = formulas(replace(trainers, windows=(7, 14, 30, 90)))
    assert wider.views["trainer_velocity"] != trained.views["trainer_velocity"]
    assert bundle.misfit(stored, wider) is None
    assert bundle.load(Home(tmp_path), wider).version == version
    fewer = replace(trainers, windowed=tuple(each for each in trainers.windowed if each.name != "ae"))
    form = replace(BY_VIEW["horse_form"], career=(*BY_VIEW["horse_form"].career, Sum("priced", "priced")))
    assert bundle.misfit(stored, formulas(fewer, form)) is None
    rates = tuple(Ratio("sr", "win", "one", prior=2) if each.name == "sr" else each for each in trainers.windowed)
    assert bundle.misfit(stored, formulas(replace(trainers, windowed=rates))) == (
        "reads trainer_velocity__sr_14d, whose formulas changed since it was trained"
    )
    assert bundle.misfit(stored, formulas(replace(trainers, windows=(30, 90)))) == (
        "reads trainer_velocity__sr_14d, which the catalogue no longer has"
    )
    of_views = stored | {"reads": {name: stored["reads"][name] for name in ("views", "request_time")}}
    assert bundle.misfit(of_views, wider) == "reads trainer_velocity, whose formulas changed since it was trained"
    unknown = Formulas(wider.fingerprint, wider.views)
    assert "reads trainer_velocity__sr_14d" in str(bundle.misfit(stored, unknown))


def test_a_change_to_how_queries_are_made_changes_the_formula_of_each_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed past the cache, which holds what the process computed before."""
    before, write = view_formulas(), render.deltas
    monkeypatch.setattr(render, "deltas", lambda family: write(family) + "\nORDER BY t")
    for family in FAMILIES:
        after = _view_formulas.__wrapped__(family, DEFAULT)
        assert before[family.view].features.items().isdisjoint(after.features.items())


def test_a_model_that_does_not_fit_the_tables_is_neither_promoted_nor_rolled_back_to(tmp_path: Path) -> None:
    home = Home(tmp_path)
    before, now = Formulas("a" * 32, {"horse_form": "1"}), Formulas("b" * 32, {"horse_form": "2"})
    first = a_bundle(home, "a" * 32, ("horse_form__sr",), before)
    metadata = {
        "features": ["horse_form__sr"],
        "catalogue": "b" * 32,
        "lead_s": 1.0,
        "gate": "not run",
        "mode": "paper only",
    }
    metadata["reads"] = bundle.reads_of(("horse_form__sr",), now)
    other = bundle.Model(replace(an_ensemble(), trees="other\n"))
    second = bundle_writing.write(home, other, metadata, {}, datetime(2024, 1, 2, tzinfo=UTC))
    generation = home.generations / "000001"
    generation.mkdir(parents=True)
    views = {view: ViewFormulas(mark, 2, {}) for view, mark in now.views.items()}
    manifest = Manifest(0, 1, datetime(2024, 1, 2, tzinfo=UTC), now.fingerprint, 2, {"horse_form": 0}, views)
    (generation / MANIFEST).write_bytes(manifest.to_json())
    home.offline.symlink_to(generation)
    refused = f"model {first} reads horse_form, whose formulas changed .* promote {second}, or run `velo train`"
    for refuse in (lambda: bundle_writing.promote(home, first), lambda: bundle_writing.rollback(home)):
        with pytest.raises(UserError, match=refused):
            refuse()
    assert bundle.current(home) == second
    bundle_writing.promote(home, second)
    (home.models / second / "model.txt").write_text("damaged\n")
    with pytest.raises(
        UserError, match=f"model {first} reads horse_form, .* changed since it was trained: run `velo train`"
    ):
        bundle_writing.rollback(home)


def test_a_bundle_or_tables_of_an_earlier_version_fit_by_the_formulas_of_the_whole_catalogue(tmp_path: Path) -> None:
    stored = bundle.described(Home(tmp_path), a_bundle(Home(tmp_path), "a" * 32, ("horse_form__sr",)))
    assert bundle.misfit(stored, Formulas("a" * 32, {"horse_form": "1"})) is None
    assert "was trained on the catalogue aaaaaaaa" in str(
        bundle.misfit(stored, Formulas("b" * 32, {"horse_form": "1"}))
    )
    assert bundle.reads_of(("horse_form__sr",), Formulas("a" * 32)) is None
    new = stored | {"reads": {"views": {"horse_form": "1"}, "request_time": {}}}
    assert bundle.misfit(new, Formulas("a" * 32)) is None
    assert "was trained on the catalogue aaaaaaaa" in str(bundle.misfit(new, Formulas("b" * 32)))


def test_a_bundle_with_a_column_that_no_catalogue_declares_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sp_decimal is no feature of the catalogue"):
        a_bundle(Home(tmp_path), features=("sp_decimal",))
    assert bundle.versions(Home(tmp_path)) == []


def test_without_a_model_the_remedy_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no model at .*: run `velo train` first"):
        bundle.load(Home(tmp_path), Formulas("f" * 32))


def test_the_current_version_is_the_last_written_until_another_is_promoted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = a_bundle(home)
    metadata = {"features": [], "catalogue": "f" * 32, "lead_s": 1.0, "gate": "not run", "mode": "paper only"}
    other = bundle.Model(replace(an_ensemble(), trees="other\n"))
    second = bundle_writing.write(home, other, metadata, {}, datetime(2024, 1, 2, tzinfo=UTC))
    assert home.serving_model.read_text().strip() == second
    bundle_writing.promote(home, first)
    assert home.serving_model.read_text().strip() == first
    with pytest.raises(UserError, match="'none such' is not a model"):
        bundle_writing.promote(home, "none such")
