"""`velo names …`: find keys that are one horse, jockey or trainer, and record that they are."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from velo.commands.edge import Json, now, open_store, show
from velo.errors import Refused

names_app = typer.Typer(no_args_is_help=True, help="Find keys that mean one horse, jockey or trainer, and record it.")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(names_app, name="names")


@names_app.command("match")
def find(
    out: Annotated[Path, typer.Option("--out", metavar="FILE.csv", help="File to write the proposals to.")] = Path(
        "names.csv"
    ),
    as_json: Json = False,
) -> None:
    """Propose keys that are one, with the evidence, from the tables of the last build; records nothing."""
    from velo.streams.names import match, write

    proposals = match(open_store().home)
    write(proposals, out)
    table = Table("of", "key", "same as", "starts", "evidence", title=f"{len(proposals):,} proposals, written to {out}")
    for each in proposals:
        table.add_row(each.of, each.key, each.same_as, f"{each.starts_key} + {each.starts_same_as}", each.evidence)
    show({"file": str(out), "proposals": proposals}, as_json, lambda: table)


@names_app.command("apply")
def record(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Proposals, with yes in the column approve.")],
    undo: Annotated[bool, typer.Option("--undo", help="Undo the approved aliases instead.")] = False,
    as_json: Json = False,
) -> None:
    """Record the approved aliases in the log; exits 1 if one is refused. They change nothing before now."""
    from velo.streams.names import apply

    outcomes = [
        {
            "of": alias.of,
            "key": alias.key,
            "same_as": alias.same_as,
            "outcome": "refused" if isinstance(outcome, Refused) else outcome.outcome,
            "repeated": 0 if isinstance(outcome, Refused) else outcome.repeated,
            "reason": str(outcome) if isinstance(outcome, Refused) else "",
        }
        for alias, outcome in apply(open_store(), file, clock=now, undo=undo)
    ]
    table = Table("of", "key", "same as", "outcome", "messages repeated", "reason", title="aliases")
    for each in outcomes:
        table.add_row(*("" if value is None else str(value) for value in each.values()))
    show(outcomes, as_json, lambda: table)
    if any(each["outcome"] == "refused" for each in outcomes):
        raise typer.Exit(1)


@names_app.command("list")
def in_force(as_json: Json = False) -> None:
    """List the aliases in force, and when each was recorded."""
    from velo.storage.log.reader import aliases

    found = aliases(open_store().home)
    table = Table("of", "key", "same as", "known at", title=f"{len(found):,} aliases")
    for alias in found:
        table.add_row(alias.of, alias.key, alias.same_as, str(alias.known_at))
    show(found, as_json, lambda: table)
