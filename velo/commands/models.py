"""`velo gate` and `velo models`: the verdict on a model, and which of them serves."""

from typing import Annotated

import typer

from velo.commands.edge import Json, facts, now, open_store, show

Version = Annotated[str, typer.Argument(help="A version, as `velo models list` tells it.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(gate)
    group = typer.Typer(invoke_without_command=True, help="The models kept: list, compare, promote, roll back.")
    group.callback()(models)
    group.command("list")(listed)
    for command in (compare, promote, rollback):
        group.command()(command)
    app.add_typer(group, name="models")


def gate(
    of: Annotated[str, typer.Option(help="fundamental (what is served), calibrated, logit or blend.")] = "fundamental",
    by: Annotated[str, typer.Option("--strategy", help="Which bets are judged.")] = "TOP20 by edge",
    final: Annotated[bool, typer.Option("--final", help="Lock the last 12 months: they are looked at once.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Look at a locked window again, and have it counted.")] = False,
    as_json: Json = False,
) -> None:
    """PASS, FAIL or NOT ENOUGH DATA: the gate on the last backtest, its last 90 days and 12 months."""
    from rich.console import Group
    from rich.text import Text

    from training.backtest_kept import plain
    from training.backtest_tables import gate_tables
    from training.run_gate import judge_last

    report = judge_last(open_store().home, now=now(), subject=of, by=by, final=final, again=again)
    kept = f"kept with model {report.model}: {report.mode}" if report.model else "kept with no model"
    seen = [f"look {report.look} at these locked days"] if report.look else []
    lines = [f"gate: {report.verdict} · backtest {report.backtest} · {kept}", *seen]
    show(
        plain(report) | {"verdict": report.verdict} if as_json else None,
        as_json,
        lambda: Group(
            *(Text(line, style="bold") for line in lines),
            gate_tables(of, report.gate),
            *(Text(f"· {note}") for note in report.notes),
        ),
    )


def models(context: typer.Context, as_json: Json = False) -> None:
    """The models kept: list (without a command), compare, promote, roll back."""
    if context.invoked_subcommand is None:
        listed(as_json=as_json)


def listed(as_json: Json = False) -> None:
    """All models kept, oldest first; an arrow marks the one that serves."""
    from training.models import kept_models, models_table

    kept = kept_models(open_store().home)
    show(kept, as_json, lambda: models_table(kept))


def compare(one: Version, other: Version, as_json: Json = False) -> None:
    """Two models beside one another, each on its own test days."""
    from training.models import compared, models_table

    both = compared(open_store().home, one, other)
    show(both, as_json, lambda: models_table(both))


def promote(version: Version, as_json: Json = False) -> None:
    """Make a model the one that serves; without the gate's PASS it stays for paper only."""
    from training import bundle, bundle_writing

    home = open_store().home
    bundle_writing.promote(home, version)
    _show_serving(version, bundle.described(home, version)["mode"], as_json)


def rollback(as_json: Json = False) -> None:
    """Go back to the model that served before."""
    from training import bundle, bundle_writing

    home = open_store().home
    version = bundle_writing.rollback(home)
    _show_serving(version, bundle.described(home, version)["mode"], as_json)


def _show_serving(version: str, mode: str, as_json: bool) -> None:
    report = {"serves": version, "mode": mode}
    show(report, as_json, lambda: facts("model", report.items()))
