"""A changed catalogue: planned to the value, built view by view, published in one step, taken back in another."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from benchmarks import write_kills
from benchmarks.write_kills import KillPlan
from tests.support.logs import a_store, logged
from tests.support.made_once import copied, made_once
from tests.support.stores import NOW, a_season, rows_of, twin_of
from velo.api import changes
from velo.api.changes import ChangePlan, Cost, ModelFit, dashboards_of
from velo.commands.change import also_of
from velo.errors import UserError
from velo.feature_repo.catalogue.aggregates import Ratio, Sum
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES, Family
from velo.feature_repo.stores.fills import fill_epoch, fill_remembered, remember
from velo.racing.jurisdiction import DEFAULT
from velo.storage import table_versions
from velo.storage.log.format import GENERATION
from velo.storage.store import Home, Store
from velo.storage.table_versions import Manifest
from velo.streams.batch import staging
from velo.streams.batch.build import build
from velo.streams.batch.formulas import view_formulas
from velo.streams.batch.rollback import rollback
from velo.streams.change_plan import TablesPlan, ViewChange, plan
from velo.streams.dataflow.plan import plan as planned_stream

pytestmark = pytest.mark.slow

SEASON = a_season(40)
LAST = len(SEASON) - 30
TRAINERS, BIAS = BY_VIEW["trainer_velocity"], BY_VIEW["draw_bias"]
WIDER = replace(TRAINERS, windows=(14, 30, 60, 90))
HORSE_WINS = Family("horse_wins", ("horse_id",), "a horse's wins", career=(Sum("starts", "one"), Sum("wins", "win")))
FEWER = tuple(family for family in FAMILIES if family.view != "jockey_course")
CORRECTED = replace(
    BIAS,
    windowed=tuple(
        replace(aggregate, prior=10) if isinstance(aggregate, Ratio) and aggregate.name == "iv_shrunk" else aggregate
        for aggregate in BIAS.windowed
    ),
)


def with_family(changed: Family) -> tuple[Family, ...]:
    """The catalogue with one family in place of that of its name, or added."""
    if changed.view not in BY_VIEW:
        return (*FAMILIES, changed)
    return tuple(changed if family.view == changed.view else family for family in FAMILIES)


def made(home: Path) -> None:
    store = a_store(home)
    logged(store, *SEASON[:LAST])
    build(store, NOW)


@pytest.fixture
def store(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small season, built but for its last messages, which are not in the log yet."""
    folder, _ = made_once(tmp_path_factory, "change", made)
    return a_store(copied(folder, tmp_path / "home"))


def manifest(store: Store) -> Manifest:
    folder = table_versions.current(store.home)
    assert folder is not None
    return table_versions.manifest_of(folder)


def inodes(store: Store, view: str) -> list[int]:
    return sorted(part.stat().st_ino for part in (store.home.offline / view).glob("*.parquet"))


def values_of(store: Store, families: tuple[Family, ...]) -> dict[str, list[tuple[Any, ...]]]:
    return {family.view: rows_of(store, family) for family in families}


# The formulas of each view


def test_a_window_changes_the_formulas_of_its_view_alone_and_adds_its_features() -> None:
    before, after = view_formulas(), view_formulas(with_family(WIDER))
    assert [view for view in before if before[view] != after[view]] == ["trainer_velocity"]
    old, new = before["trainer_velocity"].features, after["trainer_velocity"].features
    assert {name: new[name] for name in old} == old
    assert new.keys() - old.keys() == {f"{aggregate.name}_60d" for aggregate in TRAINERS.windowed}


def test_a_changed_number_changes_its_own_feature_alone() -> None:
    before, after = view_formulas()["draw_bias"], view_formulas(with_family(CORRECTED))["draw_bias"]
    assert before.fingerprint != after.fingerprint
    assert {name for name in before.features if before.features[name] != after.features[name]} == {"iv_shrunk_1095d"}


def test_the_rules_of_racing_are_part_of_every_view() -> None:
    other = view_formulas(jurisdiction=replace(DEFAULT, most_places=4))
    assert all(other[view].fingerprint != formulas.fingerprint for view, formulas in view_formulas().items())


# The build of what changed


def test_only_the_changed_view_is_computed_and_all_are_as_a_whole_build_makes_them(
    store: Store, tmp_path: Path
) -> None:
    kept, gone = inodes(store, "horse_form"), inodes(store, "trainer_velocity")
    report = build(store, NOW, families=with_family(WIDER))
    assert (report.computed, report.whole, report.epoch) == (("trainer_velocity",), False, 2)
    assert report.added == {view: report.rows[view] if view == "trainer_velocity" else 0 for view in report.rows}
    assert inodes(store, "horse_form") == kept
    assert inodes(store, "trainer_velocity") != gone
    assert {manifest(store).epoch_of(family.view) for family in FAMILIES if family is not TRAINERS} == {1}
    assert manifest(store).epoch_of("trainer_velocity") == 2
    twin = twin_of(store, tmp_path / "twin")
    build(twin, NOW, families=with_family(WIDER))
    assert values_of(store, with_family(WIDER)) == values_of(twin, with_family(WIDER))


def test_new_messages_reach_the_unchanged_views_and_a_dropped_view_is_gone(store: Store, tmp_path: Path) -> None:
    logged(store, *SEASON[LAST:])
    families = (*FEWER, HORSE_WINS)
    report = build(store, NOW, families=families)
    assert report.computed == ("horse_wins",)
    assert report.added["horse_form"] > 0
    assert not (store.home.offline / "jockey_course").exists()
    twin = twin_of(store, tmp_path / "twin")
    whole = build(twin, NOW, families=families)
    assert values_of(store, families) == values_of(twin, families)
    assert report.rows == whole.rows


def test_tables_of_an_earlier_version_go_on_and_are_computed_whole_where_the_formulas_change(store: Store) -> None:
    """Their manifest says nothing of single views."""
    path = store.home.offline / table_versions.MANIFEST
    written = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in written.items() if name != "views"}))
    logged(store, *SEASON[LAST:])
    assert build(store, NOW).computed == ()
    assert manifest(store).views.keys() == BY_VIEW.keys()
    path = store.home.offline / table_versions.MANIFEST
    written = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in written.items() if name != "views"}))
    report = build(store, NOW, families=with_family(WIDER))
    assert (len(report.computed), report.whole, report.epoch) == (len(FAMILIES), True, 2)


def test_a_build_killed_before_it_published_leaves_the_tables_and_their_epoch(store: Store) -> None:
    """The number of an epoch is taken just before the tables are published; the tables say which is theirs."""
    store.with_epoch_of("formulas that were never published")
    store = a_store(store.home.root)
    assert (build(store, NOW).epoch, len(store.epochs)) == (1, 2)
    logged(store, *SEASON[LAST:])
    assert build(store, NOW).epoch == 1
    assert build(store, NOW, families=with_family(WIDER)).epoch == 3


def test_rows_that_an_earlier_version_gave_to_redis_are_refused_once_their_formulas_change(store: Store) -> None:
    """Its fills have no epoch in their name."""
    remember(store.home, "trainer_velocity", "store:0:00000000:fill")
    remember(store.home, "horse_form", "store:0:00000000:fill")
    build(store, NOW, families=with_family(WIDER))
    refused, kept = (fill_remembered(store.home, view) for view in ("trainer_velocity", "horse_form"))
    assert fill_epoch(str(refused)) == 0
    assert kept == "store:0:00000000:fill"


# The way back


def test_a_rollback_gives_back_every_value_under_a_later_epoch(store: Store) -> None:
    before = values_of(store, FAMILIES)
    build(store, NOW, families=with_family(WIDER))
    report = rollback(a_store(store.home.root))
    assert values_of(store, FAMILIES) == before
    assert (report.views, report.epoch, report.messages_behind) == (("trainer_velocity",), 3, 0)
    assert manifest(store).epoch_of("trainer_velocity") == 3
    assert manifest(store).epoch_of("horse_form") == 1
    assert build(a_store(store.home.root), NOW).computed == ()


def test_the_tables_before_a_change_outlive_the_builds_after_it(store: Store, tmp_path: Path) -> None:
    """Each day's build removes older generations; the one to roll back to stays, and a build adds what it lacks."""
    build(store, NOW, families=with_family(WIDER))
    for message in SEASON[LAST : LAST + 3]:
        logged(store, message)
        build(store, NOW, families=with_family(WIDER))
    assert len(list(store.home.generations.glob("[0-9]*"))) == table_versions.KEPT + 1
    report = rollback(a_store(store.home.root))
    assert (report.next_seq, report.messages_behind) == (LAST, 3)
    build(a_store(store.home.root), NOW)
    twin = twin_of(store, tmp_path / "twin")
    build(twin, NOW)
    assert values_of(store, FAMILIES) == values_of(twin, FAMILIES)


def test_a_rollback_is_refused_in_one_line_while_the_edit_is_there_or_nothing_is_kept(store: Store) -> None:
    with pytest.raises(UserError, match="no tables of other formulas are kept"):
        rollback(store)
    build(store, NOW, families=with_family(WIDER))
    with pytest.raises(
        UserError, match=r"other formulas than the catalogue \(trainer_velocity\): edit the catalogue back"
    ) as raised:
        rollback(store, families=with_family(WIDER))
    assert "\n" not in str(raised.value)


def test_a_rollback_to_tables_of_a_log_since_replaced_is_refused(store: Store) -> None:
    build(store, NOW, families=with_family(WIDER))
    (store.home.log / GENERATION).write_text("1")
    with pytest.raises(UserError, match="are of a log since replaced: run `velo build`"):
        rollback(store)


def test_what_a_plan_expected_is_of_the_same_log_tables_and_formulas_alone(store: Store) -> None:
    changes.plan(store, NOW, keys=1, progress=lambda *_: None)
    mark = manifest(store).fingerprint
    assert changes.expected_cost(store.home, mark) == Cost(0, 0.0, 0, LAST)
    assert changes.expected_cost(store.home, "other") is None
    (store.home.log / GENERATION).write_text("1")
    assert changes.expected_cost(store.home, mark) is None


def test_the_reason_of_a_full_disk_is_read_out_of_the_engine_s_wrapping() -> None:
    wrapped = 'IO Error: Async write failed for range [offset=1, size=2]: {"exception_type":"IO","exception_message":"Could not write file \\"a\\": No space left on device","errno":"28"}'
    assert staging.first_line(duckdb.IOException(wrapped)) == 'Could not write file "a": No space left on device'
    assert staging.first_line(duckdb.IOException("IO Error: gone\n\nLINE 1")) == "IO Error: gone"


def test_a_stream_does_not_start_on_tables_of_other_formulas_and_says_which_views_differ(store: Store) -> None:
    build(store, NOW, families=with_family(WIDER))
    with pytest.raises(
        UserError, match=r"than the catalogue \(trainer_velocity\): run `velo apply`, or take the edit back"
    ):
        planned_stream(store)


def test_a_rollback_to_a_damaged_file_is_refused_and_changes_nothing(store: Store) -> None:
    part = next((store.home.offline / "trainer_velocity").glob("*.parquet"))
    build(store, NOW, families=with_family(WIDER))
    now = table_versions.current(store.home)
    content = bytearray(part.resolve().read_bytes())
    content[len(content) // 2] ^= 1
    target = table_versions.rollback_target(store.home)
    assert target is not None
    damaged = next((target / "trainer_velocity").glob("*.parquet"))
    damaged.unlink()  # other stores link the same file
    damaged.write_bytes(bytes(content))
    with pytest.raises(UserError, match="checksum differs"):
        rollback(a_store(store.home.root))
    assert table_versions.current(store.home) == now


# What a plan says, and what then happens


def differing(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]], keys: int, place: tuple[int, int]) -> int:
    """Brute force: at every instant at which either has a row, whether the value of a key differs."""

    def held(rows: list[tuple[Any, ...]], column: int) -> dict[tuple[Any, ...], list[tuple[Any, Any]]]:
        by_key: dict[tuple[Any, ...], list[tuple[Any, Any]]] = {}
        for row in rows:
            by_key.setdefault(row[:keys], []).append((row[keys], row[column]))
        return by_key

    def value(changes: list[tuple[Any, Any]], at: Any) -> Any:
        return next((value for instant, value in reversed(changes) if instant <= at), None)

    old, new = held(before, place[0]), held(after, place[1])
    points = {(row[:keys], row[keys]) for row in (*before, *after)}
    return sum(value(old.get(key, []), at) != value(new.get(key, []), at) for key, at in points)


def test_a_plan_over_all_keys_counts_exactly_what_then_changes(store: Store) -> None:
    families = with_family(CORRECTED)
    generation, before = table_versions.current(store.home), rows_of(store, BIAS)
    found = plan(store, NOW, keys=None, families=families)
    assert table_versions.current(store.home) == generation
    build(store, NOW, families=families)
    after = rows_of(store, CORRECTED)
    [change] = [view for view in found.views if view.change != "untouched"]
    assert (change.view, change.change, change.rows_then) == ("draw_bias", "changed", len(after))
    for number, feature in enumerate(change.features):
        assert feature.differ == differing(before, after, 1, (3 + number, 3 + number)), feature
    assert {each.feature: each.change for each in change.features if each.change != "untouched"} == {
        "iv_shrunk_1095d": "changed"
    }
    assert len(found.examples) == 10
    held: dict[tuple[Any, ...], tuple[Any, ...]] = {(row[0], row[1]): row for row in after}
    place = 3 + [each.name for each in CORRECTED.features].index("iv_shrunk_1095d")
    for example in found.examples:
        assert example.after == held[*example.key, example.at][place] != example.before
        assert example.races


def test_a_plan_names_views_and_features_that_come_and_go_and_the_objects_of_feast(store: Store) -> None:
    families = (*(WIDER if family is TRAINERS else family for family in FEWER), HORSE_WINS)
    found = plan(store, NOW, keys=5, families=families)
    changes = {view.view: view for view in found.views if view.change != "untouched"}
    assert {name: view.change for name, view in changes.items()} == {
        "trainer_velocity": "changed",
        "horse_wins": "added",
        "jockey_course": "dropped",
    }
    wider = {
        feature.feature: feature for feature in changes["trainer_velocity"].features if feature.change != "untouched"
    }
    assert {each.change for each in wider.values()} == {"added"}
    assert wider.keys() == {f"{aggregate.name}_60d" for aggregate in TRAINERS.windowed}
    assert wider["runs_60d"].differ == wider["runs_60d"].values > 0
    assert (changes["horse_wins"].keys, changes["horse_wins"].of_keys > 5) == (5, True)
    assert {"feature view horse_wins", "feature view jockey_course", "feature service velo_v1"} <= {*found.feast}
    assert plan(store, NOW).changes is False
    [exact] = [view for view in plan(store, NOW, keys=None, families=families).views if view.view == "horse_wins"]
    assert changes["horse_wins"].rows_then == pytest.approx(exact.rows_then, rel=0.05), "a row a start: in proportion"


def test_a_plan_measures_the_log_again_where_a_measure_is_new_and_not_beyond_the_tables(store: Store) -> None:
    from tests.support.own_features import TRAINER_WINS

    logged(store, *SEASON[LAST:])
    families = (*FAMILIES, TRAINER_WINS)
    found = plan(store, NOW, keys=None, families=families)
    [added] = [view for view in found.views if view.change != "untouched"]
    assert found.next_seq == LAST
    build(store, NOW, families=families)
    rows = [row for row in rows_of(store, TRAINER_WINS) if row[1] <= found.known_at]
    assert added.rows_then == len(rows)
    assert added.features[1].differ == sum(row[4] is not None for row in rows)


def test_a_plan_says_what_becomes_of_races_to_come_and_which_parts_of_desk_and_warehouse_show_a_changed_view() -> None:
    tables = TablesPlan(
        7, NOW, (ViewChange("draw_bias", "changed"), ViewChange("horse_going", "added")), (), (), True, 0.0, "b", "a"
    )
    models = (
        ModelFit("v1", serves=False, fits_now=True, fits_then=True),
        ModelFit("v2", True, True, False, "reads draw_bias__iv"),
    )
    shown = tuple(dashboards_of({"draw_bias", "horse_going"}))
    assert shown == (
        "desk: record going",
        "warehouse: draw_bias",
        "warehouse: draw_bias_daily",
        "warehouse: horse_going",
    )
    assert "desk: curves of a trainer" in dashboards_of({"trainer_velocity"})
    said = dict(also_of(ChangePlan(tables, models, 12, shown)))
    assert said["models that stop fitting"] == "v2 (it serves) reads draw_bias__iv"
    assert said["races to come"] == "12, not scored (503) until a model that fits serves"
    assert said["dashboards"] == "; ".join(shown)
    fitting = replace(models[1], fits_then=True, reason=None)
    assert dict(also_of(ChangePlan(tables, (fitting,), 12, ())))["races to come"] == "12, scored as before"
    assert "races to come" not in dict(also_of(ChangePlan(tables, (), None, ())))


# Killed anywhere


def apply_change() -> None:
    """In a process of its own: what `velo apply` builds after an edit."""
    build(a_store(Path(os.environ["VELO_HOME"])), NOW, families=with_family(WIDER))


def take_back() -> None:
    """In a process of its own: a rollback, repeated where it had not ended; then a build, as each night has one."""
    store = a_store(Path(os.environ["VELO_HOME"]))
    if manifest(store).epoch != 3:
        rollback(store)
    build(a_store(store.home.root), NOW)


def seen(home: Home) -> Any:
    """What readers of the tables see, with the formulas that the tables say they have."""
    folder = table_versions.current(home)
    assert folder is not None
    return table_versions.manifest_of(folder).fingerprint, write_kills.tables(home)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Store]:
    store = a_store(tmp_path / "small")
    logged(store, *SEASON[:40])
    build(store, NOW)
    yield store
    shutil.rmtree(store.home.root)


@pytest.mark.parametrize("chosen", [write_kills.few, pytest.param(write_kills.every, marks=pytest.mark.prove)])
def test_an_apply_killed_at_any_write_leaves_the_tables_before_or_after(
    chosen: write_kills.Choice, small: Store, tmp_path: Path
) -> None:
    again = KillPlan(apply_change, [apply_change], seen)
    assert write_kills.killed(again, small.home, tmp_path / "kills", chosen).kills > 0


@pytest.mark.parametrize("chosen", [write_kills.few, pytest.param(write_kills.every, marks=pytest.mark.prove)])
def test_a_rollback_killed_at_any_write_leaves_the_tables_before_or_after(
    chosen: write_kills.Choice, small: Store, tmp_path: Path
) -> None:
    build(small, NOW, families=with_family(WIDER))
    again = KillPlan(take_back, [take_back], seen)
    assert write_kills.killed(again, small.home, tmp_path / "kills", chosen).kills > 0
