"""What paper trading has come to so far: A/E, ROI and closing-line value with their intervals, a model at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from velo.racing.settlement import Outcome
from velo.resampling import Days, Figure
from velo.serving.paper_trading.ledger import Book, Decision, PaperBet, SettledBet

SEED = 1


@dataclass(frozen=True, slots=True)
class PaperReport:
    """One model's bets. `n` were won or lost; `open` wait for their result, `void` had their stake back, `unsettled` have no
    price to settle at. `missed` are races whose off came first.

    A/E is winners ÷ expected winners, by the model's p and by 1 ÷ the settled price. Intervals are 95 %, by
    resampling whole race days; None with fewer than ten. `profit` is in units.
    """

    bundle: str
    mode: str
    rule: str
    races: int
    missed: int
    n: int
    open: int
    void: int
    unsettled: int
    wins: float
    profit: float
    ae_model: Figure
    ae_price: Figure
    roi: Figure
    clv: Figure


def paper_reports(book: Book) -> tuple[PaperReport, ...]:
    """A report of each model in the ledger, in the order they began."""
    bundles = dict.fromkeys(one.bundle for one in book.decisions.values())
    return tuple(_report(book, bundle) for bundle in bundles)


def paper_table(reports: Sequence[PaperReport]) -> Group:
    """The reports as rich shows them."""
    if not reports:
        return Group(Text("nothing was decided on paper yet: run `velo paper --follow` on race days"))
    parts = []
    for one in reports:
        table = Table(title=f"{one.bundle} · {one.mode} · {one.rule}", title_justify="left", show_header=False)
        for name, value in (
            ("races decided", f"{one.races:,} ({one.missed:,} missed)"),
            ("bets won or lost", f"{one.n:,}, {one.wins:g} won"),
            ("open, void, unsettled", f"{one.open:,}, {one.void:,}, {one.unsettled:,}"),
            ("profit", f"{one.profit:+.2f} units"),
            ("A/E, model p", _shown(one.ae_model)),
            ("A/E, 1/price", _shown(one.ae_price)),
            ("ROI", _shown(one.roi, 100.0, " %")),
            (f"closing-line value of {one.clv.n:,}", _shown(one.clv, 100.0, " %")),
        ):
            table.add_row(name, value)
        parts.append(table)
    return Group(*parts)


def _report(book: Book, bundle: str) -> PaperReport:
    decisions = [one for one in book.decisions.values() if one.bundle == bundle]
    rows = [row for one in decisions for row in _rows(book, one)]
    outcomes = [settled.outcome for *_, settled in rows if settled is not None]
    done = [
        (race_date, bet, settled)
        for race_date, bet, settled in rows
        if settled is not None and settled.outcome in {Outcome.WON.value, Outcome.LOST.value}
    ]
    days = Days.of_dates(np.array([race_date for race_date, *_ in done], dtype="datetime64[D]"), SEED)
    share, p, price, profit, stake, taken, closing = (
        np.array(values, dtype=np.float64)
        for values in (
            [settled.share for *_, settled in done],
            [bet.p for _, bet, _ in done],
            [settled.price for *_, settled in done],
            [settled.profit for *_, settled in done],
            [bet.stake for _, bet, _ in done],
            [bet.price for _, bet, _ in done],
            [settled.closing for *_, settled in done],
        )
    )
    clv = taken / closing - 1.0
    told = ~np.isnan(clv)
    last = decisions[-1]
    return PaperReport(
        bundle=bundle,
        mode=last.mode,
        rule=last.rule,
        races=sum(one.missed is None for one in decisions),
        missed=sum(one.missed is not None for one in decisions),
        n=len(done),
        open=sum(settled is None for *_, settled in rows),
        void=outcomes.count(Outcome.VOID.value),
        unsettled=outcomes.count(Outcome.UNSETTLED.value),
        wins=float(share.sum()),
        profit=float(profit.sum()),
        ae_model=days.ratio(share, p),
        ae_price=days.ratio(share, 1.0 / price),
        roi=days.ratio(profit, stake),
        clv=days.where(told).mean(clv[told]),
    )


def _rows(book: Book, decision: Decision) -> list[tuple[str, PaperBet, SettledBet | None]]:
    settlement = book.settlements.get(decision.key)
    told = {one.horse_id: one for one in settlement.bets} if settlement else {}
    return [(decision.race_date, bet, told.get(bet.horse_id)) for bet in decision.bets]


def _shown(figure: Figure, times: float = 1.0, unit: str = "") -> str:
    if figure.value is None:
        return "–"
    value = f"{figure.value * times:.2f}{unit}"
    if figure.low is None or figure.high is None:
        return f"{value} (fewer than ten race days: no interval)"
    return f"{value} [{figure.low * times:.2f}, {figure.high * times:.2f}]"
