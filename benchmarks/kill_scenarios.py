"""Scenarios of `velo bench faults` that kill a command at each of its writes, one after another."""

import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks import fault_harness, write_kills
from benchmarks.fault_harness import NOTHING, Recovery, Sandbox, velo
from benchmarks.write_kills import KillPlan, tables
from velo.serving.paper_trading import ledger as paper_ledger
from velo.serving.paper_trading.ledger import Decision, PaperBet, SettledBet, Settlement
from velo.settings import Settings
from velo.storage.log import reader
from velo.storage.store import Home
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import DeadLetter
from velo.training import bundle
from velo.training.registry import backtests, bundle_writing

AT: write_kills.Choice = write_kills.every
"""Chooses the writes at which a command is killed; tests choose fewer."""
BUNDLE: Final = 7
OFF: Final = datetime(2024, 2, 1, 14, tzinfo=UTC)


def build(sandbox: Sandbox) -> Recovery:
    """An incremental build."""
    sandbox.succeed("ingest", "runners", sandbox.later)
    return _killed(sandbox, KillPlan(partial(velo, "build"), [partial(velo, "build")], tables))


def whole_build(sandbox: Sandbox) -> Recovery:
    """A whole build, followed by an incremental one, or by the same again."""
    whole = partial(velo, "build", "--whole")
    ingest = partial(velo, "ingest", "runners", str(sandbox.later))
    recovery = _killed(sandbox, KillPlan(whole, [ingest, partial(velo, "build")], tables), remedy="`velo build`")
    if AT is write_kills.every:
        again = KillPlan(whole, [whole], tables)
        write_kills.killed(again, sandbox.home, sandbox.backup.root / "again", write_kills.visible_writes)
    return recovery


def compaction(sandbox: Sandbox) -> Recovery:
    """A compaction of several parts."""
    sandbox.succeed("ingest", "runners", sandbox.later)
    sandbox.succeed("build")
    compact = partial(velo, "build", "--compact")
    return _killed(sandbox, KillPlan(compact, [compact], tables))


def load(sandbox: Sandbox) -> Recovery:
    """A load: the records before the kill stay, and repeating the load adds the rest."""
    ingest = partial(velo, "ingest", "runners", str(sandbox.later))
    return _killed(sandbox, KillPlan(ingest, [ingest], _records, _is_prefix))


def log_rebuild(sandbox: Sandbox) -> Recovery:
    """A log rebuild: readers see the old log or the new one."""
    rebuild = partial(velo, "log", "rebuild", str(sandbox.first), str(sandbox.later))
    return _killed(sandbox, KillPlan(rebuild, [rebuild], _records))


def model(sandbox: Sandbox) -> Recovery:
    """The files that training and the gate store: a bundle, the serving version, and the verdict."""
    keep = partial(_in_home, _keep_model)
    plan = KillPlan(keep, [keep], _models, lambda found, before, after: found == (after[0], bundle.NO_GATE, after[2]))
    return _killed(sandbox, plan)


def backtest(sandbox: Sandbox) -> Recovery:
    """A backtest stored again: the predictions and their report are of the same run."""
    _keep_backtest(sandbox.home, 1)
    keep = partial(_in_home, partial(_keep_backtest, number=2))
    return _killed(sandbox, KillPlan(keep, [keep], _backtest))


def paper(sandbox: Sandbox) -> Recovery:
    """A bet and its settlement: recorded whole or not at all, and never twice."""
    bet = partial(_in_home, _bet)
    return _killed(sandbox, KillPlan(bet, [bet], _bets, _is_prefix))


def letters(sandbox: Sandbox) -> Recovery:
    """Two dead letters, one of them replayed."""
    write = partial(_in_home, _write_letters)
    return _killed(sandbox, KillPlan(write, [write], _letters, _is_prefix))


def _killed(sandbox: Sandbox, plan: KillPlan, remedy: str = "the same command again") -> Recovery:
    begun = time.perf_counter()
    killed = write_kills.killed(plan, sandbox.home, sandbox.backup.root / "plan", AT)
    seconds = (time.perf_counter() - begun) / max(killed.kills, 1)
    return Recovery(
        f"nothing: readers have what was before, or after ({killed.kills} kills, {killed.writes} writes)",
        NOTHING, remedy, round(seconds, 1),
    )  # fmt: skip


def _is_prefix(found: Any, before: Any, after: Any) -> bool:
    """Whether `found` begins like `after` and is at least as long as `before`."""
    return bool(len(found) >= len(before) and list(after[: len(found)]) == list(found))


def _in_home(work: Callable[[Home], Any]) -> None:
    """Call `work` with the home of the environment."""
    work(Home(Settings.from_env(os.environ).home))


# The log and the dead letters


def _records(home: Home) -> list[str]:
    return [repr(message) for _, message in reader.messages(home)]


def _letter(number: int) -> DeadLetter:
    return DeadLetter("runners", f"race {number}", 1, "synthetic", "test", ({"race_id": f"race {number}"},))


def _write_letters(home: Home) -> None:
    dead_letters.write(home, [_letter(1), _letter(2)], OFF)
    if _letter(1) in dead_letters.read(home):
        dead_letters.settle(home, [_letter(1).letter], OFF)


def _letters(home: Home) -> list[str]:
    every, open_ones = dead_letters.read(home, replayed=True), dead_letters.read(home)
    return [each.letter for each in every] + [f"replayed {each.letter}" for each in every if each not in open_ones]


# Models and backtests


def _keep_model(home: Home) -> None:
    fault_harness.keep_bundle(home, BUNDLE)
    bundle_writing.judged(home, bundle.current(home), "FAIL", {"subject": "fundamental"})


def _models(home: Home) -> tuple[str, str, str | None]:
    """The serving version, its verdict, and the version that a rollback would serve."""
    version = bundle.current(home)
    return version, bundle.described(home, version)["gate"], bundle_writing.before_current(home)


def _keep_backtest(home: Home, number: int) -> None:
    columns: Mapping[str, Any] = {
        "race": np.zeros(2, dtype=np.int64),
        "race_date": np.full(2, np.datetime64("2024-02-01")),
        "pi": np.full(2, number / 10),
    }
    dates = columns["race_date"][:1]
    kept = backtests.Predictions(dict(columns), dates, 1, 1)
    backtests.keep(home, "made-up", kept, {"number": number})


def _backtest(home: Home) -> tuple[float, int]:
    predictions, report = backtests.read(home, backtests.last(home))
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
    return [repr(entry) for entry in (*book.decisions.values(), *book.settlements.values())]
