"""Feast's own commands work from inside feature_repo/ with no flags, in a home with a space in its path."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from feast.repo_operations import get_repo_files

from tests.support import forked
from tests.support.changelogs import START, made_up
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.feast_store import feature_store
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect_url
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_rows import RedisRows
from velo.settings import Settings
from velo.storage.store import Home, Store

ROOT = Path(__file__).resolve().parents[2]
REPO = ROOT / "feature_repo"
END = START + timedelta(days=700)
FEAST = [sys.executable, "-W", "ignore", "-m", "feast.cli.cli"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("cli") / "home with a space")
    made_up(home)
    yield home
    embedded_redis.down(home)


def environment(home: Home) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "VELO_HOME")}
    return kept | {"VELO_HOME": str(home.root), "PYTHONPATH": str(ROOT)}


def feast(*arguments: str, env: Mapping[str, str], cwd: Path) -> None:
    """By a Python of its own, which imports Feast as a user's does."""
    ran = subprocess.run([*FEAST, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def feast_forked(*arguments: str, env: Mapping[str, str]) -> None:
    """In a process that has imported Feast already."""
    code, out, err = forked.ran("feast", arguments, cwd=REPO, environ=env)
    assert code == 0, out + err


def no_bytecode() -> None:
    """A forked process writes no bytecode beside the sources."""
    sys.dont_write_bytecode = True


def held(home: Home) -> dict[str, int]:
    """How many of the keys in the tables have a row in Redis, by view."""
    import pyarrow.parquet as pq

    rows = RedisRows(connect_url(embedded_redis.ensure(home)))
    counted: dict[str, int] = {}
    for family in FAMILIES:
        keys = {
            tuple(row.values()) for row in pq.read_table(home.offline / family.view, columns=[*family.keys]).to_pylist()
        }
        (read,) = rows.read_packed([(Layout.of(family), sorted(keys))])
        counted[family.view] = int(read.present.sum())
    return counted


def test_feast_imports_the_definitions_alone() -> None:
    """Every other module would be imported twice, by two names; a new one is left out without being named."""
    assert get_repo_files(REPO) == [(REPO / "definitions.py").resolve()]


def test_apply_materialize_and_teardown_run_plain(home: Home) -> None:
    env = environment(home)
    feast_forked("apply", env=env)
    assert home.registry.is_file()
    registered = feature_store(Store.open(Settings(home.root)))
    assert {view.name for view in registered.list_feature_views()} == {family.view for family in FAMILIES}
    assert [service.name for service in registered.list_feature_services()] == ["velo_v1"]

    halfway = START + timedelta(days=30)
    feast_forked("materialize", START.isoformat(), halfway.isoformat(), env=env)
    first = held(home)
    assert all(first.values())
    feast_forked("materialize-incremental", END.isoformat(), env=env)
    assert all(now >= then for now, then in zip(held(home).values(), first.values(), strict=True))
    assert held(home) != first

    feast_forked("monitor", "run", "--feature-view", "horse_form", env=env)
    measured = json.loads((home.monitor / "feast" / "feature.json").read_bytes())
    assert {row["granularity"] for row in measured} >= {"baseline", "daily", "quarterly"}
    assert all(row["is_baseline"] == (row["granularity"] == "baseline") for row in measured)
    assert {row["feature_view_name"] for row in measured} == {"horse_form"}

    feast_forked("apply", env=env)  # again, and nothing is lost by it
    assert held(home) != first
    feast_forked("teardown", env=env)
    assert not any(held(home).values())
    assert home.offline.is_dir()


def test_without_velo_home_the_home_is_beside_the_checkout_one_stands_in(tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"
    (checkout / "feature_repo").mkdir(parents=True)
    for name in ("feature_store.yaml", ".feastignore", "definitions.py"):
        (checkout / "feature_repo" / name).write_bytes((REPO / name).read_bytes())
    env = environment(Home(tmp_path))
    del env["VELO_HOME"]
    feast("apply", env=env, cwd=checkout / "feature_repo")
    assert (checkout / "data" / "registry.db").is_file()


def test_in_installed_packages_feast_uses_velo_home_and_without_it_writes_nothing(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "velo"
    (package / "feature_repo").mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in ("feature_store.yaml", ".feastignore", "definitions.py"):
        (package / "feature_repo" / name).write_bytes((REPO / name).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    env = environment(Home(tmp_path / "home"))
    without = {name: value for name, value in env.items() if name != "VELO_HOME"}
    code, _, err = forked.ran("feast", ("apply",), cwd=package / "feature_repo", environ=without, prepared=no_bytecode)
    assert code != 0
    assert "among installed packages: set VELO_HOME to the folder of your store" in err
    assert sorted(tmp_path.rglob("*")) == before
    code, _, err = forked.ran("feast", ("apply",), cwd=package / "feature_repo", environ=env, prepared=no_bytecode)
    assert code == 0, err
    assert (tmp_path / "home" / "registry.db").is_file()
    assert sorted(package.rglob("*")) == [path for path in before if package in path.parents]


def test_the_ui_starts_and_answers(home: Home) -> None:
    env = environment(home)
    feast_forked("apply", env=env)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with forked.Popen(
        [sys.executable, "-m", "feast.cli.cli", "ui", "--host", "127.0.0.1", "--port", str(port)],
        cwd=REPO,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as server:
        try:
            assert b"<html" in _answer(f"http://127.0.0.1:{port}/", server)
        finally:
            server.terminate()


def _answer(url: str, server: forked.Popen) -> bytes:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                page: bytes = response.read()
                return page
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert server.poll() is None, server.stdout.read() if server.stdout else ""
            assert time.monotonic() < deadline, "feast ui does not answer"
            time.sleep(0.2)
