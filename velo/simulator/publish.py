"""Publish a season: every version of every result as Arrow tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from velo.simulator.amendments import Placings, amend
from velo.simulator.courses import AW, COURSES
from velo.simulator.entries import DeclaredRunners, FilledRace
from velo.simulator.race_day import STATUSES, RunOutcome
from velo.simulator.segments import Floats, Ints
from velo.simulator.table import INSTANT, RUNNER_SCHEMA
from velo.simulator.world import HEADGEAR, SEXES, World

_RACE_COLUMNS = frozenset(RUNNER_SCHEMA.names[: RUNNER_SCHEMA.get_field_index("runner_no")])
_Number = TypeVar("_Number", np.int64, np.float64)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Published:
    """A day of racing; odds and true win probabilities are NaN where there are none."""

    day: int
    declared: DeclaredRunners
    outcome: RunOutcome
    odds: Floats
    chance: Floats


@dataclass(frozen=True)
class _Result:
    """All versions of the season's results; `runner` is the index among the season's declared runners."""

    runner: Ints
    version: Ints
    known_at: Ints
    placings: Placings


def runner_table(rng: np.random.Generator, world: World, days: Sequence[Published]) -> pa.Table:
    """The runner table of a season. Versions known only after its last day are left out."""
    if not days:
        return RUNNER_SCHEMA.empty_table()
    races = [race for day in days for race in day.declared.races]
    race = _season_races(days)
    result = _results(rng, world, days, races)
    columns = _race_columns(rng, world, races) | _runner_columns(rng, world, days)
    rank = np.empty(len(races), np.int64)
    rank[sorted(range(len(races)), key=lambda at: (races[at].plan.off, _race_id(world, races[at])))] = np.arange(
        len(races)
    )
    number = _concatenated([day.declared.runner_no for day in days])
    order = np.lexsort((number[result.runner], result.version, rank[race[result.runner]]))
    taken = pa.array(result.runner[order])
    by_race = pa.array(race[result.runner[order]])
    arrays = {name: column.take(by_race if name in _RACE_COLUMNS else taken) for name, column in columns.items()}
    placings = result.placings
    position = placings.position[order]
    arrays |= {
        "status": pa.array(STATUSES).take(pa.array(placings.status[order])),
        "position": pa.array(position, mask=position == 0),
        "beaten_lengths": _nullable(placings.beaten_lengths[order]),
        "finish_time_s": _nullable(placings.finish_time_s[order]),
        "result_version": pa.array(result.version[order]),
        "known_at": pa.array(result.known_at[order]),
    }
    return pa.table([arrays[field.name].cast(field.type) for field in RUNNER_SCHEMA], schema=RUNNER_SCHEMA)


def chance_table(world: World, days: Sequence[Published]) -> pa.Table:
    """`race_id`, `horse_id`, `win_probability`: one row per starter, race by race; each race sums to 1."""
    schema = pa.schema([("race_id", pa.string()), ("horse_id", pa.string()), ("win_probability", pa.float64())])
    if not days:
        return schema.empty_table()
    chance = _concatenated([day.chance for day in days])
    started = ~np.isnan(chance)
    races = [race for day in days for race in day.declared.races]
    race_ids = pa.array([_race_id(world, race) for race in races])
    return pa.table(
        [
            race_ids.take(pa.array(_season_races(days)[started])),
            _ids("H", len(world.horse_names)).take(
                pa.array(_concatenated([day.declared.horse for day in days])[started])
            ),
            pa.array(chance[started]),
        ],
        schema=schema,
    )


def _season_races(days: Sequence[Published]) -> Ints:
    """Declared runner → race, numbered through the season."""
    before = np.cumsum([0] + [len(day.declared.races) for day in days[:-1]])
    return _concatenated([day.declared.race + start for day, start in zip(days, before, strict=True)])


def _race_id(world: World, race: FilledRace) -> str:
    """`2024-05-04-ASH-3`: local date, course, race number."""
    plan = race.plan
    return f"{_local_date(world, race).isoformat()}-{COURSES[plan.meeting.course].code}-{plan.race_no}"


def _local_date(world: World, race: FilledRace) -> date:
    return race.plan.off.astimezone(world.spec.zone).date()


def _race_columns(rng: np.random.Generator, world: World, races: Sequence[FilledRace]) -> dict[str, pa.Array]:
    """Columns with one entry per race."""
    plans = [race.plan for race in races]
    unknown_going = rng.random(len(races)) < 0.002
    return {
        "race_id": pa.array([_race_id(world, race) for race in races]),
        "race_date": pa.array([_local_date(world, race) for race in races]),
        "off_time": pa.array([plan.off for plan in plans], INSTANT),
        "race_no": pa.array([plan.race_no for plan in plans]),
        "course": pa.array([COURSES[plan.meeting.course].name for plan in plans]),
        "country": pa.array(["GB"] * len(plans)),
        "race_name": pa.array([race.name for race in races]),
        "race_type": pa.array([plan.race_type for plan in plans]),
        "race_class": pa.array([race.race_class for race in races]),
        "rating_band": pa.array(
            [None if race.band_top is None else f"0-{race.band_top}" for race in races], pa.string()
        ),
        "handicap": pa.array([race.band_top is not None for race in races]),
        "surface": pa.array(["AW" if plan.meeting.stage == AW else "Turf" for plan in plans]),
        "course_config": pa.array([plan.config for plan in plans]),
        "going": pa.array(
            np.array([plan.meeting.ground.text for plan in plans], object), pa.string(), mask=unknown_going
        ),
        "distance_m": pa.array([round(plan.distance_m, 1) for plan in plans]),
    }


def _runner_columns(rng: np.random.Generator, world: World, days: Sequence[Published]) -> dict[str, pa.Array]:
    """Columns with one entry per declared runner."""
    declared = [day.declared for day in days]
    horse, jockey = _concatenated([at.horse for at in declared]), _concatenated([at.jockey for at in declared])
    trainer, draw = world.horses.trainer[horse], _concatenated([at.draw for at in declared])
    # A horse wears its own headgear or none.
    wears = rng.random(len(horse)) < world.horses.headgear[horse]
    gear = np.where(wears, 1 + horse % (len(HEADGEAR) - 1), 0)
    odds = _concatenated([day.odds for day in days])
    odds[rng.random(len(odds)) < 0.0003] = np.nan
    return {
        "runner_no": pa.array(_concatenated([at.runner_no for at in declared])),
        "draw": pa.array(draw, mask=draw == 0),
        "horse_id": _ids("H", len(world.horse_names)).take(pa.array(horse)),
        "horse": pa.array(world.horse_names).take(pa.array(horse)),
        "jockey_id": _ids("J", len(world.jockey_names)).take(pa.array(jockey)),
        "jockey": pa.array(world.jockey_names).take(pa.array(jockey)),
        "trainer_id": _ids("T", len(world.trainer_names)).take(pa.array(trainer)),
        "trainer": pa.array(world.trainer_names).take(pa.array(trainer)),
        "age": pa.array(_concatenated([at.age for at in declared])),
        "sex": pa.array(SEXES).take(pa.array(_concatenated([at.sex for at in declared]))),
        "weight_lbs": pa.array(_concatenated([at.weight_lbs for at in declared])),
        "body_weight_lbs": pa.nulls(len(horse), pa.float64()),
        "official_rating": _nullable(_concatenated([at.rating for at in declared])),
        "headgear": pa.array([name or None for name in HEADGEAR]).take(pa.array(gear)),
        "sp_decimal": _nullable(odds),
    }


def _results(rng: np.random.Generator, world: World, days: Sequence[Published], races: Sequence[FilledRace]) -> _Result:
    """Every version known within the season; values missing in a first result are missing in its amendments."""
    outcomes = [day.outcome for day in days]
    first = Placings(
        status=_concatenated([at.status for at in outcomes]),
        position=_concatenated([at.position for at in outcomes]),
        beaten_lengths=_concatenated([at.beaten_lengths for at in outcomes]),
        finish_time_s=_concatenated([at.finish_time_s for at in outcomes]),
    )
    race = _season_races(days)
    runner, bounds = np.arange(len(race)), np.searchsorted(race, np.arange(len(races) + 1))
    known_at = _weighed_in(rng, races)
    end = datetime.combine(world.spec.start + timedelta(days=world.spec.days), time(), tzinfo=world.spec.zone)
    parts = [_Result(runner, np.ones(len(race), np.int64), _microseconds(known_at)[race], first)]
    for at in np.flatnonzero(rng.random(len(races)) < world.spec.amended_share):
        members = runner[bounds[at] : bounds[at + 1]]
        for version in amend(rng, first.of(members), known_at[at]):
            if version.known_at < end:
                blank = np.full(len(members), version.number)
                instant = np.repeat(_microseconds([version.known_at]), len(members))
                parts.append(_Result(members, blank, instant, version.placings))
    every = _Result(
        _concatenated([part.runner for part in parts]),
        _concatenated([part.version for part in parts]),
        _concatenated([part.known_at for part in parts]),
        Placings.concatenated([part.placings for part in parts]),
    )
    return _with_gaps(rng, every, race)


def _weighed_in(rng: np.random.Generator, races: Sequence[FilledRace]) -> list[datetime]:
    """The instant at which each result is first known: about 15 minutes after the off, later after an enquiry; whole seconds."""
    minutes = 15.0 + np.clip(rng.normal(0.0, 2.0, len(races)), -6.0, 6.0)
    minutes += np.where(rng.random(len(races)) < 0.04, rng.uniform(4.0, 20.0, len(races)), 0.0)
    return [race.plan.off + timedelta(seconds=int(60 * wait)) for race, wait in zip(races, minutes, strict=True)]


def _with_gaps(rng: np.random.Generator, result: _Result, race: Ints) -> _Result:
    """Remove the distances or times of some races and the distances of some runners; a winner keeps its 0."""
    races = int(race.max()) + 1
    lacking = (rng.random(races) < 0.004)[race] | (rng.random(len(race)) < 0.004)
    untimed = (rng.random(races) < 0.012)[race]
    placings = result.placings
    blank = lacking[result.runner] & (placings.position != 1)
    return replace(
        result,
        placings=replace(
            placings,
            beaten_lengths=np.where(blank, np.nan, placings.beaten_lengths),
            finish_time_s=np.where(untimed[result.runner], np.nan, placings.finish_time_s),
        ),
    )


def _microseconds(instants: Sequence[datetime]) -> Ints:
    return np.array([(instant - _EPOCH) // timedelta(microseconds=1) for instant in instants], np.int64)


def _concatenated(parts: Sequence[npt.NDArray[_Number]]) -> npt.NDArray[_Number]:
    return np.concatenate(parts)


def _nullable(values: Floats) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _ids(letter: str, count: int) -> pa.Array:
    return pa.array([f"{letter}{number:06d}" for number in range(1, count + 1)])
