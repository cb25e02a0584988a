"""Settle win bets (contract 3 and 9) on version 1 of the result, the weighed-in one; an amendment changes no bet.

A dead heat of m pays stake/m at full odds. A starter that is not first loses, fallers included. A non-runner, and any
runner of a void race, gets the stake back. A bet without a price to settle at stays unsettled even if it lost: counting
losses without the wins would bias every figure. `velo.training.evaluation.betting` settles a whole period at SP by the same rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from velo.errors import UserError
from velo.racing.cards import FIRST_VERSION
from velo.racing.deductions import REDUCTION, SCALE, Reductions, Scale, Withdrawal, reduced_price, rule_4_pence
from velo.racing.messages import NON_RUNNER, STARTED, VOID, Result, Runner


class Outcome(Enum):
    """The outcome of a bet."""

    WON = "won"
    LOST = "lost"
    VOID = "void"
    UNSETTLED = "unsettled"


class Venue(Enum):
    """The venue at which a price was taken. Later withdrawals reduce a bookmaker's bet by Rule 4, an exchange's by factors."""

    BOOKMAKER = "bookmaker"
    EXCHANGE = "exchange"


EXCHANGES: Final = ("betfair", "betdaq", "smarkets", "matchbook", "exchange")
"""Prefixes of the price sources that are exchanges."""


def venue_of(source: str | None) -> Venue:
    """Return the venue of a price by its source."""
    return Venue.EXCHANGE if (source or "").casefold().startswith(EXCHANGES) else Venue.BOOKMAKER


@dataclass(frozen=True, slots=True)
class Bet:
    """A win bet of `stake` units, placed at an instant (UTC). `price` is the decimal price taken, None at SP."""

    race_id: str
    horse_id: str
    stake: float
    placed_at: datetime
    price: float | None = None
    venue: Venue = Venue.BOOKMAKER


@dataclass(frozen=True, slots=True)
class Payout:
    """A settled bet. `price` is the price after deductions; `profit` is in stake units, before commission.

    The profit of an unsettled bet is None, of a void one 0. `reason` explains what the outcome does not.
    """

    bet: Bet
    outcome: Outcome
    price: float | None
    profit: float | None
    reason: str = ""


def settle(
    bet: Bet,
    result: Result,
    withdrawals: Sequence[Withdrawal] = (),
    scale: Scale = SCALE,
    reductions: Reductions = REDUCTION,
) -> Payout:
    """Settle a bet on a race's weighed-in result; `withdrawals` are those in force, with their prices or factors.

    A withdrawal reduces only a price taken before it: SP is returned when the field is final. A withdrawn horse that
    started after all reduces nothing. Raises `UserError` for another version of the result, for another race, and for
    an impossible stake or price.
    """
    _check(bet, result)
    ran = {runner.horse_id for runner in result.runners if runner.started}
    withdrawals = [withdrawal for withdrawal in withdrawals if withdrawal.horse_id not in ran]
    runner = next((runner for runner in result.runners if runner.horse_id == bet.horse_id), None)
    if any(runner.status == VOID for runner in result.runners) and not ran:
        return Payout(bet, Outcome.VOID, None, 0.0, "the race was void")
    withdrawn = any(withdrawal.horse_id == bet.horse_id for withdrawal in withdrawals)
    if (runner is None and withdrawn) or (runner is not None and runner.status in {NON_RUNNER, VOID}):
        return Payout(bet, Outcome.VOID, None, 0.0, "it did not run")
    if runner is None:
        return Payout(bet, Outcome.UNSETTLED, None, None, "it is neither in the result nor among the withdrawn")
    price, reason = _price(bet, runner, withdrawals, scale, reductions)
    if price is None:
        return Payout(bet, Outcome.UNSETTLED, None, None, reason)
    if not runner.won:
        return Payout(bet, Outcome.LOST, price, -bet.stake, reason)
    winners = sum(runner.won for runner in result.runners)
    profit = bet.stake / winners * price - bet.stake
    heat = f"dead heat of {winners}: 1/{winners} of the stake at full odds" if winners > 1 else ""
    return Payout(bet, Outcome.WON, price, profit, "; ".join(part for part in (heat, reason) if part))


def _check(bet: Bet, result: Result) -> None:
    if result.result_version != FIRST_VERSION:
        raise UserError(
            f"race {result.race_id} was given in version {result.result_version}: bets settle on version {FIRST_VERSION}"
        )
    if result.race_id != bet.race_id:
        raise UserError(
            f"a bet on race {bet.race_id!r} does not settle on race {result.race_id!r}: give its own result"
        )
    if not bet.stake > 0.0:
        raise UserError(f"stake must be > 0, got {bet.stake!r}")
    if bet.price is not None and not bet.price > 1.0:
        raise UserError(f"price must be decimal and > 1, got {bet.price!r}: leave it out for a bet at SP")


def _price(
    bet: Bet, runner: Runner, withdrawals: Sequence[Withdrawal], scale: Scale, reductions: Reductions
) -> tuple[float | None, str]:
    """Return the price to settle at (None if there is none), and why it differs from the price taken."""
    assert runner.status in STARTED
    if bet.price is None:
        sp = runner.sp_decimal
        return (sp, "") if sp is not None and sp > 1.0 else (None, "it has no starting price")
    later = [after for after in withdrawals if after.at > bet.placed_at and after.horse_id != bet.horse_id]
    return deducted(bet.price, later, bet.venue, scale, reductions)


def deducted(
    taken: float,
    later: Sequence[Withdrawal],
    venue: Venue,
    scale: Scale = SCALE,
    reductions: Reductions = REDUCTION,
) -> tuple[float | None, str]:
    """Return a price taken less what later withdrawals of the race deduct, and why; None where a deduction is not known."""
    if venue is Venue.EXCHANGE:
        unknown = [after.horse_id for after in later if after.reduction_factor is None]
        if unknown:
            return None, f"the reduction factor of {', '.join(unknown)} is not known"
        factors = [after.reduction_factor for after in later if after.reduction_factor is not None]
        price = reduced_price(taken, factors, reductions)
        return price, f"reduced from {taken:g} by reduction factors" if price != taken else ""
    unknown = [after.horse_id for after in later if after.price is None]
    if unknown:
        return None, f"the price of {', '.join(unknown)} when withdrawn is not known: Rule 4 cannot be applied"
    pence = rule_4_pence([after.price for after in later if after.price is not None], scale)
    if pence == 0:
        return taken, ""
    return 1.0 + (taken - 1.0) * (100 - pence) / 100.0, f"Rule 4: {pence}p in the pound"


def edge(p: float, price: float) -> float:
    """Return p · price − 1, the expected profit of one unit if p is true; the price is decimal and above 1."""
    return p * price - 1.0
