"""`velo bench monitor`: false alarms and detection delay of `velo monitor` on simulated seasons, without a drift and with planted ones.

A world has a season to train on and a season that is served. Its features come from the store's own log, tables and training
set, which serving equals bit for bit; a planted drift adds one standard deviation of the training set to a feature from a race
day on. Features are tested apart, so all can be planted at once.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from rich.console import Group

from benchmarks.stores import machine
from velo.change_detection import FALSE_ALARMS, LEAST_DAYS, changes
from velo.drift import CHANNELS, Profile
from velo.errors import UserError
from velo.text_tables import facts, table_of
from velo.training.dataset.training_set import TrainingSet, training_set
from velo.training.model.trees import FEATURES

Progress = Callable[[str, int, int], None]
SEASON: Final = 365
"""Days of a season."""
START: Final = date(2022, 1, 1)
AFTERWARDS: Final = datetime(2030, 1, 1, tzinfo=UTC)
SHOWN: Final = 5
WITHIN: Final = 5
"""Race days within which a drift of one standard deviation is to be reported."""
PLANTED: Final = (0.2, 0.5, 0.8)
"""Where in the served season a drift is planted, as a part of its race days."""


@dataclass(frozen=True, slots=True)
class MonitoredWorld:
    """One world: race days trained on and served, features, false alarms by channel, and delays of the planted drifts in race days.

    A delay of 1 is the first race day with the drift; `missed` drifts were not reported by the season's end.
    """

    seed: int
    trained_days: int
    served_days: int
    runners: int
    features: int
    false_alarms: dict[str, int]
    named: tuple[str, ...]
    delays: tuple[int, ...]
    missed: int
    late: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MonitorFigures:
    """The worlds, the expected number of false alarms a season, and the seconds taken."""

    worlds: tuple[MonitoredWorld, ...]
    expected: float
    seconds: float
    machine: str

    @property
    def false_alarms_a_season(self) -> float:
        """The mean number over the worlds, all features together."""
        return sum(sum(world.false_alarms.values()) for world in self.worlds) / len(self.worlds)

    @property
    def in_time(self) -> float:
        """The share of planted drifts that are reported within `WITHIN` race days."""
        delays = [delay for world in self.worlds for delay in world.delays]
        planted = len(delays) + sum(world.missed for world in self.worlds)
        return sum(delay <= WITHIN for delay in delays) / max(planted, 1)

    @property
    def broken(self) -> bool:
        """Whether there are more false alarms than promised."""
        return self.false_alarms_a_season > 1.0


def measure(
    worlds: int,
    seed: int,
    races_per_year: int,
    days: int = 2 * SEASON,
    progress: Progress = lambda step, done, steps: None,
) -> MonitorFigures:
    """Make the worlds, each of `days` days, and run the tests over the last season of each, with the days before as training set."""
    begun = time.perf_counter()
    found = []
    for number in range(worlds):
        progress("worlds", number, worlds)
        rows = _seasons(seed + number, races_per_year, days)
        found.append(_world(seed + number, rows))
    return MonitorFigures(tuple(found), FALSE_ALARMS, time.perf_counter() - begun, machine())


def _seasons(seed: int, races_per_year: int, days: int) -> TrainingSet:
    """The training set of a simulated store of `days` days, in a temporary home."""
    from velo.api.race_store import open_store
    from velo.simulator import SeasonSpec, simulate

    spec = SeasonSpec(seed=seed, start=START, days=days, races_per_year=races_per_year)
    with TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "home", clock=lambda: AFTERWARDS)
        store.ingest(simulate(spec))
        store.build()
        return training_set(store.opened())


def _world(seed: int, rows: TrainingSet) -> MonitoredWorld:
    """Train on the race days before the last `SEASON` days, watch those; then again with every drift planted."""
    days, names = rows.days(), list(FEATURES)
    served = days > days.max() - np.timedelta64(SEASON, "D")
    conditions = rows.conditions()
    values = rows.matrix(names)
    profile = Profile.of(names, values[~served], days[~served], conditions[~served])
    noise = profile.noise
    if noise is None:
        raise UserError(
            f"the store of seed {seed} has {profile.days.size} race days to train on, alarms need {LEAST_DAYS}: give more "
            "--days or --races-a-year"
        )
    values, days, conditions = values[served], days[served], conditions[served]
    quiet = profile.cohorts(values, days, conditions)
    raised = changes(noise, quiet.days, quiet.weights, quiet.channels)
    by_channel = {name: sum(change.channel == at for change in raised) for at, name in enumerate(CHANNELS)}
    delays, late = list[int](), set[str]()
    missed = 0
    varies = np.flatnonzero(profile.sd > 0.0)
    for part in PLANTED:
        begin = quiet.days[int(quiet.days.size * part)]
        planted = values + np.where((days >= begin)[:, None], profile.sd, 0.0)
        drifted = profile.cohorts(planted, days, conditions)
        first = dict.fromkeys(varies.tolist(), SEASON)
        for change in changes(noise, drifted.days, drifted.weights, drifted.channels):
            reported = np.datetime64(change.reported)
            if reported >= begin and change.feature in first:
                delay = int(np.searchsorted(drifted.days, reported) - np.searchsorted(drifted.days, begin)) + 1
                first[change.feature] = min(first[change.feature], delay)
        delays += [delay for delay in first.values() if delay < SEASON]
        missed += sum(delay == SEASON for delay in first.values())
        late |= {names[at] for at, delay in first.items() if delay > WITHIN}
    return MonitoredWorld(
        seed,
        profile.days.size,
        quiet.days.size,
        int(served.sum()),
        len(names),
        by_channel,
        tuple(f"{names[change.feature]} ({CHANNELS[change.channel]}, {change.reported})" for change in raised),
        tuple(delays),
        missed,
        tuple(sorted(late)),
    )


def _first(names: Sequence[str]) -> str:
    """The first names of many; `--json` has them all."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "; ".join(names[:SHOWN]) + more or "none"


def table(figures: MonitorFigures) -> Group:
    """The false alarms of each season without a drift, and the delays of the planted drifts, for the terminal."""
    quiet = [
        (world.seed, f"{world.trained_days} + {world.served_days}", f"{world.runners:,}", world.features,
         *world.false_alarms.values(), _first(world.named))
        for world in figures.worlds
    ]  # fmt: skip
    delays = np.array([delay for world in figures.worlds for delay in world.delays])
    missed = sum(world.missed for world in figures.worlds)
    late = sorted({name for world in figures.worlds for name in world.late})
    found = [
        ("drifts planted", f"{delays.size + missed:,}"),
        (f"reported within {WITHIN} race days", f"{figures.in_time:.1%}"),
        ("race days to the report, median", f"{np.median(delays):.0f}"),
        (
            "race days to the report, 90 %, 99 %, most",
            ", ".join(f"{np.quantile(delays, q):.0f}" for q in (0.9, 0.99, 1)),
        ),
        ("never reported", f"{missed}"),
        (f"features ever reported later than {WITHIN} race days", f"{len(late)}: {_first(late)}"),
    ]
    return Group(
        table_of(
            f"a season without a drift: {figures.false_alarms_a_season:.2f} false alarms a season (expected at most "
            f"{figures.expected:g}), {figures.seconds:.0f} s on {figures.machine}",
            ("world", "race days trained + served", "runners served", "features", *CHANNELS, "false alarms"),
            quiet,
            left=("world",),
        ),
        facts("a drift of one standard deviation, planted in every feature", found),
    )
