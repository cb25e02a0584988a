"""The dataflow keeps both stores as the batch has them, wherever it begins and however often it is begun again."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from threading import Event, Thread

import pyarrow.parquet as pq
import pytest

from tests.support.logs import a_store
from tests.support.stores import Conformance
from tests.support.streaming import (
    NOW,
    Rows,
    all_rows,
    assert_online,
    assert_same,
    changes,
    streamed,
    tell,
)
from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.race_cards import RaceCards
from velo.feature_repo.stores.redis_client import connect
from velo.racing.cards import declared_at
from velo.racing.messages import Message, Result
from velo.storage import table_versions
from velo.storage.log import reader
from velo.storage.log.format import segments
from velo.storage.store import Store
from velo.streams.batch.build import build, compact
from velo.streams.dataflow import catch_up
from velo.streams.dataflow.metrics import Telemetry, position
from velo.streams.dataflow.parquet_sink import ParquetPartition, PartSpan
from velo.streams.dataflow.retry import FarBehind
from velo.streams.dataflow.runtime import GROWN, StreamOptions, plan, sole_stream, source_of
from velo.streams.explain import explain
from velo.streams.importers import dead_letters
from velo.streams.status import status

pytestmark = pytest.mark.slow


TOLD = 400
"""How much of London's log is streamed where a stream is cut off, fails or meets a build: some of it is amended and void."""


@pytest.fixture(scope="module")
def messages(conformance: Conformance) -> list[Message]:
    """The first messages of the London log."""
    return [message for _, message in islice(reader.messages(conformance("london").store.home), TOLD)]


@pytest.fixture(scope="module")
def built(messages: list[Message], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """The tables that the batch makes of them."""
    assert sum(isinstance(message, Result) and message.result_version > 1 for message in messages) > 10
    store = a_store(tmp_path_factory.mktemp("built") / "home")
    tell(store, messages)
    build(store, NOW)
    return all_rows(store)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store, whose Redis is stopped at the end."""
    made = a_store(tmp_path / "home")
    yield made
    embedded_redis.down(made.home)


def test_a_stream_cut_off_again_and_again_ends_as_if_it_never_was(
    store: Store, messages: list[Message], built: dict[str, Rows]
) -> None:
    """Nothing lost, nothing doubled, in either store; what was sealed before a cut is never made again."""
    tell(store, messages)
    whole = {view: changes(view, rows).keys() for view, rows in built.items()}
    for cut_after in (1, 3, 0, 4):
        streamed(store, cut_after=cut_after, batch=40, online=True)
        for view, rows in all_rows(store).items():
            assert changes(view, rows).keys() <= whole[view]
    streamed(store, batch=90, online=True)
    assert_same(all_rows(store), built)
    assert_online(store, built)


def test_a_stream_that_ends_at_the_logs_end_leaves_redis_live_without_another_snapshot(
    store: Store, messages: list[Message]
) -> None:
    """Full batches count as catching up; the end of the stream says that every row is written."""
    tell(store, messages[:90])
    streamed(store, batch=40, online=True, snapshot_every=timedelta(minutes=10))
    head = RaceCards(connect(store.home, None)).head()
    assert head is not None
    assert (head.seq, head.live) == (89, True)


@pytest.mark.parametrize("fails_at", [1, 30, 100])
def test_a_part_that_cannot_be_sealed_ends_the_stream_and_leaves_no_gap(
    store: Store, messages: list[Message], built: dict[str, Rows], monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """It is sealed beside the engine, which has gone on meanwhile: no snapshot that is kept may count on it."""
    tell(store, messages)
    seals, sealed = count(1), ParquetPartition._seal

    def seal(partition: ParquetPartition, span: PartSpan) -> None:
        time.sleep(0.01)
        if next(seals) >= fails_at:
            raise OSError(28, "No space left on device")
        sealed(partition, span)

    with monkeypatch.context() as full:
        full.setattr(ParquetPartition, "_seal", seal)
        with pytest.raises(UserError, match="No space left on device"):
            streamed(store, batch=40)
    assert next(seals) > fails_at
    streamed(store, batch=90)
    assert_same(all_rows(store), built)


def test_what_a_failed_stream_left_open_does_not_reach_the_parts_of_the_next(
    store: Store, messages: list[Message], built: dict[str, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writers close their files when their memory is freed: here while the next stream makes parts of the same names."""
    tell(store, messages)
    left, sealed = dict[str, pq.ParquetWriter](), ParquetPartition._seal

    def seal(partition: ParquetPartition, span: PartSpan) -> None:
        if partition._writer is not None:
            left[partition.family.view] = partition._writer
        raise OSError(28, "No space left on device")

    def seal_beside(partition: ParquetPartition, span: PartSpan) -> None:
        if open_still := left.pop(partition.family.view, None):
            open_still.close()
        sealed(partition, span)

    with monkeypatch.context() as full:
        full.setattr(ParquetPartition, "_seal", seal)
        with pytest.raises(UserError, match="No space left on device"):
            streamed(store)
    begun = len(left)
    monkeypatch.setattr(ParquetPartition, "_seal", seal_beside)
    streamed(store, batch=90)
    assert len(left) < begun
    assert_same(all_rows(store), built)


def test_rows_sealed_without_a_snapshot_are_not_written_again(
    store: Store, messages: list[Message], built: dict[str, Rows]
) -> None:
    """The recovery store is lost, the parts are not: the stream begins again and leaves out what is there."""
    tell(store, messages)
    streamed(store, cut_after=5, batch=70)
    sealed = sum(len(rows) for rows in all_rows(store).values())
    for folder in store.home.recovery.iterdir():
        folder.rename(store.home.root / "lost")
    telemetry = streamed(store)
    repeated = sum(
        sample.value
        for metric in telemetry.repeated.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )
    assert repeated == sealed > 0
    assert_same(all_rows(store), built)


@pytest.mark.parametrize("built_at", [1, 150, TOLD - 1, TOLD])
def test_a_stream_takes_over_from_a_build_wherever_that_ended(
    store: Store, messages: list[Message], built: dict[str, Rows], built_at: int
) -> None:
    """No gap and no double counting, in tables that the build and the stream share.

    Redis holds the build's keys too, also where not one message came after it.
    """
    tell(store, messages[:built_at])
    build(store, NOW)
    tell(store, messages[built_at:])
    online = built_at in (150, TOLD)
    telemetry = streamed(store, online=online)
    read = sum(
        sample.value
        for metric in telemetry.messages.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )
    assert read == len(messages) - built_at
    assert_same(all_rows(store), built)
    if online:
        assert_online(store, built)


@pytest.mark.parametrize("whole", [False, True])
def test_a_build_beside_a_stream_leaves_each_row_once(
    store: Store, messages: list[Message], built: dict[str, Rows], whole: bool
) -> None:
    """A build of part of what the stream has written, of more than it has, and again after it: never a row twice."""
    tell(store, messages[:150])
    streamed(store, batch=50)
    assert len(table_versions.stream_parts(store.home.offline, "horse_form")) == 3
    # the stream is at 150, the build goes to 250
    tell(store, messages[150:250])
    build(store, NOW, whole=whole)
    assert table_versions.stream_parts(store.home.offline, "horse_form") == []
    assert {len(rows) for rows in all_rows(store).values()}
    # the stream goes on at 150: what the build has is left out
    streamed(store, batch=70)
    tell(store, messages[250:])
    streamed(store, batch=70)
    assert_same(all_rows(store), built)
    compact(store)
    assert_same(all_rows(store), built)
    build(store, NOW, whole=whole)
    assert table_versions.stream_parts(store.home.offline, "horse_form") == []
    assert_same(all_rows(store), built)


def test_a_part_that_a_build_ends_within_is_cut_there(
    store: Store, messages: list[Message], built: dict[str, Rows]
) -> None:
    """The build's rows and the rest of the stream's: published together."""
    tell(store, messages)
    streamed(store, batch=2000)
    [part] = table_versions.stream_parts(store.home.offline, "horse_form")
    before = table_versions.manifest_of(table_versions.current(store.home) or Path())
    # as a build that read the log when it ended at 150 publishes while the stream is far ahead
    folder = table_versions.begin(store.home)
    manifest = table_versions.Manifest(
        before.log_generation, 150, messages[149].known_at or NOW, before.fingerprint, before.epoch, before.rows
    )
    table_versions.publish(store.home, folder, manifest)
    [cut] = table_versions.stream_parts(store.home.offline, "horse_form")
    assert (part.first_seq, cut.first_seq, cut.last_seq) == (0, 150, part.last_seq)
    after_us = int((manifest.known_at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    expected = {key: row for key, row in built["horse_form"].items() if key[-1] > after_us}
    assert_same({"horse_form": all_rows(store)["horse_form"]}, {"horse_form": expected})


def test_a_damaged_record_goes_to_the_dead_letters_and_the_rest_goes_on(store: Store, messages: list[Message]) -> None:
    """Its place in the sequence stays empty; what follows takes effect. Sent once, however often it is met."""
    tell(store, messages[:50])
    [segment] = segments(store.home)
    lines = segment.path.read_bytes().splitlines(keepends=True)
    lines[20] = lines[20].replace(b"result", b"resolt", 1)
    segment.path.write_bytes(b"".join(lines))
    telemetry = streamed(store, cut_after=1)
    telemetry = streamed(store)
    [letter] = dead_letters.read(store.home)
    assert (letter.source, letter.reason, letter.rows[0]["seq"]) == ("stream", "the record is damaged", 20)
    assert telemetry.registry.get_sample_value("velo_stream_next_seq") == 50
    assert max(key[-1] for key in all_rows(store)["horse_form"])


def test_a_torn_record_waits_until_it_is_whole(store: Store, messages: list[Message], built: dict[str, Rows]) -> None:
    """A write seen half is no damage: it takes effect when the other half is there."""
    tell(store, messages)
    [segment] = segments(store.home)
    whole = segment.path.read_bytes()
    segment.path.write_bytes(whole[:-100])
    streamed(store)
    segment.path.write_bytes(whole)
    streamed(store)
    assert dead_letters.read(store.home) == []
    assert_same(all_rows(store), built)


def test_tables_of_a_log_since_rebuilt_are_refused(store: Store, messages: list[Message]) -> None:
    """A stream cannot correct the past: the remedy is a build."""
    tell(store, messages[:10])
    build(store, NOW)
    (store.home.log / "generation").write_text("1")
    with pytest.raises(UserError, match="run `velo build`"):
        plan(store)


def test_a_log_that_ends_before_what_was_sealed_is_refused(
    store: Store, messages: list[Message], tmp_path: Path
) -> None:
    """As after a power cut or an old backup: other records would take the places of those the tables hold."""
    tell(store, messages[:60])
    streamed(store)
    shorter = a_store(tmp_path / "shorter")
    tell(shorter, messages[:40])
    [segment], [other] = segments(store.home), segments(shorter.home)
    segment.path.write_bytes(other.path.read_bytes())
    with pytest.raises(UserError, match="ends before record 40, but the stream has read up to 60: restore the log"):
        plan(store)


def test_what_the_stream_alone_made_is_not_explained_but_the_remedy_is(store: Store, messages: list[Message]) -> None:
    """It keeps no measured starts; a build does, beside it."""
    tell(store, messages[:60])
    streamed(store)
    result = next(message for message in messages if isinstance(message, Result))
    declared = declared_at([result], NOW)
    assert declared is not None
    with pytest.raises(UserError, match=r"the stream's alone.* run `velo build` first"):
        explain(store, declared, declared.runners[0].horse_id)


def test_a_backlog_is_built_and_what_comes_after_is_streamed(
    store: Store, messages: list[Message], built: dict[str, Rows]
) -> None:
    """The same rows in both stores as message by message, after a checkpoint before the backlog; no message is read twice."""
    tell(store, messages[:100])
    streamed(store, online=True)
    tell(store, messages[100:350])
    telemetry = streamed(store, online=True, catch_up=200)
    assert telemetry.registry.get_sample_value("velo_stream_messages_total", {"type": "result"}) is None
    tell(store, messages[350:])
    telemetry = streamed(store, online=True, catch_up=200)
    assert telemetry.registry.get_sample_value("velo_stream_messages_total", {"type": "result"}) == TOLD - 350
    assert_same(all_rows(store), built)
    assert_online(store, built)


def test_a_backlog_that_cannot_be_built_is_streamed(store: Store, messages: list[Message]) -> None:
    """A build refuses a log with a damaged record; the stream sets the record aside."""
    tell(store, messages[:50])
    [segment] = segments(store.home)
    lines = segment.path.read_bytes().splitlines(keepends=True)
    lines[20] = lines[20].replace(b"result", b"resolt", 1)
    segment.path.write_bytes(b"".join(lines))
    telemetry = streamed(store, catch_up=10)
    assert [letter.rows[0]["seq"] for letter in dead_letters.read(store.home)] == [20]
    assert telemetry.registry.get_sample_value("velo_stream_next_seq") == 50


def test_a_stream_that_catches_up_waits_for_another_build_says_so_and_can_be_stopped(
    store: Store, messages: list[Message]
) -> None:
    tell(store, messages[:50])
    stop, built = Event(), list[bool]()
    planned = plan(store)
    with sole_stream(store.home), table_versions.sole_publisher(store.home):
        arguments = planned, lambda: NOW, Telemetry(), stop, 10
        waiting = Thread(target=lambda: built.append(catch_up.catch_up(*arguments)))
        waiting.start()
        while position(store.home) is None:
            time.sleep(0.01)
        says = dict(status(store, NOW).lines())["stream"]
        stop.set()
        waiting.join()
    assert str(says).startswith("catching up by batch: 0 of 50 messages")
    assert built == [False]
    assert table_versions.manifest_of(store.home.offline).next_seq == 0


def test_the_build_of_a_backlog_ends_with_its_stream(store: Store, messages: list[Message]) -> None:
    """However the stream ends, the system closes its end of the pipe."""
    tell(store, messages[:10])
    ours, theirs = os.pipe()[::-1]
    command = [sys.executable, "-m", catch_up.__name__, str(store.home.root), plan(store).formulas.fingerprint]
    with table_versions.sole_publisher(store.home):
        process = subprocess.Popen([*command, str(theirs)], pass_fds=[theirs])
        os.close(theirs)
        os.close(ours)
        assert process.wait() == 1
    assert table_versions.manifest_of(store.home.offline).next_seq == 0


def test_a_stream_starts_again_where_the_log_outruns_it(store: Store, messages: list[Message]) -> None:
    """A backlog that it began with does not count: without a batch it would start again for ever."""
    tell(store, messages[:100])
    options = StreamOptions(once=True, batch=1, catch_up=10)
    log = source_of(plan(store), options, lambda: NOW, Event(), Telemetry())
    partition = log.build_part("log", "log", None)
    assert len(partition.next_batch()) == 1
    tell(store, messages[100 : 110 + GROWN * options.catch_up])
    partition._reported = None
    with pytest.raises(FarBehind, match="148 messages behind"):
        partition.next_batch()
    partition.tail.close()
