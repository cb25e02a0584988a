"""`velo explain`: where each value of a runner came from."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from velo.commands.edge import Json, instant, now, open_store, show
from velo.errors import UserError

if TYPE_CHECKING:
    from velo.storage.store import Store
    from velo.streams.explain import Explained, ExplainedView, MadeOf

SHOWN = 8
"""Starts listed for each view in the terminal; `--json` lists all."""
DIFFERS = 1
"""Exit code when a stored value differs from the value recomputed from its starts."""


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(explain)


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
    explained = explained_at(open_store(), race_id, horse_id, now(), as_of=instant(as_of), lead=timedelta(minutes=lead))
    show(explained, as_json, lambda: report_of(explained))
    if explained.differences:
        raise typer.Exit(DIFFERS)


def explained_at(
    store: "Store", race_id: str, horse_id: str, at: datetime, *, as_of: datetime | None, lead: timedelta
) -> "Explained":
    """Explain a runner as of an instant (default: its race's decision time); `at` is now. Raises `UserError`."""
    from velo.racing.cards import decision_time, declared_at
    from velo.racing.clock import to_text
    from velo.racing.names import name_key
    from velo.serving.scoring.race_messages import messages_of_race
    from velo.streams.explain import explain as run

    if as_of is not None and as_of > at:
        raise UserError(f"--as-of {to_text(as_of)} is in the future: leave it out to explain what is known now")
    messages = messages_of_race(store.home, race_id).messages
    then = as_of or min(decision_time(messages, lead) or at, at)
    race = declared_at(messages, then)
    if race is None:
        raise UserError(f"race {race_id!r} had no declared runner by {to_text(then)}: give a later --as-of")
    keys = [runner.horse_id for runner in (*race.runners, *race.withdrawn)]
    named = [runner.horse_id for runner in race.runners if name_key(runner.horse) == name_key(horse_id)]
    return run(store, race, named[0] if horse_id not in keys and len(named) == 1 else horse_id)


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
    starts = [Text(f"    {_start(start)}") for start in view.starts[:SHOWN]]
    left = len(view.starts) - SHOWN
    more = [Text(f"    and {left:,} older starts (--json lists them)")] if left > 0 else []
    return [*parts, table, *starts, *more]


def _start(start: "MadeOf") -> str:
    if start.place_known:
        place = f"{start.position or 'no position'} of {start.field}"
    else:
        place = f"{'won' if start.won else 'place unknown'} of {start.field}"
    return (
        f"{start.race_date} {start.race_id} {start.horse_id}: {place}, known {start.known_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"version {start.result_version}"
    )
