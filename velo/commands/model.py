"""`velo train` and `velo score`: train a model on point-in-time features and score a race."""

from datetime import datetime
from typing import Annotated

import typer

from velo.commands.edge import Json, Params, parameters, race_store, show, steps


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (train, score):
        app.command()(command)


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
