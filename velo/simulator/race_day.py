"""Run the races: true strengths, withdrawals, performances, placings."""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from velo.simulator.courses import AW, SOFT, distance_band
from velo.simulator.entries import DeclaredRunners
from velo.simulator.form import Form
from velo.simulator.segments import Bools, Floats, Ints, Segments
from velo.simulator.world import FLAT, LB_PER_LOGIT, World

STATUSES = ("FINISHED", "PU", "F", "UR", "BD", "SU", "RO", "REF", "RR", "LFT", "CO", "DNF", "DSQ", "NR", "VOID")
FINISHED, F, BD, UR = STATUSES.index("FINISHED"), STATUSES.index("F"), STATUSES.index("BD"), STATUSES.index("UR")
DSQ, NR, VOID = STATUSES.index("DSQ"), STATUSES.index("NR"), STATUSES.index("VOID")
RACE_TYPES = ("Flat", "Hurdle", "Chase", "NHF")
# Chance that a beaten horse does not complete, and the shares of PU, F, UR, BD, SU, RO, REF, RR, LFT, CO, DNF, DSQ.
_MISHAP = (0.006, 0.10, 0.18, 0.02)
_MISHAPS = (
    (0.36, 0.00, 0.18, 0.01, 0.05, 0.04, 0.02, 0.12, 0.13, 0.02, 0.02, 0.03),
    (0.66, 0.16, 0.07, 0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.01, 0.005, 0.005),
    (0.56, 0.19, 0.15, 0.03, 0.01, 0.02, 0.02, 0.01, 0.00, 0.005, 0.0025, 0.0025),
    (0.70, 0.00, 0.05, 0.00, 0.05, 0.12, 0.00, 0.03, 0.03, 0.00, 0.01, 0.01),
)
_WITHDRAWN = 0.045
_RACE_VOID = 0.0008
_DEAD_HEAT_GAP = 0.0035
# Lengths to a unit of performance, and seconds to a length, by race type.
_LENGTHS = (1.3, 1.7, 1.9, 1.6)
_SECONDS = (0.18, 0.22, 0.25, 0.20)
_SPEED_M_S = (17.0, 13.9, 13.3, 14.2)
# The judge's margins: nose, short head, head, neck, then quarters.
_MARGINS = np.concatenate(
    [[0.05, 0.1, 0.2, 0.3, 0.5, 0.75], np.arange(1.0, 5.0, 0.25), np.arange(5.0, 12.0, 0.5), np.arange(12.0, 61.0)]
)


@dataclass(frozen=True)
class Strengths:
    """Strengths in logits, one entry per declared runner: `ability` (lasting, less the weight) and `hidden` (the rest)."""

    ability: Floats
    hidden: Floats

    @property
    def total(self) -> Floats:
        """The true strength; win probabilities are its softmax over the starters."""
        return self.ability + self.hidden


@dataclass(frozen=True)
class RunOutcome:
    """The placings, one entry per declared runner. Unplaced: `position` 0, `beaten_lengths` and `finish_time_s` NaN.
    `performance` is NaN for a non-runner."""

    status: Ints
    position: Ints
    beaten_lengths: Floats
    finish_time_s: Floats
    performance: Floats


@dataclass(frozen=True)
class Circumstances:
    """One entry per race: type (index of RACE_TYPES), distance, softness and group of the going, course, all-weather."""

    race_type: Ints
    distance_m: Floats
    softness: Floats
    going_group: Ints
    course: Ints
    aw: Ints

    @classmethod
    def of(cls, declared: DeclaredRunners) -> "Circumstances":
        """The circumstances of the day's races, in their order."""
        plans = [race.plan for race in declared.races]
        return cls(
            race_type=np.array([RACE_TYPES.index(plan.race_type) for plan in plans]),
            distance_m=np.array([plan.distance_m for plan in plans]),
            softness=np.array([plan.meeting.ground.softness for plan in plans]),
            going_group=np.array([plan.meeting.ground.group for plan in plans]),
            course=np.array([plan.meeting.course for plan in plans]),
            aw=np.array([int(plan.meeting.stage == AW) for plan in plans]),
        )


def withdrawals(rng: np.random.Generator, races: Segments, softness: Floats) -> Bools:
    """Which declared runners are withdrawn: more on extreme going; at least two stay in."""
    chance = _WITHDRAWN * (1.0 + 0.5 * np.abs(softness[races.race]))
    draw = rng.random(len(races.race))
    return (draw < chance) & (races.ranks(-draw) >= 2)


def strengths(
    world: World, form: Form, declared: DeclaredRunners, at: Circumstances, runs: Bools, day: int
) -> Strengths:
    """True strengths on the day; the draw counts by rank among those that run."""
    horses, people, race, horse = world.horses, world.people, declared.race, declared.horse
    on = world.spec.start + timedelta(days=day)
    flat = at.race_type[race] == RACE_TYPES.index("Flat")
    pounds = form.cycle_lb[horse] + horses.soft_lb[horse] * at.softness[race]
    stretch = np.log(at.distance_m[race] / horses.best_distance_m[horse]) / 0.2
    pounds -= np.minimum(2.0 * stretch**2, 15.0)
    pounds += horses.aw_lb[horse] * np.where(at.aw[race] == 1, 1.0, -1.0) * flat
    idle = day - np.nan_to_num(form.last_day[horse], nan=day - 40.0)
    pounds -= np.where(idle > 100, 2.5, np.where(idle < 7, 1.0, 0.0))
    hidden = pounds / LB_PER_LOGIT + people.trainer_form[day, horses.trainer[horse]]
    hidden += people.jockey_skill[declared.jockey] + people.jockey_form[day, declared.jockey]
    cell = world.bias[at.course, at.aw, distance_band(at.distance_m), at.going_group][race]
    hidden += np.where(flat, cell * draw_position(declared, runs), 0.0)
    ability = (horses.ability_lb(horse, on) - declared.weight_lbs) / LB_PER_LOGIT
    return Strengths(ability, hidden)


def draw_position(declared: DeclaredRunners, runs: Bools) -> Floats:
    """The draw among the starters, from −0.5 (lowest) to +0.5 (highest); 0 for non-runners."""
    position = np.zeros(len(runs))
    if runs.any():
        starters = Segments.of(declared.race[runs])
        rank = starters.ranks(declared.draw[runs].astype(np.float64))
        position[runs] = rank / np.maximum(starters.sizes[starters.race] - 1, 1) - 0.5
    return position


def run(
    rng: np.random.Generator, declared: DeclaredRunners, at: Circumstances, strength: Floats, runs: Bools
) -> RunOutcome:
    """Run the day's races (Plackett-Luce over `strength`) and place them.

    The first past the post is never among the mishaps, so a true chance holds the risk of not completing already.
    """
    count = len(strength)
    races = Segments.of(declared.race[runs])
    kind, race_of = at.race_type[declared.race[runs]], declared.race[runs]
    performance = strength[runs] + rng.gumbel(size=len(race_of))
    status = _mishaps(rng, races, kind, performance)
    placed = status == FINISHED
    gap_lengths, position = _placings(races, performance, placed, np.array(_LENGTHS)[kind], at.distance_m[race_of])
    seconds = _winning_time(rng, at)[race_of] + gap_lengths * np.array(_SECONDS)[kind]
    void = (rng.random(len(at.race_type)) < _RACE_VOID)[declared.race]
    outcome = RunOutcome(
        status=np.full(count, NR),
        position=np.zeros(count, np.int64),
        beaten_lengths=np.full(count, np.nan),
        finish_time_s=np.full(count, np.nan),
        performance=np.full(count, np.nan),
    )
    outcome.status[runs], outcome.position[runs] = status, position
    outcome.beaten_lengths[runs], outcome.finish_time_s[runs] = gap_lengths, np.round(seconds, 2)
    outcome.performance[runs] = performance
    outcome.status[void], outcome.position[void] = VOID, 0
    outcome.beaten_lengths[void] = outcome.finish_time_s[void] = np.nan
    return outcome


def _mishaps(rng: np.random.Generator, races: Segments, kind: Ints, performance: Floats) -> Ints:
    """Each starter's status; a horse is brought down only where another fell."""
    beaten = races.maxima(performance) - performance
    # Pulled up is mostly the fate of horses already beaten, so the chance grows with the distance behind.
    chance = np.array(_MISHAP)[kind] * np.clip(0.4 + 0.3 * beaten, 0.0, 2.5)
    mishap = (rng.random(len(kind)) < chance) & (beaten > 0)
    shares = np.cumsum(np.array(_MISHAPS), axis=1)[kind]
    which = 1 + (rng.random(len(kind))[:, None] * shares[:, -1:] > shares).sum(axis=1)
    status = np.where(mishap, which, FINISHED)
    fell = races.sums(((status == F) | (status == UR)).astype(np.float64))
    return np.where((status == BD) & (fell == 0), UR, status).astype(np.int64)


def _placings(
    races: Segments, performance: Floats, placed: Bools, lengths: Floats, distance_m: Floats
) -> tuple[Floats, Ints]:
    """Lengths behind the winner (NaN when not placed) and position (0 when not): equal positions are dead heats."""
    behind, position = np.full(len(performance), np.nan), np.zeros(len(performance), np.int64)
    order = np.flatnonzero(placed)[np.lexsort((-performance[placed], races.race[placed]))]
    finishers = Segments.of(races.race[order])
    first = finishers.first[finishers.race]
    at = np.arange(len(order))
    gap = np.where(at == first, 0.0, performance[order[at - 1]] - performance[order])
    level = (gap < _DEAD_HEAT_GAP) & (at != first)
    stretched = (gap + 0.25 * gap**2) * lengths[order] * (distance_m[order] / 1600.0) ** 0.35
    # Beaten horses are eased down: the further back, the wider apart.
    stretched *= 1.0 + 0.15 * (at - first)
    nearest = np.searchsorted((_MARGINS[1:] + _MARGINS[:-1]) / 2, stretched)
    total = np.cumsum(np.where(level | (at == first), 0.0, _MARGINS[nearest]))
    behind[order] = np.round(total - total[first], 2)
    # A dead-heater takes the place of the first of those it is level with.
    position[order] = np.maximum.accumulate(np.where(level, 0, at)) - first + 1
    return behind, position


def _winning_time(rng: np.random.Generator, at: Circumstances) -> Floats:
    """Seconds: slower the further and the softer, on the Flat and over jumps alike."""
    reference_m = np.where(at.race_type == FLAT, 1000.0, 3200.0)
    speed = np.array(_SPEED_M_S)[at.race_type] - 0.65 * np.log2(at.distance_m / reference_m)
    speed *= 1.0 - 0.014 * at.softness - 0.01 * (at.going_group == SOFT)
    time_s: Floats = at.distance_m / speed * rng.normal(1.0, 0.008, len(speed))
    return time_s
