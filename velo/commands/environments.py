"""`velo environments`: list the environments of a store, and remove one; `--as NAME` of other commands works in one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from velo.commands.edge import Json, open_store, show

if TYPE_CHECKING:
    from velo.api.environments import Environment


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    group = typer.Typer(
        invoke_without_command=True,
        help="List or remove environments: other formulas tried on the same log, beside the served tables.\n\n"
        "`velo apply --as NAME` makes one. It shares the log, which it only reads, and the files of each table that is equal. "
        "It has its own tables, models, backtests, training sets and reports. It has no Redis, no stream and no bets: nothing of "
        "it is served.",
    )
    group.callback()(environments)
    group.command("list")(listed)
    group.command()(drop)
    app.add_typer(group, name="environments")


def environments(context: typer.Context, as_json: Json = False) -> None:
    """List or remove environments; lists without a command."""
    if context.invoked_subcommand is None:
        listed(as_json=as_json)


def listed(as_json: Json = False) -> None:
    """List the environments: the views whose formulas differ from the served ones, models, and what they take on disk."""
    from velo.api.environments import environments as found

    every = found(open_store().home)
    show(every, as_json, lambda: _table(every))


def drop(name: Annotated[str, typer.Argument(help="An environment.")], as_json: Json = False) -> None:
    """Remove an environment with its tables, models and backtests; the store and its log stay."""
    from velo.api.environments import drop as remove

    freed = remove(open_store().home, name)
    show({"dropped": name, "freed_bytes": freed}, as_json, lambda: f"dropped {name}: {freed / 1e6:,.1f} MB freed")


def _table(every: "tuple[Environment, ...]") -> Table | str:
    if not every:
        return "no environments: `velo apply --as NAME` makes one"
    table = Table(title="environments", title_justify="left")
    for name in ("name", "epoch", "messages behind", "views that differ", "models", "own MB", "shared MB"):
        table.add_column(name, justify="left" if name in ("name", "views that differ") else "right")
    for row in _rows(every):
        table.add_row(*row)
    return table


def _rows(every: "tuple[Environment, ...]") -> Iterator[tuple[str, ...]]:
    for environment in every:
        megabytes = f"{environment.own_bytes / 1e6:,.1f}", f"{environment.shared_bytes / 1e6:,.1f}"
        yield (
            environment.name,
            str(environment.epoch),
            f"{environment.messages_behind:,}",
            ", ".join(environment.differ) or "none",
            str(environment.models),
            *megabytes,
        )
