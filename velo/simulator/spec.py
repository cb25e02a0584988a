"""What a simulated season is made from."""

from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from velo.errors import UserError

COURSES_WRITTEN = 12


@dataclass(frozen=True)
class SeasonSpec:
    """The knobs of a season. Equal specs give equal tables on one numpy version.

    `start` is the first local day, `days` how many there are; `races_per_year` sets how many meetings a day has.
    `horses`, `trainers` and `jockeys` are the numbers in work at one time; None scales them to the racing.
    `courses` takes the first so many of the twelve written ones; any four hold Flat turf, all-weather and jumping.
    `amended_share` is the share of races whose result is published again, changed.

    `market_knowledge` in [0, 1] decides who can beat the prices. At 1 the market prices every horse's true winning
    chance (to the nearest price of the ladder): nothing can beat it. At 0 it knows lasting ability alone, and that
    through much noise: form, stable, rider, draw, going and distance are left to whoever works them out. It moves
    prices and nothing else: two specs that differ only here have the same runners and the same results.

    Raises UserError for a value out of its range.
    """

    seed: int = 1
    start: date = date(2023, 1, 1)
    days: int = 365
    races_per_year: int = 9000
    courses: int = COURSES_WRITTEN
    horses: int | None = None
    trainers: int | None = None
    jockeys: int | None = None
    amended_share: float = 0.006
    market_knowledge: float = 0.7
    timezone: str = "Europe/London"

    def __post_init__(self) -> None:
        _within("seed", self.seed, 0, 2**63 - 1)
        _within("days", self.days, 1, 36_525)
        _within("races_per_year", self.races_per_year, 50, 40_000)
        _within("courses", self.courses, 4, COURSES_WRITTEN)
        _within("horses", self.stabled, 60, 60_000)
        _within("trainers", self.yards, 6, 3_000)
        _within("jockeys", self.riders, 72, 3_000)
        _within("amended_share", self.amended_share, 0.0, 1.0)
        _within("market_knowledge", self.market_knowledge, 0.0, 1.0)
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as unknown:
            raise UserError(
                f"timezone {self.timezone!r}: not a name of the IANA time zone database; give one like Europe/London"
            ) from unknown

    @property
    def zone(self) -> ZoneInfo:
        """The local time zone of the racing."""
        return ZoneInfo(self.timezone)

    @property
    def stabled(self) -> int:
        """Horses in training at one time: about seven runs a year each unless given."""
        return self.horses if self.horses is not None else max(240, int(self.races_per_year * 1.35))

    @property
    def yards(self) -> int:
        """Trainers: about fifty horses each unless given."""
        return self.trainers if self.trainers is not None else max(24, self.stabled // 50)

    @property
    def riders(self) -> int:
        """Jockeys, Flat and jump together: enough that no meeting runs out unless given."""
        return self.jockeys if self.jockeys is not None else max(90, self.races_per_year // 50)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"{name} {value!r}: a season needs it between {low} and {high}; give a value in that range")
