"""The twelve invented courses: their kinds of racing, going and draw bias."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from velo.simulator.segments import Floats, Ints

FURLONG_M = 201.168
TURF, AW, JUMP = "turf", "aw", "jump"
NORTH, MIDLANDS, SOUTH = 0, 1, 2
FAST, GOOD, EASY, SOFT = 0, 1, 2, 3
# Upper bound of moisture, name, group, and the going in places. About one turf day in fifty is at each end.
_TURF_GOINGS = (
    (-1.9, "Firm", FAST, "Good to Firm"),
    (-0.5, "Good to Firm", FAST, "Good"),
    (0.6, "Good", GOOD, "Good to Soft"),
    (1.3, "Good to Soft", EASY, "Soft"),
    (2.3, "Soft", SOFT, "Heavy"),
    (np.inf, "Heavy", SOFT, "Soft"),
)
_AW_GOINGS = (
    (-1.7, "Standard to Fast", FAST, "Standard"),
    (1.1, "Standard", GOOD, "Standard to Slow"),
    (np.inf, "Standard to Slow", EASY, "Slow"),
)
_BAND_BOUNDS_M = (1300.0, 1900.0, 2700.0)
# Logits between the ends of the draw at a typical course, by distance band, shortest first.
_DRAW_SPREAD = (1.0, 0.75, 0.4, 0.15)


@dataclass(frozen=True)
class Course:
    """A racecourse; `stages` are its kinds of racing, `tightness` scales its draw bias."""

    name: str
    code: str
    region: int
    stages: tuple[str, ...]
    straight_furlongs: int
    tightness: float


# The first four cover every kind of racing, enough for a small season.
COURSES = (
    Course("Ashcombe Park", "ASH", SOUTH, (TURF,), 8, 1.0),
    Course("Marlhythe (AW)", "MAR", SOUTH, (AW,), 5, 1.3),
    Course("Carrowmoor", "CAR", NORTH, (JUMP,), 0, 0.0),
    Course("Wexborough", "WEX", MIDLANDS, (TURF, JUMP), 6, 1.4),
    Course("Kelderby", "KEL", NORTH, (TURF, JUMP), 6, 0.8),
    Course("Dunsmere (AW)", "DUN", MIDLANDS, (AW,), 0, 1.0),
    Course("Hollingbeck", "HOL", MIDLANDS, (JUMP,), 0, 0.0),
    Course("Eastmarch Downs", "EAS", SOUTH, (TURF,), 6, 1.6),
    Course("Brackenfold", "BRA", SOUTH, (JUMP,), 0, 0.0),
    Course("Thornwaite (AW)", "THO", NORTH, (AW,), 7, 0.8),
    Course("Silverhowe", "SIL", NORTH, (TURF,), 7, 1.1),
    Course("Penmarrow", "PEN", SOUTH, (JUMP, TURF), 5, 1.2),
)


@dataclass(frozen=True)
class Going:
    """The going: its text, group (FAST to SOFT), and softness in steps from good."""

    text: str
    group: int
    softness: float


def draw_bias(rng: np.random.Generator, courses: int) -> Floats:
    """Logits between the lowest and the highest draw, by course × surface (turf, AW) × distance band × going group.

    Positive favours high numbers. A course has a lasting bias, which the going strengthens, weakens or reverses.
    """
    tightness = np.array([course.tightness for course in COURSES[:courses]])
    lean = rng.choice((-1.0, 1.0), (courses, 2, 4, 1)) * rng.uniform(0.5, 1.3, (courses, 2, 4, 1))
    by_going = rng.normal(0.0, 0.6, (courses, 2, 4, 4))
    spread = np.array(_DRAW_SPREAD).reshape(1, 1, 4, 1)
    bias: Floats = (lean + by_going) * spread * tightness.reshape(-1, 1, 1, 1)
    return bias


def distance_band(distance_m: Floats) -> Ints:
    """0 sprint, 1 mile, 2 middle, 3 staying."""
    return np.searchsorted(_BAND_BOUNDS_M, distance_m, side="right").astype(np.int64)


def moisture(rng: np.random.Generator, start: date, days: int, courses: int) -> Floats:
    """Days × courses: moisture, 0 is good. Winters are wet, summers dry; a wet spell lasts about ten days."""
    kept = np.exp(-1 / 10)
    shocks = rng.normal(0.0, 0.75 * np.sqrt(1 - kept**2), (days, courses))
    weather = np.empty((days, courses))
    spell = rng.normal(0.0, 0.75, courses)
    for day in range(days):
        spell = kept * spell + shocks[day]
        season = np.cos(2 * np.pi * ((start + timedelta(days=day)).timetuple().tm_yday - 20) / 365.25)
        weather[day] = 0.35 + 0.85 * season + spell
    return weather


def going(rng: np.random.Generator, wetness: float, stage: str) -> Going:
    """The going of a meeting from the moisture and kind of racing; sometimes with `(… in places)`."""
    if stage == AW:
        wetness = float(rng.normal())
    _below, text, group, places = next(row for row in (_AW_GOINGS if stage == AW else _TURF_GOINGS) if wetness < row[0])
    if rng.random() < 0.2:
        text = f"{text} ({places} in places)"
    softness = 0.3 * wetness if stage == AW else float(np.clip(wetness - 0.1, -2.0, 2.6))
    return Going(text, group, softness)
