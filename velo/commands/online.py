"""`velo online …`: rebuild the online store."""

from typing import TYPE_CHECKING, Annotated

import typer

from velo.commands.edge import Json, facts, now, open_store, show, steps

if TYPE_CHECKING:
    from rich.table import Table

    from velo.streams.rebuild_online import OnlineRebuildReport

online_app = typer.Typer(no_args_is_help=True, help="Manage the online store (Redis).")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(online_app, name="online")


@online_app.callback()
def _group() -> None:
    """Manage the online store (Redis)."""


@online_app.command()
def rebuild(
    clear: Annotated[
        bool,
        typer.Option("--clear", help="Delete all rows first: for a Redis that was filled from another log."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the newest row of every key from the offline tables to Redis; newer rows there are not replaced."""
    from velo.feature_repo.stores.redis_client import connect
    from velo.streams.rebuild_online import rebuild as run

    store = open_store()
    client = connect(store.home, store.redis_url)
    with steps(as_json) as progress:
        report = run(store, client, now(), clear=clear, progress=progress)
    show(report, as_json, lambda: _rebuilt(report))


def _rebuilt(report: "OnlineRebuildReport") -> "Table":
    total = sum(report.keys.values())
    pace = f"{report.seconds:.1f} s, {total / max(report.seconds, 1e-9):,.0f} keys/s"
    return facts(
        "online store rebuilt",
        [*report.keys.items(), ("all keys", total), ("messages of open races", report.race_messages), ("in", pace)],
    )
