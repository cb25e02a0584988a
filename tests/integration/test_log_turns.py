"""A writer that takes turns: many threads and processes append to one log, and what was read once is not read again."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.logs import a_store, fixed, held, logged, told
from tests.support.shared import REPO
from velo.errors import Refused
from velo.racing.messages import Market, NonRunner, Runner
from velo.storage.log import reader
from velo.storage.log.appender import LogInUse
from velo.storage.log.format import Segment
from velo.storage.log.index import Index
from velo.storage.log.turns import SharedWriter
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store


def odds(price: float) -> Market:
    return Market("R1", {"arkle": price}, "tote")


def test_messages_of_many_threads_are_all_in_the_log_once_each_with_its_place(store: Store) -> None:
    writer = SharedWriter.of(store, fixed())
    seqs: list[int | None] = []

    def post(begin: int) -> None:
        for number in range(25):
            seq = writer.append(odds(2.0 + begin + number)).seq
            seqs.append(seq)

    threads = [threading.Thread(target=post, args=(100 * at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each for each in seqs if each is not None) == list(range(200))
    prices = sorted(message.prices["arkle"] for message in held(store) if isinstance(message, Market))
    assert prices == sorted(2.0 + 100 * at + number for at in range(8) for number in range(25))
    assert reader.check(store.home) == []


def test_processes_take_turns_and_none_overwrites_another(store: Store) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.support.logs import a_store, fixed; from tests.integration.test_log_turns import odds\n"
        "from velo.storage.log.turns import SharedWriter\n"
        "writer = SharedWriter.of(a_store(Path(sys.argv[1])), fixed(), wait_s=60.0)\n"
        "for number in range(40): writer.append(odds(float(sys.argv[2]) + number))\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, store.home.root, str(at)], cwd=REPO) for at in (1000, 2000)]
    writer = SharedWriter.of(store, fixed(), wait_s=60.0)
    for number in range(40):
        writer.append(odds(3000.0 + number))
    assert [other.wait() for other in others] == [0, 0]
    prices = [message.prices["arkle"] for message in held(store) if isinstance(message, Market)]
    assert sorted(prices) == [float(begin + number) for begin in (1000, 2000, 3000) for number in range(40)]
    assert reader.check(store.home) == []


def test_a_log_that_another_keeps_is_said_to_be_in_use_and_taken_as_soon_as_it_is_free(store: Store) -> None:
    writer = SharedWriter.of(store, fixed(), wait_s=0.05)
    writer.append(odds(2.0))
    with LogWriter.open(store, clock=fixed()) as other:
        other.append(odds(3.0))
        with pytest.raises(LogInUse, match="is being written by process"):
            writer.append(odds(4.0))
    assert writer.append(odds(5.0)).seq == 2


def test_what_was_read_once_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    logged(store, *(odds(2.0 + number) for number in range(100)))
    writer = SharedWriter.of(store, fixed())
    writer.append(NonRunner("R1", "arkle", "lame"))
    noted: list[int] = []
    note = Index._note

    def counted(index: Index, segment: Segment, seq: int, known_at: str) -> None:
        noted.append(seq)
        note(index, segment, seq, known_at)

    monkeypatch.setattr(Index, "_note", counted)
    assert writer.append(odds(7.0)).seq == 101
    assert noted == []
    logged(store, odds(1008.0), odds(1009.0))
    noted.clear()
    assert writer.append(odds(10.0)).seq == 104
    assert noted == [102, 103]
    assert writer.append(NonRunner("R1", "arkle", "lame")).outcome == "identical"


def test_a_result_sent_with_other_content_is_refused_and_what_was_asked_beside_it_is_taken(store: Store) -> None:
    writer = SharedWriter.of(store, fixed())
    first = told()
    writer.append(first)
    with pytest.raises(Refused, match="raise result_version"):
        writer.append(told(runners=(Runner("arkle", status="FINISHED", position=2),)))
    assert writer.append(odds(2.0)).seq == 1


def test_a_log_that_was_rebuilt_meanwhile_is_read_again(store: Store, tmp_path: Path) -> None:
    """Other files under the same names: nothing of what was known of the old ones holds."""
    writer = SharedWriter.of(store, fixed())
    for number in range(5):
        writer.append(odds(2.0 + number))
    other = a_store(tmp_path / "other")
    logged(other, odds(50.0))
    store.home.log.rename(tmp_path / "old")
    other.home.log.rename(store.home.log)
    assert writer.append(odds(60.0)).seq == 1
    assert [message.prices["arkle"] for message in held(store) if isinstance(message, Market)] == [50.0, 60.0]


def test_a_write_that_failed_leaves_nothing_believed_that_is_not_in_the_log(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SharedWriter.of(store, fixed())
    writer.append(odds(2.0))

    def fails(_: LogWriter) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(LogWriter, "sync", fails)
        with pytest.raises(OSError, match="Input/output"):
            writer.append(odds(3.0))
    assert writer.append(odds(4.0)).seq == len(held(store)) - 1
    assert reader.check(store.home) == []
