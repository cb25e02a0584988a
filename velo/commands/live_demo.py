"""`velo demo --live`: a simulated race day, faster than the clock, with the desk, the stream and paper trading beside it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from rich.console import Console

from velo.commands.paper import traded
from velo.errors import UserError
from velo.racing.clock import local_date, local_midnight
from velo.storage.store import Store

if TYPE_CHECKING:
    from velo.racing.messages import Message
    from velo.simulator.live_day import LiveMessage

Clock = Callable[[], datetime]
SPEED: Final = 30.0
AFTER: Final = timedelta(minutes=2)
TRADE_S: Final = 1.0
READY_S: Final = 120.0
POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class FastClock:
    """A clock that shows `begin` (UTC) at the monotonic second `started`, and then passes `speed` times as fast."""

    begin: datetime
    started: float
    speed: float

    def __call__(self) -> datetime:
        """Now, UTC."""
        return self.begin + timedelta(seconds=(time.monotonic() - self.started) * self.speed)

    def wait_until(self, at: datetime, stop: threading.Event) -> None:
        """Wait until the clock shows an instant, or `stop` is set."""
        left = (at - self()).total_seconds() / self.speed
        if left > 0:
            stop.wait(left)


def run_day(
    store: Store, day: "Sequence[LiveMessage]", port: int, speed: float, console: Console, after: timedelta = AFTER
) -> None:
    """Run a day's messages through the log, the stream and the service, and trade on paper, until `after` the last of them.

    Prints the desk's address and each message but prices. The stream, the service and the trader run in threads of this process, by
    one clock. Raises `UserError` where one of them fails.
    """
    clock = FastClock(day[0].at - timedelta(minutes=1), time.monotonic(), speed)
    stop = threading.Event()
    with _streaming(store, clock, stop), _serving(store, clock, port, speed) as address:
        console.print(
            f"The desk is at {address} , where a race day passes {speed:g} times as fast as a clock; Ctrl-C ends it.",
            style="bold", highlight=False, soft_wrap=True,
        )  # fmt: skip
        trader = threading.Thread(target=_trade, args=(store, clock, stop, console), daemon=True)
        trader.start()
        try:
            _tell(store, day, clock, stop, console)
            clock.wait_until(clock() + after, stop)
        except KeyboardInterrupt:
            console.print("stopped before the day's end")
        finally:
            stop.set()
            trader.join()


def _tell(
    store: Store, day: "Sequence[LiveMessage]", clock: FastClock, stop: threading.Event, console: Console
) -> None:
    """Append each message to the log when its time has come."""
    from velo.storage.log.turns import SharedWriter

    writer = SharedWriter.of(store, clock)
    for live in day:
        clock.wait_until(live.at, stop)
        if stop.is_set():
            raise UserError("the stream or the service of the demo ended: see the lines above")
        writer.append(live.message)
        if (words := _in_words(live.message)) is not None:
            console.print(f"{clock().astimezone(store.timezone):%H:%M} {words}", highlight=False, soft_wrap=True)


def _in_words(message: "Message") -> str | None:
    """A message in one line; None for prices, which are many."""
    from velo.racing.messages import GoingChange, NonRunner, Result

    match message:
        case NonRunner():
            return f"non-runner: {message.horse_id} in race {message.race_id}"
        case GoingChange():
            return f"going of race {message.race_id}: {message.going}"
        case Result():
            winners = ", ".join(
                f"{runner.horse or runner.horse_id} at {runner.sp_decimal}" for runner in message.runners if runner.won
            )
            amended = " amended" if message.result_version > 1 else ""
            return f"{message.race.course}, race {message.race.race_no or message.race_id}{amended}: {winners or 'no winner'}"
    return None


@contextmanager
def _streaming(store: Store, clock: Clock, stop: threading.Event) -> Iterator[None]:
    """A stream in a thread; the body begins once it has read the log to its end."""
    from velo.storage.log import reader
    from velo.storage.log.writer import LogWriter
    from velo.streams.dataflow.metrics import Telemetry, position
    from velo.streams.dataflow.runtime import StreamOptions, plan, run

    with LogWriter.open(store, clock=clock) as writer:
        writer.tick(local_midnight(local_date(clock(), store.timezone), store.timezone))
    failed: list[BaseException] = []

    def stream() -> None:
        try:
            run(plan(store), StreamOptions(snapshot_every=timedelta(seconds=2)), clock, Telemetry(), stop=stop)
        except BaseException as error:  # noqa: BLE001 shown in the main thread
            failed.append(error)
            stop.set()

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        until = time.monotonic() + READY_S
        while not stop.is_set():
            at = position(store.home)
            if at is not None and at.at_end and at.next_seq == reader.end(store.home).next_seq:
                break
            if time.monotonic() > until:
                raise UserError(f"the demo's stream did not reach the log's end within {READY_S:.0f} s: run it again")
            stop.wait(POLL_S)
        yield
    finally:
        stop.set()
        thread.join()
        if failed:
            raise UserError(f"the demo's stream ended: {failed[0]}") from failed[0]


@contextmanager
def _serving(store: Store, clock: Clock, port: int, speed: float) -> Iterator[str]:
    """The service in a thread; gives its address."""
    import socket
    from dataclasses import replace

    import uvicorn

    from velo.commands.serve import service_of
    from velo.serving.api.app import app_of

    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as refused:
        raise UserError(f"cannot listen on port {port} ({refused.strerror}): give another --port") from None
    app = app_of(replace(service_of(store, clock=clock), speed=speed), warm_past=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def _trade(store: Store, clock: Clock, stop: threading.Event, console: Console) -> None:
    """Bet on paper until stopped, and settle once more then."""
    from velo.serving.paper_trading.ledger import writing
    from velo.streams.unbuilt_log import UnbuiltLog

    log = UnbuiltLog(store.home)
    with writing(store.home) as ledger:
        ended = False
        while not ended:
            ended = stop.wait(TRADE_S)
            try:
                done = traded(store, log, ledger, clock)
            except UserError as refused:
                console.print(f"paper: {refused}", highlight=False, soft_wrap=True)
                continue
            if done.bets or done.settled or done.missed:
                console.print(
                    f"paper: {done.bets} bets; races: {done.decided} decided, {done.settled} settled, {done.missed} missed",
                    highlight=False,
                )
