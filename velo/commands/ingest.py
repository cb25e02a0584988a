"""`velo ingest …`, `velo cards …` and `velo dead-letters`: what comes in, and what was refused."""

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
    from streams.importers.cards import DeclareReport
    from streams.importers.ingest import IngestReport
    from streams.importers.results import Parsed
    from velo.storage.store import Store

Late = Annotated[
    bool, typer.Option("--late", help="Take messages older than the log's end: they become known only now.")
]
Unneeded = Annotated[bool, typer.Option("--late", help="Not needed: starting prices of any day are taken.")]
ingest_app = typer.Typer(no_args_is_help=True, help="Append results to the log. The same file again adds nothing.")
cards_app = typer.Typer(no_args_is_help=True, help="Append racecards to the log: who is declared for which race.")
letters_app = typer.Typer(invoke_without_command=True, help="What was refused, and why.")


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
    """Append results to the log. The same file again adds nothing."""
    if follow and context.invoked_subcommand is None:
        follow_feed(redis=redis, kafka=kafka, url=url, brokers=brokers, partition=partition, once=once, as_json=as_json)
    elif context.invoked_subcommand is None or any((follow, redis, kafka, url, brokers, partition, once, as_json)):
        raise UserError(
            "velo ingest takes files or follows a feed: name the files' form, as in `velo ingest runners FILE`, "
            "or say `velo ingest --follow --redis KEY`"
        )


@ingest_app.command()
def runners(files: Files, late: Late = False, as_json: Json = False) -> None:
    """Results in the neutral form: CSV or Parquet, one row a declared runner."""
    from streams.importers.runners import read_runner_tables

    store = open_store()
    _load(store, read_runner_tables(files, store), late=late, as_json=as_json)


@ingest_app.command()
def raceform(files: Files, late: Late = False, as_json: Json = False) -> None:
    """Results as raceform or rpscrape write them (CSV, offs in London time)."""
    from streams.importers.raceform import read_raceform

    store = open_store()
    _load(store, read_raceform(files, store), late=late, as_json=as_json)


@ingest_app.command("betfair-sp")
def betfair_sp(files: Files, late: Unneeded = False, as_json: Json = False) -> None:  # noqa: ARG001 accepted, unused
    """Betfair starting prices (the public CSV), added to races already in the log, however old."""
    from streams.importers.betfair_load import ingest_betfair_sp

    with steps(as_json) as progress:
        report = ingest_betfair_sp(
            open_store(), files, clock=now, progress=lambda done, total: progress("append", done, total)
        )
    unmatched = Table("row", "why")
    for one in report.unmatched[:20]:
        unmatched.add_row(f"{one.path.name}:{one.line} {one.selection}", f"{one.reason}: {one.detail}")
    told = [
        ("rows", report.rows),
        ("races priced", report.races),
        ("prices", report.prices),
        ("repeated rows", report.repeated),
        ("unmatched rows", len(report.unmatched)),
    ]
    told += [("appended", report.appended), ("already there", report.identical)]
    show(report, as_json, lambda: Group(facts("betfair-sp", told), unmatched if report.unmatched else Text("")))


@cards_app.command("runners")
def card_runners(files: Files, late: Late = False, as_json: Json = False) -> None:
    """Racecards in the neutral form: the runner table without outcomes. One without known_at is known on arrival."""
    from streams.importers.cards import declare, read_cards

    store = open_store()
    _declared(declare(store, read_cards(files, store), clock=now, late=late), as_json)


@cards_app.command("rpscrape")
def card_rpscrape(files: Files, late: Late = False, as_json: Json = False) -> None:
    """Racecards as rpscrape writes them (JSON), with their non-runners; a reserve is declared once it has a run."""
    from streams.importers.cards import declare
    from streams.importers.rpscrape_cards import read_rpscrape_cards

    store = open_store()
    _declared(declare(store, read_rpscrape_cards(files, store), clock=now, late=late), as_json)


@letters_app.callback()
def dead_letters(context: typer.Context, as_json: Json = False) -> None:
    """What was refused and why, oldest first."""
    if context.invoked_subcommand is not None:
        return
    from streams.importers.dead_letters import read

    letters = read(open_store().home)
    table = Table(title=f"{len(letters):,} dead letters")
    for name in ("source", "race", "version", "reason", "detail"):
        table.add_column(name)
    for one in letters:
        table.add_row(one.source, one.race_id or "", str(one.result_version or ""), one.reason, one.detail)
    show(letters, as_json, lambda: table)


@letters_app.command()
def replay(
    file: Annotated[
        Path | None, typer.Option(help="An export mended by hand; without it the rows as they were.")
    ] = None,
    late: Late = False,
    as_json: Json = False,
) -> None:
    """Try refused races again after a fix; those that pass are appended and their letters closed."""
    from streams.importers.replay import replay as again

    report = again(open_store(), file, late=late, clock=now)
    told = [("tried", report.tried), ("taken", report.taken), ("appended", report.appended)]
    told += [("already there", report.identical), ("still refused", len(report.refused))]
    reasons = "\n".join(f"  {letter}: {why}" for letter, why in report.refused.items())
    show(report, as_json, lambda: Group(facts("replay", told), Text(reasons)))


@letters_app.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The CSV to write.")],
    source: Annotated[str | None, typer.Option(help="Only letters of this importer.")] = None,
    as_json: Json = False,
) -> None:
    """Write the refused rows to a CSV, to be mended by hand and replayed."""
    from streams.importers.dead_letters import export as write

    rows = write(open_store().home, out, source)
    show({"rows": rows, "file": str(out)}, as_json, lambda: f"{rows:,} rows in {out}")


def vars_of(report: Any) -> list[tuple[str, Any]]:
    """A report's fields as lines."""
    from dataclasses import fields

    return [(one.name.replace("_", " "), getattr(report, one.name)) for one in fields(report)]


def _declared(report: "DeclareReport", as_json: bool) -> None:
    told = [("races", len(report.races)), ("runners", report.rows), ("non-runners", report.non_runners)]
    told += [("appended", report.appended), ("already there", report.identical)]
    told += [("refused", sum(report.refused.values()))]
    notes = [f"  refused {count:,} × {reason}" for reason, count in sorted(report.refused.items())]
    notes += [f"  note: {count:,} × {warning}" for warning, count in sorted(report.warnings.items())]
    show(report, as_json, lambda: Group(facts("cards", told), Text("\n".join(notes))))


def _load(store: "Store", parsed: "Parsed", *, late: bool, as_json: bool) -> None:
    from streams.importers.ingest import ingest

    with steps(as_json) as progress:
        report = ingest(
            store, parsed, late=late, clock=now, progress=lambda done, total: progress("append", done, total)
        )
    show(report, as_json, lambda: _loaded(report))


def _loaded(report: "IngestReport") -> Group:
    told = [
        ("rows", report.rows),
        ("races", report.races),
        ("appended", report.appended),
        ("already there", report.identical),
        ("lower version", report.lower_version),
        ("refused", sum(report.refused.values())),
        ("log ends before", report.next_seq),
    ]
    notes = [f"  refused {count:,} × {reason}" for reason, count in sorted(report.refused.items())]
    notes += [f"  note: {count:,} × {warning}" for warning, count in sorted(report.warnings.items())]
    if report.refused:
        notes.append("  the refused races are kept with their rows: `velo dead-letters` lists them")
    return Group(facts(f"ingest {report.source}", told), Text("\n".join(notes)))
