"""What a win bet pays (contract 3 and 9): settled on version 1 of the result, the weighed-in one; an amendment changes no bet.

A dead heat of m pays stake/m at full odds. A faller loses, as does whoever started and is not first. A non-runner, and any
runner of a void race, gets the stake back. A bet that has no price to settle at stays unsettled, whether it won or lost:
counting its loss and not its win would bend every figure. `training.settlement` does the same for a whole period at SP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from velo.errors import UserError
from velo.racing.cards import FIRST_VERSION
from velo.racing.deductions import REDUCTION, SCALE, Reductions, Scale, Withdrawal, reduced_price, rule_4_pence
from velo.racing.messages import NON_RUNNER, STARTED, VOID, Result, Runner


class Outcome(Enum):
    """What became of a bet."""

    WON = "won"
    LOST = "lost"
    VOID = "void"
    UNSETTLED = "unsettled"


class Venue(Enum):
    """Where a price was taken: late withdrawals cost a bookmaker's bet by Rule 4, an exchange's by reduction factors."""

    BOOKMAKER = "bookmaker"
    EXCHANGE = "exchange"


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
    """A settled bet. `price` is what it was settled at, deductions made; `profit` is in stake units, before commission.

    An unsettled bet has no profit (None), a void one 0. `reason` says in words what is not plain from the outcome.
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
    """Settle a bet on a race's weighed-in result; `withdrawals` are those that stand, with what was told of them.

    Only a price taken before a withdrawal is reduced by it: SP is returned when the field is final. A withdrawn horse
    that started after all reduces nothing. Raises `UserError` for another version of the result, for another race, and
    for a stake or price that is none.
    """
    _check(bet, result)
    ran = {one.horse_id for one in result.runners if one.started}
    withdrawals = [one for one in withdrawals if one.horse_id not in ran]
    runner = next((one for one in result.runners if one.horse_id == bet.horse_id), None)
    if any(one.status == VOID for one in result.runners) and not any(one.started for one in result.runners):
        return Payout(bet, Outcome.VOID, None, 0.0, "the race was void")
    withdrawn = any(one.horse_id == bet.horse_id for one in withdrawals)
    if (runner is None and withdrawn) or (runner is not None and runner.status in {NON_RUNNER, VOID}):
        return Payout(bet, Outcome.VOID, None, 0.0, "it did not run")
    if runner is None:
        return Payout(bet, Outcome.UNSETTLED, None, None, "it is neither in the result nor among the withdrawn")
    price, reason = _price(bet, runner, withdrawals, scale, reductions)
    if price is None:
        return Payout(bet, Outcome.UNSETTLED, None, None, reason)
    if not runner.won:
        return Payout(bet, Outcome.LOST, price, -bet.stake, reason)
    winners = sum(one.won for one in result.runners)
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
        raise UserError(f"a stake of {bet.stake!r} is none: give one above 0")
    if bet.price is not None and not bet.price > 1.0:
        raise UserError(f"a price of {bet.price!r} is none: decimal prices are above 1; leave it out for a bet at SP")


def _price(
    bet: Bet, runner: Runner, withdrawals: Sequence[Withdrawal], scale: Scale, reductions: Reductions
) -> tuple[float | None, str]:
    """The price to settle at, None where there is none, and why it is not the one taken."""
    assert runner.status in STARTED
    if bet.price is None:
        sp = runner.sp_decimal
        return (sp, "") if sp is not None and sp > 1.0 else (None, "it has no starting price: it settles at no price")
    later = [one for one in withdrawals if one.at > bet.placed_at and one.horse_id != bet.horse_id]
    if bet.venue is Venue.EXCHANGE:
        unknown = [one.horse_id for one in later if one.reduction_factor is None]
        if unknown:
            return None, f"the reduction factor of {', '.join(unknown)} is not known"
        factors = [one.reduction_factor for one in later if one.reduction_factor is not None]
        price = reduced_price(bet.price, factors, reductions)
        return price, f"reduced from {bet.price:g} by reduction factors" if price != bet.price else ""
    unknown = [one.horse_id for one in later if one.price is None]
    if unknown:
        return None, f"the price of {', '.join(unknown)} when withdrawn is not known: Rule 4 cannot be told"
    pence = rule_4_pence([one.price for one in later if one.price is not None], scale)
    if pence == 0:
        return bet.price, ""
    return 1.0 + (bet.price - 1.0) * (100 - pence) / 100.0, f"Rule 4: {pence}p in the pound"
