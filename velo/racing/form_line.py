"""What a racecard prints before a horse's name: its last finishes as figures, and the marks C, D, CD and BF."""

from collections.abc import Sequence
from datetime import date
from typing import Final, Protocol

from velo.racing.messages import FINISHED, RAN

FIGURES: Final = 6
SAME_DISTANCE_M: Final = 100.0
"""Half a furlong: a course moves its rails by less."""
SEASON_DAYS: Final = 365
_LETTERS: Final = {
    "PU": "P", "F": "F", "UR": "U", "BD": "B", "SU": "S", "RO": "O", "REF": "R", "RR": "R", "LFT": "L", "CO": "C", "DSQ": "D",
}  # fmt: skip


class Run(Protocol):
    """A past start, as far as figures and marks need it; `favourite` is None where a price of the race is unknown."""

    @property
    def race_date(self) -> date: ...  # noqa: D102 as the runner table says
    @property
    def course(self) -> str: ...  # noqa: D102
    @property
    def distance_m(self) -> float | None: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def position(self) -> int | None: ...  # noqa: D102
    @property
    def favourite(self) -> bool | None: ...  # noqa: D102


def figure(run: Run) -> str:
    """One finish: 1 to 9, 0 from the tenth place on, a letter for a horse that did not finish, ? where the place is unknown."""
    if run.status in (FINISHED, RAN) and run.position is not None:
        return str(run.position) if run.position < 10 else "0"
    return _LETTERS.get(run.status, "?" if run.status in (FINISHED, RAN) else "–")


def figures(runs: Sequence[Run], most: int = FIGURES) -> str:
    """The last finishes, oldest first, of `runs` ordered latest first; `-` between two years, `/` where a year or more is missing."""
    text = ""
    before: date | None = None
    for run in reversed(runs[:most]):
        if before is not None and run.race_date.year > before.year:
            text += "/" if (run.race_date - before).days > SEASON_DAYS else "-"
        text += figure(run)
        before = run.race_date
    return text


def marks(runs: Sequence[Run], course: str, distance_m: float | None) -> list[str]:
    """C: won at the course. D: won over the distance. CD: both in one race. BF: favourite last time, and beaten.

    `runs` are ordered latest first. CD stands for C and D.
    """
    won = [run for run in runs if run.position == 1 and run.status in (FINISHED, RAN)]
    here = [run for run in won if run.course == course]
    found = []
    if any(_same(run.distance_m, distance_m) for run in here):
        found.append("CD")
    else:
        found += ["C"] if here else []
        found += ["D"] if any(_same(run.distance_m, distance_m) for run in won) else []
    if runs and runs[0].favourite and runs[0].position != 1:
        found.append("BF")
    return found


def _same(distance_m: float | None, other_m: float | None) -> bool:
    return distance_m is not None and other_m is not None and abs(distance_m - other_m) <= SAME_DISTANCE_M
