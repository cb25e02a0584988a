"""A backup is a copy, taken while the log is written; what is restored from it is the store up to the last message it had."""

import shutil
import threading
from pathlib import Path

import pytest

from tests.support.cli import velo
from tests.support.logs import a_store
from tests.support.stores import NOW, a_season, rows_apart
from velo.storage.log.format import segments
from velo.storage.log.reader import end, messages
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home
from velo.streams.batch.build import build


def backed_up(home: Home, to: Path) -> Home:
    """As docs/runbook.md says: the identity, then the log."""
    to.mkdir()
    shutil.copy2(home.identity, to)
    shutil.copytree(home.log, to / "log")
    return Home(to)


def test_a_log_copied_while_it_is_appended_to_restores_to_the_same_tables(tmp_path: Path) -> None:
    """Every copy, whenever it was taken, is a beginning of the log; the tables of it are the log's as far as it goes."""
    season = a_season(days=12)
    store = a_store(tmp_path / "home", "Europe/London")
    began, go_on = threading.Event(), threading.Event()

    def append() -> None:
        with LogWriter.open(store, clock=lambda: NOW) as writer:
            for number, message in enumerate(season):
                writer.load([message])
                if number == len(season) // 3:
                    began.set()
                    go_on.wait(30)

    writer = threading.Thread(target=append)
    writer.start()
    assert began.wait(60)
    copies = [backed_up(store.home, tmp_path / "first")]
    go_on.set()
    while writer.is_alive() and len(copies) < 6:
        copies.append(backed_up(store.home, tmp_path / f"copy{len(copies)}"))
    writer.join()
    everything = [message for _, message in messages(store.home)]
    assert len(everything) >= len(season)
    for copy in copies:
        restored = [message for _, message in messages(copy)]
        assert len(season) // 3 <= len(restored) <= len(everything)
        assert restored == everything[: len(restored)]
        assert end(copy).next_seq == len(restored)
    restored_store = a_store(copies[0].root, "Europe/London")
    for each in (store, restored_store):
        build(each, NOW)
    assert not rows_apart(restored_store, store, until=end(copies[0]).known_at)


@pytest.mark.parametrize("cut", [1, 40])
def test_a_copy_with_a_torn_tail_is_restored_and_written_on(tmp_path: Path, cut: int) -> None:
    """The copy met the last line half-written: it is said, nobody reads it, and the next writer cuts it off."""
    store = a_store(tmp_path / "home", "Europe/London")
    season = a_season(days=6)
    with LogWriter.open(store, clock=lambda: NOW) as writer:
        writer.load(season)
    copy = backed_up(store.home, tmp_path / "copy")
    last = segments(copy)[-1].path
    whole = last.read_bytes()
    last.write_bytes(whole[:-cut])
    checked = velo("log", "check", "--json", home=copy.root)
    assert "a write was interrupted" in checked.out
    assert end(copy).next_seq == end(store.home).next_seq - 1
    with LogWriter.open(a_store(copy.root, "Europe/London"), clock=lambda: NOW) as writer:
        writer.load(season)
    assert velo("log", "check", home=copy.root).code == 0
    assert [message for _, message in messages(copy)] == [message for _, message in messages(store.home)]
