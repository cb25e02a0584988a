"""`velo backtest`: test the recipe of a model on days it was not trained on."""

from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from velo.commands.edge import Json, now, open_store, show, steps
from velo.errors import UserError


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(backtest)


def backtest(
    days: Annotated[int | None, typer.Option(help="Number of days up to --to (365 unless --from is given).")] = None,
    since: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First local race date.")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="Last local race date (default: the last with results)."),
    ] = None,
    refit_months: Annotated[
        int | None, typer.Option(help="Months between refits (12, or fewer if the history is short).")
    ] = None,
    past: Annotated[
        int | None,
        typer.Option(
            help="Refits before the period, on which the blend and calibration are fitted (6, or fewer if the history is short; at least 2)."
        ),
    ] = None,
    lead: Annotated[float | None, typer.Option(min=0, help="Decision time, in minutes before the off (5).")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed (1).")] = None,
    model: Annotated[
        str | None, typer.Option(help="Test the recipe of this stored model, as `velo train --search` chose it.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Look at a locked window again; the look is counted.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="HTML report to write (default: reports/<backtest>.html under VELO_HOME).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test the model's recipe on unseen days: walk-forward refits, blended and calibrated on earlier days only."""
    from datetime import timedelta

    from rich.console import Group
    from rich.text import Text

    from velo.training.backtest import backtest as run
    from velo.training.backtest_kept import plain
    from velo.training.backtest_tables import backtest_tables
    from velo.training.model import ModelOptions
    from velo.training.models import recipe_kept
    from velo.training.report_html import write_report

    with steps(as_json) as progress:
        store = open_store()
        if model is None:
            options, before = (
                ModelOptions(seed=1 if seed is None else seed),
                timedelta(minutes=5.0 if lead is None else lead),
            )
        elif lead is None and seed is None:
            options, before = recipe_kept(store.home, model)
        else:
            raise UserError(f"--model {model} sets the lead and the seed: leave out --lead and --seed")
        result = run(
            store,
            now=now(),
            since=_day(since),
            until=_day(until),
            days=days,
            refit_months=refit_months,
            past=past,
            lead=before,
            options=options,
            again=again,
            progress=progress,
        )
    page = write_report(result, report or store.home.reports / f"{result.backtest}.html")
    document = plain(result) | {"verdict": result.verdict, "report": str(page)} if as_json else None
    show(document, as_json, lambda: Group(backtest_tables(result), Text(f"report: {page}")))


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None
