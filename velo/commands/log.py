"""`velo log …` and `velo tick`: the log itself."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table

from velo.commands.edge import Files, Json, facts, instant, now, open_store, show, steps
from velo.commands.ingest import vars_of
from velo.errors import UserError

log_app = typer.Typer(no_args_is_help=True, help="The append-only log.")


class Source(StrEnum):
    """Whose files a log is rebuilt from."""

    RUNNERS = "runners"
    RACEFORM = "raceform"


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(log_app, name="log")
    app.command()(tick)


@log_app.command()
def check(as_json: Json = False) -> None:
    """Read the whole log and tell everything that is wrong with it; exits 1 where anything is."""
    from velo.storage.log.reader import check as look

    problems = look(open_store().home)
    table = Table("where", "what", "remedy", title=f"{len(problems):,} problems")
    for one in problems:
        table.add_row(one.where, one.what, one.remedy)
    show(problems, as_json, lambda: table if problems else "the log is whole")
    if problems:
        raise typer.Exit(1)


@log_app.command()
def rebuild(
    files: Files,
    source: Source = Source.RUNNERS,
    fresh: Annotated[bool, typer.Option("--fresh", help="Of the files alone, without what the log holds.")] = False,
    as_json: Json = False,
) -> None:
    """Make a new log of these files and of what the log holds besides; the old one is kept beside it."""
    from streams.importers.ingest import rebuild_from
    from streams.importers.raceform import read_raceform
    from streams.importers.runners import read_runner_tables

    store = open_store()
    parsed = (read_raceform if source is Source.RACEFORM else read_runner_tables)(files, store)
    with steps(as_json) as progress:
        report = rebuild_from(
            store, [parsed], fresh=fresh, clock=now, progress=lambda done, total: progress("append", done, total)
        )
    show(report, as_json, lambda: facts("log rebuilt", vars_of(report)))


def tick(
    at: Annotated[str | None, typer.Option(help="The instant to tick for (ISO 8601); now without it.")] = None,
    as_json: Json = False,
) -> None:
    """Tell the log that the clock passed the latest local midnight, so that windows empty with nobody there.

    An empty log is left alone: a tick would make every result that is loaded into it afterwards a late one.
    """
    from velo.racing.clock import local_date, local_midnight
    from velo.storage.log.writer import LogWriter

    store = open_store().save()
    moment: datetime = instant(at) or now()
    midnight = local_midnight(local_date(moment, store.timezone), store.timezone)
    if midnight > now():
        raise UserError(
            f"--at is {at!r}, which is still to come: a log holds what is known, so tick when it has passed"
        )
    with LogWriter.open(store, clock=now) as writer:
        appended = writer.tick(midnight) if writer.next_seq else None
        writer.sync()
    outcome, seq = (appended.outcome, appended.seq) if appended else ("empty log", None)
    report = {"midnight": midnight.isoformat(), "outcome": outcome, "seq": seq}
    show(report, as_json, lambda: facts("tick", report.items()))
