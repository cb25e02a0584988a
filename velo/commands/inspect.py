"""`velo inspect FILE…`: what a file is, what its columns mean, and what a load would refuse."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from velo.commands.edge import Files, Json, facts, race_store, show
from velo.errors import UserError

if TYPE_CHECKING:
    from velo.streams.importers.inspect_file import FileReport


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("inspect")(inspect)


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
    table = Table(box=None, title_justify="left")
    for name in ("column", "meaning", "unit or format", "filled", "values"):
        table.add_column(name)
    for guess in file.columns:
        table.add_row(guess.name, guess.meaning or "", guess.unit or "", f"{guess.filled:.0%}", ", ".join(guess.values))
    return table
