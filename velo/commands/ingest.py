"""`velo ingest …`, `velo cards …` and `velo dead-letters`: load results and racecards, list and replay refusals.

Each importer of the registry is a command: `velo ingest NAME`, or `velo cards NAME` for the importer `NAME-cards`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text
from typer._click.core import Command, Context  # the click that typer carries has no public name
from typer.core import TyperGroup

from velo.commands.edge import Files, Json, facts, now, open_store, race_store, show, steps
from velo.commands.feed import Brokers, Follow, KafkaTopic, Once, Partition, RedisKey, Url, follow_feed
from velo.errors import UserError

Late = Annotated[bool, typer.Option("--late", help="Accept older messages; set their known_at to now.")]


class _Importers(TyperGroup):
    """A group with a command for each importer, each imported when it is used: most commands need none."""

    cards = False

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        own = super().get_command(ctx, cmd_name)
        return _command(self._importers()[cmd_name]) if own is None and cmd_name in self._importers() else own

    def list_commands(self, ctx: Context) -> list[str]:
        return [*self._importers(), *super().list_commands(ctx)]

    def _importers(self) -> dict[str, str]:
        """Return the names of the importers by that of their command."""
        from velo.streams.importers.registry import CARDS, names

        return {name.removesuffix(CARDS): name for name in names() if name.endswith(CARDS) == self.cards}


class _CardImporters(_Importers):
    cards = True


ingest_app = typer.Typer(
    cls=_Importers, no_args_is_help=True, help="Append results to the log. Duplicates are ignored."
)
cards_app = typer.Typer(
    cls=_CardImporters, no_args_is_help=True, help="Append racecards to the log; list or restore those in Redis."
)
letters_app = typer.Typer(invoke_without_command=True, help="List, export or replay refused messages.")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(ingest_app, name="ingest")
    app.add_typer(cards_app, name="cards")
    app.add_typer(letters_app, name="dead-letters")


@ingest_app.callback(invoke_without_command=True)
def ingest_from(
    context: typer.Context,
    follow: Follow = False,
    redis: RedisKey = None,
    kafka: KafkaTopic = None,
    url: Url = None,
    brokers: Brokers = None,
    partition: Partition = None,
    once: Once = False,
    as_json: Json = False,
) -> None:
    """Append results to the log. Duplicates are ignored."""
    if follow and context.invoked_subcommand is None:
        follow_feed(redis=redis, kafka=kafka, url=url, brokers=brokers, partition=partition, once=once, as_json=as_json)
    elif context.invoked_subcommand is None or any((follow, redis, kafka, url, brokers, partition, once, as_json)):
        raise UserError(
            "velo ingest needs files or a feed: name the format, as in `velo ingest runners FILE`, "
            "or run `velo ingest --follow --redis KEY`"
        )


@letters_app.callback()
def dead_letters(context: typer.Context, as_json: Json = False) -> None:
    """List refused messages and their reasons, oldest first."""
    if context.invoked_subcommand is not None:
        return
    from velo.streams.importers.dead_letters import read

    letters = read(open_store().home)
    table = Table(title=f"{len(letters):,} dead letters")
    for name in ("source", "race", "version", "reason", "detail"):
        table.add_column(name)
    for letter in letters:
        version = str(letter.result_version or "")
        table.add_row(letter.source, letter.race_id or "", version, letter.reason, letter.detail)
    show(letters, as_json, lambda: table)


@letters_app.command()
def replay(
    file: Annotated[Path | None, typer.Option(help="A corrected export (default: the rows as they were).")] = None,
    late: Late = False,
    as_json: Json = False,
) -> None:
    """Try refused races again; those that pass are appended and their dead letters closed."""
    from velo.streams.importers.replay import replay as again

    report = again(open_store(), file, late=late, clock=now)
    rows = [("tried", report.tried), ("accepted", report.taken), ("appended", report.appended)]
    rows += [("duplicates", report.identical), ("still refused", len(report.refused))]
    reasons = "\n".join(f"  {letter}: {reason}" for letter, reason in report.refused.items())
    show(report, as_json, lambda: Group(facts("replay", rows), Text(reasons)))


@letters_app.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="CSV file to write.")],
    source: Annotated[str | None, typer.Option(help="Only dead letters of this importer.")] = None,
    as_json: Json = False,
) -> None:
    """Write the refused rows to a CSV file, to correct and replay."""
    from velo.streams.importers.dead_letters import export as write

    rows = write(open_store().home, out, source)
    show({"rows": rows, "file": str(out)}, as_json, lambda: f"{rows:,} rows written to {out}")


def vars_of(report: Any) -> list[tuple[str, Any]]:
    """The fields of a report as pairs of name and value."""
    from dataclasses import fields

    return [(field.name.replace("_", " "), getattr(report, field.name)) for field in fields(report)]


def _command(name: str) -> Command:
    """Return the command of an importer."""
    from velo.streams.importers.registry import CARDS, importer

    def load(files: Files, late: Late = False, as_json: Json = False) -> None:
        with steps(as_json) as progress:
            report = race_store().load(name, files, late=late, progress=progress)
        title = "cards" if name.endswith(CARDS) else f"ingest {name}"
        show(report, as_json, lambda: Group(facts(title, report.facts()), Text("\n".join(report.notes()))))

    try:
        words = importer(name).help
    except UserError as broken:
        # `velo ingest --help` lists it all the same; to use it raises the error
        words = str(broken)
    app = typer.Typer(add_completion=False)
    app.command(name.removesuffix(CARDS), help=words)(load)
    return typer.main.get_command(app)
