"""Simulate a season day by day: declare runners, make prices, run the races, update the horses' form."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from velo.simulator.entries import DeclaredRunners, declare
from velo.simulator.form import after_racing, first_form, rested, turn_cycles
from velo.simulator.market import first_calibration, last_shows, prices
from velo.simulator.meetings import fixtures
from velo.simulator.publish import Published, chance_table, runner_table
from velo.simulator.race_day import (
    FINISHED,
    VOID,
    Circumstances,
    RunOutcome,
    Strengths,
    run,
    strengths,
    withdrawals,
)
from velo.simulator.segments import Floats, Segments
from velo.simulator.spec import SeasonSpec
from velo.simulator.world import LB_PER_LOGIT, World, make_world

_GUMBEL_MEAN = float(np.euler_gamma)


@dataclass(frozen=True)
class SimulatedSeason:
    """A simulated season.

    `runners`: the runner table, one row per declared runner and version of the result.
    `chances`: `race_id`, `horse_id`, `win_probability`: one row per starter with its true win probability, for tests.
    """

    runners: pa.Table
    chances: pa.Table


def simulate(spec: SeasonSpec) -> pa.Table:
    """The runner table of a season (columns and types as `RUNNER_SCHEMA`), ordered by off, race, version and number.

    The same spec gives the same table on one numpy version. Raises `UserError` if the word lists have too few names.
    """
    return simulate_season(spec).runners


def simulate_season(spec: SeasonSpec) -> SimulatedSeason:
    """A season with its true win probabilities."""
    # Separate random generators, so that a change in one part (such as the market) leaves the others unchanged.
    seeds = np.random.SeedSequence(spec.seed).spawn(3)
    world_rng, racing_rng, market_rng = (np.random.default_rng(seed) for seed in seeds)
    publishing_rng = np.random.default_rng([spec.seed, 3])
    world = make_world(world_rng, spec)
    days = tuple(_days(racing_rng, market_rng, world))
    return SimulatedSeason(runner_table(publishing_rng, world, days), chance_table(world, days))


def _days(racing: np.random.Generator, market: np.random.Generator, world: World) -> Iterator[Published]:
    """Yield the days with racing, in order."""
    spec = world.spec
    form, taught = first_form(racing, world), first_calibration(spec.market_knowledge)
    for day in range(spec.days):
        declared = declare(racing, world, form, fixtures(racing, world, day), day)
        if not declared.races:
            continue
        at = Circumstances.of(declared)
        form = turn_cycles(racing, form, declared.horse, day)
        runs = ~withdrawals(racing, Segments.of(declared.race), at.softness)
        true = strengths(world, form, declared, at, runs, day)
        outcome = run(racing, declared, at, true.total, runs)
        starters = Segments.of(declared.race[runs])
        odds = last_shows(market, ~runs)
        started = Strengths(true.ability[runs], true.hidden[runs])
        odds[runs], taught = prices(market, starters, started, spec.market_knowledge, taught)
        chance = np.full(len(runs), np.nan)
        chance[runs] = starters.softmax(started.total)
        yield Published(day, declared, outcome, odds, chance)
        ran = runs & (outcome.status != VOID)
        horse = declared.horse[ran]
        form = after_racing(
            racing,
            world,
            form,
            horse,
            outcome.status[ran] == FINISHED,
            outcome.position[ran] == 1,
            _figures(declared, outcome)[ran],
            day,
        )
        withdrawn = declared.horse[~ran]
        form = rested(form, withdrawn, day + racing.uniform(4.0, 18.0, len(withdrawn)))


def _figures(declared: DeclaredRunners, outcome: RunOutcome) -> Floats:
    """Each runner's performance in pounds on the rating scale, with the carried weight added back."""
    return LB_PER_LOGIT * (outcome.performance - _GUMBEL_MEAN) + declared.weight_lbs
