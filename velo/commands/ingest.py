"""`velo ingest …`, `velo cards …` and `velo dead-letters`: load results and racecards, list and replay refusals."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from velo.commands.edge import Files, Json, facts, now, open_store, show, steps
from velo.commands.feed import Brokers, Follow, KafkaTopic, Once, Partition, RedisKey, Url, follow_feed
from velo.errors import UserError

if TYPE_CHECKING:
    from velo.storage.store import Store
    from velo.streams.importers.cards import DeclareReport
    from velo.streams.importers.ingest import IngestReport
    from velo.streams.importers.results import Parsed

Late = Annotated[bool, typer.Option("--late", help="Accept older messages; set their known_at to now.")]
Unneeded = Annotated[bool, typer.Option("--late", help="Has no effect: starting prices of any day are accepted.")]
ingest_app = typer.Typer(no_args_is_help=True, help="Append results to the log. Duplicates are ignored.")
cards_app = typer.Typer(no_args_is_help=True, help="Append racecards to the log; list or restore those in Redis.")
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


@ingest_app.command()
def runners(files: Files, late: Late = False, as_json: Json = False) -> None:
    """Load results from runner tables: CSV or Parquet, one row for each declared runner."""
    from velo.streams.importers.runners import read_runner_tables

    store = open_store()
    _load(store, read_runner_tables(files, store), late=late, as_json=as_json)


@ingest_app.command()
def raceform(files: Files, late: Late = False, as_json: Json = False) -> None:
    """Load results from raceform or rpscrape CSV files (off times in London time)."""
    from velo.streams.importers.raceform import read_raceform

    store = open_store()
    _load(store, read_raceform(files, store), late=late, as_json=as_json)


@ingest_app.command("betfair-sp")
def betfair_sp(files: Files, late: Unneeded = False, as_json: Json = False) -> None:  # noqa: ARG001 accepted, unused
    """Load Betfair starting prices (the public CSV) for races already in the log, of any age."""
    from velo.streams.importers.betfair_load import ingest_betfair_sp

    with steps(as_json) as progress:
        report = ingest_betfair_sp(
            open_store(), files, clock=now, progress=lambda done, total: progress("append", done, total)
        )
    unmatched = Table("row", "reason")
    for row in report.unmatched[:20]:
        unmatched.add_row(f"{row.path.name}:{row.line} {row.selection}", f"{row.reason}: {row.detail}")
    rows = [
        ("rows", report.rows),
        ("races priced", report.races),
        ("prices", report.prices),
        ("repeated rows", report.repeated),
        ("unmatched rows", len(report.unmatched)),
    ]
    rows += [("appended", report.appended), ("duplicates", report.identical)]
    show(report, as_json, lambda: Group(facts("betfair-sp", rows), unmatched if report.unmatched else Text("")))


@cards_app.command("runners")
def card_runners(files: Files, late: Late = False, as_json: Json = False) -> None:
    """Load racecards from runner tables without outcomes. A card without known_at is known on arrival."""
    from velo.streams.importers.cards import declare, read_cards

    store = open_store()
    _declared(declare(store, read_cards(files, store), clock=now, late=late), as_json)


@cards_app.command("rpscrape")
def card_rpscrape(files: Files, late: Late = False, as_json: Json = False) -> None:
    """Load racecards and non-runners from rpscrape JSON files; a reserve is declared once it has a run."""
    from velo.streams.importers.cards import declare
    from velo.streams.importers.rpscrape_cards import read_rpscrape_cards

    store = open_store()
    _declared(declare(store, read_rpscrape_cards(files, store), clock=now, late=late), as_json)


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


def _declared(report: "DeclareReport", as_json: bool) -> None:
    rows = [("races", len(report.races)), ("runners", report.rows), ("non-runners", report.non_runners)]
    rows += [("appended", report.appended), ("duplicates", report.identical)]
    rows += [("refused", sum(report.refused.values()))]
    notes = [f"  refused {count:,} × {reason}" for reason, count in sorted(report.refused.items())]
    notes += [f"  note: {count:,} × {warning}" for warning, count in sorted(report.warnings.items())]
    show(report, as_json, lambda: Group(facts("cards", rows), Text("\n".join(notes))))


def _load(store: "Store", parsed: "Parsed", *, late: bool, as_json: bool) -> None:
    from velo.streams.importers.ingest import ingest

    with steps(as_json) as progress:
        report = ingest(
            store, parsed, late=late, clock=now, progress=lambda done, total: progress("append", done, total)
        )
    show(report, as_json, lambda: _loaded(report))


def _loaded(report: "IngestReport") -> Group:
    rows = [
        ("rows", report.rows),
        ("races", report.races),
        ("appended", report.appended),
        ("duplicates", report.identical),
        ("lower versions", report.lower_version),
        ("refused", sum(report.refused.values())),
        ("next seq", report.next_seq),
    ]
    notes = [f"  refused {count:,} × {reason}" for reason, count in sorted(report.refused.items())]
    notes += [f"  note: {count:,} × {warning}" for warning, count in sorted(report.warnings.items())]
    if report.refused:
        notes.append("  `velo dead-letters` lists the refused races")
    return Group(facts(f"ingest {report.source}", rows), Text("\n".join(notes)))
