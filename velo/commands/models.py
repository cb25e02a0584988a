"""`velo backtest`, `velo gate` and `velo models`: test and judge a model, list models and choose which one serves."""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from velo.commands.edge import Json, Params, facts, open_store, parameters, race_store, show, steps, with_environment
from velo.storage.jsonl import plain

models_app = typer.Typer(name="models", invoke_without_command=True, help="List, compare, promote or roll back models.")
Version = Annotated[str, typer.Argument(help="A version from `velo models list`.")]


@with_environment
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


@with_environment
def gate(
    of: Annotated[
        str, typer.Option(help="Model to judge: fundamental (the one that serves), calibrated, logit or blend.")
    ] = "fundamental",
    by: Annotated[str, typer.Option("--strategy", help="Strategy whose bets are judged.")] = "TOP20 by edge",
    final: Annotated[
        bool, typer.Option("--final", help="Lock the last 12 months, so that they are looked at once.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Look at a locked window again; the look is counted.")] = False,
    as_json: Json = False,
) -> None:
    """Judge the last backtest over its last 90 days and 12 months: PASS, FAIL or NOT ENOUGH DATA."""
    from rich.console import Group
    from rich.text import Text

    from velo.training.reports.tables import gate_tables, places_table

    report = race_store().gate(subject=of, strategy=by, final=final, again=again)
    model = f"stored with model {report.model}: {report.mode}" if report.model else "stored with no model"
    looks = [f"look {report.look} at this locked window"] if report.look else []
    lines = [f"gate: {report.verdict} · backtest {report.backtest} · {model}", *looks]
    show(
        plain(report) | {"verdict": report.verdict} if as_json else None,
        as_json,
        lambda: Group(
            *(Text(line, style="bold") for line in lines),
            gate_tables(of, report.gate),
            *([places_table(report.places)] if report.places else []),
            *(Text(f"· {note}") for note in report.notes),
        ),
    )


@models_app.callback()
@with_environment
def models(context: typer.Context, as_json: Json = False) -> None:
    """List, compare, promote or roll back models; lists without a command."""
    if context.invoked_subcommand is None:
        listed(as_json=as_json)


@models_app.command("list")
def listed(as_json: Json = False) -> None:
    """List all models, oldest first; an arrow marks the one that serves."""
    from velo.training.registry.models import kept_models, models_table

    kept = kept_models(open_store().home)
    show(kept, as_json, lambda: models_table(kept))


@models_app.command()
def compare(one: Version, other: Version, as_json: Json = False) -> None:
    """Compare two models, each on its own test days."""
    from velo.training.registry.models import compared, models_table

    both = compared(open_store().home, one, other)
    show(both, as_json, lambda: models_table(both))


@models_app.command()
def backtests(as_json: Json = False) -> None:
    """List the stored backtests, one row each, whoever made the model."""
    from velo.training.registry.backtests import stored_backtests
    from velo.training.registry.models import backtests_table

    stored = stored_backtests(open_store().home)
    show(stored, as_json, lambda: backtests_table(stored))


@models_app.command()
def promote(version: Version, as_json: Json = False) -> None:
    """Make a model the one that serves; without a PASS of the gate it bets on paper only."""
    from velo.training import bundle
    from velo.training.registry import bundle_writing

    home = open_store().home
    bundle_writing.promote(home, version)
    _show_serving(version, bundle.described(home, version)["mode"], as_json)


@models_app.command()
def rollback(as_json: Json = False) -> None:
    """Return to the previous serving model."""
    from velo.training import bundle
    from velo.training.registry import bundle_writing

    home = open_store().home
    version = bundle_writing.rollback(home)
    _show_serving(version, bundle.described(home, version)["mode"], as_json)


def _show_serving(version: str, mode: str, as_json: bool) -> None:
    report = {"serves": version, "mode": mode}
    show(report, as_json, lambda: facts("model", report.items()))
