"""`velo explain`: where each value of a runner came from."""

from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from velo.commands.edge import Json, race_store, show, with_environment
from velo.racing.names import name_key

if TYPE_CHECKING:
    from velo.streams.explain import Explained, ExplainedView, MadeOf

SHOWN = 8
"""Starts listed for each view in the terminal; `--json` lists all."""
DIFFERS = 1
"""Exit code when a stored value differs from the value recomputed from its starts."""


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(with_environment(explain))


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
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("feature", "value", "formula", "starts"):
        table.add_column(name, justify="right" if name in ("value", "starts") else "left")
    for feature in view.features:
        value = feature.value
        text = "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        table.add_row(
            feature.name, text if feature.agrees else f"{text} DIFFERS", feature.formula, str(len(feature.made_of))
        )
    starts = [Text(f"    {_start(start, view.key.values())}") for start in view.starts[:SHOWN]]
    left = len(view.starts) - SHOWN
    more = [Text(f"    and {left:,} older starts (--json lists them)")] if left > 0 else []
    return [*parts, table, *starts, *more]


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
