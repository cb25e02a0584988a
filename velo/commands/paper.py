"""`velo paper`: bets on paper, the only mode for a model that has not passed the gate."""

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from velo.commands.edge import Json, now, open_store, plain, show
from velo.errors import UserError
from velo.storage.store import Store

if TYPE_CHECKING:
    from serving.paper import PaperRace, PaperStep
    from serving.paper_ledger import Ledger
    from streams.unbuilt_log import UnbuiltLog

POLL_SECONDS: Final = 2.0


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(paper)


def paper(
    once: Annotated[bool, typer.Option("--once", help="Decide and settle what can be now, and end.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until stopped (Ctrl-C); nothing is lost by it.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="What it has come to so far; writes nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bet on paper: each race at its decision time, at the odds known then, settled on the weighed-in result."""
    if [once, follow, report].count(True) != 1:
        raise UserError(
            "paper trading goes on (--follow), takes one step (--once) or tells of itself (--report): give one"
        )
    from serving.paper_ledger import read, writing
    from serving.paper_report import paper_reports, paper_table
    from streams.unbuilt_log import UnbuiltLog

    store = open_store()
    log = UnbuiltLog(store.home)
    said = Console(stderr=True)
    done: PaperStep | None = None
    if not report:
        with writing(store.home) as ledger:
            done = _step(store, log, ledger)
            _say(done, said)
            while follow:
                time.sleep(POLL_SECONDS)
                before, done = done, _step(open_store(), log, ledger)
                _say(done, said, before)
    told = paper_reports(read(store.home))
    show({"step": plain(done), "models": plain(told)} if as_json else None, as_json, lambda: paper_table(told))


def _step(store: Store, log: "UnbuiltLog", ledger: "Ledger") -> "PaperStep":
    """One step at the wall clock's now."""
    from serving.paper import step, trader_of
    from serving.score import score

    def scored(race_id: str, as_of: datetime, at: datetime) -> "PaperRace":
        return score(store, race_id, log=log, now=at, as_of=as_of)

    return step(store, log, ledger, trader_of(store.home), scored, now)


def _say(done: "PaperStep", said: Console, before: "PaperStep | None" = None) -> None:
    """What a step did, and what it newly waits for."""
    if done.decided or done.missed or done.settled:
        said.print(
            f"{done.decided} races decided, {done.bets} bets, {done.settled} settled, {done.missed} missed",
            highlight=False,
        )
    for line in done.waiting:
        if before is None or line not in before.waiting:
            said.print(f"waiting: {line}", highlight=False)
