"""What is installed: one package, `velo`, with every file that a checkout has, from the wheel and from the source archive."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.integration.test_house import PACKAGES, tracked
from tests.support.shared import REPO

STAGES = tuple(package for package in PACKAGES if package != "velo")


def installed_name(path: Path) -> str | None:
    """The name of a tracked file in an install; None for one that is not installed."""
    parts = path.relative_to(REPO).parts
    if parts[0] not in PACKAGES or path.is_symlink():
        return None
    return "/".join(parts if parts[0] == "velo" else ("velo", *parts))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """The names in the source archive of the tracked files, without its own folder, and those in the wheel made from it."""
    source = tmp_path_factory.mktemp("source")
    for path in tracked():
        (target := source / path.relative_to(REPO)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for stage in STAGES:
        (source / "velo" / stage).symlink_to(Path("..") / stage)
    made = build(source, "build_sdist")
    with tarfile.open(made) as archive:
        members = archive.getmembers()
        archive.extractall(source.parent / "unpacked", filter="data")
    assert [member.name for member in members if member.issym() or member.islnk()] == []
    root = members[0].name.partition("/")[0]
    with ZipFile(build(source.parent / "unpacked" / root, "build_wheel")) as wheel:
        return {member.name.partition("/")[2] for member in members if member.isfile()}, set(wheel.namelist())


def build(place: Path, what: str) -> Path:
    """Run the build backend as an installer does; returns the file."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = f"from setuptools import build_meta; print(build_meta.{what}('built'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=kept, capture_output=True, text=True, check=True)
    return place / "built" / done.stdout.splitlines()[-1]


def test_the_wheel_installs_velo_and_no_other_package(built: tuple[set[str], set[str]]) -> None:
    _, wheel = built
    folders = {name.partition("/")[0] for name in wheel}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"velo"}


def test_the_source_archive_and_the_wheel_have_every_file_of_the_packages(built: tuple[set[str], set[str]]) -> None:
    expected = {name for path in tracked() if (name := installed_name(path)) and not name.endswith(".md")}
    assert {"velo/py.typed", "velo/feature_repo/.feastignore", "velo/streams/batch/build.py"} <= expected
    for names in built:
        assert expected - names == set()


def test_the_tests_are_in_neither(built: tuple[set[str], set[str]]) -> None:
    assert [name for names in built for name in names if name.startswith(("tests/", "benchmarks/"))] == []
