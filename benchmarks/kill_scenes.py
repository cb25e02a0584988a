"""Scenes of `velo bench faults` in which a command is killed at each of its writes, one after another."""

import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks import fault_harness, write_kills
from benchmarks.fault_harness import Scene
from benchmarks.fault_report import NOTHING, Recovery
from benchmarks.write_kills import Plan, tables, velo
from velo.serving.paper_trading import ledger as paper_ledger
from velo.serving.paper_trading.ledger import Decision, PaperBet, SettledBet, Settlement
from velo.settings import Settings
from velo.storage.log import reader
from velo.storage.store import Home
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import DeadLetter
from velo.training import backtest_kept, bundle, bundle_writing

AT: write_kills.Choice = write_kills.every
"""The writes at which a command is killed; a test has less time."""
BUNDLE: Final = 7
OFF: Final = datetime(2024, 2, 1, 14, tzinfo=UTC)


def build(scene: Scene) -> Recovery:
    """A build of news."""
    scene.succeed("ingest", "runners", scene.later)
    return _killed(scene, Plan(partial(velo, "build"), [partial(velo, "build")], tables))


def whole_build(scene: Scene) -> Recovery:
    """A whole build; what comes after it is a plain one with news, or the same again."""
    whole = partial(velo, "build", "--whole")
    news = partial(velo, "ingest", "runners", str(scene.later))
    account = _killed(scene, Plan(whole, [news, partial(velo, "build")], tables), back="`velo build`")
    if AT is write_kills.every:
        again = Plan(whole, [whole], tables)
        write_kills.killed(again, scene.home, scene.backup.root / "again", write_kills.telling)
    return account


def compaction(scene: Scene) -> Recovery:
    """A compaction of several parts."""
    scene.succeed("ingest", "runners", scene.later)
    scene.succeed("build")
    compact = partial(velo, "build", "--compact")
    return _killed(scene, Plan(compact, [compact], tables))


def load(scene: Scene) -> Recovery:
    """A load: the records before the kill stay, and the load repeated adds the rest."""
    ingest = partial(velo, "ingest", "runners", str(scene.later))
    return _killed(scene, Plan(ingest, [ingest], _records, _is_prefix))


def log_rebuild(scene: Scene) -> Recovery:
    """A log made anew: readers have the old one or the new one."""
    rebuild = partial(velo, "log", "rebuild", str(scene.first), str(scene.later))
    return _killed(scene, Plan(rebuild, [rebuild], _records))


def model(scene: Scene) -> Recovery:
    """What training and the gate keep: a bundle, which version serves, and the verdict."""
    keep = partial(_in_home, _keep_model)
    plan = Plan(keep, [keep], _models, lambda found, before, after: found == (after[0], bundle.NO_GATE, after[2]))
    return _killed(scene, plan)


def backtest(scene: Scene) -> Recovery:
    """A backtest kept again: the predictions and their report are of one run."""
    _keep_backtest(scene.home, 1)
    keep = partial(_in_home, partial(_keep_backtest, number=2))
    return _killed(scene, Plan(keep, [keep], _backtest))


def paper(scene: Scene) -> Recovery:
    """A bet and its settlement: on paper whole or not at all, and never twice."""
    bet = partial(_in_home, _bet)
    return _killed(scene, Plan(bet, [bet], _bets, _is_prefix))


def letters(scene: Scene) -> Recovery:
    """Two dead letters, of which one is replayed."""
    write = partial(_in_home, _write_letters)
    return _killed(scene, Plan(write, [write], _letters, _is_prefix))


def _killed(scene: Scene, plan: Plan, back: str = "the same command again") -> Recovery:
    begun = time.perf_counter()
    killed = write_kills.killed(plan, scene.home, scene.backup.root / "plan", AT)
    seconds = (time.perf_counter() - begun) / max(killed.kills, 1)
    return Recovery(
        f"nothing: readers have what was before, or after ({killed.kills} kills, {killed.writes} writes)",
        NOTHING, back, round(seconds, 1),
    )  # fmt: skip


def _is_prefix(found: Any, before: Any, after: Any) -> bool:
    """Whether what is found grew from before on the way to after."""
    return bool(len(found) >= len(before) and list(after[: len(found)]) == list(found))


def _in_home(work: Callable[[Home], Any]) -> None:
    """Work on the store that the environment names."""
    work(Home(Settings.from_env(os.environ).home))


# The log and what was refused


def _records(home: Home) -> list[str]:
    return [repr(message) for _, message in reader.messages(home)]


def _letter(number: int) -> DeadLetter:
    return DeadLetter("runners", f"race {number}", 1, "made up", "of no race", ({"race_id": f"race {number}"},))


def _write_letters(home: Home) -> None:
    dead_letters.write(home, [_letter(1), _letter(2)], OFF)
    if _letter(1) in dead_letters.read(home):
        dead_letters.settle(home, [_letter(1).letter], OFF)


def _letters(home: Home) -> list[str]:
    every, still = dead_letters.read(home, replayed=True), dead_letters.read(home)
    return [one.letter for one in every] + [f"replayed {one.letter}" for one in every if one not in still]


# Models and backtests


def _keep_model(home: Home) -> None:
    fault_harness.keep_bundle(home, BUNDLE)
    bundle_writing.judged(home, bundle.current(home), "FAIL", {"subject": "fundamental"})


def _models(home: Home) -> tuple[str, str, str | None]:
    """What serves, as what, and what a rollback would have serve."""
    version = bundle.current(home)
    told = bundle.described(home, version)
    return version, told["gate"], bundle_writing.before_current(home)


def _keep_backtest(home: Home, number: int) -> None:
    columns: Mapping[str, Any] = {
        "race": np.zeros(2, dtype=np.int64),
        "race_date": np.full(2, np.datetime64("2024-02-01")),
        "pi": np.full(2, number / 10),
    }
    dates = columns["race_date"][:1]
    kept = backtest_kept.Predictions(dict(columns), dates, 1, 1)
    backtest_kept.keep(home, "made-up", kept, {"number": number})


def _backtest(home: Home) -> tuple[float, int]:
    predictions, report = backtest_kept.read(home, backtest_kept.last(home))
    return float(predictions.columns["pi"][0]), int(report["number"])


# Paper


def _bet(home: Home) -> None:
    before = OFF - timedelta(minutes=5)
    bet = PaperBet("a", "A", 0.3, 4.0, "show", 1.0, 0.01)
    decision = Decision("r1", "m", "paper only", "2024-02-01", OFF, before, before, "edge", 8, (bet,), None)
    lost = SettledBet("a", "lost", 4.0, 0.0, -1.0, None, "third", "none")
    with paper_ledger.writing(home) as ledger:
        ledger.decide(decision)
        ledger.settle(Settlement("r1", "m", OFF, OFF, (lost,)))


def _bets(home: Home) -> list[str]:
    book = paper_ledger.read(home)
    return [repr(one) for one in (*book.decisions.values(), *book.settlements.values())]
