"""`velo log …`, `velo tick` and `velo names …`: check, rebuild and tick the log; record in it which keys are one."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from velo.commands.edge import Files, Json, facts, instant, now, open_store, show, steps, table_of
from velo.commands.ingest import vars_of
from velo.errors import Refused, UserError

log_app = typer.Typer(name="log", no_args_is_help=True, help="Check or rebuild the append-only log.")
names_app = typer.Typer(
    name="names", no_args_is_help=True, help="Find keys that mean one horse, jockey or trainer, and record it."
)


@log_app.command()
def check(as_json: Json = False) -> None:
    """Read the whole log and list every problem; exits 1 if there is one."""
    from velo.storage.log.reader import check as look

    problems = look(open_store().home)
    rows = ((problem.where, problem.what, problem.remedy) for problem in problems)
    table = table_of(f"{len(problems):,} problems", ("where", "problem", "remedy"), rows)
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
    rows = (
        (each.of, each.key, each.same_as, f"{each.starts_key} + {each.starts_same_as}", each.evidence)
        for each in proposals
    )
    title = f"{len(proposals):,} proposals, written to {out}"
    table = table_of(title, ("of", "key", "same as", "starts", "evidence"), rows)
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
    columns = ("of", "key", "same as", "outcome", "messages repeated", "reason")
    rows = (["" if value is None else value for value in each.values()] for each in outcomes)
    show(outcomes, as_json, lambda: table_of("aliases", columns, rows))
    if any(each["outcome"] == "refused" for each in outcomes):
        raise typer.Exit(1)


@names_app.command("list")
def in_force(as_json: Json = False) -> None:
    """List the aliases in force, and when each was recorded."""
    from velo.storage.log.reader import aliases

    found = aliases(open_store().home)
    rows = ((alias.of, alias.key, alias.same_as or "", alias.known_at) for alias in found)
    show(found, as_json, lambda: table_of(f"{len(found):,} aliases", ("of", "key", "same as", "known at"), rows))
