"""Settle paper bets on version 1 of the result, with deductions for later withdrawals, and record the closing price."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from velo.racing.cards import FIRST_VERSION, first_result, withdrawn_since
from velo.racing.deductions import REDUCTION, SCALE, Withdrawal
from velo.racing.messages import NON_RUNNER, Market, Message, NonRunner, Result, instant_of
from velo.racing.pools import settle_pool
from velo.racing.settlement import Bet, Outcome, Venue, settle, venue_of
from velo.serving.paper_trading.ledger import WIN, Decision, Ledger, PaperBet, SettledBet, Settlement
from velo.serving.scoring.history import LogView
from velo.serving.scoring.race_messages import messages_of_race
from velo.storage.log import reader
from velo.storage.store import Home

DIVIDENDS_WITHIN: Final = timedelta(days=1)
"""How long after the off pool bets wait for their dividends."""
NO_DEDUCTIONS: Final = "none"


def known_of(home: Home, log: LogView, race_id: str, now: datetime) -> list[Message]:
    """The messages about a race that were known by an instant."""
    messages = messages_of_race(home, race_id, log=log).messages
    return [message for message in messages if message.known_at is not None and message.known_at <= now]


def settled_race(home: Home, log: LogView, ledger: Ledger, decision: Decision, now: datetime) -> bool:
    """Settle a decision's bets if its weighed-in result is known by `now`; returns whether this call settled it.

    Pool bets wait for the dividends of the first version that has them; after `DIVIDENDS_WITHIN` they are unsettled.
    """
    if now < decision.off_time:
        return False
    known = known_of(home, log, decision.race_id, now)
    result = first_result(known)
    if result is None or result.known_at is None:
        return False
    if any(bet.pool != WIN for bet in decision.bets):
        result = _with_dividends(result, known)
        if result.race.dividends is None:
            if now < decision.off_time + DIVIDENDS_WITHIN:
                return False
            # a build may have taken the result into the tables, which have no dividends
            result = _with_dividends(result, [*reader.messages_of(home, decision.race_id)])
    known_at = instant_of(result)
    withdrawn = withdrawals(known, decision, result)
    settled = tuple(_settled_bet(decision, bet, result, withdrawn, known) for bet in decision.bets)
    return ledger.settle(Settlement(decision.race_id, decision.bundle, known_at, now, settled))


def withdrawals(known: Sequence[Message], decision: Decision, result: Result) -> list[Withdrawal]:
    """The withdrawals in force, each at the last price before it and with its last reduction factor.

    One that only the result reports is as of the off.
    """
    messages = [each for each in known if not isinstance(each, Result) or each.result_version == FIRST_VERSION]
    at = withdrawn_since(messages, max(map(instant_of, messages)))
    for runner in result.runners:
        if runner.status == NON_RUNNER:
            at.setdefault(runner.horse_id, decision.off_time)
    last_price = _last_prices(known)
    notices = [each for each in known if isinstance(each, NonRunner) and each.reduction_factor is not None]
    factors = {each.horse_id: each.reduction_factor for each in sorted(notices, key=instant_of)}
    return [Withdrawal(horse, when, last_price(horse, when), factors.get(horse)) for horse, when in at.items()]


def _last_prices(known: Sequence[Message]) -> Callable[[str, datetime], float | None]:
    """A function of (horse, instant): the horse's last price above 1 before the instant, None without one."""
    markets = [(each.known_at, each.prices) for each in known if isinstance(each, Market) and each.known_at is not None]
    markets.sort(key=lambda market: market[0])

    def last(horse_id: str, when: datetime) -> float | None:
        prices = [prices[horse_id] for at, prices in markets if at < when and prices.get(horse_id, 0.0) > 1.0]
        return prices[-1] if prices else None

    return last


def _with_dividends(result: Result, known: Sequence[Message]) -> Result:
    """The weighed-in result with the dividends of the lowest version that has them."""
    versions = [each for each in known if isinstance(each, Result) and each.race.dividends is not None]
    if not versions:
        return result
    first = min(versions, key=lambda version: version.result_version)
    return replace(result, race=replace(result.race, dividends=first.race.dividends))


def _settled_pool_bet(bet: PaperBet, result: Result) -> SettledBet:
    payout = settle_pool(bet.pool, [bet.horse_id], result)
    won = payout.outcome is Outcome.WON
    profit = None if payout.returned is None else bet.stake * (payout.returned - 1.0)
    return SettledBet(
        bet.horse_id, payout.outcome.value, payout.returned if won else None, float(won), profit, None, payout.reason,
        NO_DEDUCTIONS, bet.pool,
    )  # fmt: skip


def _settled_bet(
    decision: Decision, bet: PaperBet, result: Result, withdrawn: Sequence[Withdrawal], known: Sequence[Message]
) -> SettledBet:
    if bet.pool != WIN:
        return _settled_pool_bet(bet, result)
    venue = venue_of(bet.source)
    table = (REDUCTION if venue is Venue.EXCHANGE else SCALE).name
    placed = Bet(decision.race_id, bet.horse_id, bet.stake, decision.as_of or decision.written_at, bet.price, venue)
    payout = settle(placed, result, withdrawn)
    share = 0.0
    if payout.outcome is Outcome.WON and payout.profit is not None and payout.price:
        share = (payout.profit + bet.stake) / (bet.stake * payout.price)
    sp = next((runner.sp_decimal for runner in result.runners if runner.horse_id == bet.horse_id), None)
    closing = sp if sp is not None and sp > 1.0 else _last_prices(known)(bet.horse_id, decision.off_time)
    outcome = payout.outcome.value
    return SettledBet(bet.horse_id, outcome, payout.price, share, payout.profit, closing, payout.reason, table)
