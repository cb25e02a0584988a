"""The state of a horse that changes from race to race: record, handicap mark, form cycle, rest."""

from dataclasses import dataclass, replace

import numpy as np

from velo.simulator.segments import Bools, Floats, Ints
from velo.simulator.world import FLAT, World

_CYCLE_LB = 5.0
_CYCLE_DAYS = 45.0
# Share of a surprise that moves the mark after one run: small, so that marks lag ability.
_MARK_STEP = 0.16
_RUNS_FOR_A_MARK = 3


@dataclass(frozen=True)
class Form:
    """One entry per horse. `mark_lb` is NaN until the horse has enough runs; `figure_lb` is its average performance;
    `cycle_lb` its form cycle as of `cycle_day`. Days count from the season's start."""

    runs: Ints
    wins: Ints
    mark_lb: Floats
    figure_lb: Floats
    cycle_lb: Floats
    cycle_day: Floats
    last_day: Floats
    ready_day: Floats


def first_form(rng: np.random.Generator, world: World) -> Form:
    """Form on the first morning: horses that have raced have a record and a mark near their ability."""
    horses = world.horses
    count = len(horses.code)
    runs = horses.runs_before
    ability = horses.ability_lb(np.arange(count), world.spec.start)
    figure = ability + rng.normal(0.0, 5.0, count)
    raced = runs > 0
    return Form(
        runs=runs,
        wins=rng.binomial(runs, 0.11),
        mark_lb=np.where(runs >= _RUNS_FOR_A_MARK, figure, np.nan),
        figure_lb=np.where(raced, figure, np.nan),
        cycle_lb=rng.normal(0.0, _CYCLE_LB, count),
        cycle_day=np.maximum(horses.entry_day, 0.0),
        last_day=np.where(raced, -rng.gamma(2.0, 25.0, count), np.nan),
        ready_day=np.where(raced, rng.uniform(-10.0, 40.0, count), np.maximum(horses.entry_day, 0.0)),
    )


def turn_cycles(rng: np.random.Generator, form: Form, runners: Ints, day: int) -> Form:
    """Advance the runners' form cycles to `day`; the result does not depend on the number of steps."""
    kept = np.exp((form.cycle_day[runners] - day) / _CYCLE_DAYS)
    cycle, cycle_day = form.cycle_lb.copy(), form.cycle_day.copy()
    shock = rng.normal(0.0, 1.0, len(runners)) * _CYCLE_LB * np.sqrt(1 - kept**2)
    cycle[runners] = kept * cycle[runners] + shock
    cycle_day[runners] = day
    return replace(form, cycle_lb=cycle, cycle_day=cycle_day)


def after_racing(
    rng: np.random.Generator,
    world: World,
    form: Form,
    starters: Ints,
    completed: Bools,
    won: Bools,
    figure_lb: Floats,
    day: int,
) -> Form:
    """Form after the day's races: records, marks moved towards `figure_lb`, and rest."""
    runs, wins, last_day = form.runs.copy(), form.wins.copy(), form.last_day.copy()
    runs[starters] += 1
    wins[starters] += won
    last_day[starters] = day
    average, mark = form.figure_lb.copy(), form.mark_lb.copy()
    known = average[starters]
    learnt = np.where(np.isnan(known), figure_lb, known + (figure_lb - known) / np.minimum(runs[starters], 4))
    average[starters] = np.where(completed, learnt, known)
    old = mark[starters]
    surprise = np.clip(figure_lb - old, -14.0, 18.0) * _MARK_STEP + 1.5 * won
    allotted = np.where(runs[starters] >= _RUNS_FOR_A_MARK, average[starters], np.nan)
    mark[starters] = np.where(np.isnan(old), allotted, np.where(completed, old + surprise, old))
    moved = replace(form, runs=runs, wins=wins, last_day=last_day, figure_lb=average, mark_lb=mark)
    rest = np.where(world.horses.code[starters] == FLAT, 5.0, 9.0) + rng.gamma(1.6, 13.0, len(starters))
    rest += np.where(rng.random(len(starters)) < 0.06, rng.uniform(60.0, 200.0, len(starters)), 0.0)
    return rested(moved, starters, day + np.where(completed, rest, rest + 14.0))


def rested(form: Form, which: Ints, until: Floats) -> Form:
    """Form with those horses resting until day `until`."""
    ready = form.ready_day.copy()
    ready[which] = until
    return replace(form, ready_day=ready)


def published_rating(mark_lb: Floats, code: Ints) -> Floats:
    """The published official rating: whole pounds within the scale of its code; NaN without a mark."""
    low, high = np.where(code == FLAT, 40.0, 70.0), np.where(code == FLAT, 135.0, 180.0)
    return np.clip(np.rint(mark_lb), low, high)
