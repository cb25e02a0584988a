"""Horses, trainers and jockeys, with their true, hidden qualities."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from velo.simulator.courses import FURLONG_M, draw_bias, moisture
from velo.simulator.names import horse_names, people_names
from velo.simulator.segments import Bools, Floats, Ints
from velo.simulator.spec import SeasonSpec

FLAT, JUMPS = 0, 1
LB_PER_LOGIT = 10.5
"""Pounds on the rating scale per logit of strength."""
COUNTRIES = ("GB", "IRE", "FR", "USA", "GER")
SEXES = ("C", "F", "G", "H", "M")
HEADGEAR = ("", "p", "b", "v", "h", "t", "tp", "hp")
_NEVER = 99
# Shares of ages at the start of the season, and at a career's beginning.
_FLAT_AGES = (2, 3, 4, 5, 6, 7, 8, 9), (0.24, 0.29, 0.17, 0.10, 0.08, 0.05, 0.04, 0.03)
_JUMP_AGES = (4, 5, 6, 7, 8, 9, 10, 11, 12), (0.12, 0.19, 0.19, 0.16, 0.13, 0.10, 0.06, 0.03, 0.02)
# Pounds below a horse's best by age in years.
_FLAT_CURVE = (2.0, 2.6, 3.2, 4.2, 6.0, 9.0, 12.0), (-14.0, -6.0, -2.0, 0.0, 0.0, -6.0, -14.0)
_JUMP_CURVE = (3.5, 4.5, 5.5, 6.8, 9.2, 11.0, 13.0), (-14.0, -9.0, -4.0, 0.0, 0.0, -6.0, -16.0)


@dataclass(frozen=True)
class Horses:
    """One entry per horse; nothing in it changes. Days count from the season's start; `peak_lb` is a rating."""

    code: Ints
    foaled: Ints
    male: Bools
    gelded: Bools
    country: Ints
    peak_lb: Floats
    best_distance_m: Floats
    soft_lb: Floats
    aw_lb: Floats
    chases_from: Ints
    trainer: Ints
    headgear: Floats
    entry_day: Floats
    exit_day: Floats
    runs_before: Ints

    def ability_lb(self, which: Ints, on: date) -> Floats:
        """Lasting ability at the horse's age on a day, on the rating scale."""
        age = on.year + (on.timetuple().tm_yday - 60) / 365.25 - self.foaled[which]
        curve = np.where(self.code[which] == FLAT, np.interp(age, *_FLAT_CURVE), np.interp(age, *_JUMP_CURVE))
        ability: Floats = self.peak_lb[which] + curve
        return ability

    def sex(self, which: Ints, on: date) -> Ints:
        """Index into SEXES: a colt is a horse, a filly a mare, from five."""
        grown = on.year - self.foaled[which] >= 5
        entire = np.where(grown, SEXES.index("H"), SEXES.index("C"))
        female = np.where(grown, SEXES.index("M"), SEXES.index("F"))
        sex: Ints = np.where(self.gelded[which], SEXES.index("G"), np.where(self.male[which], entire, female))
        return sex


@dataclass(frozen=True)
class People:
    """Trainers and jockeys. Forms are days × people and, like the skills, in logits; `calls` (trainer × jockey) is how
    much a yard prefers a jockey."""

    region: Ints
    trainer_form: Floats
    code: Ints
    jockey_skill: Floats
    jockey_form: Floats
    claim_lb: Floats
    popularity: Floats
    calls: Floats


@dataclass(frozen=True)
class World:
    """Everything fixed before the first race; `wetness` is days × courses, `bias` that of `courses.draw_bias`."""

    spec: SeasonSpec
    horses: Horses
    people: People
    wetness: Floats
    bias: Floats
    horse_names: tuple[str, ...]
    trainer_names: tuple[str, ...]
    jockey_names: tuple[str, ...]


def make_world(rng: np.random.Generator, spec: SeasonSpec) -> World:
    """Make the world of a spec. Raises `UserError` if the word lists have too few names."""
    quality = rng.normal(0.0, 1.0, spec.yards)
    horses = _horses(rng, spec, quality)
    people = _people(rng, spec, quality)
    names = horse_names(rng, len(horses.code))
    persons = people_names(rng, spec.yards + spec.riders)
    return World(
        spec=spec,
        horses=horses,
        people=people,
        wetness=moisture(rng, spec.start, spec.days, spec.courses),
        bias=draw_bias(rng, spec.courses),
        horse_names=tuple(f"{name} ({COUNTRIES[at]})" for name, at in zip(names, horses.country, strict=True)),
        trainer_names=tuple(persons[: spec.yards]),
        jockey_names=tuple(persons[spec.yards :]),
    )


def drift(rng: np.random.Generator, days: int, count: int, spread: float, memory_days: float) -> Floats:
    """Days × count: independent AR(1) paths around 0 with standard deviation `spread` and time constant `memory_days`."""
    kept = np.exp(-1 / memory_days)
    path = np.empty((days, count))
    now = rng.normal(0.0, spread, count)
    for day in range(days):
        now = kept * now + rng.normal(0.0, spread * np.sqrt(1 - kept**2), count)
        path[day] = now
    return path


def _horses(rng: np.random.Generator, spec: SeasonSpec, quality: Floats) -> Horses:
    present = spec.stabled
    count = present + int(np.ceil(present * spec.days / 365 * 0.32))
    code = np.where(rng.random(count) < 0.44, JUMPS, FLAT)
    flat, here = code == FLAT, np.arange(count) < present
    male = rng.random(count) < 0.62
    entry_day, age = _entries(rng, spec, flat, here)
    foaled = np.array([(spec.start + timedelta(days=max(0, int(day)))).year for day in entry_day]) - age
    seasons_raced = np.where(flat, age - 2, age - 4) + 0.3
    runs_before = np.where(here & (entry_day <= 0), rng.poisson(5.0 * np.maximum(seasons_raced, 0.0)), 0)
    trainer = _stabling(rng, code, len(quality))
    peak = np.where(flat, rng.normal(67.0, 13.0, count), rng.normal(112.0, 14.0, count)) + 4.0 * quality[trainer]
    furlongs = np.where(
        flat,
        np.clip(np.exp(rng.normal(np.log(7.8), 0.33, count)), 5.0, 16.0),
        np.clip(rng.normal(19.5, 3.5, count), 15.0, 28.0),
    )
    ever_chases = ~flat & (rng.random(count) < 0.6)
    career = np.where(here & (entry_day <= 0), rng.exponential(900.0, count), 120 + rng.gamma(2.0, 480.0, count))
    return Horses(
        code=code,
        foaled=foaled,
        male=male,
        gelded=male & (rng.random(count) < np.where(flat, 0.65, 0.93)),
        country=rng.choice(len(COUNTRIES), count, p=(0.52, 0.36, 0.07, 0.03, 0.02)),
        peak_lb=peak,
        best_distance_m=furlongs * FURLONG_M,
        soft_lb=rng.normal(0.0, 2.5, count),
        aw_lb=rng.normal(0.0, 3.0, count),
        chases_from=np.where(ever_chases, rng.integers(5, 8, count), _NEVER),
        trainer=trainer,
        headgear=rng.beta(0.6, 1.6, count),
        entry_day=entry_day,
        exit_day=np.maximum(entry_day, 0) + career,
        runs_before=runs_before,
    )


def _entries(rng: np.random.Generator, spec: SeasonSpec, flat: Bools, here: Bools) -> tuple[Floats, Ints]:
    """The day each career begins (below 0: before the season) and the age on that day or at the season's start."""
    count, start_yday = len(flat), spec.start.timetuple().tm_yday
    age = np.where(
        flat, rng.choice(_FLAT_AGES[0], count, p=_FLAT_AGES[1]), rng.choice(_JUMP_AGES[0], count, p=_JUMP_AGES[1])
    )
    new_age = np.where(flat, rng.choice((2, 3), count, p=(0.8, 0.2)), rng.choice((4, 5, 6), count, p=(0.5, 0.35, 0.15)))
    debut_yday = rng.uniform(85, 300, count)
    debutant = here & flat & (age == 2)
    entry = np.where(here, np.where(debutant, debut_yday - start_yday, -1.0), rng.uniform(0, spec.days, count))
    yday = (start_yday + entry) % 365
    # Two-year-olds do not race before late March: a winter debut is at three.
    too_young = ~here & flat & (yday < 85)
    return entry, np.where(here, age, np.where(too_young, 3, new_age)).astype(np.int64)


def _stabling(rng: np.random.Generator, code: Ints, yards: int) -> Ints:
    """The yard of each horse: a few yards are large, and most have one code."""
    size = np.exp(rng.normal(0.0, 0.75, yards))
    # Yards alternate codes, so that a small world has both.
    flat_share = np.array([(1.0, 0.0, 1.0, 0.0, 0.5)[at % 5] for at in range(yards)])
    flat_weight, jump_weight = size * flat_share, size * (1 - flat_share)
    flat_yard = rng.choice(yards, len(code), p=flat_weight / flat_weight.sum())
    jump_yard = rng.choice(yards, len(code), p=jump_weight / jump_weight.sum())
    return np.where(code == FLAT, flat_yard, jump_yard).astype(np.int64)


def _people(rng: np.random.Generator, spec: SeasonSpec, quality: Floats) -> People:
    yards, riders = spec.yards, spec.riders
    skill = rng.normal(0.0, 0.25, riders)
    popularity = 2.5 * skill + rng.normal(0.0, 0.5, riders)
    code = np.where(rng.random(riders) < 0.45, JUMPS, FLAT)
    code[: riders // 3], code[riders // 3 : 2 * (riders // 3)] = FLAT, JUMPS
    calls = np.tile(popularity, (yards, 1))
    for rider_code in (FLAT, JUMPS):
        of_code = np.flatnonzero(code == rider_code)
        weight = np.exp(popularity[of_code])
        for yard in range(yards):
            first, second = rng.choice(of_code, 2, replace=False, p=weight / weight.sum())
            calls[yard, first] += 3.5
            calls[yard, second] += 2.0
    claims = np.where((skill < 0.1) & (rng.random(riders) < 0.3), rng.choice((3.0, 5.0, 7.0), riders), 0.0)
    return People(
        region=rng.integers(0, 3, yards),
        trainer_form=0.10 * quality + drift(rng, spec.days, yards, 0.32, 30.0),
        code=code,
        jockey_skill=skill,
        jockey_form=drift(rng, spec.days, riders, 0.18, 25.0),
        claim_lb=claims,
        popularity=popularity,
        calls=calls,
    )
