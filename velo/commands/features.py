"""`velo features`: features of entities at given instants; a new module of own features; tests of declared features."""

from pathlib import Path
from typing import Annotated

import typer

from velo.commands.edge import Json, facts, open_store, race_store, show, with_environment
from velo.errors import UserError

app = typer.Typer(invoke_without_command=True)


def register(root: typer.Typer) -> None:
    """Add these commands to the command line."""
    root.add_typer(app, name="features")
    root.command()(with_environment(catalogue))


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
