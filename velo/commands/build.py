"""`velo init`, `build`, `sql`, `status`, `doctor` and `down`: the store and its tables."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from velo.commands.edge import Json, facts, now, open_store, race_store, show, steps, table_of, with_environment
from velo.storage.store import given_id

if TYPE_CHECKING:
    from rich.table import Table

    from velo.streams.batch.build import BuildReport
    from velo.streams.batch.warehouse import Answer

COLUMNS_ABREAST: Final = 10


class Engine(StrEnum):
    """The engine that computes the tables of a build."""

    duckdb = "duckdb"
    spark = "spark"


def init(as_json: Json = False) -> None:
    """Create the store: its folder, time zone and key policy."""
    store = open_store().save()
    given_id(store.home)
    report = {"home": str(store.home.root), "timezone": store.timezone.key, "keys": store.keys}
    show(
        report,
        as_json,
        lambda: facts("store", [(name, value or "set by the first load") for name, value in report.items()]),
    )


@with_environment
def build(
    as_json: Json = False,
    whole: Annotated[bool, typer.Option("--whole", help="Recompute everything, not only what is new.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Also merge the Parquet files of each view into one.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(envvar="VELO_ENGINE", help="Engine that computes the tables; both give the same values.")
    ] = Engine.duckdb,
) -> None:
    """Bring all feature tables up to the end of the log and publish them in one step."""
    with steps(as_json) as progress:
        report = race_store().build(whole=whole, compact=compact, engine=engine.value, progress=progress)
    show(report, as_json, lambda: _built(report))


@with_environment
def sql(query: Annotated[str, typer.Argument(help="One SELECT statement.")], as_json: Json = False) -> None:
    """Query the warehouse in SQL: the feature tables, the messages and the daily tables."""
    from velo.streams.batch.warehouse import ask

    answer = ask(open_store(), query)
    rows: Any = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows] if as_json else None
    show(rows, as_json, lambda: _answer(answer))


@with_environment
def status(as_json: Json = False) -> None:
    """Show the state of the store: log end, position of the tables, Redis, model, next race, dead letters."""
    report = race_store().status()
    show(report, as_json, lambda: facts(f"store at {report.home}", report.lines()))


def doctor(as_json: Json = False) -> None:
    """Check this environment and the store, each fault with its remedy; exits 1 where something is wrong. Changes nothing."""
    from velo.api.doctor import doctor as examined

    found = examined(open_store, now())
    wrong = sum(not finding.ok for finding in found)
    title = f"{wrong} of {len(found)} checks failed" if wrong else "all is well"
    lines = [(finding.check, f"{'ok' if finding.ok else 'WRONG'}  {finding.says}") for finding in found]
    show(found, as_json, lambda: facts(title, lines))
    if wrong:
        raise typer.Exit(1)


def down(as_json: Json = False) -> None:
    """Stop the Redis that this store started; its data is kept."""
    from velo.feature_repo.stores.embedded_redis import down as stop

    stopped = stop(open_store().home)
    words = "embedded Redis stopped" if stopped else "no embedded Redis was running"
    show({"stopped": stopped}, as_json, lambda: words)


def _built(report: "BuildReport") -> "Table":
    what = "everything" if report.whole else "new messages"
    title = f"built {what} up to {report.known_at:%Y-%m-%d %H:%M:%S} UTC ({report.messages:,} messages)"
    rows = ((view, count, report.added[view]) for view, count in report.rows.items())
    table = table_of(title, ("view", "rows", "new"), rows, left=("view",))
    table.add_section()
    table.add_row("all", f"{sum(report.rows.values()):,}", f"{sum(report.added.values()):,}")
    return table


def _answer(answer: "Answer") -> "Table":
    caption = f"{len(answer.rows):,} rows" + (", the first of more" if answer.cut else "")
    if len(answer.columns) <= COLUMNS_ABREAST:
        return table_of(None, answer.columns, (map(_cell, row) for row in answer.rows), caption=caption)
    # too wide for a terminal: one line for each column, one block for each row
    table = table_of(None, ("column", "value"), (), caption=caption)
    for row in answer.rows:
        for name, value in zip(answer.columns, row, strict=True):
            table.add_row(name, _cell(value))
        table.add_section()
    return table


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
