"""Paper bets settled on version 1 of the result, with what later withdrawals took from the prices, and the closing price."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from velo.racing.cards import FIRST_VERSION, first_result, withdrawn_since
from velo.racing.deductions import REDUCTION, SCALE, Withdrawal
from velo.racing.messages import NON_RUNNER, Market, Message, Result, instant_of
from velo.racing.settlement import Bet, Outcome, Payout, Venue, settle
from velo.serving.paper_trading.ledger import Decision, Ledger, PaperBet, SettledBet, Settlement
from velo.serving.scoring.history import LogView
from velo.serving.scoring.race_messages import messages_of_race
from velo.storage.store import Home

EXCHANGES: Final = ("betfair", "betdaq", "smarkets", "matchbook", "exchange")
"""How the source of an exchange's prices begins: its late withdrawals cost by reduction factors, all others' by Rule 4."""


def known_of(home: Home, log: LogView, race_id: str, now: datetime) -> list[Message]:
    """What the log had been told of a race by an instant."""
    messages = messages_of_race(home, race_id, log=log).messages
    return [one for one in messages if one.known_at is not None and one.known_at <= now]


def settled_race(home: Home, log: LogView, ledger: Ledger, decision: Decision, now: datetime) -> bool:
    """Settle a decision's bets where its weighed-in result is known by `now`; whether it was settled here."""
    if now < decision.off_time:
        return False
    known = known_of(home, log, decision.race_id, now)
    result = first_result(known)
    if result is None or result.known_at is None:
        return False
    taken_out = withdrawals(known, decision, result)
    told = tuple(_settled_bet(decision, bet, result, taken_out, known) for bet in decision.bets)
    return ledger.settle(Settlement(decision.race_id, decision.bundle, result.known_at, now, told))


def withdrawals(known: Sequence[Message], decision: Decision, result: Result) -> list[Withdrawal]:
    """The withdrawals that stand, each at the last price shown before; the result alone may tell one, then as of the off."""
    told = [one for one in known if not isinstance(one, Result) or one.result_version == FIRST_VERSION]
    at = withdrawn_since(told, max(instant_of(one) for one in told))
    for runner in result.runners:
        if runner.status == NON_RUNNER:
            at.setdefault(runner.horse_id, decision.off_time)
    shown = _prices_by_then(known)
    return [Withdrawal(horse, when, shown(horse, when)) for horse, when in at.items()]


def _prices_by_then(known: Sequence[Message]) -> Callable[[str, datetime], float | None]:
    markets = [(one.known_at, one.prices) for one in known if isinstance(one, Market) and one.known_at is not None]
    markets.sort(key=lambda one: one[0])

    def last(horse_id: str, when: datetime) -> float | None:
        prices = [prices[horse_id] for at, prices in markets if at < when and prices.get(horse_id, 0.0) > 1.0]
        return prices[-1] if prices else None

    return last


def _settled_bet(
    decision: Decision, bet: PaperBet, result: Result, taken_out: Sequence[Withdrawal], known: Sequence[Message]
) -> SettledBet:
    exchange = (bet.source or "").casefold().startswith(EXCHANGES)
    venue = Venue.EXCHANGE if exchange else Venue.BOOKMAKER
    table = (REDUCTION if exchange else SCALE).name
    placed = Bet(decision.race_id, bet.horse_id, bet.stake, decision.as_of or decision.written_at, bet.price, venue)
    told: Payout = settle(placed, result, taken_out)
    won = told.outcome is Outcome.WON and told.profit is not None and told.price is not None
    share = (
        (told.profit + bet.stake) / (bet.stake * told.price) if won and told.price and told.profit is not None else 0.0
    )
    runner = next((one for one in result.runners if one.horse_id == bet.horse_id), None)
    sp = runner.sp_decimal if runner is not None else None
    closing = sp if sp is not None and sp > 1.0 else _prices_by_then(known)(bet.horse_id, decision.off_time)
    return SettledBet(bet.horse_id, told.outcome.value, told.price, share, told.profit, closing, told.reason, table)
