"""Fill the day's races with horses that are ready to run, and give them weights, draws and jockeys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from velo.simulator.courses import AW, COURSES
from velo.simulator.form import Form, published_rating
from velo.simulator.meetings import HANDICAP, NOVICE, STAKES, RacePlan
from velo.simulator.names import race_title
from velo.simulator.segments import Bools, Floats, Ints
from velo.simulator.world import FLAT, JUMPS, SEXES, World

# (class, highest mark) of the handicaps of each code, easiest first; a field reaches `_BAND_DEPTH` below the top.
_BANDS = {
    FLAT: (
        (6, 55), (6, 60), (6, 65), (5, 70), (5, 75), (4, 80), (4, 85), (3, 90), (3, 95), (2, 100), (2, 105), (1, 115),
    ),
    JUMPS: (
        (5, 95), (5, 100), (5, 105), (4, 110), (4, 115), (4, 120), (3, 125), (3, 130), (3, 135), (2, 145), (1, 160),
    ),
}  # fmt: skip
_BAND_DEPTH = {FLAT: 20, JUMPS: 26}
_TOP_WEIGHT = {FLAT: 135.0, JUMPS: 166.0}
_LOWEST_WEIGHT = {FLAT: 112.0, JUMPS: 140.0}
_LEVEL_WEIGHT = {FLAT: 131.0, JUMPS: 154.0}
_STAKES_MARK = {FLAT: 92.0, JUMPS: 133.0}


@dataclass(frozen=True)
class FilledRace:
    """A race with runners: its plan, class, highest mark (None outside handicaps) and name."""

    plan: RacePlan
    race_class: int
    band_top: int | None
    name: str


@dataclass(frozen=True)
class DeclaredRunners:
    """A day's declared runners, race by race in `races` order. `draw` is 0 over jumps; `rating` is NaN without a
    mark."""

    races: tuple[FilledRace, ...]
    race: Ints
    horse: Ints
    jockey: Ints
    runner_no: Ints
    draw: Ints
    age: Ints
    sex: Ints
    weight_lbs: Floats
    rating: Floats


def declare(rng: np.random.Generator, world: World, form: Form, plans: Sequence[RacePlan], day: int) -> DeclaredRunners:
    """Fill the day's races; a horse runs once a day, and a race with fewer than two runners is dropped."""
    stables = {code: _ready(world, form, code, day) for code in (FLAT, JUMPS)}
    races: list[FilledRace] = []
    fields: list[Ints] = []
    for plan in plans:
        ready = stables[plan.code]
        race, chosen = _fill(rng, plan, ready)
        if len(chosen) < 2:
            continue
        ready.free[chosen] = False
        races.append(race)
        fields.append(ready.horse[chosen])
    return _declarations(rng, world, form, races, fields, day)


@dataclass(frozen=True)
class _Ready:
    """The horses of a code that are ready today; `free` is False once a horse is entered."""

    horse: Ints
    free: Bools
    age: Ints
    runs: Ints
    wins: Ints
    mark: Floats
    chaser: Bools
    log_best_distance: Floats
    aw_lb: Floats
    region: Ints
    eager: Floats


def _ready(world: World, form: Form, code: int, day: int) -> _Ready:
    horses = world.horses
    due = (horses.code == code) & (form.ready_day <= day) & (horses.entry_day <= day) & (horses.exit_day > day)
    horse = np.flatnonzero(due)
    age = (world.spec.start + timedelta(days=day)).year - horses.foaled[horse]
    return _Ready(
        horse=horse,
        free=np.ones(len(horse), np.bool_),
        age=age,
        runs=form.runs[horse],
        wins=form.wins[horse],
        mark=published_rating(form.mark_lb[horse], horses.code[horse]),
        chaser=horses.chases_from[horse] <= age,
        log_best_distance=np.log(horses.best_distance_m[horse]),
        aw_lb=horses.aw_lb[horse],
        region=world.people.region[horses.trainer[horse]],
        eager=np.minimum((day - form.ready_day[horse]) / 10.0, 2.5),
    )


def _fill(rng: np.random.Generator, plan: RacePlan, ready: _Ready) -> tuple[FilledRace, Ints]:
    fit = ready.free & (ready.age >= plan.ages[0]) & (ready.age <= plan.ages[1])
    if plan.race_type == "NHF":
        fit &= (ready.runs <= 3) & ~ready.chaser
    elif plan.code == JUMPS:
        fit &= ready.chaser == (plan.race_type == "Chase")
    race, allowed = _conditions(rng, plan, ready, fit)
    able = np.flatnonzero(fit & allowed)
    wish = rng.gumbel(size=len(able)) + ready.eager[able]
    wish -= np.minimum(((ready.log_best_distance[able] - np.log(plan.distance_m)) / 0.2) ** 2, 12.0)
    wish += (0.15 if plan.meeting.stage == AW else -0.15) * ready.aw_lb[able] * (plan.code == FLAT)
    wish -= 0.8 * (ready.region[able] != COURSES[plan.meeting.course].region)
    return race, able[np.argsort(-wish, kind="stable")[: plan.field]]


def _conditions(rng: np.random.Generator, plan: RacePlan, ready: _Ready, fit: Bools) -> tuple[FilledRace, Bools]:
    """The race's class, band and name, and which horses qualify."""
    bands = _BANDS[plan.code]
    words = {"Flat": "Stakes", "Hurdle": "Hurdle", "Chase": "Chase", "NHF": "Open National Hunt Flat Race"}[
        plan.race_type
    ]
    title = race_title(rng)
    if plan.kind == HANDICAP:
        marked = np.flatnonzero(fit & ~np.isnan(ready.mark))
        # The band is chosen around a horse that is ready to run.
        aim = ready.mark[marked[rng.integers(len(marked))]] + rng.uniform(0.0, 8.0) if len(marked) else 0.0
        race_class, top = next((band for band in bands if band[1] >= aim), bands[-1])
        with np.errstate(invalid="ignore"):
            allowed = (ready.mark <= top) & (ready.mark >= (top - _BAND_DEPTH[plan.code]))
        words = f"{'Nursery ' if plan.ages == (2, 2) else ''}Handicap{'' if plan.code == FLAT else ' ' + words}"
        return FilledRace(plan, race_class, top, f"{title} {words}"), allowed
    if plan.kind == STAKES:
        good = np.nan_to_num(ready.mark, nan=0.0) >= _STAKES_MARK[plan.code] - 14.0 * (plan.ages == (2, 2))
        return FilledRace(plan, 1, None, f"{title} {words}"), good | ((ready.wins > 0) & (ready.runs <= 3))
    race_class = int(rng.choice((4, 5), p=(0.45, 0.55)))
    if plan.race_type == "NHF":
        return FilledRace(plan, race_class, None, f"{title} {words}"), ready.wins <= 1
    maiden = rng.random() < 0.5
    words = f"{'Maiden' if maiden else 'Novice'} {words}"
    return FilledRace(plan, race_class, None, f"{title} {words}"), (ready.wins <= (0 if maiden else 2)) & (
        ready.runs <= 12
    )


def _declarations(
    rng: np.random.Generator, world: World, form: Form, races: list[FilledRace], fields: list[Ints], day: int
) -> DeclaredRunners:
    horses, on = world.horses, world.spec.start + timedelta(days=day)
    horse = np.concatenate(fields) if fields else np.zeros(0, np.int64)
    race = np.repeat(np.arange(len(fields)), [len(field) for field in fields])
    rating = published_rating(form.mark_lb[horse], horses.code[horse])
    age, sex = on.year - horses.foaled[horse], horses.sex(horse, on)
    weight = _weights(races, race, rating, age, sex, form.wins[horse])
    jockey = _riders(rng, world, races, fields)
    # An apprentice's claim does not apply in class 1.
    claims = np.array([kept.race_class > 1 for kept in races], np.bool_)[race]
    weight -= world.people.claim_lb[jockey] * claims
    order = np.lexsort((rng.random(len(horse)), -weight, race))
    draw_order = np.lexsort((rng.random(len(horse)), race))
    place = np.arange(len(horse)) - np.searchsorted(race, race)
    runner_no, draw = np.empty(len(horse), np.int64), np.empty(len(horse), np.int64)
    runner_no[order], draw[draw_order] = place + 1, place + 1
    drawn = np.array([kept.plan.code == FLAT for kept in races], np.bool_)[race]
    return DeclaredRunners(
        tuple(races), race, horse, jockey, runner_no, np.where(drawn, draw, 0), age, sex, weight, rating
    )


def _weights(races: list[FilledRace], race: Ints, rating: Floats, age: Ints, sex: Ints, wins: Ints) -> Floats:
    """Weights in pounds: by mark in a handicap; elsewhere level, with allowances for sex and age and a winner's penalty."""

    def by_race(values: list[float]) -> Floats:
        return np.array(values, np.float64)[race]

    code = [kept.plan.code for kept in races]
    top = by_race([np.nan if kept.band_top is None else float(kept.band_top) for kept in races])
    handicap = np.maximum(
        by_race([_TOP_WEIGHT[at] for at in code]) - (top - rating), by_race([_LOWEST_WEIGHT[at] for at in code])
    )
    flat = by_race([float(at == FLAT) for at in code])
    female = (sex == SEXES.index("F")) | (sex == SEXES.index("M"))
    penalised = by_race([float(kept.plan.kind == NOVICE) for kept in races]) * (wins > 0)
    level = by_race([_LEVEL_WEIGHT[at] for at in code]) - np.where(flat > 0, 5.0, 7.0) * female + 6.0 * penalised
    level -= 7.0 * flat * (age == 3)
    return np.where(np.isnan(top), level, handicap)


def _riders(rng: np.random.Generator, world: World, races: list[FilledRace], fields: list[Ints]) -> Ints:
    """A jockey for each runner, from those at the meeting, by the yards' preferences, best horse first."""
    people = world.people
    pools = _pools(rng, world, races)
    riders: list[Ints] = []
    for kept, field in zip(races, fields, strict=True):
        pool = pools[kept.plan.meeting.course]
        trainer = world.horses.trainer[field]
        wish = people.calls[np.ix_(trainer, pool)] + rng.gumbel(size=(len(field), len(pool)))
        taken = np.empty(len(field), np.int64)
        for at in np.argsort(-world.horses.peak_lb[field], kind="stable"):
            best = int(wish[at].argmax())
            taken[at] = pool[best]
            wish[:, best] = -np.inf
        riders.append(taken)
    return np.concatenate(riders) if riders else np.zeros(0, np.int64)


def _pools(rng: np.random.Generator, world: World, races: list[FilledRace]) -> dict[int, Ints]:
    """The jockeys of each meeting, by course: dealt out among the meetings of their code; if too few, some ride at two."""
    people = world.people
    pools: dict[int, Ints] = {}
    for code in (FLAT, JUMPS):
        courses = sorted({kept.plan.meeting.course for kept in races if kept.plan.code == code} - pools.keys())
        of_code = np.flatnonzero(people.code == code)
        # One in four is away, and rides only if there are too few others.
        away = rng.random(len(of_code)) < 0.25
        turn = people.popularity[of_code] + rng.gumbel(size=len(of_code))
        shuffled = of_code[np.lexsort((-turn, away))]
        present = shuffled[: len(of_code) - int(away.sum())]
        for at, course in enumerate(courses):
            dealt = present[at :: len(courses)]
            missing = max(0, 24 - len(dealt))
            pools[course] = np.concatenate([dealt, np.setdiff1d(shuffled, dealt)[:missing]])
    return pools
