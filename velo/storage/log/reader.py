"""Read the log: whole records only, converted to the current schema."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from velo.errors import UserError
from velo.racing.clock import from_text
from velo.racing.messages import Alias, Message, from_record
from velo.storage import jsonl
from velo.storage.log.format import (
    Segment,
    complete_length,
    last_record,
    lines,
    reaching,
    segments,
    whole_records,
)
from velo.storage.log.migrations import upgraded
from velo.storage.store import Home

_ALIAS: Final = re.compile(rb'.{0,160}"type":"alias"')


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The end of the log: the `seq` of the next record, and the `known_at` of the last one (None for an empty log)."""

    next_seq: int
    known_at: datetime | None


@dataclass(frozen=True, slots=True)
class LogProblem:
    """One problem of the log: where, what, and the remedy."""

    where: str
    what: str
    remedy: str


def records(home: Home, from_seq: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the records from a seq on, with those appended meanwhile to segments not yet read; never a torn one.

    Raises `UserError` where a record is damaged or missing.
    """
    expected: int | None = None
    for segment in reaching(segments(home), from_seq):
        for record in whole_records(segment):
            seq = record["seq"]
            if expected is not None and seq != expected:
                raise UserError(f"{segment.path} holds record {seq} where {expected} belongs: run `velo log check`")
            expected = seq + 1
            if seq >= from_seq:
                yield upgraded(record)


def messages(home: Home, from_seq: int = 0) -> Iterator[tuple[int, Message]]:
    """Yield the messages from a seq on, each with its seq."""
    for record in records(home, from_seq):
        yield record["seq"], from_record(record)


def messages_of(home: Home, race_id: str) -> Iterator[Message]:
    """Yield the messages of a race, in order, from the whole log; only lines that hold its id are parsed.

    The tables answer faster, but lack what no feature reads, such as dividends.
    """
    needle = orjson.dumps(race_id)
    for segment in segments(home):
        for _, line in lines(segment.path, complete_length(segment.path)):
            if needle in line:
                record = upgraded(orjson.loads(line))
                if record.get("race_id") == race_id:
                    yield from_record(record)


def aliases(home: Home) -> list[Alias]:
    """Return the aliases in force, in the order in which they were recorded."""
    found: dict[tuple[str, str], Alias] = {}
    for segment in segments(home):
        for _, line in lines(segment.path, complete_length(segment.path)):
            if _ALIAS.match(line):
                alias = from_record(orjson.loads(line))
                assert isinstance(alias, Alias)
                found.pop((alias.of, alias.key), None)
                found[alias.of, alias.key] = alias
    return [alias for alias in found.values() if alias.same_as is not None]


def end(home: Home) -> LogEnd:
    """Return the end of the log; reads only the tail of the last segment with a record."""
    for segment in reversed(segments(home)):
        record = last_record(segment.path)
        if record is not None:
            return LogEnd(record["seq"] + 1, from_text(upgraded(record)["known_at"]))
    return LogEnd(0, None)


def check(home: Home) -> list[LogProblem]:
    """Read a store's whole log and return its problems: damage, gaps, instants that do not increase, a torn tail."""
    problems: list[LogProblem] = []
    expected: int | None = None
    last = ""
    every = segments(home)
    for segment in every:
        if expected is not None and segment.first_seq != expected:
            problems.append(_gap(str(segment.path.name), segment.first_seq, expected))
        expected = segment.first_seq
        length = complete_length(segment.path)
        for place, line in lines(segment.path, length):
            where = f"{segment.path.name}, byte {place}"
            record = _record(segment, line)
            if isinstance(record, str):
                problems.append(LogProblem(where, record, f"restore {segment.path.name} from a backup"))
                expected += 1
                continue
            if record["seq"] != expected:
                problems.append(_gap(where, record["seq"], expected))
            expected = record["seq"] + 1
            if record["known_at"] <= last:
                problems.append(
                    LogProblem(
                        where,
                        f"record {record['seq']} is known at {record['known_at']}, not later than {last} before it",
                        "make a new log with `velo log rebuild FILE…`",
                    )
                )
            last = record["known_at"]
        torn = segment.path.stat().st_size - length
        if torn:
            tail = LogProblem(
                f"{segment.path.name}, byte {length}",
                f"the last {torn} bytes are not a whole record (a write was interrupted)",
                "nothing: readers skip them, and the next writer removes them"
                if segment is every[-1]
                else f"restore {segment.path.name} from a backup",
            )
            problems.append(tail)
    return problems


def _gap(where: str, found: int, expected: int) -> LogProblem:
    what = f"record {found} is where {expected} belongs"
    return LogProblem(
        where, what, "restore the missing segment from a backup, or make a new log with `velo log rebuild`"
    )


def _record(segment: Segment, line: bytes) -> dict[str, Any] | str:
    """Return the record of a line, or what is wrong with it."""
    if not jsonl.is_whole(line):
        return "the checksum does not match: the record was changed or damaged after it was written"
    record = orjson.loads(line)
    if record.get("schema_version") != segment.schema_version:
        return f"schema_version {record.get('schema_version')} in a segment of version {segment.schema_version}"
    try:
        return upgraded(record)
    except (UserError, KeyError, TypeError) as unreadable:
        return f"the record cannot be read ({unreadable})"
