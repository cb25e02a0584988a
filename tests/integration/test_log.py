"""The log: whole records or none, one writer, a clock that only goes forward, and nothing held twice."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.logs import NOON, a_store, bytes_of, fixed, held, logged, told
from tests.support.shared import REPO
from velo.errors import Refused, UserError
from velo.racing.clock import MICROSECOND, is_local_midnight, local_midnight
from velo.racing.messages import (
    Alias,
    GoingChange,
    Market,
    Message,
    NonRunner,
    Racecard,
    Reinstated,
    Runner,
    Tick,
)
from velo.storage.log import reader
from velo.storage.log.format import segments
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store

HOUR = timedelta(hours=1)
OTHER_RUNNERS = (Runner("arkle", status="PU"), Runner("mill house", status="FINISHED", position=1))


def test_what_is_appended_is_read_back_as_it_was_sent(store: Store) -> None:
    messages: list[Message] = [
        told(),
        GoingChange("R2", "Soft", NOON + HOUR),
        Market("R2", {"arkle": 2.5}, "tote", NOON + 2 * HOUR),
    ]
    logged(store, *messages)
    assert held(store) == messages
    assert reader.end(store.home) == reader.LogEnd(3, NOON + 2 * HOUR)
    assert [seq for seq, _ in reader.messages(store.home, from_seq=1)] == [1, 2]


def test_an_empty_log_has_no_end(store: Store) -> None:
    assert reader.end(store.home) == reader.LogEnd(0, None)
    assert held(store) == []
    assert reader.check(store.home) == []


@pytest.fixture
def other_writer(store: Store) -> Iterator[int]:
    """Another process that has the log open; its pid."""
    code = (
        "import sys; from pathlib import Path; from tests.support.logs import a_store, fixed\n"
        "from velo.storage.log.writer import LogWriter\n"
        "with LogWriter.open(a_store(Path(sys.argv[1])), clock=fixed()):\n"
        "    print('open', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.home.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"open\n"
        yield process.pid
        process.stdin.close()
        assert process.wait() == 0


def test_a_second_writer_is_refused_with_the_process_of_the_first(store: Store, other_writer: int) -> None:
    with pytest.raises(UserError, match=rf"written by process {other_writer}: wait until it ends") as refused:
        LogWriter.open(store, clock=fixed())
    assert "\n" not in str(refused.value)


def test_a_writer_that_ended_lets_the_next_one_in(store: Store) -> None:
    for _ in range(2):
        with LogWriter.open(store, clock=fixed()):
            pass


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.sampled_from(("Europe/London", "Asia/Hong_Kong")))
def test_known_at_strictly_increases_and_is_never_a_local_midnight(
    tmp_path_factory: pytest.TempPathFactory, offsets: list[int], timezone: str
) -> None:
    """Instants that tie with, precede and surround the midnight that begins 2 May."""
    store = a_store(tmp_path_factory.mktemp("home"), timezone)
    midnight = local_midnight((NOON + timedelta(days=1)).date(), store.timezone)
    logged(store, *(told(f"R{at}", midnight + offset * MICROSECOND) for at, offset in enumerate(offsets)))
    instants = [message.known_at for message in held(store)]
    assert len(instants) == len(offsets)
    assert all(instant is not None and not is_local_midnight(instant, store.timezone) for instant in instants)
    assert all(before < after for before, after in pairwise(instants) if before and after)
    assert reader.check(store.home) == []


def test_ties_are_ordered_by_race_and_version_and_bumped_by_a_microsecond(store: Store) -> None:
    logged(store, told("R2"), told("R1", version=2), told("R1"))
    assert [(message.race_id, message.known_at) for message in held(store)] == [
        ("R1", NOON),
        ("R1", NOON + MICROSECOND),
        ("R2", NOON + 2 * MICROSECOND),
    ]


def test_a_live_message_is_stamped_on_arrival_whatever_it_claims(store: Store) -> None:
    with LogWriter.open(store, clock=fixed(NOON)) as writer:
        writer.append(told("R1", NOON + 9 * HOUR))
        writer.append(told("R2", NOON - 9 * HOUR))
    assert [message.known_at for message in held(store)] == [NOON, NOON + MICROSECOND]


def test_what_a_bulk_load_does_not_date_gets_its_instant(store: Store) -> None:
    """A result 15 minutes after its off, anything else when it arrives."""
    logged(store, told(known_at=None), NonRunner("R2", "arkle"), clock=fixed(NOON + HOUR))
    assert [message.known_at for message in held(store)] == [NOON, NOON + HOUR]


def test_unknown_fields_of_a_live_message_are_kept(store: Store) -> None:
    with LogWriter.open(store, clock=fixed()) as writer:
        writer.append(GoingChange("R1", "Soft"), kept={"stick": 7.5})
    (record,) = reader.records(store.home)
    assert (record["going"], record["stick"]) == ("Soft", 7.5)


def test_a_load_repeated_adds_nothing(store: Store) -> None:
    card = Racecard(told().race, (Runner("arkle"),), NOON)
    messages: list[Message] = [
        told(),
        told(version=2, known_at=NOON + HOUR),
        card,
        GoingChange("R1", "Good", NOON),
        GoingChange("R1", "Soft", NOON + HOUR),
        GoingChange("R1", "Good", NOON + 2 * HOUR),
        Tick(local_midnight(NOON.date(), store.timezone)),
    ]
    logged(store, *messages)
    before = bytes_of(store.home)
    with LogWriter.open(store, clock=fixed()) as writer:
        report = writer.load(messages)
    assert (report.appended, report.identical) == (0, len(messages))
    assert bytes_of(store.home) == before


def test_a_version_sent_again_with_other_content_is_refused(store: Store) -> None:
    other = told(runners=OTHER_RUNNERS, known_at=NOON + HOUR)
    with LogWriter.open(store, clock=fixed()) as writer:
        report = writer.load([told(), other])
        assert [(message, why.reason) for message, why in report.refused] == [(other, "raise result_version")]
        with pytest.raises(Refused, match=r"raise result_version: .*give the amended result result_version 2"):
            writer.append(other)
        assert writer.append(replace(other, result_version=2)).outcome == "appended"
    assert [message.known_at for message in held(store)] == [NOON, NOON + MICROSECOND]


def test_the_same_content_known_at_another_instant_is_identical(store: Store) -> None:
    with LogWriter.open(store, clock=fixed()) as writer:
        report = writer.load([told(), told(known_at=NOON + HOUR)])
        assert (report.appended, report.identical) == (1, 1)
        assert writer.append(told()).outcome == "identical"


def test_a_lower_version_takes_a_place_and_is_counted(store: Store) -> None:
    """The bets are settled on version 1 whenever it is known."""
    with LogWriter.open(store, clock=fixed(NOON + 2 * HOUR)) as writer:
        report = writer.load([told(version=3, known_at=NOON), told(version=1, known_at=NOON + HOUR)])
        assert (report.appended, report.lower_version) == (2, 1)
        assert writer.append(told(version=2)).outcome == "lower_version"
    assert len(held(store)) == 3


def test_a_live_message_that_repeats_the_last_of_its_subject_is_left_out(store: Store) -> None:
    with LogWriter.open(store, clock=fixed()) as writer:
        sent_live: list[Message] = [
            GoingChange("R1", "Good"),
            GoingChange("R1", "Good"),
            GoingChange("R1", "Soft"),
            GoingChange("R1", "Good"),
            NonRunner("R1", "arkle"),
            NonRunner("R1", "mill house"),
            NonRunner("R1", "arkle"),
            Market("R1", {"arkle": 2.0}, "tote"),
            Market("R1", {"arkle": 2.0}, "tote"),
        ]
        outcomes = [writer.append(message).outcome for message in sent_live]
    assert [at for at, outcome in enumerate(outcomes) if outcome == "identical"] == [1, 6]


def test_a_message_with_an_idempotency_key_is_taken_once_whatever_came_between(store: Store) -> None:
    """Also by a later writer, and under an alias. Another key is no other news, and other content under the key is."""
    odds, shorter = Market("R1", {"arkle": 2.0}, "tote"), Market("R1", {"arkle": 1.9}, "tote")
    out, back = NonRunner("R1", "arkle"), Reinstated("R1", "arkle")
    key, other = {"idempotency_key": "a"}, {"idempotency_key": "b"}

    def appended(*sent: tuple[Message, dict[str, str]]) -> list[bool]:
        with LogWriter.open(store, clock=fixed()) as writer:
            return [writer.append(message, kept).outcome == "appended" for message, kept in sent]

    assert appended((odds, key), (odds, key), (shorter, {}), (odds, key)) == [True, False, True, False]
    assert appended((odds, other), (odds, {}), (shorter, key), (odds, key)) == [True, True, True, False]
    assert appended((out, key), (out, other), (out, {})) == [True, False, False], "one withdrawal, whoever sends it"
    assert appended((back, {}), (out, key), (out, other)) == [True, False, True], "withdrawn again, not sent again"
    assert appended((Alias("horse", "arkle", "arkle (ire)"), {}), (odds, key), (shorter, other)) == [True, False, True]
    assert appended((shorter, other), (out, key)) == [False, False]


def test_a_load_older_than_the_logs_end_is_refused_whole_unless_late(store: Store) -> None:
    logged(store, told("R1", NOON))
    before = bytes_of(store.home)
    older = [told("R2", NOON - HOUR), told("R3", NOON + HOUR)]
    with LogWriter.open(store, clock=fixed()) as writer:
        with pytest.raises(
            UserError, match=r"1 of 2 new messages .* race R2 .* add --late .* `velo log rebuild FILE…`"
        ):
            writer.load(older)
        assert bytes_of(store.home) == before
        assert writer.load(older, late=True).appended == 2
    assert [message.known_at for message in held(store)] == [NOON, NOON + MICROSECOND, NOON + HOUR]


def test_a_message_tied_with_the_logs_end_is_not_late(store: Store) -> None:
    """Though the ones it ties with were bumped past it, at a midnight too."""
    midnight = local_midnight((NOON + timedelta(days=1)).date(), store.timezone)
    for instant in (NOON, midnight):
        for race in ("R1", "R2", "R3", "R4"):
            with LogWriter.open(store, clock=fixed()) as writer:
                assert writer.load([told(f"{race} {instant:%H}", instant)]).appended == 1
    assert [message.known_at for message in held(store)][4:] == [midnight + MICROSECOND * at for at in (1, 2, 3, 4)]


def test_a_tick_is_sent_once_and_only_of_a_midnight_that_has_come(store: Store) -> None:
    midnight = local_midnight(NOON.date(), store.timezone)
    with LogWriter.open(store, clock=fixed(midnight)) as writer:
        assert writer.tick(midnight).outcome == "appended"
        assert writer.tick(midnight).outcome == "identical"
        assert writer.tick(midnight - timedelta(days=1)).outcome == "identical"
        with pytest.raises(ValueError, match="not a midnight"):
            writer.tick(midnight + HOUR)
        with pytest.raises(ValueError, match="in the future"):
            writer.tick(midnight + timedelta(days=1))
    assert held(store) == [Tick(midnight, known_at=midnight + MICROSECOND)]


def test_a_full_segment_is_followed_by_another_wherever_writes_were_cut(tmp_path: Path) -> None:
    """Loaded at once or message by message, the files are the same."""
    at_once, one_by_one = a_store(tmp_path / "a"), a_store(tmp_path / "b")
    messages = [told(f"R{number:02d}", NOON + number * HOUR) for number in range(20)]
    with LogWriter.open(at_once, clock=fixed(), segment_bytes=2000) as writer:
        writer.load(messages)
    for message in messages:
        with LogWriter.open(one_by_one, clock=fixed(), segment_bytes=2000) as writer:
            writer.load([message])
    assert len(segments(at_once.home)) > 3
    assert bytes_of(at_once.home) == bytes_of(one_by_one.home)
    assert [seq for seq, _ in reader.messages(at_once.home, from_seq=13)] == list(range(13, 20))
    assert reader.check(at_once.home) == []


def test_check_says_what_is_wrong_where_and_what_to_do(store: Store) -> None:
    with LogWriter.open(store, clock=fixed(), segment_bytes=1) as writer:
        writer.load([told(f"R{number}", NOON + number * HOUR) for number in range(4)])
    paths = [segment.path for segment in segments(store.home)]
    paths[0].write_bytes(paths[0].read_bytes().replace(b"Ascot", b"Epsom") + paths[1].read_bytes())
    paths[2].unlink()
    with paths[3].open("ab") as file:
        file.write(b'{"crc":"0')
    problems = reader.check(store.home)
    whats = {(problem.where.partition(",")[0], problem.what) for problem in problems}
    assert (paths[3].name, "record 3 is where 2 belongs") in whats
    assert (paths[3].name, "the last 9 bytes are not a whole record (a write was interrupted)") in whats
    assert any(where == paths[0].name and what.startswith("the checksum does not match") for where, what in whats)
    assert all(problem.remedy for problem in problems)
    with pytest.raises(UserError, match="run `velo log check`"):
        held(store)


def test_check_finds_instants_that_do_not_increase(store: Store, tmp_path: Path) -> None:
    logged(store, told("R1", NOON + HOUR))
    other = a_store(tmp_path / "other")
    logged(other, told("R0", NOON - HOUR), told("R2", NOON))
    with segments(store.home)[0].path.open("ab") as file:
        file.write(segments(other.home)[0].path.read_bytes().splitlines(keepends=True)[1])
    (problem,) = reader.check(store.home)
    assert (
        "record 1 is known at 2024-05-01T11:00:00.000000Z, not later than 2024-05-01T12:00:00.000000Z" in problem.what
    )
    assert "velo log rebuild" in problem.remedy


def test_the_log_is_dated_in_utc_with_microseconds(store: Store) -> None:
    logged(store, told(known_at=datetime(2024, 5, 1, 12, 0, 0, 5, tzinfo=UTC)))
    (record,) = reader.records(store.home)
    assert record["known_at"] == "2024-05-01T12:00:00.000005Z"
    assert record["race_date"] == "2024-05-01"
