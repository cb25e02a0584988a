"""Run the stream of a store: start it, resume it, stop it."""

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Final

from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.recovery import RecoveryConfig
from bytewax.testing import run_main

from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.storage import locks
from velo.storage.atomic_files import make_folder
from velo.storage.store import Home
from velo.streams.dataflow.background_ingest import BackgroundIngest
from velo.streams.dataflow.bootstrap import Bootstrap
from velo.streams.dataflow.checkpoint_writer import CheckpointWriter
from velo.streams.dataflow.graph import graph
from velo.streams.dataflow.keeper import Keeper
from velo.streams.dataflow.log_source import Clock, LogSource
from velo.streams.dataflow.metrics import LOCK, Telemetry, say
from velo.streams.dataflow.operators import LogRecord
from velo.streams.dataflow.plan import StreamOptions, StreamPlan, error_if_full, plan
from velo.streams.dataflow.retry import RestartRequired, Retry, StartAgain, StoppedWhileRetrying
from velo.streams.dataflow.sinks import VIEWS, SinkContext, sinks_of

__all__ = [
    "VIEWS",
    "StartAgain",
    "StreamOptions",
    "StreamPlan",
    "plan",
    "run",
    "sole_stream",
    "source_of",
    "stop_on_signals",
]

GROWN: Final = 4
"""A running stream starts again where its backlog grew by this many times `StreamOptions.catch_up`: the start restores all state."""
GARBAGE: Final = (1_000_000, 20, 100)
"""Thresholds of the cyclic collector: rows have no cycles, and fewer collections save a sixth of the time and its pauses."""
SWITCH_SECONDS: Final = 0.001
"""How long a thread that seals or writes may keep the engine waiting: a fifth of Python's default."""


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
    formulas, home = planned.formulas, planned.store.home
    watch = formulas.epoch, partial(formulas.refuse_replaced, home)
    most_behind = GROWN * options.catch_up
    return LogSource(
        *settings, prepare, sealing or CheckpointWriter(beside=False), readable, feeding, *watch, most_behind
    )


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
    Raises `StartAgain` where tables of other formulas were published meanwhile, or the log grew so fast that the next start
    catches up sooner.
    The `source` is the store's log by default; another one must wait for the `sealing` that comes with it. With a `feeding`
    the log is read as far as that has synced it.
    """
    home, timezone = planned.store.home, planned.store.timezone
    stop = stop or threading.Event()
    bootstrap = Bootstrap(home, timezone, FAMILIES, planned.formulas.fingerprint)
    for view in VIEWS:
        telemetry.keys.labels(view).set_function(partial(bootstrap.keys, view))
    sealing = sealing or CheckpointWriter(beside=source is None)
    context = SinkContext(planned, options, clock, stop, telemetry, sealing)
    online, cards = context.redis, context.cards
    restore = partial(bootstrap.at, go_on=Retry(stop, telemetry).go_on)
    # Redis is filled while the state is restored; the cards come last: they make readers look for the views
    fill = online.prepares(cards.prepare) if online and cards else []
    readable = online.flusher.idle if online else lambda: True
    source = source or source_of(planned, options, clock, stop, telemetry, [restore, *fill], sealing, readable, feeding)
    flow = graph(home, bootstrap, source, sinks_of(context), telemetry)
    keeper = Keeper(online, stop) if online else None
    with _tuned():
        try:
            if keeper:
                keeper.start()
            _run_engine(flow, planned, options.snapshot_every, keeper)
            if cards and options.once and not stop.is_set():
                cards.at_end()
        except Exception as failed:
            cause = _first_cause(failed)
            if isinstance(cause, UserError):
                raise cause from None
            if isinstance(cause, StartAgain):
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


def _run_engine(flow: Dataflow, planned: StreamPlan, every: timedelta, keeper: Keeper | None) -> None:
    """Run the dataflow to its end; raises what ended it, or the keeper."""
    recovery = RecoveryConfig(str(planned.recovery), backup_interval=timedelta(0))
    with error_if_full(planned.store.home):
        run_main(flow, epoch_interval=every, recovery_config=recovery)
    if keeper and keeper.failed:
        raise keeper.failed


def _first_cause(failed: BaseException) -> BaseException:
    while (cause := failed.__cause__ or failed.__context__) is not None:
        if isinstance(failed, UserError | StoppedWhileRetrying | RestartRequired):
            return failed
        failed = cause
    return failed


@contextmanager
def _tuned() -> Iterator[None]:
    """Tune the interpreter for a stream: one heap, fewer garbage collections, short waits for the engine."""
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


def stop_on_signals(stop: threading.Event, asked: threading.Event) -> None:
    """Make SIGTERM and SIGINT end the stream gracefully: it seals what it has read. Only a signal sets `asked`."""

    def handle(number: int, _frame: object) -> None:
        if not stop.is_set():
            say("stream.stopping", signal=signal.Signals(number).name)
        asked.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


@contextmanager
def sole_stream(home: Home) -> Iterator[None]:
    """Hold the right to stream. Raises `UserError` where another process has it, and in an environment."""
    home.refuse_environment("stream")
    try:
        descriptor = locks.acquire(make_folder(home.stream) / LOCK)
    except locks.LockHeld:
        raise UserError(f"another stream runs on {home.root}: stop it, or look at `velo status`") from None
    try:
        yield
    finally:
        os.close(descriptor)


_ARENA_MAX: Final = -8


def single_arena() -> bool:
    """Make threads that start from now on share the first one's heap; this cannot be undone.

    Returns whether it was done: only glibc can (`mallopt(3)`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    return mallopt is not None and bool(mallopt(_ARENA_MAX, 1))
