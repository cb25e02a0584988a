"""`velo paper`: paper trading, the only mode for a model that has not passed the gate."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from velo.commands.edge import Json, now, open_store, show
from velo.errors import UserError
from velo.storage.jsonl import plain
from velo.storage.store import Store

if TYPE_CHECKING:
    from velo.serving.paper_trading.ledger import Ledger
    from velo.serving.paper_trading.trader import PaperRace, PaperStep
    from velo.streams.unbuilt_log import UnbuiltLog

POLL_SECONDS: Final = 2.0


def paper(
    once: Annotated[bool, typer.Option("--once", help="Decide and settle what is due now, then exit.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Run until stopped (Ctrl-C is safe).")] = False,
    place: Annotated[
        bool,
        typer.Option("--place", help="Also bet for a place on each horse bet on to win; the pool's dividend pays."),
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Show the results so far; writes nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bet on paper: decide each race at its decision time and odds, settle on the weighed-in result."""
    if [once, follow, report].count(True) != 1:
        raise UserError("velo paper needs exactly one of --once, --follow and --report: give one")
    from velo.serving.paper_trading.ledger import read, writing
    from velo.serving.paper_trading.report import paper_reports, paper_table
    from velo.streams.unbuilt_log import UnbuiltLog

    store = open_store()
    store.home.refuse_environment("bets")
    log = UnbuiltLog(store.home)
    console = Console(stderr=True)
    done: PaperStep | None = None
    if not report:
        with writing(store.home) as ledger:
            done = traded(store, log, ledger, now, places=place)
            _print_step(done, console)
            while follow:
                time.sleep(POLL_SECONDS)
                before, done = done, traded(open_store(), log, ledger, now, places=place)
                _print_step(done, console, before)
    reports = paper_reports(read(store.home))
    show({"step": plain(done), "models": plain(reports)} if as_json else None, as_json, lambda: paper_table(reports))


def traded(
    store: Store, log: "UnbuiltLog", ledger: "Ledger", clock: Callable[[], datetime], *, places: bool = False
) -> "PaperStep":
    """Take one step at the present of `clock` (UTC); with `places` it also bets for places."""
    from velo.serving.paper_trading.trader import step, trader_of
    from velo.serving.scoring.scorer import score

    def scored(race_id: str, as_of: datetime, at: datetime) -> "PaperRace":
        return score(store, race_id, log=log, now=at, as_of=as_of)

    return step(store, log, ledger, replace(trader_of(store.home), places=places), scored, clock)


def _print_step(done: "PaperStep", console: Console, before: "PaperStep | None" = None) -> None:
    """Print what a step did and what it waits for that the step before did not."""
    if done.decided or done.missed or done.settled:
        console.print(
            f"{done.decided} races decided, {done.bets} bets, {done.settled} settled, {done.missed} missed",
            highlight=False,
        )
    for line in done.waiting:
        if before is None or line not in before.waiting:
            console.print(f"waiting: {line}", highlight=False)
