"""`velo features`, `velo catalogue` and `velo explain`: values at given instants, declared features, and where a value came from."""

from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from velo.commands.edge import Json, facts, open_store, race_store, show, table_of, with_environment
from velo.errors import UserError
from velo.racing.names import name_key

if TYPE_CHECKING:
    from velo.streams.explain import Explained, ExplainedView, MadeOf

SHOWN = 8
"""Starts listed for each view in the terminal; `--json` lists all."""
DIFFERS = 1
"""Exit code when a stored value differs from the value recomputed from its starts."""
app = typer.Typer(name="features", invoke_without_command=True)


@app.callback()
@with_environment
def features(
    context: typer.Context,
    entities: Annotated[
        Path | None, typer.Option(help="Parquet or CSV file with entity columns and event_timestamp.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet or CSV file to write.")] = None,
    as_json: Json = False,
) -> None:
    """Get the features of entities at given instants (--entities, --out), or declare and test features of your own."""
    if context.invoked_subcommand is not None:
        return
    if entities is None or out is None:
        missing = "--entities" if entities is None else "--out"
        raise UserError(f"{missing} is missing: name a Parquet or CSV file, or see `velo features --help`")
    from velo.feature_repo.historical import read_entities, write

    joined = race_store().features_of(read_entities(entities), str(entities))
    write(joined.table, out)
    rows, columns = joined.table.shape
    report = {"rows": rows, "columns": columns, "views": joined.views}
    show(report, as_json, lambda: facts("features", [("rows", rows), ("columns", columns), ("in", out)]))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the module, such as my_features.")], as_json: Json = False
) -> None:
    """Write an example of own features with its test into this folder, and velo.toml that names it."""
    from velo.feature_repo.catalogue.own_example import write_example

    written = [str(path) for path in write_example(Path.cwd(), name)]
    show({"written": written}, as_json, lambda: facts("own features", [("written", path) for path in written]))


@app.command("test")
def run_tests(
    file: Annotated[Path | None, typer.Argument(help="File of tests that use velo.testing.")] = None,
    results: Annotated[int, typer.Option(min=1, help="Without a file: how many last results of the log to use.")] = 200,
    as_json: Json = False,
) -> None:
    """Compute own features three ways, by SQL, stream and brute force: in a file's tests, or over the log's last results."""
    from velo.testing import run_file, sampled

    report = run_file(file) if file is not None else sampled(open_store(), results)
    show(report, as_json, lambda: facts("features tested", list(report.items())))
    if any(said != "ok" for said in report.values()):
        raise typer.Exit(1)


@with_environment
def catalogue(
    views: Annotated[list[str] | None, typer.Argument(metavar="[VIEW]…", help="Views to show (default: all).")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a page of documents.")] = False,
    as_json: Json = False,
) -> None:
    """List every feature: formula, unit, window, what null means, its coverage and its view's last update."""
    from velo.streams.catalogue_report import catalogue as listed
    from velo.streams.catalogue_report import markdown, tables

    report = listed(open_store(), views or ())
    if as_markdown and not as_json:
        typer.echo(markdown(report))
        return
    show(report, as_json, lambda: tables(report))


@with_environment
def explain(
    race_id: Annotated[str, typer.Argument(help="A race in the log, declared or run.")],
    horse_id: Annotated[str, typer.Argument(help="One of its runners, by key or by name.")],
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Explain what was known at this time (ISO 8601).")
    ] = None,
    lead: Annotated[float, typer.Option(min=0, help="Decision time, in minutes before the off.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Show each feature of a runner: its value, its formula in words, and the starts behind it.

    The default instant is the race's decision time. Every value is recomputed from those starts and compared with the
    tables; exits 1 if any differs.
    """
    explained = race_store().explain(race_id, horse_id, as_of=as_of, lead=timedelta(minutes=lead))
    show(explained, as_json, lambda: report_of(explained))
    if explained.differences:
        raise typer.Exit(DIFFERS)


def report_of(explained: "Explained") -> Group:
    """Format the explanation for the terminal; colour is never the only sign."""
    head = f"{explained.horse} in {explained.race_id} · as of {explained.instant:%Y-%m-%d %H:%M:%S} UTC"
    lines: list[Any] = [Text(head, style="bold"), Text(f"runners by {explained.declared_by}")]
    if explained.tables_until < explained.instant:
        end = f"the tables end at {explained.tables_until:%Y-%m-%d %H:%M:%S} UTC"
        lines.append(Text(f"{end} and these values are as of then: run `velo build` for later values"))
    if explained.differences:
        warning = "THE TABLES DIFFER FROM THEIR STARTS: do not trust these values, run `velo build --whole`"
        lines += [
            Text(warning, style="bold reverse"),
            *(Text(f"  {difference}") for difference in explained.differences),
        ]
    for view in explained.views:
        lines += _view(view)
    return Group(*lines)


def _view(view: "ExplainedView") -> list[Any]:
    key = ", ".join(f"{name} {value or 'unknown'}" for name, value in view.key.items())
    parts = [Text(f"\n{view.view}: {view.about} · {key}", style="bold")]
    if view.event_timestamp is None:
        return [*parts, Text("  no row: no start of this key was known")]
    until = f"valid until {view.valid_until:%Y-%m-%d %H:%M} UTC" if view.valid_until else "valid until the next start"
    parts.append(Text(f"  row of {view.event_timestamp:%Y-%m-%d %H:%M:%S.%f} UTC, {until}{' [stale]' * view.stale}"))
    rows = (
        (feature.name, f"{_shown(feature.value)}{'' if feature.agrees else ' DIFFERS'}", feature.formula,
         len(feature.made_of))
        for feature in view.features
    )  # fmt: skip
    columns = ("feature", "value", "formula", "starts")
    table = table_of(None, columns, rows, left=("feature", "formula"), box=None, padding=(0, 2, 0, 0))
    starts = [Text(f"    {_start(start, view.key.values())}") for start in view.starts[:SHOWN]]
    left = len(view.starts) - SHOWN
    more = [Text(f"    and {left:,} older starts (--json lists them)")] if left > 0 else []
    return [*parts, table, *starts, *more]


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _start(start: "MadeOf", key: Collection[str | None]) -> str:
    """One line on a start; its name there where that is not the view's key, as under an alias."""
    if start.place_known:
        place = f"{start.position or 'no position'} of {start.field}"
    else:
        place = f"{'won' if start.won else 'place unknown'} of {start.field}"
    named = f" as {start.named!r}" if start.named and name_key(start.named) not in key else ""
    return (
        f"{start.race_date} {start.race_id} {start.horse_id}{named}: {place}, known {start.known_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"version {start.result_version}"
    )
