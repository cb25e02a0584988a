"""Simulate seasons of British-style racing for demos and tests; never evidence of a model's quality.

Horses, people, courses and results are random, from a seed; `SeasonSpec.market_knowledge` sets how much the market knows. A
model that wins here has beaten a formula, not a bookmaker.
"""

from velo.simulator.in_running import in_running
from velo.simulator.season import SimulatedSeason, simulate, simulate_season
from velo.simulator.snapshots import snapshots_of
from velo.simulator.spec import SeasonSpec
from velo.simulator.table import CARD_SCHEMA, OUTCOME_COLUMNS, RUNNER_SCHEMA, split_card

__all__ = [
    "CARD_SCHEMA",
    "OUTCOME_COLUMNS",
    "RUNNER_SCHEMA",
    "SeasonSpec",
    "SimulatedSeason",
    "in_running",
    "simulate",
    "simulate_season",
    "snapshots_of",
    "split_card",
]
