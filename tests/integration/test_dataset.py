"""The training set: what was known at decision time, for those declared then; labels of the first result beside it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.support.made_once import Seasons
from tests.support.seasons import BUILT_AT, a_season, a_store, opened
from tests.support.shared import shared_file
from tests.support.stores import Conformance
from velo.errors import UserError
from velo.feature_repo.catalogue import columns
from velo.feature_repo.catalogue.market_moves import moves_of
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.cards import decision_time, declared_at, first_result
from velo.racing.messages import (
    GoingChange,
    JockeyChange,
    Market,
    Message,
    NonRunner,
    Race,
    Racecard,
    Reinstated,
    Result,
    Runner,
    instant_of,
)
from velo.storage.log.reader import messages as logged
from velo.storage.store import Store
from velo.streams.importers.ingest import ingest
from velo.streams.importers.sources.runners import read_runner_tables
from velo.training.dataset.entity_rows import Period, declared, prices
from velo.training.dataset.training_set import LABEL, TrainingSet, training_set

pytestmark = pytest.mark.slow

LEAD = timedelta(minutes=5)
OFF = datetime(2024, 5, 1, 14, 0, tzinfo=UTC)
KEYS = ("trainer_id", "jockey_id", "horse_id", "course", "distance_band", "going_group", "draw_cell")


@pytest.fixture(scope="module")
def store(seasons: Seasons) -> Store:
    return seasons.store(90)


@pytest.fixture(scope="module")
def rows(seasons: Seasons) -> TrainingSet:
    return seasons.rows(90)


# Who was declared: the plain twin


def a_tangled_race(chance: np.random.Generator, race_id: str) -> list[Message]:
    """Messages in every order and at the very instants that decide: cards moved and late, changes before and after."""

    def pick(*of: Any) -> Any:
        return of[int(chance.integers(0, len(of)))]

    def when() -> datetime:
        return OFF - timedelta(minutes=float(chance.choice([240, 60, 30, 6, 5, 4.9, 0, -10, -16])))

    def race() -> Race:
        off = OFF + timedelta(minutes=float(chance.choice([0, 0, 0, 20, -10])))
        going, metres = pick("Good", "Soft", "odd", None), pick(1200.0, 1900.0, None)
        return Race(race_id, date(2024, 5, 1), off, "Ayr", going=going, distance_m=metres, surface=pick("Turf", None))

    def runners(statuses: Sequence[str | None]) -> tuple[Runner, ...]:
        drawn = chance.permutation(6) + int(chance.random() < 0.8)
        size = int(chance.integers(1, 6))
        return tuple(
            Runner(
                f"h{n}",
                draw=int(drawn[n]),
                jockey_id=pick("j1", "j2", None),
                trainer_id=pick("t1", None),
                status=pick(*statuses),
                weight_lbs=pick(120.0, None),
                official_rating=pick(70, None),
                body_weight_lbs=pick(1020.0, None),
            )
            for n in range(size)
        )

    def result(version: int) -> Result:
        field = runners(("FINISHED", "PU", "NR"))
        winner = replace(field[0], status="FINISHED", position=1, sp_decimal=2.5)
        rest = (
            replace(runner, position=n + 2 if runner.status == "FINISHED" else None)
            for n, runner in enumerate(field[1:])
        )
        known_in = float(chance.choice([15, 15, 15, -40]))
        return Result(race(), (winner, *rest), version, OFF + timedelta(minutes=known_in + version))

    messages: list[Message] = [
        Racecard(race(), runners((None, None, None, "NR")), when()) for _ in range(int(chance.integers(0, 4)))
    ]
    messages += [
        NonRunner(race_id, f"h{int(chance.integers(0, 6))}", None, when()) for _ in range(int(chance.integers(0, 3)))
    ]
    messages += [
        Reinstated(race_id, f"h{int(chance.integers(0, 6))}", when()) for _ in range(int(chance.integers(0, 2)))
    ]
    messages += [
        GoingChange(race_id, str(pick("Heavy", "Firm", "odd")), when()) for _ in range(int(chance.integers(0, 3)))
    ]
    messages += [
        JockeyChange(race_id, f"h{int(chance.integers(0, 6))}", pick("j8", "j9", None), None, when())
        for _ in range(int(chance.integers(0, 4)))
    ]
    messages += [Market(race_id, {"h1": 3.0}, "show", when())]
    return messages + [result(version) for version in (1, 2) if chance.random() < 0.85]


def agrees_with_the_plain_twin(store: Store) -> int:
    """Hold the SQL's declared runners equal to `declared_at`, race by race; returns how many races were held."""
    by_race: dict[str, list[Message]] = {}
    for _, message in logged(store.home):
        if message.race_id is not None:
            by_race.setdefault(message.race_id, []).append(message)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in declared(store.home, LEAD).drop_columns(["result_seq"]).to_pylist():
        found.setdefault(row["race_id"], []).append(row)
    held = 0
    for race_id, messages in by_race.items():
        expected = _plainly(messages)
        assert found.get(race_id, []) == expected, race_id
        held += bool(expected)
    return held


def _plainly(messages: Sequence[Message]) -> list[dict[str, Any]]:
    result, at = first_result(messages), decision_time(messages, LEAD)
    if result is None or at is None or not any(runner.started for runner in result.runners):
        return []
    race = declared_at(messages, at)
    assert race is not None
    rows: list[dict[str, Any]] = [
        {
            "race_id": race.race.race_id,
            "race_date": race.race.race_date,
            "off_time": race.race.off_time,
            "decision_time": at,
            "source": race.source,
            "runner_no": runner.runner_no,
            "draw": runner.draw or None,
            **{key: keys[key] for key in KEYS},
            "race_day": (race.race.race_date - date(1970, 1, 1)).days,
            "race_class": race.race.race_class,
            "distance_m": race.race.distance_m,
            "weight_lbs": runner.weight_lbs,
            "official_rating": runner.official_rating,
            "body_weight_lbs": runner.body_weight_lbs,
            "event_timestamp": at,
        }
        for runner, keys in zip(race.runners, race.entity_keys(), strict=True)
    ]
    return sorted(rows, key=lambda row: str(row["horse_id"]))


def test_declared_runners_equal_the_plain_twin_on_tangled_races(tmp_path: Path) -> None:
    """250 races of messages drawn to fall on and beside the instants that decide."""
    chance = np.random.default_rng(2024)
    found = [message for n in range(250) for message in a_tangled_race(chance, f"R{n:03d}")]
    assert agrees_with_the_plain_twin(a_store(tmp_path / "home", found)) > 150


def test_declared_runners_equal_the_plain_twin_on_real_races(tmp_path: Path) -> None:
    table = pq.read_table(shared_file("data/hk/runners.parquet"))
    days = pc.and_(
        pc.greater_equal(table["race_date"], date(2024, 1, 1)), pc.less(table["race_date"], date(2024, 4, 1))
    )
    pq.write_table(table.filter(days), tmp_path / "part.parquet")
    store = opened(tmp_path / "home").save()
    ingest(store, read_runner_tables([tmp_path / "part.parquet"], store), clock=lambda: BUILT_AT)
    assert agrees_with_the_plain_twin(a_store(tmp_path / "home", [])) > 150


# What was known


def test_every_start_is_there_once_whatever_is_known_of_it(store: Store, rows: TrainingSet) -> None:
    starts = sum(
        sum(runner.started for runner in message.runners)
        for _, message in logged(store.home)
        if isinstance(message, Result) and message.result_version == 1
    )
    assert rows.started().sum() == starts
    keys = set(zip(rows.identity["race_id"].to_pylist(), rows.identity["horse_id"].to_pylist(), strict=True))
    assert len(keys) == rows.rows


def test_all_real_starts_since_2010_come_through_feast_in_one_call(conformance: Conformance) -> None:
    store = conformance("hk").store
    since = date(2010, 1, 1)
    rows = training_set(store, period=Period(since, date(2025, 12, 31)))
    starts = sum(
        sum(runner.started for runner in message.runners)
        for _, message in logged(store.home)
        if isinstance(message, Result) and message.race.race_date >= since
    )
    assert rows.rows == rows.started().sum() == starts
    assert starts > 150_000
    runs = rows.features[:, columns.COLUMNS.index("trainer_velocity__runs_90d")]
    assert np.isfinite(runs).mean() > 0.98


def test_cards_where_there_are_some_name_the_runners_and_a_late_withdrawal_did_not_start(rows: TrainingSet) -> None:
    assert set(rows.identity["source"].to_pylist()) == {"racecard", "result version 1"}
    late = ~rows.started()
    assert late.any()
    assert np.isnan(rows.label("win_share")[late]).all()


def test_each_race_has_one_win_to_share_and_a_market_that_sums_to_one(rows: TrainingSet) -> None:
    for race in np.unique(rows.races):
        ran = (rows.races == race) & rows.started()
        assert rows.label("win_share")[ran].sum() == pytest.approx(1.0)
        assert rows.label("market_pi")[ran].sum() == pytest.approx(1.0)


def test_labels_are_of_the_first_result_whatever_amends_it(store: Store, rows: TrainingSet) -> None:
    winners = {
        message.race_id: next(runner.horse_id for runner in message.runners if runner.position == 1)
        for _, message in logged(store.home)
        if isinstance(message, Result) and message.result_version == 1
    }
    won = rows.label("win_share") == 1.0
    races, horses = (np.array(rows.identity[name].to_pylist()) for name in ("race_id", "horse_id"))
    assert dict(zip(races[won], horses[won], strict=True)) == winners
    assert any(isinstance(message, Result) and message.result_version == 2 for _, message in logged(store.home))


def test_no_label_is_a_feature_and_no_feature_a_label(rows: TrainingSet) -> None:
    table = rows.to_arrow()
    labels = {name for name in table.column_names if name.startswith(LABEL)}
    features = {name for name in table.column_names if name.startswith("feature__")}
    assert {name.removeprefix("feature__") for name in features} == set(columns.COLUMNS)
    assert len(labels) == 7
    assert not {name.removeprefix(LABEL) for name in labels} & set(columns.COLUMNS)


@pytest.mark.parametrize("stranger", ["sp_decimal", "label__win_share", "finish_time_s", "horse_form__next_position"])
def test_a_column_that_the_catalogue_does_not_declare_is_refused(rows: TrainingSet, stranger: str) -> None:
    with pytest.raises(UserError, match=f"{stranger} is no feature of the catalogue"):
        rows.matrix(["horse_form__starts", stranger])


def test_a_period_without_results_is_refused_in_one_line(store: Store) -> None:
    from velo.training.dataset.entity_rows import Period

    with pytest.raises(UserError, match="holds no result between 1990-01-01 and 1990-12-31"):
        training_set(store, period=Period(date(1990, 1, 1), date(1990, 12, 31)))


def test_it_is_kept_whole_in_one_file(rows: TrainingSet, tmp_path: Path) -> None:
    again = pq.read_table(rows.write(tmp_path / "set.parquet"))
    assert again.num_rows == rows.rows
    assert again.equals(rows.to_arrow())


def test_a_result_hours_before_its_scheduled_off_closes_its_race_and_its_market(tmp_path: Path) -> None:
    """Declared for 14:00, known at 11:00: decided at 10:55, and what was laid at noon is no price of this race.

    Its winner has neither this win among its starts nor the price of those who knew of it.
    """
    race = Race("R1", date(2024, 5, 1), OFF, "Ayr")
    runners = tuple(Runner(f"h{n}", status="FINISHED", position=n, trainer_id="t") for n in (1, 2))
    before = replace(race, race_id="R0", race_date=date(2024, 4, 30), off_time=OFF - timedelta(days=1))
    known_at = OFF - timedelta(hours=3)
    shown = [(-4, 5.0), (-3.05, 4.0), (-2, 1.1)]
    messages: list[Message] = [
        Result(before, runners, 1, before.off_time + timedelta(minutes=15)),
        Racecard(race, tuple(Runner(runner.horse_id, trainer_id="t") for runner in runners), OFF - timedelta(hours=6)),
        Result(race, runners, 1, known_at),
        *(Market("R1", {"h1": price}, "show", OFF + timedelta(hours=hours)) for hours, price in shown),
    ]
    store = a_store(tmp_path / "home", sorted(messages, key=instant_of))
    rows = training_set(store, period=Period(since=date(2024, 5, 1)))
    decided = rows.identity.select(["horse_id", "decision_time", "source"]).to_pylist()
    assert decided == [
        {"horse_id": horse, "decision_time": known_at - LEAD, "source": "racecard"} for horse in ("h1", "h2")
    ]
    assert rows.matrix(["horse_form__starts"])[:, 0].tolist() == [1.0, 1.0]
    odds = prices(store.home, rows.identity, LEAD, rows.label("sp_decimal"), rows.started())
    assert (odds.taken[0], odds.closing[0]) == (5.0, 4.0)


def test_the_market_at_decision_time_is_the_same_in_the_query_and_for_one_race_at_a_time(tmp_path: Path) -> None:
    """Random snapshots at the instants that decide, of two sources, with withdrawals and stakes: equal bit for bit."""
    rng, given = np.random.default_rng(12), list[Message]()
    for number in range(60):
        race = Race(f"R{number}", date(2024, 5, 1), OFF + timedelta(minutes=number), "Ayr")
        off, horses = race.off_time, [f"h{n}" for n in range(int(rng.integers(2, 6)))]
        given.append(Racecard(race, tuple(map(Runner, horses)), off - timedelta(hours=6)))
        for ago in rng.choice(
            [0, 4.99, 5, 5.01, 9, 10, 14, 15, 16, 35, 36, 64.5, 65, 65.5, 90], int(rng.integers(0, 9))
        ):
            named = [horse for horse in horses if rng.random() < 0.9] or horses
            odds = {horse: round(1.0 + 20 * float(rng.random()), 2) for horse in named}
            volumes = {horse: float(rng.integers(0, 999)) for horse in named} if rng.random() < 0.5 else None
            source = str(rng.choice(["tote", "exchange"]))
            given.append(Market(race.race_id, odds, source, off - timedelta(minutes=float(ago)), volumes))
        if rng.random() < 0.4:
            given.append(NonRunner(race.race_id, horses[0], None, off - timedelta(minutes=20)))
        ran = [Runner(horse, status="FINISHED", position=at) for at, horse in enumerate(horses[1:], 1)]
        given.append(Result(race, tuple(ran), 1, off + timedelta(minutes=15)))
    void = Race("void", date(2024, 5, 1), OFF, "Ayr")
    given.append(Result(void, (Runner("h0", status="VOID"),), 1, OFF + timedelta(minutes=15)))
    given += [Market(race_id, {"h0": 2.0}, "tote", OFF - timedelta(hours=1)) for race_id in ("void", "abandoned")]
    store = a_store(tmp_path / "home", sorted(given, key=instant_of))
    identity = declared(store.home, LEAD)
    everyone = np.ones(identity.num_rows, dtype=np.bool_)
    found = prices(store.home, identity, LEAD, np.full(identity.num_rows, np.nan), everyone)
    by_race: dict[str, list[Message]] = {}
    for _, message in logged(store.home):
        by_race.setdefault(message.race_id or "", []).append(message)
    known = 0
    for race_id, messages in by_race.items():
        rows = [row for row, of in enumerate(identity.column("race_id").to_pylist()) if of == race_id]
        if race_id in ("void", "abandoned"):
            assert not rows, "the market of a race that was not run reaches no training row"
            continue
        at = decision_time(messages, LEAD)
        then = declared_at(messages, at) if at else None
        assert then is not None
        order = np.argsort([runner.horse_id for runner in then.runners])
        np.testing.assert_array_equal(found.moves[rows], moves_of(then)[order], err_msg=race_id)
        known += int(np.isfinite(found.moves[rows][:, 2:6]).any())
    assert known > 10
    for part in Snapshot().parts(store.home.offline / "notices"):
        pq.write_table(pq.read_table(part).drop_columns(["volumes"]), part)
    older = prices(store.home, identity, LEAD, np.full(identity.num_rows, np.nan), everyone)
    np.testing.assert_array_equal(older.moves[:, :-2], found.moves[:, :-2])
    assert np.isnan(older.moves[:, -2:]).all(), "tables of an earlier version have no stakes"


def test_future_races_and_amendments_change_not_one_earlier_value(tmp_path: Path) -> None:
    """More races, and second versions of old results, are loaded and built: every earlier row stays as it was, bit for bit."""
    season = a_season(60)
    store = a_store(tmp_path / "home", season)
    earlier = training_set(store)
    first = [result for result in season if isinstance(result, Result) and result.result_version == 1]
    end = max(result.known_at for result in season if result.known_at)
    amended = [
        replace(each, result_version=3, runners=tuple(reversed(each.runners)), known_at=end + timedelta(hours=1 + n))
        for n, each in enumerate(first[::7])
    ]
    later = a_season(30, seed=8, first_day=date(2023, 5, 10))
    after = training_set(a_store(tmp_path / "home", [*amended, *later]))
    assert after.rows > earlier.rows
    kept = after.days() <= earlier.days().max()
    assert np.array_equal(after.features[kept], earlier.features, equal_nan=True)
    where = pa.array(kept)
    assert after.identity.filter(where).equals(earlier.identity)
    assert after.labels.filter(where).equals(earlier.labels)


def test_a_price_taken_is_reduced_by_the_withdrawals_after_the_decision(tmp_path: Path) -> None:
    """By hand: at Betfair a factor of 20 % makes 5.0 into 4.0, with 2.4 % more of another it stays; at a bookmaker a horse at 4.0
    costs 25p in the pound, so 5.0 pays 4.0; without a factor nothing is known; before the decision nothing is deducted."""
    messages: list[Message] = []
    cases: dict[str, tuple[str, float | None, timedelta]] = {
        "exchange": ("betfair", 20.0, timedelta(minutes=2)),
        "bookmaker": ("show", None, timedelta(minutes=2)),
        "unknown": ("betfair", None, timedelta(minutes=2)),
        "early": ("betfair", 20.0, timedelta(minutes=20)),
    }
    horses = ("a", "b", "gone", "small")
    for hour, (race_id, (source, factor, ago)) in enumerate(cases.items()):
        off = OFF + timedelta(hours=hour)
        race = Race(race_id, date(2024, 5, 1), off, "Ayr")
        messages += [
            Racecard(race, tuple(Runner(horse) for horse in horses), off - timedelta(hours=6)),
            Market(race_id, {"a": 5.0, "b": 3.0, "gone": 4.0, "small": 101.0}, source, off - timedelta(minutes=30)),
            NonRunner(race_id, "gone", None, off - ago, factor),
            Result(
                race,
                (Runner("a", status="FINISHED", position=1), Runner("b", status="PU")),
                1,
                off + timedelta(minutes=15),
            ),
        ]
        small = 2.4 if factor else None
        if race_id != "bookmaker":
            messages.append(NonRunner(race_id, "small", None, off - ago, small))
    store = a_store(tmp_path / "home", sorted(messages, key=instant_of))
    rows = training_set(store)
    found = prices(store.home, rows.identity, LEAD, rows.label("sp_decimal"), rows.started())
    names = zip(*(rows.identity.column(name).to_pylist() for name in ("race_id", "horse_id")), strict=True)
    at = {name: row for row, name in enumerate(names)}
    settled = {race_id: found.settled[at[race_id, "a"]] for race_id in cases}
    assert settled == pytest.approx({"exchange": 4.0, "bookmaker": 4.0, "unknown": np.nan, "early": 5.0}, nan_ok=True)
    assert [found.taken[at[race_id, "a"]] for race_id in cases] == [5.0] * 4
