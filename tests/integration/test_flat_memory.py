"""What a stream holds in memory follows what it learned of, not how often: and what it let go it has again when asked."""

import gc
import os
import random
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.logs import a_store, fixed
from tests.support.replay import MemorySpill, starts_in
from tests.support.streaming import NOW, all_rows, assert_same, batch_twin, streamed
from velo.errors import UserError
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES
from velo.racing.clock import LocalDays, to_us
from velo.racing.messages import Race, Result, Runner, to_record
from velo.settings import zone_named
from velo.storage import compact_map as packed_module
from velo.storage.compact_map import CompactMap, expanded, squeezed
from velo.storage.log.index import HeldVersion, Index
from velo.storage.log.tail import RecordOffset
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.aggregation import spill as shelf_module
from velo.streams.aggregation.array_fold import ArrayFold
from velo.streams.aggregation.key_history import NO_HISTORY, KeyHistories
from velo.streams.aggregation.layout import Columns, RememberedStart
from velo.streams.aggregation.ratings import Elo
from velo.streams.aggregation.result_delta import replacing
from velo.streams.aggregation.spill import FileSpill, Spill
from velo.streams.dataflow.bootstrap import CurrentVersion, HeldRaces

pytestmark = pytest.mark.slow

LONDON = zone_named("Europe/London")
FIRST_DAY = date(2010, 1, 1)
DAYS_APART = 30
"""So few race days that every window, the longest of 1,095 days too, is full before anything is measured."""
FULL_AFTER_DAYS = 38
FIELD = 10
FIELDS = 6


def race_day(number: int) -> Iterator[Result]:
    """All horses run once, each time against others, for one of a few trainers and jockeys, on one of a few courses."""
    drawn = random.Random(number)
    horses = [f"horse {each}" for each in range(FIELD * FIELDS)]
    drawn.shuffle(horses)
    day = FIRST_DAY + timedelta(days=number * DAYS_APART)
    for place in range(FIELDS):
        field = horses[place * FIELD : (place + 1) * FIELD]
        off_time = datetime.combine(day, time(13 + place), UTC)
        runners = tuple(
            Runner(
                horse,
                jockey_id=f"jockey {drawn.randrange(5)}",
                trainer_id=f"trainer {drawn.randrange(5)}",
                draw=at + 1,
                weight_lbs=120.0 + at,
                official_rating=60 + at,
                status="FINISHED",
                position=at + 1,
                beaten_lengths=1.25 * at,
                finish_time_s=72.0 + at / 5 + drawn.random(),
                sp_decimal=2.0 + drawn.randrange(40) / 4,
            )
            for at, horse in enumerate(field)
        )
        race = Race(f"race {number}-{place}", day, off_time, f"course {drawn.randrange(3)}", surface="Turf")
        race = replace(race, race_class=4, going="Good", distance_m=1200.0 + 800 * drawn.randrange(2))
        yield Result(race, runners, known_at=off_time + timedelta(minutes=15))


class AllThatIsKept:
    """What the stream keeps from one message to the next: the state of the families, the ratings, the versions that hold, the writer's index."""

    def __init__(self, shelf: Spill) -> None:
        self.days = LocalDays(LONDON)
        self.fold = ArrayFold(FAMILIES, self.days, shelf)
        self.elo = Elo(shelf)
        self.held = HeldRaces()
        self.index = Index(LONDON)

    def send(self, results: Iterable[Result]) -> int:
        """Fold results in, each the first of its race; how many starts they are."""
        starts = 0
        for seq, result in enumerate(results):
            assert result.known_at is not None
            change, at_us = self.elo.rate(replacing(result)), to_us(result.known_at)
            self.fold.roll([(at_us, change)])
            self.held.put(result.race_id, CurrentVersion(1, RecordOffset(0, 2, 4000 * seq, 4000)))
            self.index.hold(to_record(result), HeldVersion(f"{seq:016x}", seq, 2000 * seq))
            starts += len(change.added)
        return starts


def growth(shelf: Spill, until: int) -> float:
    """Bytes a start that memory grows by, from the day all windows are full on."""
    tracemalloc.start()
    try:
        kept = AllThatIsKept(shelf)
        for number in range(FULL_AFTER_DAYS):
            kept.send(race_day(number))
        before = traced()
        starts = sum(kept.send(race_day(number)) for number in range(FULL_AFTER_DAYS, until))
        return (traced() - before) / starts
    finally:
        tracemalloc.stop()


def traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_with_the_same_horses_memory_grows_by_a_few_bytes_a_start(tmp_path: Path) -> None:
    """From the day all windows are full to three times as many days: those of its race's name and version. Held in
    memory, what the shelf takes would be twenty times as much."""
    grown = growth(FileSpill(tmp_path), 3 * FULL_AFTER_DAYS)
    if grown >= 25:
        # what the process caches at its first use, for other tests too, is not kept a second time
        grown = growth(FileSpill(tmp_path), 3 * FULL_AFTER_DAYS)
    assert grown < 25
    assert growth(MemorySpill(), FULL_AFTER_DAYS + 10) > 250


def named(number: int) -> str:
    return f"race {number:03d}"


def a_career(races: int) -> list[Result]:
    """Races of the same six horses, three weeks apart, each won by another of them."""
    return [
        replace(item, race=replace(item.race, race_id=named(number)), runners=item.runners[:6])
        for number in range(races)
        for item in list(race_day(number))[:1]
        for item in [
            replace(item, runners=tuple(replace(each, horse_id=f"horse {each.draw}") for each in item.runners))
        ]
    ]


def amended(result: Result, at: datetime) -> Result:
    """The same race with the first two disqualified into the last places, known at another instant."""
    order = [*result.runners[2:], *result.runners[:2]]
    runners = tuple(replace(each, position=place + 1, beaten_lengths=2.0 * place) for place, each in enumerate(order))
    return replace(result, runners=runners, result_version=result.result_version + 1, known_at=at)


def voided(result: Result, at: datetime) -> Result:
    """The same race void."""
    runners = tuple(replace(runner, status="VOID", position=None) for runner in result.runners)
    return replace(result, runners=runners, result_version=result.result_version + 1, known_at=at)


def tell(store: Store, results: Sequence[Result]) -> None:
    with LogWriter.open(store, clock=fixed(NOW)) as writer:
        writer.load(results)


@pytest.mark.parametrize("restarted", [False, True], ids=["while it runs", "after a restart"])
def test_an_amendment_of_a_race_of_years_ago_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """The first race of forty is amended, one in the middle is void, and then so many of the last that only races let go
    long before are left to be looked back on: every row is the batch's."""
    monkeypatch.setattr(shelf_module, "BLOCK_BYTES", 1)
    monkeypatch.setattr(packed_module, "LEAST_WHOLE", 1)
    taken: list[int] = []
    get = FileSpill.get

    def noted(shelf: FileSpill, place: int) -> bytes:
        taken.append(place)
        return get(shelf, place)

    monkeypatch.setattr(FileSpill, "get", noted)
    career = a_career(40)
    last = career[-1].known_at
    assert last is not None
    since = [last + timedelta(days=1, minutes=minute) for minute in range(20)]
    corrections = [amended(career[0], since[0]), voided(career[17], since[1])]
    corrections += [voided(aggregate, at) for aggregate, at in zip(career[:-13:-1], since[2:], strict=False)]
    store = a_store(tmp_path / "home")
    tell(store, career if restarted else [*career, *corrections])
    streamed(store)
    if restarted:
        before = all_rows(store)["horse_form"]
        taken.clear()
        tell(store, corrections)
        streamed(store)
        assert len(all_rows(store)["horse_form"]) == len(before) + 6 * len(corrections)
    assert len(taken) >= 6 * len(corrections), "what is taken back was on the shelf alone"
    assert_same(all_rows(store), all_rows(batch_twin(store, tmp_path / "twin")))


FORM = Columns.of(BY_VIEW["horse_form"])


def a_memory(number: int, values: Sequence[int | None]) -> RememberedStart:
    """A start: four of them share each off, and two of those their race."""
    return (number // 4, f"R{number // 2}", f"horse {number}", *values)


@given(st.data())
def test_a_past_is_that_of_all_its_starts_in_whatever_order_they_come_and_go(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Sent late, amended, taken back, unknown: the features are those of the plain list, and so are its starts."""
    pasts = KeyHistories(FORM, FileSpill(tmp_path_factory.getbasetemp()))
    value = st.none() | st.integers(-(10**9), 10**12)
    values = st.lists(value, min_size=len(FORM.layout.remembered), max_size=len(FORM.layout.remembered))
    past, plain = NO_HISTORY, dict[int, RememberedStart]()
    for number in data.draw(st.lists(st.integers(0, 40), max_size=60)):
        given_now = a_memory(number, data.draw(values))
        if number not in plain:
            past, recent = pasts.after(past, given_now)
            plain[number] = given_now
        elif data.draw(st.booleans()):
            past, recent = pasts.amended(past, [plain[number]], [given_now])
            plain[number] = given_now
        else:
            past, recent = pasts.amended(past, [plain.pop(number)], [])
        every = sorted(plain.values(), key=lambda each: each[:3])
        assert recent == FORM.recent_values(every)
        assert pasts.recent_values(past) == recent
        assert starts_in(pasts, past) == every
        assert bool(past) == bool(every)


@given(st.binary() | st.lists(st.sampled_from([0, 0, 0, 1, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF]), max_size=60).map(bytes))
def test_a_squeezed_record_is_that_record_and_begins_no_name(record: bytes) -> None:
    assert b"\xff" not in squeezed(record)
    assert expanded(squeezed(record)) == record


class PackedAgainstADictionary:
    """The same sent to both."""

    def __init__(self) -> None:
        self.packed, self.plain = CompactMap(), dict[tuple[str, ...], bytes]()

    def do(self, what: str, key: tuple[str, ...], number: int) -> Any:
        if what == "put":
            self.packed.put(key, number.to_bytes(9, "little"))
            self.plain[key] = number.to_bytes(9, "little")
        elif what == "pop":
            assert self.packed.pop(key) == self.plain.pop(key, None)
        elif what == "get":
            assert self.packed.get(key) == self.plain.get(key)
        else:
            total = int.from_bytes(self.plain.get(key, b""), "little") + number
            assert self.packed.add(key, number, 9) == total
            self.plain[key] = total.to_bytes(9, "little")
            if not total:
                del self.plain[key]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "add", "pop", "get"]),
            st.tuples(st.sampled_from(["a", "ab", "a\x00", "é", "", "\U0010ffff"]), st.integers(0, 40).map(str)),
            st.sampled_from([0, 1, 255, 2**64 - 1]),
        ),
        max_size=400,
    )
)
def test_a_packed_map_is_a_dictionary(steps: list[tuple[str, tuple[str, ...], int]]) -> None:
    """Names that begin alike, empty ones, numbers of all bytes; all is packed at every fourth key, and buckets are split
    on the way."""
    both = PackedAgainstADictionary()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packed_module, "LEAST_WHOLE", 3)
        patched.setattr(packed_module, "MOST_WHOLE", 3)
        for step in steps:
            both.do(*step)
    assert dict(both.packed.items()) == both.plain
    assert len(both.packed) == len(both.plain)


def test_records_that_are_only_looked_at_and_changed_are_packed_again_too() -> None:
    """A year of the same horses brings no key that was not there: what is touched must not stay unpacked for want of one."""
    grown = []
    for touched in (False, True):
        tracemalloc.start()
        try:
            records = CompactMap()
            for number in range(20_000):
                records.put((f"horse {number}", "course 1"), bytes(8))
            before = traced()
            for number in range(20_000 if touched else 0):
                assert records.add((f"horse {number}", "course 1"), 1, 8) == 1
            grown.append(traced() - before)
        finally:
            tracemalloc.stop()
    untouched, touched_all = grown
    assert touched_all - untouched < 40 * 20_000


def test_what_the_disk_has_no_room_for_is_reported_with_its_remedy(tmp_path: Path) -> None:
    shelf = FileSpill(tmp_path)
    shelf.put(bytes(shelf_module.BLOCK_BYTES))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, shelf._file)
    os.close(full)
    with pytest.raises(UserError, match=r"No space left on device.: make room, then start the stream again"):
        shelf.put(bytes(shelf_module.BLOCK_BYTES))
