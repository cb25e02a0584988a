"""`velo inspect`, `velo ingest …`, `velo cards …` and `velo dead-letters`: look at files, load them, list and replay refusals.

Each importer of the registry is a command: `velo ingest NAME`, or `velo cards NAME` for the importer `NAME-cards`. With `--as`
the files come first: `velo ingest FILE… --as NAME`, where NAME may be the path of a mapping.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text
from typer._click.core import Command, Context  # the click that typer carries has no public name
from typer.core import TyperGroup

from velo.commands.edge import Files, Json, facts, now, open_store, race_store, show, steps, table_of
from velo.commands.feed import Brokers, Follow, KafkaTopic, Once, Partition, RedisKey, Url, follow_feed
from velo.errors import UserError

if TYPE_CHECKING:
    from velo.streams.importers.check import CheckReport
    from velo.streams.importers.inspect_file import FileReport

As = Annotated[str, typer.Option("--as", metavar="NAME|FILE.toml", help="An importer, or a mapping of your own.")]
AsShown = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME|FILE.toml", help="Load the named files by an importer, or by a mapping of your own."
    ),
]
Check = Annotated[
    bool, typer.Option("--check", help="Load nothing: account for every row, show values beside the source's text.")
]
Late = Annotated[bool, typer.Option("--late", help="Accept older messages; set their known_at to now.")]


_BY_NAME = "files"
"""The hidden command that `--as` stands for, since a group takes the first file for a command."""


class _Importers(TyperGroup):
    """A group with a command for each importer, each imported when it is used: most commands need none."""

    cards = False

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        named = any(arg == "--as" or arg.startswith("--as=") for arg in args)
        return super().parse_args(ctx, [_BY_NAME, *args] if named else args)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        own = super().get_command(ctx, cmd_name)
        return _command(self._importers()[cmd_name]) if own is None and cmd_name in self._importers() else own

    def list_commands(self, ctx: Context) -> list[str]:
        return [*self._importers(), *(name for name in super().list_commands(ctx) if name != _BY_NAME)]

    def _importers(self) -> dict[str, str]:
        """Return the names of the importers by that of their command."""
        from velo.streams.importers.registry import CARDS, names

        return {name.removesuffix(CARDS): name for name in names() if name.endswith(CARDS) == self.cards}


class _CardImporters(_Importers):
    cards = True


ingest_app = typer.Typer(
    name="ingest", cls=_Importers, no_args_is_help=True, help="Append results to the log. Duplicates are ignored."
)
cards_app = typer.Typer(
    name="cards",
    cls=_CardImporters,
    no_args_is_help=True,
    help="Append racecards to the log; list or restore those in Redis.",
)
letters_app = typer.Typer(
    name="dead-letters", invoke_without_command=True, help="List, export or replay refused messages."
)


def inspect(
    files: Files,
    out: Annotated[
        Path | None, typer.Option(help="File to write a drafted mapping to, for a file of unknown source.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a file is: its source, rows, days, races, each column's meaning, and what a load would refuse. Loads nothing."""
    from velo.streams.importers import inspect_file

    report = race_store().inspect(files)
    if out is not None:
        if report.mapping is None:
            raise UserError(
                f"the files are of the known source {', '.join(report.sources)}, which needs no mapping: load them with "
                f"velo ingest FILE --as {report.sources[0]}"
            )
        try:
            out.write_text(report.mapping, encoding="utf-8")
        except OSError as refused:
            raise UserError(
                f"cannot write {out} ({refused.strerror}): name a file in a folder you may write to"
            ) from None

    def tables() -> Group:
        shown: list[Table | Text] = []
        for file in report.files:
            shown += [facts(file.label, inspect_file.facts(file)), *([_columns(file)] if file.columns else [])]
        if report.check:
            shown += [facts("a load would give", report.check.facts()), Text("\n".join(report.check.notes()))]
        if report.why_not:
            shown.append(Text(report.why_not))
        if out is not None:
            shown.append(Text(f"mapping written to {out}"))
        return Group(*shown)

    show(report, as_json, tables)


def _columns(file: "FileReport") -> Table:
    rows = (
        (guess.name, guess.meaning or "", guess.unit or "", f"{guess.filled:.0%}", ", ".join(guess.values))
        for guess in file.columns
    )
    return table_of(None, ("column", "meaning", "unit or format", "filled", "values"), rows, box=None)


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
    name: AsShown = None,
    check: Check = False,
    as_json: Json = False,
) -> None:
    """Append results to the log. Duplicates are ignored."""
    if follow and context.invoked_subcommand is None:
        follow_feed(redis=redis, kafka=kafka, url=url, brokers=brokers, partition=partition, once=once, as_json=as_json)
    elif context.invoked_subcommand is None or any(
        (follow, redis, kafka, url, brokers, partition, once, name, check, as_json)
    ):
        raise UserError(
            "velo ingest needs files or a feed: name the format, as in `velo ingest runners FILE` or `velo ingest FILE --as NAME`, "
            "or run `velo ingest --follow --redis KEY`"
        )


@ingest_app.command(_BY_NAME, hidden=True)
def ingest_by_name(files: Files, name: As, check: Check = False, late: Late = False, as_json: Json = False) -> None:
    """Load results by the name of an importer, or by a mapping of your own."""
    _load(name, files, check=check, late=late, as_json=as_json)


@cards_app.command(_BY_NAME, hidden=True)
def cards_by_name(files: Files, name: As, check: Check = False, late: Late = False, as_json: Json = False) -> None:
    """Load racecards by the name of an importer, or by a mapping of your own."""
    from velo.streams.importers.registry import CARDS, TOML

    own = name.endswith((CARDS, TOML))
    _load(name if own else f"{name}{CARDS}", files, check=check, late=late, as_json=as_json)


def _load(name: str, files: list[Path], *, check: bool, late: bool, as_json: bool) -> None:
    from velo.streams.importers.registry import CARDS

    if check:
        checked = race_store().check(name, files)
        show(
            checked,
            as_json,
            lambda: Group(facts(f"check {name}", checked.facts()), Text("\n".join(checked.notes())), *_spots(checked)),
        )
        return
    with steps(as_json) as progress:
        report = race_store().load(name, files, late=late, progress=progress)
    title = "cards" if name.endswith(CARDS) else f"ingest {name}"
    show(report, as_json, lambda: Group(facts(title, report.facts()), Text("\n".join(report.notes()))))


def _spots(checked: "CheckReport") -> list[Table]:
    """Values beside the texts that they were read from."""
    rows = [
        (spot.race_id, spot.horse, spot.column, spot.written, "unknown" if spot.value is None else str(spot.value))
        for spot in checked.spots
    ]
    title = f"{len(rows)} values beside the source's own text"
    return [table_of(title, ("race", "horse", "column", "source", "value"), rows, box=None)] if rows else []


@letters_app.callback()
def dead_letters(context: typer.Context, as_json: Json = False) -> None:
    """List refused messages and their reasons, oldest first."""
    if context.invoked_subcommand is not None:
        return
    from velo.streams.importers.dead_letters import read

    letters = read(open_store().home)
    rows = (
        (letter.source, letter.race_id or "", letter.result_version or "", letter.reason, letter.detail)
        for letter in letters
    )
    columns = ("source", "race", "version", "reason", "detail")
    show(letters, as_json, lambda: table_of(f"{len(letters):,} dead letters", columns, rows))


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
        _load(name, files, check=False, late=late, as_json=as_json)

    try:
        words = importer(name).help
    except UserError as broken:
        # `velo ingest --help` lists it all the same; to use it raises the error
        words = str(broken)
    app = typer.Typer(add_completion=False)
    app.command(name.removesuffix(CARDS), help=words)(load)
    return typer.main.get_command(app)
