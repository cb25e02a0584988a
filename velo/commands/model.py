"""`velo train`, `velo score` and `velo sentinel`: train on point-in-time features, score a race, look for leaks."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velo.commands.edge import Json, Params, open_store, parameters, race_store, show, steps, with_environment
from velo.text_tables import table_of

if TYPE_CHECKING:
    from rich.table import Table

    from velo.resampling import Figure
    from velo.training.evaluation.sentinel import ColumnTried


@with_environment
def train(
    lead: Annotated[float, typer.Option(min=0, help="Decision time, in minutes before the off.")] = 5.0,
    seed: Annotated[int | None, typer.Option(help="Random seed (1).")] = None,
    search: Annotated[
        bool,
        typer.Option(
            "--search", help="Choose the options by cross-validation first, and store the table of candidates."
        ),
    ] = False,
    model: Annotated[str | None, typer.Option(help="Your own model, as module:factory (default: VÉLØ's own).")] = None,
    param: Params = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--to", formats=["%Y-%m-%d"], help="Last local race date to train on (default: the last with results)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model and its blend on what was known before each race; paper bets only until the gate passes."""
    from datetime import timedelta

    from velo.training.reports.train_tables import trained_table

    with steps(as_json) as progress:
        report = race_store().train(
            model,
            parameters=parameters(param),
            lead=timedelta(minutes=lead),
            seed=seed,
            search=search,
            until=until.date() if until else None,
            progress=progress,
        )
    show(report, as_json, lambda: trained_table(report))


@with_environment
def sentinel(
    extra: Annotated[
        Path | None,
        typer.Option("--with", help="Parquet file of columns of your own to try too, by race_id and horse_id."),
    ] = None,
    lead: Annotated[float, typer.Option(min=0, help="Decision time, in minutes before the off.")] = 5.0,
    every: Annotated[bool, typer.Option("--all", help="Show every column, not only those that leak.")] = False,
    as_json: Json = False,
) -> None:
    """Try each column of the training set for what it cannot know before the race; exits 1 where one leaks.

    A leak is a column that orders winner and losers better than the starting price, one that is there for horses that still
    race at the end of the data and absent for those that retired, or one that differs from what was served for the same race.
    """
    from datetime import timedelta

    from velo.api import monitoring

    with steps(as_json) as progress:
        found = monitoring.sentinel(open_store(), lead=timedelta(minutes=lead), columns=extra, progress=progress)
    leaks = [column for column in found if column.leak]
    show(found if every else leaks, as_json, lambda: _tried(found if every else leaks, tried_title(found)))
    if leaks:
        raise typer.Exit(1)


def tried_title(found: "Sequence[ColumnTried]") -> str:
    """How many columns leak, and the signs of a leak for which the training set has nothing to compare."""
    untried = (
        [] if any(column.gap.value is not None for column in found) else ["survivors (too few starts 180 days old)"]
    )
    untried += [] if any(column.served for column in found) else ["served values (no served race)"]
    leaking = f"{sum(column.leak is not None for column in found)} of {len(found)} columns leak"
    return "; not compared: ".join([leaking, *([", ".join(untried)] if untried else [])])


def _tried(columns: "Sequence[ColumnTried]", title: str) -> "Table":
    names = ("column", "leak", "orders winner above loser", "than the price", "gap of survivors", "unlike served")
    rows = (
        (column.column, column.leak or "", *map(_interval, (column.order, column.edge, column.gap)),
         f"{len(column.unlike)} of {column.served} races: {', '.join(column.unlike[:3])}" if column.unlike else "")
        for column in columns
    )  # fmt: skip
    return table_of(title, names, rows)


def _interval(figure: "Figure") -> str:
    if figure.value is None:
        return ""
    return f"{figure.value:.3f}" + ("" if figure.low is None else f" ({figure.low:.3f} to {figure.high:.3f})")


@with_environment
def score(
    race_id: Annotated[str, typer.Argument(help="A race in the log, declared or run.")],
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Score with what was known at this time (ISO 8601).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a race card with probabilities, fair odds and their drivers."""
    from velo.serving.scoring.render import race_card, to_json

    scored = race_store().scored(race_id, as_of=as_of)
    show(to_json(scored) if as_json else None, as_json, lambda: race_card(scored))
