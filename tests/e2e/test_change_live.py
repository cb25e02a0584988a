"""`velo apply` and `velo rollback` beside a running stream, with a reader that polls all the while."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.support.cli import OURS, velo_process
from tests.support.logs import a_store
from tests.support.shared import REPO
from tests.support.stores import a_season
from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.race_cards import RaceCards
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.whole import Expected, NotWhole, read
from velo.features import Family, Measure, Ratio, Sum, column
from velo.racing.messages import Message
from velo.storage import table_versions
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.dataflow.metrics import position

PATIENCE_S = 120.0
SEASON = a_season(60)
FIRST = 120
"""Messages in the log before the stream starts; the others arrive while the formulas change."""
MODULE = """
from velo.features import Family, Measure, Ratio, Sum, column

SCORE = Measure("score_e9", "points", 0, 10 * 10**9, (column("won").counted + {points}) * 10**9)
TOTALS = (Sum("runs", "one"), Ratio("points", "score_e9", "one"))
FAMILIES = (Family("trainer_points", ("trainer_id",), "mean points", career=TOTALS, measures=(SCORE,)),)
"""
SCORE = Measure("score_e9", "points", 0, 10 * 10**9, column("won").counted * 10**9)
TOTALS = (Sum("runs", "one"), Ratio("points", "score_e9", "one"))
VIEW = Family("trainer_points", ("trainer_id",), "mean points", career=TOTALS, measures=(SCORE,))


def points_of(module: Path, points: int) -> None:
    """Write the module: each start earns `points` more than its win."""
    module.write_text(MODULE.format(points=points))


@contextmanager
def a_stream(store: Store) -> Iterator["subprocess.Popen[bytes]"]:
    """A real `velo stream`."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    environ = {**kept, "PYTHONPATH": str(REPO), "VELO_HOME": str(store.home.root)}
    command = [sys.executable, "-m", "velo.cli", "stream", "--snapshot-seconds", "0.5"]
    with (store.home.root / "stream.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=REPO, env=environ, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, (store.home.root / "stream.log").read_text()[-3000:]


def until(true: Callable[[], Any]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def manifest(store: Store) -> table_versions.Manifest:
    folder = table_versions.current(store.home)
    assert folder is not None
    return table_versions.manifest_of(folder)


def follows(store: Store, epoch: int) -> bool:
    """Whether the stream applied all of the log by the formulas of an epoch."""
    where = position(store.home)
    return where is not None and where.epoch == epoch and where.at_end


class Poller:
    """Reads the points of every trainer in one step, again and again, and checks each answer by the formulas of the tables."""

    def __init__(self, store: Store, points: dict[int, int]) -> None:
        self.store, self.points = store, points
        self.client = connect(store.home, None)
        self.layout = Layout.of(VIEW)
        self.expected = Expected(store.home, (self.layout,))
        self.trainers = sorted(
            {each.trainer_id for message in SEASON for each in getattr(message, "runners", ()) if each.trainer_id}
        )
        self.right: dict[int, int] = {}
        self.refused = 0
        self.wrong: list[Any] = []
        self.stop = Event()
        self._thread = Thread(target=self._work)

    def __enter__(self) -> "Poller":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()

    def look(self) -> None:
        """One read. Tables published while it is under way may answer by either formulas."""
        client = self.client
        before, epoch = self.expected.before_read(), manifest(self.store).epoch
        with client.pipeline(transaction=True) as pipe:
            pipe.execute_command("HGET", self.layout.index_key, "fill")
            for trainer in self.trainers:
                pipe.execute_command("HGET", self.layout.redis_key((trainer,)), self.layout.packed_field)
            fill, *packed = pipe.execute()
        head = RaceCards(client).head()
        try:
            reached = None if head is None else (head.generation, head.seq)
            self.expected.refuse(before, ["trainer_points"], [fill and fill.decode()], reached)
        except NotWhole:
            self.refused += 1
            return
        after = manifest(self.store).epoch
        rows = [self._row(row) for row in packed if row is not None]
        epochs = [each for each in {epoch, after} if self._all_by(rows, self.points[each])]
        if not rows or not epochs:
            self.wrong.append((epoch, after, rows))
        for each in epochs:
            self.right[each] = self.right.get(each, 0) + 1

    def _row(self, packed: bytes) -> tuple[float, float]:
        import numpy as np

        [row] = np.frombuffer(packed, dtype=self.layout.packed_type)
        return float(row["values"][0]), float(row["values"][1])

    def _all_by(self, rows: list[tuple[float, float]], points: int) -> bool:
        """Whether each row can be by a number of points a start: the rest of its mean is the share of its wins."""
        return all(points <= mean <= points + 1 for _, mean in rows)

    def _work(self) -> None:
        while not self.stop.is_set():
            try:
                self.look()
            except UserError as away:
                self.wrong.append(str(away))
            self.stop.wait(0.005)


@contextmanager
def arriving(store: Store, messages: list[Message]) -> Iterator[None]:
    """Append messages one after another, some each second, until the block ends; then the rest."""
    stop, left = Event(), iter(messages)

    def work() -> None:
        while not stop.wait(0.1) and (message := next(left, None)) is not None:
            append([message])

    def append(some: list[Message]) -> None:
        with LogWriter.open(store, clock=lambda: datetime.now(UTC)) as writer:
            writer.load(some, late=True)
            writer.sync()

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        append(list(left))


@pytest.mark.slow
def test_formulas_change_and_change_back_beside_a_stream_and_no_reader_sees_a_wrong_value(tmp_path: Path) -> None:
    """One point a start, then five, then one again: an answer is by the formulas of the tables, or refused."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "velo.toml").write_text('[features]\nmodules = ["points_module"]\n')
    module = home / "points_module.py"
    points_of(module, 1)
    store = a_store(home)
    with LogWriter.open(store, clock=lambda: datetime.now(UTC)) as writer:
        writer.load(SEASON[:FIRST])
    assert velo_process("build", home=home).code == 0
    embedded_redis.ensure(store.home)
    poller = Poller(store, {1: 1, 2: 5, 3: 1})
    try:
        with a_stream(store) as stream:
            until(lambda: follows(store, 1) and read(poller.client, [poller.layout])[0].fill)
            with poller, arriving(store, SEASON[FIRST:]):
                until(lambda: poller.right.get(1))
                points_of(module, 5)
                applied = velo_process("apply", "--json", home=home)
                assert applied.code == 0, applied.err
                assert applied.document["build"]["computed"] == ["trainer_points"]
                until(lambda: follows(store, 2) and poller.right.get(2))
                points_of(module, 1)
                back = velo_process("rollback", "--json", home=home)
                assert back.code == 0, back.err
                assert back.document["seconds"] < 1
                until(lambda: follows(store, 3) and poller.right.get(3))
            until(lambda: follows(store, 3))
            audited = velo_process("audit", "--json", home=home)
            assert (audited.code, audited.document["found"]) == (0, 0), audited
            assert stream.poll() is None
        assert poller.wrong == []
        assert poller.refused > 0
    finally:
        embedded_redis.down(store.home)
