"""What a store holds is its owner's alone: files 0600, folders 0700, whoever writes them, and a store of before too."""

import os
import stat
from pathlib import Path

import pytest

from tests.support.cli import velo
from tests.support.seasons import BUILT_AT, a_season, a_store, opened
from velo.storage.log.writer import LogWriter
from velo.storage.store import CONTENTS, Home


def open_to_others(root: Path) -> list[Path]:
    found = [root, *root.rglob("*")]
    return [each for each in found if not each.is_symlink() and stat.S_IMODE(each.stat().st_mode) & 0o077]


def ran(*argv: object, home: Path) -> None:
    done = velo(*argv, home=home)
    assert done.code == 0, done


def test_what_commands_write_is_its_owners_alone(tmp_path: Path) -> None:
    """Whatever the shell's own mask is: log, tables, warehouse, stream, Redis."""
    home = tmp_path / "home"
    mask = os.umask(0)
    try:
        ran("simulate", tmp_path / "season.parquet", "--days", 40, "--races-per-year", 500, home=home)
        ran("ingest", "runners", tmp_path / "season.parquet", home=home)
        ran("build", home=home)
        ran("stream", "--once", home=home)
        ran("down", home=home)
    finally:
        os.umask(mask)
    assert (home / "log").is_dir()
    assert (home / "redis" / "password").is_file()
    assert open_to_others(home) == []


def test_a_store_that_others_could_read_is_closed_to_them_when_it_is_opened(tmp_path: Path) -> None:
    """What is not ours in its folder stays as it is; a link is not followed out of it."""
    store = a_store(tmp_path / "home", a_season(3))
    root, outside = store.home.root, tmp_path / "outside"
    outside.write_text("not ours")
    outside.chmod(0o644)
    (store.home.log / "link").symlink_to(outside)
    (root / "notes.txt").write_text("a file of the user's")
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    opened(root)
    assert open_to_others(root) == [root / "notes.txt"]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644
    with LogWriter.open(opened(root), clock=lambda: BUILT_AT) as writer:
        assert writer.next_seq > 0


def test_every_place_of_a_home_is_one_that_is_closed() -> None:
    root = Path("/somewhere")
    places = {name for name in vars(Home) if isinstance(vars(Home)[name], property)}
    paths = [path for name in places if isinstance(path := getattr(Home(root), name), Path)]
    assert {path.relative_to(root).parts[0] for path in paths} == set(CONTENTS)


def test_a_store_that_cannot_be_closed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = a_store(tmp_path / "home", a_season(3)).home.root
    root.chmod(0o755)

    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    opened(root)
    assert "readable_by_others" in caplog.text
