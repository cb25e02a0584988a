"""`velo backtest`: test the recipe of a model on days it was not trained on."""

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from velo.commands.edge import Json, Params, parameters, race_store, show, steps, with_environment
from velo.storage.jsonl import plain


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(with_environment(backtest))


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
        str | None,
        typer.Option(help="Your own model, as module:factory, or the version of a stored model (default: VÉLØ's own)."),
    ] = None,
    param: Params = None,
    staking: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="How the Kelly bank stakes: fraction (0.25), cap (0.02), at_risk (1 a day), commission, minimum, pool. Repeatable.",
        ),
    ] = None,
    placebo: Annotated[
        bool,
        typer.Option(
            "--placebo", help="Test the model on shuffled winners and planted leaks instead; exits 1 if it fails."
        ),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Look at a locked window again; the look is counted.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="HTML report to write (default: reports/<backtest>.html under VELO_HOME).")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Print every figure instead of ten lines.")] = False,
    as_json: Json = False,
) -> None:
    """Test the model's recipe on unseen days: walk-forward refits, blended and calibrated on earlier days only."""
    from datetime import timedelta

    from rich.console import Group
    from rich.text import Text

    from velo.training.gate.controls import placebo_table
    from velo.training.reports.tables import backtest_tables, summary_lines

    period: dict[str, Any] = {
        "parameters": parameters(param),
        "since": _day(since),
        "until": _day(until),
        "days": days,
        "refit_months": refit_months,
        "past": past,
        "lead": None if lead is None else timedelta(minutes=lead),
        "seed": seed,
    }
    if placebo:
        with steps(as_json) as progress:
            checked = race_store().placebos(model, **period, progress=progress)
        show(checked, as_json, lambda: placebo_table(checked))
        raise typer.Exit(0 if checked.passed else 1)
    with steps(as_json) as progress:
        bank = parameters(staking, "--staking")
        result = race_store().backtest(model, **period, staking=bank, again=again, page=report, progress=progress)
    document = plain(result.report) | {"verdict": result.verdict, "report": str(result.page)} if as_json else None
    whole = [backtest_tables(result.report)] if full else []
    lines = [Text(line) for line in summary_lines(result.report, str(result.page))]
    show(document, as_json, lambda: Group(*(whole or lines), *([Text(f"report: {result.page}")] if full else [])))


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None
