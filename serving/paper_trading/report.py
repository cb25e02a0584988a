"""The results of paper trading by model: A/E, ROI and closing-line value with their intervals."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.text import Text

from velo.racing.settlement import Outcome
from velo.resampling import Days, Figure
from velo.serving.paper_trading.ledger import WIN, Book, Decision, PaperBet, SettledBet
from velo.text_tables import facts

Floats = NDArray[np.float64]
SEED = 1


@dataclass(frozen=True, slots=True)
class PaperReport:
    """One model's bets: `n` won or lost, `open` without a result, `void` with their stake returned, `unsettled` without a price.

    `missed` counts races whose off came before the decision. A/E is winners ÷ expected winners, by the model's p and by
    1 ÷ the settled price. Intervals are 95 %, by resampling whole race days; None with fewer than ten. `profit` is in units.
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
    places: "PlaceBets | None" = None


@dataclass(frozen=True, slots=True)
class PlaceBets:
    """One model's place bets, one unit each, paid by the pool's dividends: `n` won or lost; A/E is by the model's place chance."""

    n: int
    open: int
    void: int
    unsettled: int
    won: float
    profit: float
    ae_model: Figure
    roi: Figure


def paper_reports(book: Book) -> tuple[PaperReport, ...]:
    """One report per model in the ledger, in the order of their first decisions."""
    bundles = dict.fromkeys(decision.bundle for decision in book.decisions.values())
    return tuple(_report(book, bundle) for bundle in bundles)


def paper_table(reports: Sequence[PaperReport]) -> Group:
    """The reports as tables for the terminal."""
    if not reports:
        return Group(Text("no paper decisions yet: run `velo paper --follow` on race days"))
    parts = []
    for report in reports:
        rows = (
            ("races decided", f"{report.races:,} ({report.missed:,} missed)"),
            ("bets won or lost", f"{report.n:,}, {report.wins:g} won"),
            ("open, void, unsettled", f"{report.open:,}, {report.void:,}, {report.unsettled:,}"),
            ("profit", f"{report.profit:+.2f} units"),
            ("A/E, model p", _shown(report.ae_model)),
            ("A/E, 1/price", _shown(report.ae_price)),
            ("ROI", _shown(report.roi, 100.0, " %")),
            (f"closing-line value of {report.clv.n:,}", _shown(report.clv, 100.0, " %")),
            *_place_lines(report.places),
        )
        parts.append(facts(f"{report.bundle} · {report.mode} · {report.rule}", rows))
    return Group(*parts)


def _place_lines(places: PlaceBets | None) -> list[tuple[str, str]]:
    if places is None:
        return []
    return [
        ("place bets won or lost", f"{places.n:,}, {places.won:g} won"),
        ("place bets open, void, unsettled", f"{places.open:,}, {places.void:,}, {places.unsettled:,}"),
        ("profit of place bets", f"{places.profit:+.2f} units"),
        ("A/E of place bets, model p", _shown(places.ae_model)),
        ("ROI of place bets, by dividends", _shown(places.roi, 100.0, " %")),
    ]


def _report(book: Book, bundle: str) -> PaperReport:
    decisions = [decision for decision in book.decisions.values() if decision.bundle == bundle]
    every = [row for decision in decisions for row in _rows(book, decision)]
    rows = [row for row in every if row[1].pool == WIN]
    for_places = [row for row in every if row[1].pool != WIN]
    counts, days, (share, p, price, profit, stake, taken, closing) = _settled(rows)
    clv = taken / closing - 1.0
    known = ~np.isnan(clv)
    last = decisions[-1]
    return PaperReport(
        bundle=bundle,
        mode=last.mode,
        rule=last.rule,
        races=sum(decision.missed is None for decision in decisions),
        missed=sum(decision.missed is not None for decision in decisions),
        **counts,
        wins=float(share.sum()),
        profit=float(profit.sum()),
        ae_model=days.ratio(share, p),
        ae_price=days.ratio(share, 1.0 / price),
        roi=days.ratio(profit, stake),
        clv=days.where(known).mean(clv[known]),
        places=_place_bets(for_places) if for_places else None,
    )


def _settled(rows: Sequence[tuple[str, PaperBet, SettledBet | None]]) -> tuple[dict[str, int], Days, Floats]:
    """The bets by state; and of those won or lost the race days, and (values, bets): share of the win, p, price, profit, stake, price taken, closing price."""
    outcomes = Counter(None if settled is None else settled.outcome for *_, settled in rows)
    done = [
        (race_date, bet, settled)
        for race_date, bet, settled in rows
        if settled is not None and settled.outcome in {Outcome.WON.value, Outcome.LOST.value}
    ]
    counts = {"n": len(done), "open": outcomes[None]}
    counts |= {"void": outcomes[Outcome.VOID.value], "unsettled": outcomes[Outcome.UNSETTLED.value]}
    days = Days.of_dates(np.array([race_date for race_date, *_ in done], dtype="datetime64[D]"), SEED)
    # the price that was taken is settled less what withdrawals since cost
    values = [
        (settled.share, bet.p, settled.price, settled.profit, bet.stake, None if bet.price is None else settled.price,
         settled.closing)
        for _, bet, settled in done
    ]  # fmt: skip
    return counts, days, np.array(values, dtype=np.float64).reshape(len(done), 7).T


def _place_bets(rows: Sequence[tuple[str, PaperBet, SettledBet | None]]) -> PlaceBets:
    counts, days, (share, p, _, profit, stake, *_) = _settled(rows)
    return PlaceBets(
        **counts,
        won=float(share.sum()),
        profit=float(profit.sum()),
        ae_model=days.ratio(share, p),
        roi=days.ratio(profit, stake),
    )


def _rows(book: Book, decision: Decision) -> list[tuple[str, PaperBet, SettledBet | None]]:
    settlement = book.settlements.get(decision.key)
    settled = {(bet.horse_id, bet.pool): bet for bet in settlement.bets} if settlement else {}
    return [(decision.race_date, bet, settled.get((bet.horse_id, bet.pool))) for bet in decision.bets]


def _shown(figure: Figure, times: float = 1.0, unit: str = "") -> str:
    if figure.value is None:
        return "–"
    value = f"{figure.value * times:.2f}{unit}"
    if figure.low is None or figure.high is None:
        return f"{value} (fewer than ten race days: no interval)"
    return f"{value} [{figure.low * times:.2f}, {figure.high * times:.2f}]"
