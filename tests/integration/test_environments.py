"""Environments: other formulas on a store's own log, beside the served tables, and gone without a trace."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import write_kills
from benchmarks.write_kills import KillPlan
from tests.integration.test_change import LAST, SEASON, WIDER, inodes, made, manifest, values_of, with_family
from tests.support.cli import velo
from tests.support.logs import a_store, bytes_of, logged
from tests.support.made_once import copied, made_once
from tests.support.stores import NOW, twin_of
from velo.api import environments
from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.feast_store import feature_store
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect
from velo.settings import Settings
from velo.storage import part_sums, table_versions
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home, Store
from velo.streams.batch.build import build
from velo.streams.batch.rollback import rollback
from velo.streams.dataflow.runtime import sole_stream

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A built store; whatever an environment of it does, its tables and its log stay as they are."""
    folder, _ = made_once(tmp_path_factory, "change", made)
    store = a_store(copied(folder, tmp_path / "home"))
    served = table_versions.current(store.home), store.home.identity.read_bytes(), bytes_of(store.home)
    parts = {part: part.stat().st_ino for part in store.home.generations.rglob("*.parquet")}
    yield store
    assert (table_versions.current(store.home), store.home.identity.read_bytes(), bytes_of(store.home)) == served
    assert {part: part.stat().st_ino for part in store.home.generations.rglob("*.parquet")} == parts
    part_sums.refuse_damaged(store.home.offline.resolve())


def opened(home: Home) -> Store:
    return Store.open(Settings(home=home.root))


def test_an_environment_begins_with_the_tables_of_its_store_and_copies_none(store: Store) -> None:
    made = opened(environments.create(store, "trial"))
    assert values_of(made, FAMILIES) == values_of(store, FAMILIES)
    assert all(inodes(made, family.view) == inodes(store, family.view) for family in FAMILIES)
    assert bytes_of(made.home) == bytes_of(store.home)
    assert build(made, NOW).computed == ()
    [listed] = environments.environments(store.home)
    assert (listed.name, listed.differ, listed.models, listed.messages_behind) == ("trial", (), 0, 0)
    assert listed.shared_bytes > 10 * listed.own_bytes


def test_a_change_in_an_environment_is_that_of_a_store_of_its_own(store: Store, tmp_path: Path) -> None:
    families = with_family(WIDER)
    made = opened(environments.create(store, "trial"))
    report = build(made, NOW, families=families)
    assert (report.computed, report.epoch, manifest(store).epoch) == (("trainer_velocity",), 2, 1)
    assert inodes(made, "horse_form") == inodes(store, "horse_form")
    twin = twin_of(store, tmp_path / "twin")
    build(twin, NOW, families=families)
    assert values_of(made, families) == values_of(twin, families)
    [listed] = environments.environments(store.home)
    assert (listed.epoch, listed.differ) == (2, ("trainer_velocity",))
    rollback(opened(made.home))
    assert values_of(made, FAMILIES) == values_of(store, FAMILIES)


def test_an_environment_has_no_log_to_write_to_no_redis_and_no_stream(store: Store) -> None:
    made = environments.create(store, "trial")
    inside = Store.open(Settings(home=made.root, redis_url="redis://127.0.0.1:1/0"))
    assert inside.redis_url is None
    with pytest.raises(UserError, match="no log of its own to write to: leave out --as") as refused:
        logged(inside, *SEASON[LAST:])
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="no log of its own"), LogWriter.open(inside, clock=lambda: NOW):
        pass
    for connected in (lambda: connect(made), lambda: embedded_redis.ensure(made)):
        with pytest.raises(UserError, match="has no online store"):
            connected()
    feast = feature_store(replace(inside, redis_url="redis://127.0.0.1:1/0"))
    with pytest.raises(UserError, match="has no online store"):
        feast._get_provider().online_store._get_client(feast.config.online_store)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="has no stream"), sole_stream(made):
        pass


def test_new_messages_of_the_store_reach_an_environment_with_its_next_build(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, _ = made_once(tmp_path_factory, "change", made)
    store = a_store(copied(folder, tmp_path / "home"))
    trial = opened(environments.create(store, "trial"))
    logged(store, *SEASON[LAST:])
    [listed] = environments.environments(store.home)
    assert listed.messages_behind == len(SEASON) - LAST
    # the store builds without what it kept; the files of the environment stay
    build(store, NOW, whole=True)
    build(trial, NOW)
    assert values_of(trial, FAMILIES) == values_of(store, FAMILIES)


def test_a_wrong_name_a_taken_one_and_a_missing_one_are_refused_in_one_line(store: Store) -> None:
    made = environments.create(store, "trial")
    for name, words in (("../x", "is not a name"), ("", "is not a name"), ("trial", "velo environments drop trial")):
        with pytest.raises(UserError, match=words) as refused:
            environments.create(store, name)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="is an environment itself"):
        environments.create(opened(made), "within")
    with pytest.raises(UserError, match=r"there is no environment 'other' .*\(trial\): make it with"):
        environments.environment(store.home, "other")
    with table_versions.sole_publisher(made), pytest.raises(UserError, match="another build is writing"):
        environments.drop(store.home, "trial")
    with pytest.raises(UserError, match="there are no tables at"):
        environments.create(a_store(store.home.root.parent / "empty"), "trial")


def test_the_commands_make_use_list_and_drop_an_environment(store: Store) -> None:
    home = store.home.root
    velo("plan", "--as", "trial", home=home).told("there is no environment 'trial'", "velo apply --as NAME")
    velo("apply", "--config", "velo.toml", home=home).told("name it with --as")
    assert velo("apply", "--as", "trial", "--json", home=home).document["build"] is None
    trial = store.home.environment("trial").root
    assert velo("status", "--as", "trial", "--json", home=home).document["home"] == str(trial)
    assert velo("plan", "--as", "trial", "--check", home=home).code == 0
    assert (
        velo("sql", "select count(*) as n from horse_form", "--as", "trial", "--json", home=home).document[0]["n"] > 0
    )
    velo("models", "--as", "trial", home=home).told(str(trial / "models"), "velo train")
    velo("tick", home=trial).told("is an environment, which has no log of its own", str(home))
    assert [each["name"] for each in velo("environments", "--json", home=home).document] == ["trial"]
    assert velo("environments", "drop", "trial", "--json", home=home).document["dropped"] == "trial"
    assert not trial.exists()
    assert velo("environments", "list", "--json", home=home).document == []


def test_the_features_of_an_environment_may_come_from_a_velo_toml_of_its_own(store: Store, tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    branch.mkdir()
    (branch / "velo.toml").write_text('[features]\nmodules = ["own_of_branch"]\n')
    made = environments.create(store, "trial", branch / "velo.toml")
    assert (made.root / "velo.toml").resolve() == branch / "velo.toml"
    with pytest.raises(UserError, match="is not a file"):
        environments.create(store, "other", branch / "none.toml")


# Killed anywhere


def make() -> None:
    """In a process of its own: what `velo apply --as trial` does before it builds."""
    store = a_store(Path(os.environ["VELO_HOME"]))
    if not store.home.environment("trial").root.exists():
        environments.create(store, "trial")


def remove() -> None:
    """In a process of its own: drop an environment, unless a killed command did, and make another."""
    store = a_store(Path(os.environ["VELO_HOME"]))
    if store.home.environment("trial").root.exists():
        environments.drop(store.home, "trial")
    if not store.home.environment("other").root.exists():
        environments.create(store, "other")


def seen(home: Home) -> Any:
    """The environments as `velo environments` lists them, and the tables of each and of the store."""
    found = [each.name for each in environments.environments(home)]
    return {name: write_kills.tables(home.environment(name)) for name in found}, write_kills.tables(home)


def changing_one(found: Any, before: Any, after: Any) -> bool:
    """Between dropping an environment and making another there is none."""
    return bool(found == ({}, before[1]) and before[1] == after[1])


@pytest.mark.parametrize(
    ("command", "chosen"),
    [
        (make, write_kills.few),
        pytest.param(make, write_kills.every, marks=pytest.mark.prove),
        pytest.param(remove, write_kills.every, marks=pytest.mark.prove),
    ],
)
def test_an_environment_killed_at_any_write_is_whole_or_absent(
    command: Any, chosen: write_kills.Choice, tmp_path: Path
) -> None:
    small = a_store(tmp_path / "small")
    logged(small, *SEASON[:40])
    build(small, NOW)
    if command is remove:
        environments.create(small, "trial")
    plan = KillPlan(command, [command], seen, changing_one)
    assert write_kills.killed(plan, small.home, tmp_path / "kills", chosen).kills > 0
    shutil.rmtree(small.home.root)
