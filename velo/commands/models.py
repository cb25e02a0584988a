"""`velo gate` and `velo models`: judge a model, list models and choose which one serves."""

from typing import Annotated

import typer

from velo.commands.edge import Json, facts, open_store, race_store, show, with_environment
from velo.storage.jsonl import plain

Version = Annotated[str, typer.Argument(help="A version from `velo models list`.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(with_environment(gate))
    group = typer.Typer(invoke_without_command=True, help="List, compare, promote or roll back models.")
    group.callback()(with_environment(models))
    group.command("list")(listed)
    for command in (compare, backtests, promote, rollback):
        group.command()(command)
    app.add_typer(group, name="models")


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


def models(context: typer.Context, as_json: Json = False) -> None:
    """List, compare, promote or roll back models; lists without a command."""
    if context.invoked_subcommand is None:
        listed(as_json=as_json)


def listed(as_json: Json = False) -> None:
    """List all models, oldest first; an arrow marks the one that serves."""
    from velo.training.registry.models import kept_models, models_table

    kept = kept_models(open_store().home)
    show(kept, as_json, lambda: models_table(kept))


def compare(one: Version, other: Version, as_json: Json = False) -> None:
    """Compare two models, each on its own test days."""
    from velo.training.registry.models import compared, models_table

    both = compared(open_store().home, one, other)
    show(both, as_json, lambda: models_table(both))


def backtests(as_json: Json = False) -> None:
    """List the stored backtests, one row each, whoever made the model."""
    from velo.training.registry.models import backtests_table, stored_backtests

    stored = stored_backtests(open_store().home)
    show(stored, as_json, lambda: backtests_table(stored))


def promote(version: Version, as_json: Json = False) -> None:
    """Make a model the one that serves; without a PASS of the gate it bets on paper only."""
    from velo.training import bundle
    from velo.training.registry import bundle_writing

    home = open_store().home
    bundle_writing.promote(home, version)
    _show_serving(version, bundle.described(home, version)["mode"], as_json)


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
