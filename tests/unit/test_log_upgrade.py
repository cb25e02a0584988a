"""A log of an older schema is read as if it were of today's, appended to, and never rewritten."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.logs import NOON, bytes_of, fixed, held, logged, told
from velo.errors import Refused, UserError
from velo.racing.clock import EPOCH, MICROSECOND, from_text
from velo.racing.messages import GoingChange, Message, Runner, to_record
from velo.storage import jsonl
from velo.storage.log import reader
from velo.storage.log.format import Segment, body_of, digest_of, framed, segments
from velo.storage.log.migrations import readable_segments, upgraded
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store

RUNNERS = (
    Runner("arkle", status="FINISHED", position=1, sp_decimal=1.5, kept={"comment": "made all"}),
    Runner("mill house", status="PU", sp_decimal=4.0),
)
OLD: list[Message] = [told("R1", NOON, runners=RUNNERS), GoingChange("R2", "Soft", NOON + MICROSECOND)]


def as_version_1(message: Message) -> dict[str, Any]:
    """A message as the draft before the first release wrote it."""
    record = to_record(message) | {"schema_version": 1}
    for name in ("known_at", "off_time"):
        if name in record:
            record[name] = (from_text(record[name]) - EPOCH) // MICROSECOND
    for runner in record.get("runners", ()):
        if "sp_decimal" in runner:
            runner["odds"] = runner.pop("sp_decimal")
    return record


def write_version_1(store: Store, *messages: Message) -> Path:
    """A log of one segment as the draft wrote it."""
    segment = Segment.at(store.home.log, 0, 1)
    store.home.log.mkdir(parents=True)
    records = [as_version_1(message) for message in messages]
    segment.path.write_bytes(
        b"".join(
            framed(seq, digest_of(record), record["known_at"], body_of(record)) for seq, record in enumerate(records)
        )
    )
    return segment.path


def test_an_old_log_gives_the_same_messages(store: Store) -> None:
    write_version_1(store, *OLD)
    assert held(store) == OLD
    assert reader.end(store.home) == reader.LogEnd(2, NOON + MICROSECOND)
    assert reader.check(store.home) == []


def test_an_old_log_is_appended_to_in_a_new_segment_and_not_rewritten(store: Store) -> None:
    path = write_version_1(store, *OLD)
    before = path.read_bytes()
    new = told("R3", NOON + 5 * MICROSECOND)
    with LogWriter.open(store, clock=fixed()) as writer:
        report = writer.load([*OLD, new])
    assert (report.appended, report.identical) == (1, 2)
    assert [(segment.first_seq, segment.schema_version) for segment in segments(store.home)] == [(0, 1), (2, 2)]
    assert path.read_bytes() == before
    assert held(store) == [*OLD, new]
    assert reader.check(store.home) == []


def test_an_old_result_sent_again_without_what_nothing_reads_is_identical(store: Store) -> None:
    """Its digest is of all it said, so its columns are read from the old segment; a result put a moment ago too."""
    write_version_1(store, *OLD)
    old, new = told("R1", NOON, runners=RUNNERS), told("R3", NOON + 5 * MICROSECOND, runners=RUNNERS)
    bare = tuple(replace(runner, kept={}) for runner in reversed(RUNNERS))
    dearer = (replace(RUNNERS[0], sp_decimal=9.0), RUNNERS[1])
    with LogWriter.open(store, clock=fixed()) as writer:
        assert writer.append(new).outcome == "appended"
        for each in (old, new):
            assert writer.append(replace(each, runners=bare)).outcome == "identical"
            with pytest.raises(Refused, match=r"in result_version 1 \(sp_decimal\): give"):
                writer.append(replace(each, runners=dearer))
            with pytest.raises(Refused, match=r"\(runners\)"):
                writer.append(replace(each, runners=RUNNERS[:1]))
    assert held(store) == [*OLD, replace(new, known_at=NOON + 2 * MICROSECOND)]


def test_a_torn_tail_of_an_old_log_is_cut(store: Store) -> None:
    path = write_version_1(store, *OLD)
    path.write_bytes(path.read_bytes()[:-3])
    logged(store, *OLD)
    assert held(store) == OLD


def test_an_old_log_torn_in_its_first_record_is_begun_again(store: Store) -> None:
    path = write_version_1(store, OLD[0])
    path.write_bytes(path.read_bytes()[:-3])
    logged(store, *OLD)
    assert held(store) == OLD
    assert len(readable_segments(store.home)) == 1


def test_readable_segments_are_whole_and_of_todays_schema(store: Store) -> None:
    """What a reader of whole files finds: the very records that the log's own reader gives, envelope and all."""
    write_version_1(store, *OLD)
    logged(store, *(told(f"R{number}", NOON + number * 10 * MICROSECOND) for number in range(3, 9)))
    with segments(store.home)[-1].path.open("ab") as file:
        file.write(b'{"crc":"torn')
    lines = [line for path in readable_segments(store.home) for line in path.read_bytes().splitlines(keepends=True)]
    assert all(jsonl.is_whole(line) for line in lines)
    without_crc = [{**record, "crc": None} for record in reader.records(store.home)]
    assert [{**orjson.loads(line), "crc": None} for line in lines] == without_crc
    assert {record["schema_version"] for record in without_crc} == {2}


def test_readable_segments_are_copied_again_only_where_the_log_grew(store: Store) -> None:
    write_version_1(store, *OLD)
    logged(store, told("R3", NOON + 10 * MICROSECOND))
    before = {path: path.stat().st_mtime_ns for path in readable_segments(store.home)}
    assert {path: path.stat().st_mtime_ns for path in readable_segments(store.home)} == before
    logged(store, told("R4", NOON + 20 * MICROSECOND))
    after = readable_segments(store.home)
    assert after[0] in before
    assert after[1] not in before
    assert sorted((store.home.batch / "upgraded").iterdir()) == sorted(after)


@pytest.mark.parametrize("from_seq", [1, 2, 3, 350, 598, 599])
def test_readable_segments_from_a_seq_have_the_records_from_it_on(store: Store, from_seq: int) -> None:
    """Of a segment of an older schema, and of the last one, which is searched by bisection."""
    write_version_1(store, *OLD)
    logged(store, *(told(f"R{number}", NOON + number * 10 * MICROSECOND) for number in range(3, 600)))
    assert segments(store.home)[-1].path.stat().st_size > 2 * 2**16
    every = [line for path in readable_segments(store.home) for line in path.read_bytes().splitlines()]
    some = [line for path in readable_segments(store.home, from_seq) for line in path.read_bytes().splitlines()]
    assert some == [line for line in every if orjson.loads(line)["seq"] >= from_seq]


def test_a_damaged_record_before_the_seq_is_met_by_the_reader_that_begins_there(store: Store) -> None:
    logged(store, told("R1", NOON), told("R2", NOON + MICROSECOND), told("R3", NOON + 2 * MICROSECOND))
    path = segments(store.home)[-1].path
    path.write_bytes(path.read_bytes().replace(b'"seq":0', b'"sex":0', 1))
    with pytest.raises(UserError, match="damaged at byte 0"):
        readable_segments(store.home, from_seq=2)


def test_full_segments_of_todays_schema_are_read_in_place(store: Store) -> None:
    with LogWriter.open(store, clock=fixed(), segment_bytes=1) as writer:
        writer.load([told(f"R{number}", NOON + number * MICROSECOND) for number in range(3)])
    paths = [segment.path for segment in segments(store.home)]
    readable = readable_segments(store.home)
    assert readable[:2] == paths[:2]
    assert readable[2].read_bytes() == paths[2].read_bytes()


def test_the_log_is_untouched_by_reading(store: Store) -> None:
    write_version_1(store, *OLD)
    before = bytes_of(store.home)
    readable_segments(store.home)
    held(store)
    assert bytes_of(store.home) == before


def test_a_schema_from_the_future_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match="schema_version 99, this version reads up to 2: upgrade velo"):
        upgraded({"seq": 7, "schema_version": 99})
