"""Made-up racing seasons, British in kind, for the demo and for tests; never evidence of model quality.

The horses, people, courses and results are invented by chance from a seed, and the market in them is as wise as its
maker says (`SeasonSpec.market_knowledge`). A model that wins here has beaten a formula, not a bookmaker.
"""

from velo.simulator.season import SimulatedSeason, simulate, simulate_season
from velo.simulator.spec import SeasonSpec
from velo.simulator.table import CARD_SCHEMA, OUTCOME_COLUMNS, RUNNER_SCHEMA, split_card

__all__ = [
    "CARD_SCHEMA",
    "OUTCOME_COLUMNS",
    "RUNNER_SCHEMA",
    "SeasonSpec",
    "SimulatedSeason",
    "simulate",
    "simulate_season",
    "split_card",
]
