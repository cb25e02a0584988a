"""The methods of a store that train, test and judge models."""

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from velo.api.opened import LEAD, OpenedStore, Progress, silent
from velo.api.values import day

if TYPE_CHECKING:
    from velo.api.backtests import BacktestResult
    from velo.training.gate.controls import PlaceboReport
    from velo.training.gate.windows import JudgeReport
    from velo.training.train import TrainReport

File = str | os.PathLike[str]

SIMULATED: Final = (
    "the racing of this store is simulated: the report shows what one looks like, not how good a model is"
)


class ModelMethods(OpenedStore):
    """Training sets, training, backtests, placebos and the gate."""

    def training_set(
        self,
        *,
        since: str | date | None = None,
        until: str | date | None = None,
        lead: timedelta = LEAD,
        market: bool = False,
        progress: Progress | None = None,
    ) -> Any:
        """Return every declared runner of races with a result, with what was known `lead` before its off and its outcome.

        The race dates are local, `since` and `until` included. Columns: the race and runner, `feature__…` (doubles),
        `label__…` (by the first version of the result, null for a non-starter). `market` adds `market__…`: the odds at that
        instant, their rank and drift, and the stakes (contract 8).
        """
        import pyarrow as pa

        from velo.api.frames import in_library
        from velo.feature_repo.catalogue import market_moves
        from velo.training.dataset.entity_rows import BEGINNING, END, Period, prices
        from velo.training.dataset.training_set import kept_training_set

        period = Period(day(since) or BEGINNING, day(until) or END)
        with self._at_work() as store:
            rows = kept_training_set(store, lead=lead, period=period, progress=progress or silent)
            table = rows.to_arrow()
            if market:
                shown = prices(store.home, rows.identity, lead, rows.label("sp_decimal"), rows.started())
                for place, name in enumerate(market_moves.COLUMNS):
                    column = pa.array(shown.moves[:, place], from_pandas=True)
                    table = table.append_column(f"market__{name}", column)
            return in_library(table, self.frames)

    def train(
        self,
        model: object = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        lead: timedelta = LEAD,
        seed: int | None = None,
        search: bool = False,
        until: str | date | None = None,
        progress: Progress | None = None,
    ) -> "TrainReport":
        """Train a model and its blend with the market, store it as the one that serves, and return its measures.

        `model` is `module:factory` with its `parameters`, or an object (docs/own-models.md); None is VÉLØ's own with `seed`.
        `until` is the last local race date to train on. `search` chooses the options of VÉLØ's own by cross-validation first.
        """
        from velo.api.lineage import LOG, lineage
        from velo.training.dataset.entity_rows import END, Period
        from velo.training.registry.models import own_model
        from velo.training.train import train

        period = Period(until=day(until) or END)
        with self._at_work() as store, lineage(store, "train", self.clock, [LOG]) as run:
            report = train(
                store,
                model=own_model(model, parameters, seed),
                parameters=parameters,
                lead=lead,
                period=period,
                choose=search,
                now=self.clock(),
                progress=progress or silent,
            )
            run.used_model(store.home, report.version, f"models/{report.version}")
            return report

    def backtest(
        self,
        model: object = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        days: int | None = None,
        refit_months: int | None = None,
        past: int | None = None,
        lead: timedelta | None = None,
        seed: int | None = None,
        staking: Mapping[str, float] | None = None,
        again: bool = False,
        page: File | None = None,
        progress: Progress | None = None,
    ) -> "BacktestResult":
        """Test a model's recipe on days it has not seen: walk-forward refits, blended and calibrated on earlier days only.

        `model` is `module:factory` with its `parameters`, an object (docs/own-models.md), or the version of a stored model, whose
        recipe is tested; None is VÉLØ's own with `seed`. The days are the last `days` up to `until`, or `since` to `until`, as
        local race dates. `refit_months` is the number of months between refits, `past` the number of refits before the period
        that fit the blend. `staking` changes how the bank stakes, such as `{"commission": 0.02, "pool": 500}`
        (`velo.racing.staking.Staking`). `again` looks at a locked window again, and counts. The HTML report goes to `page`.
        """
        from velo.api.backtests import BacktestResult
        from velo.training.evaluation.backtest import backtest
        from velo.training.registry.backtests import earlier_backtests
        from velo.training.registry.models import model_to_test
        from velo.training.reports.html import write_report

        with self._at_work() as store:
            tested, given, before = model_to_test(store.home, model, parameters, lead, seed)
            report = backtest(
                store,
                now=self.clock(),
                since=day(since),
                until=day(until),
                days=days,
                refit_months=refit_months,
                past=past,
                lead=before,
                model=tested,
                parameters=given,
                staking=staking,
                again=again,
                progress=progress or silent,
            )
            if store.simulated:
                report = replace(report, caveats=(SIMULATED, *report.caveats))
            where = Path(page) if page else store.home.reports / f"{report.backtest}.html"
            path = write_report(report, where, earlier_backtests(store.home, report.backtest))
            return BacktestResult(report, path, store.home, self.frames)

    def placebos(
        self,
        model: object = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        days: int | None = None,
        refit_months: int | None = None,
        past: int | None = None,
        lead: timedelta | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> "PlaceboReport":
        """Test a model on shuffled winners and sections and on planted leaks; `.passed` if it finds the leaks alone.

        The arguments are those of `backtest`. No figure of the real days is shown, so it does not count as a trial.
        """
        from velo.training.gate.controls import placebos
        from velo.training.registry.models import model_to_test

        with self._at_work() as store:
            tested, given, before = model_to_test(store.home, model, parameters, lead, seed)
            return placebos(
                store,
                since=day(since),
                until=day(until),
                days=days,
                refit_months=refit_months,
                past=past,
                lead=before,
                model=tested,
                parameters=given,
                progress=progress or silent,
            )

    def gate(
        self,
        *,
        subject: str = "fundamental",
        strategy: str = "TOP20 by edge",
        final: bool = False,
        again: bool = False,
    ) -> "JudgeReport":
        """Judge the last backtest over its last 90 days and 12 months; `.verdict` is PASS, FAIL or NOT ENOUGH DATA.

        `subject` is fundamental (what serves), calibrated, logit or blend. `final` locks those 12 months, so that they are
        looked at once; `again` counts another look.
        """
        from velo.training.gate.windows import judge_last

        with self._at_work() as store:
            return judge_last(store.home, now=self.clock(), subject=subject, by=strategy, final=final, again=again)
