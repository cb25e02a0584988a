"""A reading holds whole results: what the log says is to come is waited for, whatever time has passed, and nothing else is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import pytest

from tests.support.logs import fixed
from tests.support.services import NOW, OFF, RACE, RUNNERS, a_service, tell
from velo.feature_repo.catalogue.families import FAMILIES
from velo.racing.cards import declared_at
from velo.racing.messages import Racecard, Result
from velo.racing.starts import Start, starts_of
from velo.serving.scoring.read_consistency import ReadConsistency
from velo.serving.scoring.read_plan import NEVER, ReadPlan, ReadRows
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store

KNOWN, HEAD = 2_000_000, 9_000_000
FIELD = tuple(replace(runner, status="FINISHED", position=n + 1, sp_decimal=3.0) for n, runner in enumerate(RUNNERS))
STARTS = list(starts_of(RACE, FIELD))


@dataclass
class MadeUpLog:
    """A log of these results: (seq, instant in µs, starts)."""

    results: list[tuple[int, int, list[Start]]]
    until: tuple[int, int] = (0, 0)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def settled(self) -> tuple[int, int]:
        return self.until

    def touched(self, from_seq: int, to_seq: int) -> Iterator[tuple[int, Iterable[Start]]]:
        self.asked.append((from_seq, to_seq))
        yield from ((known_us, starts) for seq, known_us, starts in self.results if from_seq <= seq <= to_seq)


def a_reading() -> ReadPlan:
    race = declared_at([Racecard(RACE, RUNNERS, OFF - timedelta(hours=5))], NOW)
    assert race is not None
    return ReadPlan.of(race)


def rows_at(reading: ReadPlan, event_us: int) -> ReadRows:
    shape = len(RUNNERS), len(FAMILIES)
    until = np.full(shape, np.nan)
    return ReadRows(np.zeros((len(RUNNERS), 1)), np.ones(shape, np.bool_), np.full(shape, event_us, np.int64), until)


def test_a_row_that_is_to_come_is_waited_for_until_it_is_there() -> None:
    reading, log, heard = a_reading(), MadeUpLog([(4, KNOWN, STARTS)]), ReadConsistency()
    heard.record(0, 5, log)
    before, after = rows_at(reading, 1_000_000), rows_at(reading, KNOWN)
    half = replace(after, event_us=after.event_us.copy())
    half.event_us[3, 1] = 1_000_000
    for _ in range(3):
        assert heard.position(reading, before, HEAD, 0, log) == KNOWN - 1, "just before the result"
        assert heard.position(reading, half, HEAD, 0, log) is None
    assert heard.position(reading, after, HEAD, 0, log) == HEAD
    assert heard.position(reading, rows_at(reading, NEVER), HEAD, KNOWN + 1, log) is None, "the card is newer"


def test_of_two_results_neither_of_which_is_written_the_first_counts() -> None:
    reading, heard = a_reading(), ReadConsistency()
    log = MadeUpLog([(4, KNOWN, STARTS), (6, KNOWN + 500, STARTS[:1])])
    heard.record(0, 9, log)
    assert heard.position(reading, rows_at(reading, 1), HEAD, 0, log) == KNOWN - 1
    assert heard.position(reading, rows_at(reading, KNOWN), HEAD, 0, log) == KNOWN + 499
    assert heard.position(reading, rows_at(reading, KNOWN + 500), HEAD, 0, log) == HEAD


def test_a_key_of_many_results_is_as_of_just_before_the_next_and_needs_no_second_read() -> None:
    """A trainer's row misses the third result alone: rows of the second, on other keys, do not contradict it."""
    reading, heard = a_reading(), ReadConsistency()
    log = MadeUpLog([(4, KNOWN, STARTS), (5, KNOWN + 200, STARTS[1:]), (6, KNOWN + 500, STARTS[:1])])
    heard.record(0, 9, log)
    rows = rows_at(reading, KNOWN + 200)
    rows.event_us[0] = KNOWN
    assert heard.position(reading, rows, HEAD, 0, log) == KNOWN + 499
    log.until = (5, KNOWN)
    heard.record(0, 10, log)
    assert heard.position(reading, rows, HEAD, 0, log) == KNOWN + 499, "what is settled is forgotten, not what follows"
    rows.event_us[:] = KNOWN + 200
    rows.event_us[1, 0] = KNOWN + 500
    assert heard.position(reading, rows, HEAD, 0, log) is None, "the third is half written"


def test_what_both_stores_hold_for_certain_is_not_waited_for() -> None:
    """A result of which no row is to come, as one of a lower version, is so known once the stream has gone past it."""
    reading, heard = a_reading(), ReadConsistency()
    log = MadeUpLog([(4, KNOWN, STARTS)])
    heard.record(0, 5, log)
    log.until = (5, KNOWN)
    assert heard.position(reading, rows_at(reading, 1), HEAD, 0, log) == HEAD
    heard.record(0, 8, log)
    heard.record(0, 8, log)
    assert log.asked == [(0, 5), (6, 8)], "each record is asked for once"
    heard.record(1, 3, log)
    assert log.asked[-1] == (5, 3), "a log made anew begins where its stores are whole"


def test_a_window_that_the_head_has_passed_has_a_row_to_come() -> None:
    reading, log, heard = a_reading(), MadeUpLog([]), ReadConsistency()
    heard.record(0, 5, log)
    rows = rows_at(reading, 1_000_000)
    rows.until_us[2, 0] = KNOWN
    assert heard.position(reading, rows, KNOWN - 1, 0, log) == KNOWN - 1
    assert heard.position(reading, rows, HEAD, 0, log) == KNOWN - 1
    log.until = (6, KNOWN)
    assert heard.position(reading, rows, HEAD, 0, log) == HEAD, "it is stale, and says so"


@pytest.fixture(scope="module")
def store(streamed_store: Store) -> Store:
    return streamed_store


def test_a_result_touches_those_it_takes_back_and_one_of_a_lower_version_touches_nobody(store: Store) -> None:
    """A void result names no starter: the rows to come of it are those of the version before."""
    first = Result(RACE, FIELD)
    void = replace(
        first, result_version=3, runners=tuple(replace(runner, status="VOID", position=None) for runner in FIELD)
    )
    late = replace(first, result_version=2, runners=FIELD[::-1])
    begin = reader.end(store.home).next_seq
    tell(store, first, at=OFF + timedelta(minutes=10))
    at = [OFF + timedelta(minutes=11), OFF + timedelta(minutes=12)]
    for each, when in zip((void, late), at, strict=True):
        with LogWriter.open(store, clock=fixed(when)) as writer:
            writer.append(each)
    found = list(a_service(store).scorer.history.touched(begin, begin + 9))
    assert [len(starts) for _, starts in found] == [8, 8]
    assert {start.horse_id for _, starts in found for start in starts} == {runner.horse_id for runner in RUNNERS}
    assert [known_us for known_us, _ in found] == sorted({known_us for known_us, _ in found})
