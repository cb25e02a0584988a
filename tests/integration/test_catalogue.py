"""A feature is born once: one line in the catalogue reaches the SQL, the Parquet, Feast's schema and Redis."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from feast import FeatureView, OnDemandFeatureView

from tests.support import oracle
from tests.support.agreement import differences
from tests.support.builders import a_field, a_log, a_result, a_tick
from tests.support.cli import velo
from tests.support.logs import a_store, logged
from tests.support.stores import NOW, Row, changelogs_of, historical, materialize, online, rows_of
from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.aggregates import Ratio
from velo.feature_repo.catalogue.described import described
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES, Family
from velo.feature_repo.feast_store import apply, feature_store
from velo.feature_repo.objects import SERVICE, feast_objects
from velo.feature_repo.stores import embedded_redis
from velo.racing.messages import from_record
from velo.storage.store import Home, Store
from velo.streams.batch.build import build
from velo.streams.batch.formulas import fingerprint
from velo.streams.batch.staging import code_of

TRAINERS = BY_VIEW["trainer_velocity"]
WITH_60_DAYS = replace(TRAINERS, windows=(14, 30, 60, 90))
DREAPER = {"trainer_id": "dreaper"}
END = datetime(2024, 8, 1, tzinfo=UTC)


def with_family(changed: Family) -> tuple[Family, ...]:
    """The catalogue with one family in place of that of its name."""
    return tuple(changed if family.view == changed.view else family for family in FAMILIES)


def a_race(race_id: str, on: str) -> Row:
    runners = [runner | {"trainer": "Dreaper"} for runner in a_field(2)]
    return a_result(*runners, race_id=race_id, race_date=on, off_time=f"{on} 14:00", known_at=f"{on} 14:15")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in which Dreaper ran two horses on 1 April, 15 April and 25 May, with messages to the end of July."""
    made = a_store(tmp_path)
    races = [a_race("R1", "2024-04-01"), a_race("R2", "2024-04-15"), a_race("R3", "2024-05-25")]
    logged(made, *(from_record(record) for record in a_log(*races, a_tick("2024-07-31 23:00"))))
    yield made
    embedded_redis.down(made.home)


def test_a_60_day_window_is_one_line_and_reaches_the_parquet(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every change of every view the values are the oracle's, asked for the same windows."""
    build(store, NOW, families=with_family(WITH_60_DAYS))
    monkeypatch.setitem(oracle.WINDOWS_DAYS, "trainer_velocity", WITH_60_DAYS.windows)
    assert list(differences(store, families=with_family(WITH_60_DAYS))) == []
    runs = {row["event_timestamp"]: row["runs_60d"] for row in changelogs_of(store, WITH_60_DAYS)["dreaper",]}
    assert runs[datetime(2024, 5, 25, 14, 15, tzinfo=UTC)] == 6
    assert runs[datetime(2024, 5, 30, 23, tzinfo=UTC)] == 4  # 1 April + 60 days begins in London's summer
    assert runs[datetime(2024, 6, 13, 23, tzinfo=UTC)] == 2
    assert runs[datetime(2024, 7, 23, 23, tzinfo=UTC)] == 0


def test_a_60_day_window_is_in_feast_s_schema_and_joins_at_any_instant(store: Store) -> None:
    """The view and the service know it; historical and online retrieval give it."""
    build(store, NOW, families=with_family(WITH_60_DAYS))
    feast = apply(store, with_family(WITH_60_DAYS))
    [runs] = [field for field in feast.get_feature_view("trainer_velocity").schema if field.name == "runs_60d"]
    assert runs.tags["window"] == "the last 60 days"
    asked = feast.get_on_demand_feature_view("since_last_run")
    assert asked.owner == "velo"
    assert "unit: days; null if" in asked.tags["days_since_last_run"]
    service = feast.get_feature_service(SERVICE)
    offered = {field.name for view in service.feature_view_projections for field in view.features}
    assert {f"{aggregate.name}_60d" for aggregate in TRAINERS.windowed} <= offered
    # training and the score ask for every feature by the service
    day = {"horse_id": ["nobody"], "trainer_id": ["dreaper"], "event_timestamp": [datetime(2024, 6, 1, tzinfo=UTC)]}
    keys = {key: ["x"] for family in FAMILIES for key in family.keys if key not in day}
    rows = pd.DataFrame(day | keys | {column.name: [1.0] for column in request_time.REQUEST})
    served = feast.get_historical_features(rows, service, full_feature_names=True).to_df()
    assert served["trainer_velocity__runs_60d"].tolist() == [4]
    assert served["since_last_run__layoff_band"].tolist() == ["debut"]
    at = [datetime(2024, 5, 25, 15, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)]
    joined = historical(feast, WITH_60_DAYS, [DREAPER] * 3, at)
    assert [row["runs_60d"] for row in joined] == [6, 4, None]
    assert [row["sr_60d"] for row in joined] == [0.5, 0.5, None]
    materialize(feast, END)
    assert online(feast, WITH_60_DAYS, [DREAPER])[0]["runs_60d"] == 0


def test_new_formulas_begin_an_epoch_whose_online_values_replace_those_of_the_same_instant(store: Store) -> None:
    """A family corrected and widened, nothing else known: the old row's instant now holds the new values."""
    bias = BY_VIEW["draw_bias"]
    mended = replace(
        bias,
        windowed=tuple(
            replace(aggregate, prior=10)
            if isinstance(aggregate, Ratio) and aggregate.name == "iv_shrunk"
            else aggregate
            for aggregate in bias.windowed
        ),
    )
    first = build(store, NOW)
    feast = apply(store)
    materialize(feast, END)
    cells = [{"draw_cell": row[0]} for row in rows_of(store, bias)[:1]]
    [before] = online(feast, bias, cells)
    second = build(a_store(store.home.root), NOW, families=with_family(mended))
    assert (second.epoch, second.computed) == (first.epoch + 1, ("draw_bias",))
    assert [row[:2] for row in rows_of(store, mended)] == [row[:2] for row in rows_of(store, bias)]
    materialize(feature_store(store), END)
    [after] = online(feast, bias, cells)
    assert after["runs_1095d"] == before["runs_1095d"]
    assert after["iv_shrunk_1095d"] != before["iv_shrunk_1095d"]
    assert after["iv_shrunk_1095d"] == changelogs_of(store, mended)[cells[0]["draw_cell"],][-1]["iv_shrunk_1095d"]


def test_a_sentence_written_again_is_no_other_formula_and_a_changed_number_is() -> None:
    """Comments, docstrings and layout are no code; names and numbers are."""
    plain = "def half(x):\n    return x / 2\n"
    reworded = '"""A module."""\n\n\ndef half(x):  # of it\n    """Half."""\n    # as asked\n\n    return x / 2\n'
    assert code_of(reworded) == code_of(plain)
    assert code_of(plain.replace("2", "3")) != code_of(plain)
    assert code_of(plain.replace("x", "y")) != code_of(plain)


def test_a_catalogue_that_says_the_same_is_the_same_epoch_and_any_change_another() -> None:
    """Windows, aggregates, priors and their order are formulas; what a view is about is not."""
    assert fingerprint(with_family(replace(TRAINERS, about="another text"))) == fingerprint()
    listed = replace(TRAINERS, windows=[*TRAINERS.windows])  # type: ignore[arg-type]  # as a user may write them
    assert fingerprint(with_family(listed)) == fingerprint()
    narrower = replace(TRAINERS, windows=TRAINERS.windows[:-1])
    fewer = replace(TRAINERS, windowed=TRAINERS.windowed[:-1])
    assert len({fingerprint(), *(fingerprint(with_family(each)) for each in (WITH_60_DAYS, narrower, fewer))}) == 4


def test_feast_has_each_features_formula_unit_window_and_null_and_each_views_owner(tmp_path: Path) -> None:
    objects = feast_objects(Home(tmp_path))
    views = [each for each in objects if isinstance(each, FeatureView | OnDemandFeatureView)]
    assert len(views) == len(FAMILIES) + len(request_time.VIEWS)
    for view in views:
        assert (view.owner, bool(view.tags), bool(view.description)) == ("velo", True, True)
        if isinstance(view, OnDemandFeatureView):
            assert [field.name for field in view.features] == [*view.tags]
            continue
        for field in view.features:
            assert field.description, (view.name, field.name)
            if field.name != "valid_until":
                assert {"formula", "unit", "window", "null"} == {*field.tags}, (view.name, field.name)
                assert all(field.tags.values()), (view.name, field.name)
    [trainers] = [view for view in views if view.name == "trainer_velocity"]
    [rate] = [field for field in trainers.features if field.name == "sr_14d"]
    assert rate.tags == {
        "formula": "Σ wins ÷ Σ starts",
        "unit": "wins per start",
        "window": "the last 14 days",
        "null": "null if Σ starts is 0",
    }


def test_the_units_follow_from_the_measures() -> None:
    """A rate is per start, a mean has its measure's unit, wins over expected wins are a ratio."""
    units = {f"{each.view}__{each.name}": each.unit for family in FAMILIES for each in described(family)}
    assert units["trainer_velocity__place_rate_30d"] == "places per start"
    assert units["horse_form__prb"] == "share"
    assert units["jockey_velocity__ae_90d"] == "ratio"
    assert units["horse_form__prb_slope"] == "share per start"
    assert units["horse_form__last_weight_lbs"] == "pounds"
    assert units["horse_elo__elo"] == "Elo points"


def test_the_catalogue_is_listed_with_what_the_tables_hold(store: Store) -> None:
    """Dreaper's three races make a row each, and one at each midnight on which a window loses them."""
    home = store.home.root
    assert all(view["held"] is None for view in velo("catalogue", "--json", home=home).document)
    build(store, NOW)
    views = {view["name"]: view for view in velo("catalogue", "--json", home=home).document}
    rows = changelogs_of(store, TRAINERS)["dreaper",]
    held = views["trainer_velocity"]["held"]
    assert (held["rows"], held["keys"]) == (len(rows), 1)
    assert held["last_update"] == rows[-1]["event_timestamp"].isoformat()
    known = sum(row["sr_14d"] is not None for row in rows)
    assert 0 < known < len(rows)
    assert held["coverage"]["sr_14d"] == known / len(rows)
    assert held["coverage"]["runs_14d"] == 1.0
    assert views["since_last_run"]["held"] is None
    page = velo("catalogue", "trainer_velocity", "--markdown", home=home).out
    assert page.startswith(
        "## trainer_velocity\n\nhow a trainer's runners have gone over rolling windows; by trainer_id"
    )
    assert "| sr_14d | float | Σ wins ÷ Σ starts | wins per start | the last 14 days | null if Σ starts is 0 |" in page
    assert "horse_form" not in page
    assert "days_since_last_run" in velo("catalogue", home=home).out
    velo("catalogue", "trainers", home=home).told("there is no view 'trainers': name some of trainer_velocity")
