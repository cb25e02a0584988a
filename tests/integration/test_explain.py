"""Where a value came from: the starts known make it again, bit for bit, and what differs is reported loudly."""

import json
import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cli import velo
from tests.support.engine import reading
from tests.support.made_once import Seasons
from tests.support.stores import Conformance
from velo.errors import UserError
from velo.feature_repo.catalogue.columns import COLUMNS
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES
from velo.feature_repo.stores.embedded_redis import down
from velo.racing.cards import decision_time, declared_at
from velo.serving.scoring.feature_matrix import offline
from velo.serving.scoring.race_messages import messages_of_race
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.explain import Explained, ExplainedFeature, ExplainedView, explain

pytestmark = pytest.mark.slow

LEAD = timedelta(minutes=5)
LATEST = "SELECT race_id, horse_id FROM {starts} ORDER BY race_date DESC, race_id, horse_id LIMIT 1"
RUNNERS_ASKED = 15
FORMULAS = {
    "trainer_velocity__sr_14d": "Σ wins ÷ Σ starts, last 14 days",
    "horse_going__places": "Σ places, all known starts",
    "jockey_velocity__place_rate_90d": "Σ places ÷ Σ starts with a known place, last 90 days",
    "horse_form__prb_ewma": "mean share of rivals beaten of the last 10 known, weights 0.6^i from the newest",
    "draw_bias__iv_shrunk_1095d": "(Σ wins + 5) ÷ (Σ wins by chance alone (1 ÷ starters) + 5), last 1095 days",
}
STORED = sum(len(family.features) for family in FAMILIES)


@pytest.fixture(scope="module")
def season(seasons: Seasons) -> Iterator[Store]:
    made = seasons.store(60)
    yield made
    down(made.home)


def ask(store: Store, query: str) -> list[tuple[Any, ...]]:
    tables = {
        kind: f"read_parquet('{store.home.offline}/{kind}/*.parquet')" for kind in ("starts", "results", "runners")
    }
    with reading() as connection:
        return connection.execute(query.format(**tables)).fetchall()


def explained(store: Store, race_id: str, horse_id: str, instant: datetime | None = None) -> Explained:
    messages = messages_of_race(store.home, race_id).messages
    at = instant or decision_time(messages, LEAD)
    assert at is not None
    race = declared_at(messages, at)
    assert race is not None
    return explain(store, race, horse_id)


def feature(said: Explained, full_name: str) -> tuple[ExplainedView, ExplainedFeature]:
    view, name = full_name.split("__")
    held = next(each for each in said.views if each.view == view)
    return held, next(each for each in held.features if each.name == name)


# What made a value


@pytest.mark.parametrize("name", ["hk_amended", "london"])
def test_the_starts_listed_make_every_value_again_bit_for_bit_amended_ones_too(
    name: str, conformance: Conformance
) -> None:
    """Real races with made-up amendments, and made-up corners: random runners, and horses with an amended past, each
    at its decision time, or at the very instant that some result became known, or just before it."""
    store = conformance(name).store
    chance = random.Random(11)
    runners = "SELECT DISTINCT race_id, horse_id FROM {starts} WHERE result_version = 1"
    amended = "horse_id IN (SELECT horse_id FROM {starts} WHERE result_version > 1)"
    anyone, touched = ask(store, f"{runners} ORDER BY ALL"), ask(store, f"{runners} AND {amended} ORDER BY ALL")
    instants = [at for (at,) in ask(store, "SELECT DISTINCT known_at FROM {results} ORDER BY ALL")]
    values, versions = 0, set()
    for race_id, horse_id in chance.sample(anyone, RUNNERS_ASKED) + chance.sample(touched, RUNNERS_ASKED):
        then = chance.choice(instants)
        report = explained(store, race_id, horse_id, chance.choice([None, then, then - timedelta(microseconds=1)]))
        assert report.differences == (), (race_id, horse_id)
        values += sum(each.value is not None for view in report.views for each in view.features)
        versions |= {start.result_version for view in report.views for start in view.starts}
        assert all(start.known_at <= report.instant for view in report.views for start in view.starts)
        assert sum(len(view.features) for view in report.views) == STORED + 6
    assert values > RUNNERS_ASKED * STORED // 2
    assert versions > {1}


def test_before_an_amendment_the_version_then_known_is_shown_and_after_it_the_amended_one(
    conformance: Conformance,
) -> None:
    store = conformance("hk_amended").store
    [(race_id, horse_id, first, second)] = ask(
        store,
        """
        SELECT one.race_id, one.horse_id, one.known_at, two.known_at
        FROM {starts} one JOIN {starts} two USING (race_id, horse_id)
        WHERE one.result_version = 1 AND two.result_version = 2 AND two.known_at > one.known_at
            AND one.position IS DISTINCT FROM two.position
        ORDER BY ALL LIMIT 1""",
    )

    def version_known(at: datetime) -> set[int]:
        held, _ = feature(explained(store, race_id, horse_id, at), "horse_form__starts")
        return {start.result_version for start in held.starts if start.race_id == race_id}

    tick = timedelta(microseconds=1)
    assert version_known(first - tick) == set()
    assert version_known(first) == {1}
    assert version_known(second - tick) == {1}
    assert version_known(second) == {2}


def test_the_starts_of_a_window_are_those_the_warehouse_has_in_it(season: Store) -> None:
    race_id, horse_id = ask(season, LATEST)[0]
    report = explained(season, race_id, horse_id)
    held, each = feature(report, "trainer_velocity__wins_14d")
    trainer = held.key["trainer_id"]
    expected = ask(
        season,
        f"""
        SELECT race_id, horse_id, position FROM {{starts}} JOIN
            (SELECT race_id, max(result_version) AS result_version FROM {{results}}
             WHERE known_at <= '{report.instant}' GROUP BY ALL) USING (race_id, result_version)
        WHERE trainer_id = '{trainer}' AND race_date > DATE '{report.instant.date()}' - 14 AND known_at <= '{report.instant}'
        """,
    )
    got = [held.starts[at] for at in each.made_of]
    assert sorted((start.race_id, start.horse_id, start.position or 0) for start in got) == sorted(
        (race, horse, position or 0) for race, horse, position in expected
    )
    assert each.value == sum(start.position == 1 for start in got)
    assert list(held.starts) == sorted(held.starts, key=lambda start: start.race_date, reverse=True)


def test_the_values_shown_are_those_that_serving_reads(season: Store) -> None:
    """Stored and request-time features alike, for every runner of a race."""
    [(race_id,)] = ask(season, "SELECT race_id FROM {starts} ORDER BY race_date DESC, race_id, horse_id LIMIT 1")
    messages = messages_of_race(season.home, race_id).messages
    at = decision_time(messages, LEAD)
    assert at is not None
    race = declared_at(messages, at)
    assert race is not None
    matrix = offline(season, race).matrix
    for runner, row in zip(race.runners, matrix.tolist(), strict=True):
        served = dict(zip(COLUMNS, row, strict=True))
        for view in explain(season, race, runner.horse_id).views:
            for each in view.features:
                if isinstance(each.value, str):
                    continue
                expected = np.nan if each.value is None else float(each.value)
                assert np.array_equal(served[f"{view.view}__{each.name}"], expected, equal_nan=True), each


def test_past_the_tables_end_the_last_row_is_reported_and_is_stale(season: Store) -> None:
    race_id, horse_id = ask(season, LATEST)[0]
    report = explained(season, race_id, horse_id, datetime(2024, 6, 1, tzinfo=UTC))
    assert report.tables_until < report.instant
    assert report.differences == ()
    assert {view.view for view in report.views if view.stale} >= {"trainer_velocity", "horse_form"}


def test_a_key_that_never_started_has_no_row_and_no_starts(season: Store) -> None:
    race_id, horse_id = ask(season, "SELECT race_id, horse_id FROM {starts} ORDER BY known_at, horse_id LIMIT 1")[0]
    report = explained(season, race_id, horse_id)
    assert report.differences == ()
    assert all(view.event_timestamp is None and not view.starts for view in report.views)
    assert all(each.value is None for view in report.views for each in view.features if each.name != "layoff_band")


# The formulas


def test_every_feature_has_a_formula_in_words_made_from_its_declaration() -> None:
    for family in FAMILIES:
        found = dict(zip((each.name for each in family.features), family.formulas, strict=True))
        assert len(set(found.values())) == len(found), family.view
        for name, words in FORMULAS.items():
            view, _, feature_name = name.partition("__")
            assert view != family.view or found[feature_name] == words


def test_tables_of_replaced_formulas_are_refused_with_the_remedy(tmp_path: Path, season: Store) -> None:
    """Their starts may lack a measure that today's formulas sum."""
    home = shutil.copytree(season.home.root, tmp_path / "home", symlinks=True)
    manifest = (home / "offline").resolve() / "manifest.json"
    report = json.loads(manifest.read_text())
    manifest.unlink()
    manifest.write_text(json.dumps(report | {"fingerprint": "0" * 16}))
    race_id, horse_id = ask(season, LATEST)[0]
    with pytest.raises(UserError, match=r"are of formulas since replaced: run `velo build`, and ask again"):
        explained(Store.open(Settings(home=home)), race_id, horse_id)


# The command


def test_the_command_explains_a_runner_by_key_or_by_name_and_as_json(season: Store) -> None:
    race_id, horse_id, horse = ask(
        season,
        "SELECT race_id, horse_id, horse FROM {runners} WHERE type = 'result' AND position = 1 ORDER BY ALL DESC LIMIT 1",
    )[0]
    document = velo("explain", race_id, horse_id, "--json", home=season.home.root).document
    assert document["differences"] == []
    assert [view["view"] for view in document["views"]] == [*BY_VIEW, "since_last_run"]
    assert json.dumps(document["views"][0]["starts"][0])
    shown = velo("explain", race_id, horse or horse_id, home=season.home.root)
    assert shown.code == 0
    assert "trainer_velocity" in shown.out
    assert "DIFFER" not in shown.out


def test_a_table_that_holds_another_value_is_reported_loudly(season: Store, tmp_path: Path) -> None:
    shutil.copytree(season.home.root, tmp_path / "home", symlinks=True, ignore=shutil.ignore_patterns("redis"))
    race_id, horse_id = ask(season, LATEST)[0]
    [part] = (tmp_path / "home" / "offline").resolve().joinpath("horse_form").glob("*.parquet")
    part = tmp_path / "home" / "offline" / "horse_form" / part.name
    with reading() as connection:
        aside = part.with_suffix(".aside")
        nudged = f"SELECT * REPLACE (prb_ewma + 1e-15 AS prb_ewma, wins + 1 AS wins) FROM '{part}'"
        connection.execute(f"COPY ({nudged}) TO '{aside}' (FORMAT parquet)")
    aside.replace(part)
    shown = velo("explain", race_id, horse_id, home=tmp_path / "home")
    assert shown.code == 1
    assert "THE TABLES DIFFER" in shown.out
    document = json.loads(velo("explain", race_id, horse_id, "--json", home=tmp_path / "home").out)
    assert {difference.split(":")[0] for difference in document["differences"]} == {
        "horse_form__wins",
        "horse_form__prb_ewma",
    }


def test_what_cannot_be_explained_is_refused_in_one_line(season: Store, tmp_path: Path) -> None:
    race_id, horse_id = ask(season, LATEST)[0]
    home = season.home.root
    velo("explain", "R9", horse_id, home=home).told("R9", "never declared nor run")
    velo("explain", race_id, "Arkle", home=home).told("Arkle", "does not run", horse_id)
    velo("explain", race_id, horse_id, "--as-of", "2999-01-01T00:00:00Z", home=home).told("in the future")
    velo("explain", race_id, horse_id, "--as-of", "noon", home=home).told("noon")
    velo("explain", race_id, horse_id, home=tmp_path / "none").told("velo build")
