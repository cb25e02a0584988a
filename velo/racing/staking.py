"""How much of the bank to stake on the runners of a race, all together (Smoczynski and Tomkins, 2010).

A bet on one runner is also a hedge of the bets on its rivals: full Kelly is one sum over the race, not one per runner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from velo.errors import UserError


@dataclass(frozen=True, slots=True)
class Staking:
    """The staking of a bank; money is in units of the bank at the beginning.

    `fraction` of full Kelly, at most `cap` of the bank on one runner and `at_risk` on all bets of a race day, which are staked
    before their results. `commission` is an exchange's, on a race's net winnings. A stake below `minimum` is not placed. `pool` is
    the money in the win pool of a race, where the own stake lowers the own price; None leaves prices alone.
    """

    fraction: float = 0.25
    cap: float = 0.02
    at_risk: float = 1.0
    commission: float = 0.0
    minimum: float = 0.0
    pool: float | None = None

    def __post_init__(self) -> None:
        for name in ("fraction", "cap", "at_risk"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise UserError(f"the Kelly {name} must be above 0 and at most 1, got {getattr(self, name)!r}")
        if not 0.0 <= self.commission < 1.0:
            raise UserError(f"commission must be a share from 0 to below 1, got {self.commission!r}: 0.02 is 2 %")
        if not 0.0 <= self.minimum < 1.0:
            raise UserError(f"minimum must be a share of the first bank from 0 to below 1, got {self.minimum!r}")
        if self.pool is not None and not self.pool > 0.0:
            raise UserError(
                f"pool must be above 0, in units of the first bank, got {self.pool!r}: leave it out for none"
            )

    @staticmethod
    def of(given: Mapping[str, object]) -> "Staking":
        """The staking of named values; raises `UserError` for an unknown name or a value that is not a number."""
        known = [field.name for field in fields(Staking)]
        for name, value in given.items():
            if name not in known:
                raise UserError(f"staking has no {name!r}: choose from {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"staking {name} is {value!r}, but must be a number")
        return Staking(**{name: float(value) for name, value in given.items()})  # type: ignore[arg-type]


DEFAULT = Staking()


def kelly(p: Sequence[float], prices: Sequence[float | None], commission: float = 0.0) -> list[float]:
    """The shares of the bank that grow it fastest if `p` are true, one per runner of a race; 0 for a runner not to bet on.

    `p` sum to at most 1; `prices` are decimal, None or ≤ 1 for a runner that cannot be bet on. Commission is taken from each
    price, as if each bet were alone: the exact one, on the net winnings of the race, is a little lower.
    """
    net = [1.0 + (price - 1.0) * (1.0 - commission) if price is not None and price > 1.0 else 0.0 for price in prices]
    order = sorted(range(len(net)), key=lambda at: -p[at] * net[at])
    left, reserve, bet_on = 1.0, 1.0, 0
    for at in order:
        # a further runner is worth a bet if it returns more than the bank keeps without it
        rate = reserve / left
        if p[at] * net[at] <= rate or left * net[at] <= 1.0:
            break
        reserve, left, bet_on = reserve - p[at], left - 1.0 / net[at], bet_on + 1
    rate = max(reserve, 0.0) / left if bet_on else 1.0
    shares = [0.0] * len(net)
    for at in order[:bet_on]:
        shares[at] = p[at] - rate / net[at]
    return shares


def race_stakes(p: Sequence[float], prices: Sequence[float | None], staking: Staking = DEFAULT) -> list[float]:
    """The shares of the bank to stake on each runner of a race: a fraction of `kelly`, each at most the cap."""
    return [min(staking.fraction * share, staking.cap) for share in kelly(p, prices, staking.commission)]
