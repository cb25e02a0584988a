"""`velo bench …`: what it costs on this machine, by commands that anyone can run."""

from pathlib import Path
from typing import Annotated

import typer

from velo.commands.edge import Json, show

bench_app = typer.Typer(no_args_is_help=True, help="Measure what it costs on this machine.")
Results = Annotated[
    Path | None, typer.Option("--runners", help="A runner table to tile; a simulated season without it.")
]
Zone = Annotated[str, typer.Option("--timezone", help="The runner table's time zone.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(bench_app, name="bench")


@bench_app.command()
def build(
    starts: Annotated[list[int], typer.Option(help="How many starts; give it again for another size.")] = [  # noqa: B006 typer copies it
        100_000,
        1_000_000,
    ],
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """`velo build` of everything: starts/s and peak memory, each size in a process of its own."""
    from benchmarks.build import measure, table

    figures = measure(starts, runners, timezone)
    show(figures, as_json, lambda: table(figures))


@bench_app.command("point-in-time")
def point_in_time(
    rows: Annotated[list[int], typer.Option(help="How many entity rows; give it again for another size.")] = [  # noqa: B006 typer copies it
        10_000,
        100_000,
    ],
    stock_rows: Annotated[
        int, typer.Option(help="How many of them Feast's own DuckDB store gets (it is slow).")
    ] = 10_000,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """The point-in-time join over all views: ours, and Feast's own DuckDB store on a size it survives."""
    from benchmarks.point_in_time import measure, table

    figures = measure(rows, stock_rows, runners, timezone)
    show(figures, as_json, lambda: table(figures))
