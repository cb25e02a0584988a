"""`velo log …` and `velo tick`: check, rebuild and tick the log."""

from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from velo.commands.edge import Files, Json, facts, instant, now, open_store, show, steps
from velo.commands.ingest import vars_of
from velo.errors import UserError

log_app = typer.Typer(no_args_is_help=True, help="Check or rebuild the append-only log.")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(log_app, name="log")
    app.command()(tick)


@log_app.command()
def check(as_json: Json = False) -> None:
    """Read the whole log and list every problem; exits 1 if there is one."""
    from velo.storage.log.reader import check as look

    problems = look(open_store().home)
    table = Table("where", "problem", "remedy", title=f"{len(problems):,} problems")
    for problem in problems:
        table.add_row(problem.where, problem.what, problem.remedy)
    show(problems, as_json, lambda: table if problems else "the log is intact")
    if problems:
        raise typer.Exit(1)


@log_app.command()
def rebuild(
    files: Files,
    source: Annotated[str, typer.Option(help="Importer of the files, as in `velo ingest`.")] = "runners",
    fresh: Annotated[bool, typer.Option("--fresh", help="Use the files only, not the messages in the log.")] = False,
    as_json: Json = False,
) -> None:
    """Make a new log from these files and the other messages in the log; the old log is kept beside it."""
    from velo.streams.importers.ingest import rebuild_from
    from velo.streams.importers.registry import results_importer, results_names

    store, importer = open_store(), results_importer(source)
    if importer is None:
        raise UserError(
            f"--source is {source!r}, which is not an importer of results: use {', '.join(results_names())}"
        )
    parsed = importer.read(files, store)
    with steps(as_json) as progress:
        report = rebuild_from(
            store, [parsed], fresh=fresh, clock=now, progress=lambda done, total: progress("append", done, total)
        )
    show(report, as_json, lambda: facts("log rebuilt", vars_of(report)))


def tick(
    at: Annotated[str | None, typer.Option(help="Time to tick for (ISO 8601; default: now).")] = None,
    as_json: Json = False,
) -> None:
    """Append a midnight tick so windows expire without new messages.

    An empty log gets no tick: it would make every result loaded afterwards late.
    """
    from velo.racing.clock import local_date, local_midnight
    from velo.storage.log.writer import LogWriter

    store = open_store().save()
    moment: datetime = instant(at) or now()
    midnight = local_midnight(local_date(moment, store.timezone), store.timezone)
    if midnight > now():
        raise UserError(f"--at is {at!r}, and that midnight is in the future: tick when it has passed")
    with LogWriter.open(store, clock=now) as writer:
        appended = writer.tick(midnight) if writer.next_seq else None
        writer.sync()
    outcome, seq = (appended.outcome, appended.seq) if appended else ("empty log", None)
    report = {"midnight": midnight.isoformat(), "outcome": outcome, "seq": seq}
    show(report, as_json, lambda: facts("tick", report.items()))
