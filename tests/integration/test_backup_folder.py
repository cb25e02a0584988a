"""A backup: what cannot be made again, in an order in which it can be restored while the store is written."""

from pathlib import Path

import pytest

from tests.support.logs import NOON, a_store, fixed, logged, told
from velo.errors import UserError
from velo.storage.backup import backup
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home, given_id


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_backup_repeated_copies_only_what_changed(tmp_path: Path) -> None:
    store = a_store(tmp_path / "home")
    logged(store, told("R1"))
    (store.home.root / "models" / "m1").mkdir(parents=True)
    (store.home.root / "models" / "m1" / "model.txt").write_text("trees")
    (store.home.root / "offline").mkdir()
    (store.home.root / "offline" / "made-again.parquet").write_text("rows")
    first = backup(store.home, tmp_path / "copy")
    assert first.copied == first.files > 2
    copy = contents(tmp_path / "copy")
    assert "models/m1/model.txt" in copy
    assert not [name for name in copy if name.startswith("offline") or name.endswith(".lock")]
    assert backup(store.home, tmp_path / "copy").copied == 0
    with LogWriter.open(store, clock=fixed(NOON)) as writer:
        writer.append(told("R2"))
    assert backup(store.home, tmp_path / "copy").copied == 1


def test_a_restored_backup_is_the_store_with_whole_records(tmp_path: Path) -> None:
    """The copy was made while a writer had the log open; it reads as the log did then, and can be appended to."""
    store = a_store(tmp_path / "home")
    with LogWriter.open(store, clock=fixed(NOON)) as writer:
        writer.append(told("R1"))
        backup(store.home, tmp_path / "copy")
        writer.append(told("R2"))
    restored = a_store(tmp_path / "copy")
    assert [message.race_id for _, message in reader.messages(restored.home)] == ["R1"]
    with LogWriter.open(restored, clock=fixed(NOON)) as writer:
        assert writer.append(told("R1")).outcome == "identical"
        assert writer.append(told("R2")).seq == 1
    assert reader.check(restored.home) == []


def test_a_folder_that_cannot_hold_the_backup_is_refused(tmp_path: Path) -> None:
    store = a_store(tmp_path / "home")
    with pytest.raises(UserError, match="there is no store at"):
        backup(Home(tmp_path / "none"), tmp_path / "copy")
    logged(store, told("R1"))
    with pytest.raises(UserError, match="lies inside the store"):
        backup(store.home, store.home.root / "copy")
    other = a_store(tmp_path / "other")
    logged(other, told("R1"))
    assert given_id(store.home) != given_id(other.home)
    backup(other.home, tmp_path / "copy")
    with pytest.raises(UserError, match="backup of another store"):
        backup(store.home, tmp_path / "copy")
