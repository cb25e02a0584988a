"""Where a store's home is: the same rule for the commands, for Python and for plain Feast."""

from pathlib import Path

import pytest

from velo.errors import UserError
from velo.feature_repo.stores.registry import settings_for
from velo.settings import Settings

CONFIGURATION = "feature_store.yaml"


def a_project(folder: Path) -> Path:
    """A folder with a Feast repo in it; returns the repo."""
    repo = folder / "feature_repo"
    repo.mkdir(parents=True)
    (repo / CONFIGURATION).touch()
    return repo


def test_the_home_is_velo_home_from_wherever_a_command_runs(tmp_path: Path) -> None:
    assert Settings.from_env({"VELO_HOME": "a store"}, tmp_path).home == tmp_path / "a store"
    assert Settings.from_env({"VELO_HOME": str(tmp_path / "s")}, a_project(tmp_path)).home == tmp_path / "s"


def test_without_velo_home_it_is_data_in_the_project_else_in_the_working_folder(tmp_path: Path) -> None:
    repo = a_project(tmp_path / "project")
    (below := repo / "x" / "y").mkdir(parents=True)
    for place in (repo.parent, repo, below):
        assert Settings.from_env({}, place).home == tmp_path / "project" / "data"
    assert Settings.from_env({}, tmp_path).home == tmp_path / "data"


def test_a_package_with_a_feature_repo_is_no_project(tmp_path: Path) -> None:
    """The package `velo` has one, in a checkout by a link, and `velo/data` is no place for a store."""
    a_project(tmp_path)
    package = tmp_path / "velo"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "feature_repo").symlink_to(tmp_path / "feature_repo")
    assert Settings.from_env({}, package).home == tmp_path / "data"
    assert Settings.from_env({}, package / "feature_repo").home == tmp_path / "data"


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_no_home_is_among_installed_packages(tmp_path: Path, folder: str) -> None:
    repo = a_project(tmp_path / folder / "velo")
    (repo.parent / "__init__.py").touch()
    for environ, place in (({}, repo), ({}, repo.parents[1]), ({"VELO_HOME": str(repo.parent / "data")}, tmp_path)):
        with pytest.raises(UserError, match=r"among installed packages: set VELO_HOME to the folder of your store$"):
            Settings.from_env(environ, place)


def test_an_installed_feature_repo_serves_the_store_that_the_commands_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = a_project(tmp_path / "site-packages" / "velo")
    monkeypatch.delenv("VELO_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert settings_for(repo_path=repo).home == Settings.from_env().home == tmp_path / "data"
    monkeypatch.setenv("VELO_HOME", "elsewhere")
    assert settings_for(repo_path=repo).home == Settings.from_env().home == tmp_path / "elsewhere"
    assert settings_for(str(tmp_path / "given"), repo).home == tmp_path / "given"
