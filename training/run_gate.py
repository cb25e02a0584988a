"""`velo gate`: judge the last backtest, and store the verdict with the model whose recipe was tested."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np

from velo.errors import UserError
from velo.storage.store import Home
from velo.training import bundle, bundle_writing
from velo.training.backtest import recipe_of
from velo.training.backtest_kept import BLENDED, SERVED, last, read
from velo.training.betting import DEFAULT, cut_of, strategy
from velo.training.final_window import look, looks
from velo.training.gate import WINDOWS_DAYS
from velo.training.windows import GateReport, ask


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """The gate's verdict on `subject` of a backtest. `model` is the version it was stored with, None without one.

    `look` is the number of this look at a locked window, None if the window is not locked.
    """

    backtest: str
    subject: str
    gate: GateReport
    model: str | None
    mode: str
    look: int | None
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """PASS, FAIL or NOT ENOUGH DATA."""
        return self.gate.verdict.value


def judge_last(
    home: Home, *, now: datetime, subject: str = SERVED, by: str = DEFAULT, final: bool = False, again: bool = False
) -> JudgeReport:
    """Judge the last backtest over its last 90 days and 12 months; `final` locks those 12 months.

    A look at locked days is recorded before anything is shown. Raises `UserError` for a period shorter than the longest
    window, an unknown strategy or subject, and a second look unless `again`.
    """
    name = last(home)
    predictions, report = read(home, name)
    since, until = date.fromisoformat(report["since"]), date.fromisoformat(report["until"])
    longest = max(WINDOWS_DAYS)
    if (until - since).days + 1 < longest:
        raise UserError(
            f"backtest {name} is of {(until - since).days + 1} days, the gate asks for {longest}: "
            f"run `velo backtest --days {longest}` first"
        )
    of = strategy(by)
    season = predictions.season(subject)
    first = until - timedelta(days=longest - 1)
    number = None
    if final or any(earlier.overlaps(first, until) for earlier in looks(home.models)):
        number = look(home.models, first, until, predictions.fingerprint(), name, now, again=again).number
    gate = ask(season, predictions.race_dates, predictions.columns["market"], predictions.records, until=until, of=of)
    model, notes = _whose(home, report, subject, by)
    mode = bundle.PAPER
    if model is not None:
        # a percentile needs the whole period: to bet on the next race one needs the lowest value that was bet on
        year = season.only(predictions.race_dates >= np.datetime64(first, "D"))
        cut = cut_of(of, year.p, year.decided_at)
        evidence = {
            "backtest": name,
            "subject": subject,
            "strategy": by,
            "cut": cut,
            "look": number,
            "at": now.isoformat(),
        }
        mode = bundle_writing.judged(home, model, gate.verdict.value, evidence)
    return JudgeReport(name, subject, gate, model, mode, number, notes)


def _whose(home: Home, report: Mapping[str, Any], subject: str, by: str) -> tuple[str | None, tuple[str, ...]]:
    """The version that the verdict is about, and notes that say why if there is none."""
    if subject not in (SERVED, BLENDED) or by != DEFAULT:
        return None, (f"no model is served by {subject} and bet by {by}: the verdict is kept with none",)
    try:
        version = bundle.current(home)
    except UserError:
        return None, ("there is no model yet: the verdict is of the recipe; run `velo train`, then `velo gate`",)
    stored = bundle.described(home, version)
    if recipe_of(stored["model"], stored["features"], stored["catalogue"], stored["lead_s"]) != report["recipe"]:
        return None, (f"model {version} is of another recipe than the backtest: run `velo backtest` again to judge it",)
    return version, ("the verdict is of the recipe, refitted as time went on: the model itself was fitted once",)
