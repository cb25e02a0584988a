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
    from streams.explain import Explained, ExplainedView, MadeOf
    from velo.storage.store import Store

SHOWN = 8
"""How many of a view's starts the terminal lists; `--json` has all."""
DIFFERS = 1
"""Exit code where the tables hold something else than their starts make."""


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(explain)


def explain(
    race_id: Annotated[str, typer.Argument(help="A race that was declared or run.")],
    horse_id: Annotated[str, typer.Argument(help="One of its runners, by key or name.")],
    as_of: Annotated[str | None, typer.Option("--as-of", help="What was known then (ISO 8601).")] = None,
    lead: Annotated[float, typer.Option(min=0, help="Minutes before the off at which a race is decided.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Each feature of a runner: its value, its formula in words, and the starts that made it.

    As of the race's decision time unless told otherwise. Every value is made again from those starts and held against
    the tables; where they differ it says so, and exits 1.
    """
    explained = explained_at(open_store(), race_id, horse_id, now(), as_of=instant(as_of), lead=timedelta(minutes=lead))
    show(explained, as_json, lambda: told(explained))
    if explained.differences:
        raise typer.Exit(DIFFERS)


def explained_at(
    store: "Store", race_id: str, horse_id: str, at: datetime, *, as_of: datetime | None, lead: timedelta
) -> "Explained":
    """A runner explained as of an instant, or the decision time of its race; `at` is the present. Raises `UserError`."""
    from serving.race_messages import messages_of_race
    from streams.explain import explain as run
    from velo.racing.cards import decision_time, declared_at
    from velo.racing.clock import to_text
    from velo.racing.names import name_key

    if as_of is not None and as_of > at:
        raise UserError(f"--as-of {to_text(as_of)} is still to come: leave it out to explain what is known now")
    messages = messages_of_race(store.home, race_id).messages
    then = as_of or min(decision_time(messages, lead) or at, at)
    race = declared_at(messages, then)
    if race is None:
        raise UserError(f"race {race_id!r} had no declared runner by {to_text(then)}: ask for a later instant")
    keys = [one.horse_id for one in (*race.runners, *race.withdrawn)]
    named = [one.horse_id for one in race.runners if name_key(one.horse) == name_key(horse_id)]
    return run(store, race, named[0] if horse_id not in keys and len(named) == 1 else horse_id)


def told(explained: "Explained") -> Group:
    """The explanation for the terminal; nothing is told by colour alone."""
    head = f"{explained.horse} in {explained.race_id} · as of {explained.instant:%Y-%m-%d %H:%M:%S} UTC"
    lines: list[Any] = [Text(head, style="bold"), Text(f"runners by {explained.declared_by}")]
    if explained.tables_until < explained.instant:
        end = f"the build ends at {explained.tables_until:%Y-%m-%d %H:%M:%S} UTC"
        lines.append(Text(f"{end}: these are the values of that end, run `velo build` for later ones"))
    if explained.differences:
        what = "THE TABLES DIFFER FROM WHAT THEIR STARTS MAKE: lean on nothing here, run `velo build --whole`"
        lines += [Text(what, style="bold reverse"), *(Text(f"  {one}") for one in explained.differences)]
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
    for one in view.features:
        value = "–" if one.value is None else f"{one.value:.4g}" if isinstance(one.value, float) else str(one.value)
        table.add_row(one.name, value if one.agrees else f"{value} DIFFERS", one.formula, str(len(one.made_of)))
    starts = [Text(f"    {_start(one)}") for one in view.starts[:SHOWN]]
    left = len(view.starts) - SHOWN
    more = [Text(f"    and {left:,} older ones (--json lists them)")] if left > 0 else []
    return [*parts, table, *starts, *more]


def _start(one: "MadeOf") -> str:
    if one.place_known:
        place = f"{one.position or 'no position'} of {one.field}"
    else:
        place = f"{'won' if one.won else 'place unknown'} of {one.field}"
    return (
        f"{one.race_date} {one.race_id} {one.horse_id}: {place}, known {one.known_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"version {one.result_version}"
    )
