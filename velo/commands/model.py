"""`velo train` and `velo score`: from the point-in-time set to a scored race."""

from datetime import datetime
from typing import Annotated

import typer

from velo.commands.edge import Json, instant, now, open_store, show, steps


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (train, score):
        app.command()(command)


def train(
    lead: Annotated[float, typer.Option(min=0, help="Minutes before the off at which a race is decided.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn by chance.")] = 1,
    search: Annotated[
        bool, typer.Option("--search", help="Choose the options by cross-validation first, and keep the table.")
    ] = False,
    until: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="Last local race date learned from (the last with results)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model on what was known before each race, and keep it with its blend (paper only until the gate passes)."""
    from datetime import date, timedelta

    from training.entity_rows import Period
    from training.report import trained_table
    from training.train import train as fit

    with steps(as_json) as progress:
        report = fit(
            open_store(),
            lead=timedelta(minutes=lead),
            seed=seed,
            period=Period(until=until.date() if until else date.max),
            choose=search,
            now=now(),
            progress=progress,
        )
    show(report, as_json, lambda: trained_table(report))


def score(
    race_id: Annotated[str, typer.Argument(help="A race that was declared or run.")],
    as_of: Annotated[str | None, typer.Option("--as-of", help="Score with what was known then (ISO 8601).")] = None,
    as_json: Json = False,
) -> None:
    """A race card with probabilities, fair odds, and what drives them."""
    from serving.render import race_card, to_json
    from serving.score import score as run
    from streams.unbuilt_log import UnbuiltLog

    store = open_store()
    scored = run(store, race_id, log=UnbuiltLog(store.home), as_of=instant(as_of), now=now())
    show(to_json(scored) if as_json else None, as_json, lambda: race_card(scored))
