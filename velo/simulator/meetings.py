"""The fixture list: the courses of a day, their off times, and the conditions of each race."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np

from velo.simulator.courses import AW, COURSES, FURLONG_M, JUMP, TURF, Going, going
from velo.simulator.world import FLAT, JUMPS, World

HANDICAP, NOVICE, STAKES = "handicap", "novice", "stakes"
_STAGES = (TURF, AW, JUMP)
# Shares of Flat turf, all-weather and jumps by month.
_STAGE_SHARE = (
    (0.00, 0.42, 0.58), (0.00, 0.40, 0.60), (0.06, 0.36, 0.58),
    (0.36, 0.20, 0.44), (0.60, 0.14, 0.26), (0.66, 0.14, 0.20),
    (0.68, 0.14, 0.18), (0.68, 0.16, 0.16), (0.62, 0.18, 0.20),
    (0.42, 0.22, 0.36), (0.06, 0.36, 0.58), (0.00, 0.40, 0.60),
)  # fmt: skip
# Racing by weekday from Monday, the mean being 1.
_WEEKDAY = (0.92, 0.92, 0.97, 1.0, 1.07, 1.45, 0.67)
_MEAN_RACES = 7.0
_FLAT_FURLONGS = (5, 6, 7, 8, 9, 10, 12, 14, 16), (0.17, 0.19, 0.17, 0.15, 0.05, 0.11, 0.10, 0.04, 0.02)
_HURDLE_FURLONGS = (16, 17, 19, 20, 24), (0.36, 0.14, 0.14, 0.20, 0.16)
_CHASE_FURLONGS = (16, 17, 20, 21, 24, 26), (0.22, 0.10, 0.24, 0.12, 0.24, 0.08)


@dataclass(frozen=True)
class Meeting:
    """A day's racing at one course. `course` is its index in COURSES."""

    course: int
    stage: str
    ground: Going
    offs: tuple[datetime, ...]


@dataclass(frozen=True)
class RacePlan:
    """A race before entries. `off` is UTC; `field` is the maximum number of runners."""

    meeting: Meeting
    race_no: int
    off: datetime
    race_type: str
    kind: str
    ages: tuple[int, int]
    distance_m: float
    config: str
    field: int

    @property
    def code(self) -> int:
        """FLAT or JUMPS."""
        return FLAT if self.race_type == "Flat" else JUMPS


def fixtures(rng: np.random.Generator, world: World, day: int) -> list[RacePlan]:
    """The races of a day, meeting by meeting in race order; none on 24 and 25 December."""
    on = world.spec.start + timedelta(days=day)
    if on.month == 12 and on.day in (24, 25):
        return []
    wanted = world.spec.races_per_year / _MEAN_RACES / 363 * _WEEKDAY[on.weekday()]
    stages = rng.choice(_STAGES, int(wanted + rng.random()), p=_STAGE_SHARE[on.month - 1])
    open_courses = list(range(world.spec.courses))
    plans: list[RacePlan] = []
    for stage in stages:
        fit = [course for course in open_courses if stage in COURSES[course].stages]
        if not fit:
            continue
        course = fit[rng.integers(len(fit))]
        open_courses.remove(course)
        offs = _off_times(rng, on, str(stage), world)
        ground = going(rng, world.wetness[day, course], str(stage))
        meeting = Meeting(course, str(stage), ground, offs)
        plans += [_plan(rng, meeting, on, number) for number in range(1, len(offs) + 1)]
    return plans


def _off_times(rng: np.random.Generator, on: date, stage: str, world: World) -> tuple[datetime, ...]:
    """UTC off times of a meeting: in daylight, or by floodlight or on a summer evening until 20:30 local."""
    races = int(rng.choice((6, 7, 8), p=(0.25, 0.5, 0.25)))
    winter = on.month in (11, 12, 1, 2)
    late = rng.random() < (0.45 if stage == AW else 0.25 if 5 <= on.month <= 8 else 0.0)
    gap = 35 if not winter and not late and rng.random() < 0.4 else 30
    span = gap * (races - 1)
    if late:
        first = 20 * 60 + 30 - 5 * int(rng.integers(0, 5)) - span
    elif winter:
        first = 12 * 60 + 20 + 5 * int(rng.integers(0, (16 * 60 - 12 * 60 - 20 - span) // 5 + 1))
    else:
        first = 13 * 60 + 5 * int(rng.integers(0, 18))
    midnight = datetime.combine(on, time(), tzinfo=world.spec.zone)
    minutes = [first + gap * number for number in range(races)]
    # Wall-clock arithmetic first, then UTC: an off is announced in local time.
    return tuple((midnight + timedelta(minutes=at)).astimezone(UTC) for at in minutes)


def _plan(rng: np.random.Generator, meeting: Meeting, on: date, number: int) -> RacePlan:
    race_type, kind, ages, furlongs = _purpose(rng, meeting, on, number)
    yards = 0 if furlongs <= 6 else (meeting.course * 37 + furlongs * 11) % 60
    course = COURSES[meeting.course]
    if race_type != "Flat":
        config = "Chase course" if race_type == "Chase" else "Hurdles course"
    else:
        config = "Straight" if furlongs <= course.straight_furlongs else "Round"
    mean, most = {"Flat": (9.9, 20), "Hurdle": (9.9, 20), "Chase": (8.0, 18), "NHF": (10.0, 16)}[race_type]
    mean -= 1.0 * (kind == STAKES)
    field = int(np.clip(np.rint(rng.normal(mean + 0.6 * (on.weekday() == 5), 3.2)), 2, most))
    return RacePlan(
        meeting,
        number,
        meeting.offs[number - 1],
        race_type,
        kind,
        ages,
        furlongs * FURLONG_M + yards * 0.9144,
        config,
        field,
    )


def _purpose(
    rng: np.random.Generator, meeting: Meeting, on: date, number: int
) -> tuple[str, str, tuple[int, int], int]:
    """A race's type, kind, lowest and highest age, and furlongs."""
    if meeting.stage != JUMP:
        if on.month >= 4 and rng.random() < 0.20:
            kind = str(rng.choice((NOVICE, HANDICAP, STAKES), p=(0.70, 0.22, 0.08)))
            longest = 6 if on.month < 7 else 8
            ages = (2, 2)
        else:
            kind = str(rng.choice((HANDICAP, NOVICE, STAKES), p=(0.75, 0.19, 0.06)))
            longest = 16
            ages = (3, 3) if rng.random() < 0.25 else (3, 20)
        allowed = np.array(_FLAT_FURLONGS[1]) * (np.array(_FLAT_FURLONGS[0]) <= longest)
        return "Flat", kind, ages, int(rng.choice(_FLAT_FURLONGS[0], p=allowed / allowed.sum()))
    if number == len(meeting.offs) and rng.random() < 0.6:
        return "NHF", NOVICE, (3, 6), 16
    race_type = "Chase" if rng.random() < 0.44 else "Hurdle"
    kind = str(
        rng.choice((HANDICAP, NOVICE, STAKES), p=(0.66, 0.29, 0.05) if race_type == "Hurdle" else (0.80, 0.15, 0.05))
    )
    furlongs, share = _HURDLE_FURLONGS if race_type == "Hurdle" else _CHASE_FURLONGS
    return race_type, kind, (4, 20), int(rng.choice(furlongs, p=share))
