"""Starting, resuming and stopping the stream of a store."""

import gc
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main
from redis.exceptions import RedisError

from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores.redis_client import connect
from velo.storage import locks, table_versions
from velo.storage.atomic_files import make_folder
from velo.storage.log import reader
from velo.storage.log.format import generation as log_generation
from velo.storage.log.tail import cut_back
from velo.storage.store import Home, Store
from velo.storage.table_versions import NOTHING_KNOWN, Manifest
from velo.streams.aggregation.routing import SHARDS
from velo.streams.batch.build import fingerprint
from velo.streams.dataflow.arrow_rows import schema_of
from velo.streams.dataflow.background_ingest import BackgroundIngest
from velo.streams.dataflow.bootstrap import Bootstrap
from velo.streams.dataflow.cards_sink import CardsSink
from velo.streams.dataflow.checkpoint_writer import CheckpointWriter
from velo.streams.dataflow.dead_letter_sink import DeadLetterSink
from velo.streams.dataflow.graph import graph
from velo.streams.dataflow.keeper import Keeper
from velo.streams.dataflow.log_source import BATCH_RECORDS, Clock, LogSource
from velo.streams.dataflow.malloc import single_arena
from velo.streams.dataflow.metrics import LOCK, Telemetry, position, say
from velo.streams.dataflow.operators import LogRecord
from velo.streams.dataflow.parquet_sink import ParquetSink, TableVersion
from velo.streams.dataflow.redis_flusher import RedisFlusher
from velo.streams.dataflow.redis_sink import RedisSink, deliver
from velo.streams.dataflow.retry import RestartRequired, Retry, StoppedWhileRetrying

VIEWS: Final = [one.view for one in FAMILIES]
SNAPSHOT_EVERY: Final = timedelta(seconds=10)
LITTLE_ROOM: Final = 2**20
"""Bytes free on a disk that the engine's recovery store finds too few."""
RECOVERY_PARTS: Final = 2
"""Databases of the recovery store: fixed, since the stores of earlier versions have two."""
GARBAGE: Final = (1_000_000, 20, 100)
"""Rows hold no cycles: looking for them less often takes a sixth off the time, and each look holds up what is told."""
SWITCH_SECONDS: Final = 0.001
"""How long a thread that seals or writes may keep the engine from going on: a fifth of what Python grants it."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Where a stream begins if it has no past: of which log and formulas, from which record, recovering where."""

    store: Store
    formulas: TableVersion
    begin: int
    recovery: Path


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream runs. `online` and `offline` say which stores it keeps."""

    once: bool = False
    snapshot_every: timedelta = SNAPSHOT_EVERY
    online: bool = True
    offline: bool = True
    batch: int = BATCH_RECORDS


def plan(store: Store) -> StreamPlan:
    """Look at the store and prepare it: with no tables yet, empty ones are published.

    Raises `UserError` where the tables are of another log or of other formulas, or of more than the log holds: a
    stream cannot mend the past.
    """
    home = store.home
    mark, generation = fingerprint(), log_generation(home)
    folder = table_versions.current(home)
    if folder is not None:
        manifest = table_versions.manifest_of(folder)
        if (manifest.log_generation, manifest.fingerprint) != (generation, mark):
            what = "formulas" if manifest.log_generation == generation else "a log"
            raise UserError(
                f"the tables at {home.offline} are of {what} since replaced: run `velo build`, then start the stream"
            )
    streamed, log_end = position(home), reader.end(home).next_seq
    if streamed is not None and streamed.log_generation == generation and streamed.sealed_seq > log_end:
        raise cut_back(home, log_end, streamed.sealed_seq)
    store, epoch = store.save().with_epoch_of(mark)
    if folder is None:
        with table_versions.sole_publisher(home):
            manifest = Manifest(generation, 0, NOTHING_KNOWN, mark, epoch, {one.view: 0 for one in FAMILIES})
            begun = table_versions.begin(home)
            add_empty_parts(begun)
            folder = table_versions.publish(home, begun, manifest)
    else:
        with table_versions.changing_parts(home):
            add_empty_parts(folder)
    recovery = _recovery(home, f"log{generation}-epoch{epoch}")
    return StreamPlan(
        store, TableVersion(generation, mark, epoch), table_versions.manifest_of(folder).next_seq, recovery
    )


def add_empty_parts(generation: Path) -> None:
    """Give each view without a part one without rows, as a build does: a glob of its files finds the columns."""
    import pyarrow.parquet as pq

    for family in FAMILIES:
        folder = generation / family.view
        folder.mkdir(exist_ok=True)
        if not any(folder.glob("*.parquet")):
            part = folder / f"{table_versions.batch_part_name(0)}.parquet"
            aside = part.with_name(f".{part.name}.tmp")
            pq.write_table(schema_of(family).empty_table(), aside, compression="lz4")
            aside.replace(part)


class OneClient:
    """A client of the online store shared by the views of a process; it is made anew once it no longer answers."""

    def __init__(self, home: Home, redis_url: str | None) -> None:
        self._home, self._url = home, redis_url
        self._client: Any = None

    def __call__(self) -> Any:
        """A client that has just answered; raises `UserError` where there is none."""
        try:
            if self._client is not None and self._client.ping():
                return self._client
        except (RedisError, OSError):
            self._client = None
        self._client = connect(self._home, self._url)
        return self._client


def source_of(
    planned: StreamPlan,
    options: StreamOptions,
    clock: Clock,
    stop: threading.Event,
    telemetry: Telemetry,
    prepare: Sequence[Callable[[int], object]] = (),
    sealing: CheckpointWriter | None = None,
    readable: Callable[[], bool] = lambda: True,
    feeding: BackgroundIngest | None = None,
) -> LogSource:
    """Return the log as the stream reads it. A feed's follower appends the midnight ticks itself."""
    ticks = feeding is None and not options.once
    settings = planned.store, planned.begin, options.once, clock, stop, telemetry, ticks, options.batch
    return LogSource(*settings, prepare, sealing or CheckpointWriter(beside=False), readable, feeding)


def flow_of(
    planned: StreamPlan,
    options: StreamOptions,
    clock: Clock,
    telemetry: Telemetry,
    ground: Bootstrap,
    source: Source[tuple[str, LogRecord]],
    online: RedisSink | None,
    sealing: CheckpointWriter,
) -> Dataflow:
    """The dataflow of a store, from a source to the online sink, if any, and the offline one if the options want it."""
    store, home = planned.store, planned.store.home
    offline = ParquetSink(home, VIEWS, planned.formulas, clock, telemetry, sealing) if options.offline else None
    cards = cards_of(online) if online is not None else None
    return graph(home, store.timezone, ground, source, offline, online, DeadLetterSink(home, clock), telemetry, cards)


def cards_of(online: RedisSink) -> CardsSink:
    """The sink of race cards beside that of feature rows."""
    return CardsSink(online.home, online.connect, online.clock, online.waiting, online.cards_lost)


def online_of(
    planned: StreamPlan, options: StreamOptions, clock: Clock, stop: threading.Event, telemetry: Telemetry
) -> RedisSink | None:
    """The sink of the online store; None where the options want none."""
    if not options.online:
        return None
    home, waiting = planned.store.home, Retry(stop, telemetry)
    client, flusher = OneClient(home, planned.store.redis_url), RedisFlusher(waiting, deliver)
    told = home, VIEWS, planned.formulas, planned.begin, client, clock, telemetry, waiting, flusher
    return RedisSink(*told, sealing=options.offline)


def run(
    planned: StreamPlan,
    options: StreamOptions,
    clock: Clock,
    telemetry: Telemetry,
    *,
    stop: threading.Event | None = None,
    source: Source[tuple[str, LogRecord]] | None = None,
    feeding: BackgroundIngest | None = None,
    sealing: CheckpointWriter | None = None,
) -> bool:
    """Run the stream until the log's end (`once`), until `stop` is set, or until an error.

    Returns whether both stores have everything that was read: False where it was stopped while it waited for one of them.
    The `source` is the store's log by default; another one must wait for the `sealing` that comes with it. With a `feeding`
    the log is read as far as that has synced it.
    """
    stop = stop or threading.Event()
    ground = Bootstrap(planned.store.home, planned.store.timezone, FAMILIES, SHARDS, planned.formulas.fingerprint)
    for view in VIEWS:
        telemetry.keys.labels(view).set_function(partial(ground.keys, view))
    online = online_of(planned, options, clock, stop, telemetry)
    lay = partial(ground.at, go_on=Retry(stop, telemetry).go_on)
    prepare: list[Callable[[int], object]] = [lay, *online.prepares(cards_of(online).prepare)] if online else [lay]
    sealing = sealing or CheckpointWriter(beside=source is None)
    readable = online.flusher.idle if online else lambda: True
    source = source or source_of(planned, options, clock, stop, telemetry, prepare, sealing, readable, feeding)
    flow = flow_of(planned, options, clock, telemetry, ground, source, online, sealing)
    keeper = Keeper(online, stop) if online else None
    with _tuned():
        try:
            if keeper:
                keeper.start()
            _run_engine(flow, planned, options.snapshot_every)
            if keeper and keeper.failed:
                raise keeper.failed  # noqa: TRY301  told as what the engine raises is
        except Exception as failed:
            cause = _first_cause(failed)
            if isinstance(cause, UserError):
                raise cause from None
            if isinstance(cause, RestartRequired):
                raise UserError(str(cause)) from None
            if not isinstance(cause, StoppedWhileRetrying):
                raise
            say("stream.stopped_while_waiting", store=str(cause))
            return False
        else:
            say("stream.ended", stopped=stop.is_set())
            return True
        finally:
            # the flusher may stop retrying an unavailable server
            stop.set()
            sealing.end()
            if keeper:
                keeper.end()
            if online:
                online.flusher.end()


def _run_engine(flow: Dataflow, planned: StreamPlan, every: timedelta) -> None:
    recovery = RecoveryConfig(str(planned.recovery), backup_interval=timedelta(0))
    with _error_if_full(planned.store.home):
        run_main(flow, epoch_interval=every, recovery_config=recovery)


@contextmanager
def _tuned() -> Iterator[None]:
    """The interpreter as a stream wants it: one heap, fewer looks for garbage, and no thread that keeps the engine long."""
    single_arena()
    collected_after, switched_after = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(*GARBAGE)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(switched_after)
        gc.set_threshold(*collected_after)
        gc.unfreeze()


def stop_on_signals(stop: threading.Event) -> None:
    """Make SIGTERM and SIGINT end the stream gracefully: it seals what it has read."""

    def handle(number: int, _frame: object) -> None:
        if not stop.is_set():
            say("stream.stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


@contextmanager
def sole_stream(home: Home) -> Iterator[None]:
    """Hold the right to stream. Raises `UserError` where another process has it."""
    try:
        descriptor = locks.acquire(make_folder(home.stream) / LOCK)
    except locks.LockHeld:
        raise UserError(f"another stream runs on {home.root}: stop it, or look at `velo status`") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _recovery(home: Home, name: str) -> Path:
    """The recovery store of a log and epoch, made where missing; those of others are removed."""
    folder = make_folder(home.recovery) / name
    for other in home.recovery.iterdir():
        if other != folder:
            shutil.rmtree(other)
    if not folder.exists():
        aside = home.recovery / f".{name}.tmp"
        aside.mkdir()
        with _error_if_full(home):
            init_db_dir(aside, RECOVERY_PARTS)
        aside.rename(folder)
    return folder


@contextmanager
def _error_if_full(home: Home) -> Iterator[None]:
    """Turn the engine's panic over a full disk, which is no Exception, into a `UserError`."""
    try:
        yield
    except BaseException as failed:
        panicked = type(failed).__name__ == "PanicException"
        full = "DiskFull" in str(failed) or shutil.disk_usage(home.root).free < LITTLE_ROOM
        if not (panicked and full):
            raise
        raise UserError(
            f"cannot write to {home.recovery} (No space left on device): make room, then start the stream again; it "
            "resumes from its last snapshot"
        ) from None


def _first_cause(failed: BaseException) -> BaseException:
    while (cause := failed.__cause__ or failed.__context__) is not None:
        if isinstance(failed, UserError | StoppedWhileRetrying | RestartRequired):
            return failed
        failed = cause
    return failed
