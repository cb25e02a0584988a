"""The parameters of a simulated season."""

from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from velo.errors import UserError

COURSES_WRITTEN = 12


@dataclass(frozen=True)
class SeasonSpec:
    """Parameters of a season. Equal specs give equal tables on one numpy version.

    `start` is the first local day, `days` the number of days; `races_per_year` sets the number of meetings per day. `horses`,
    `trainers` and `jockeys` are the numbers active at one time; None scales them with the racing. `courses` is how many of
    the twelve courses are used; the first four cover Flat turf, all-weather and jumps. `amended_share` is the share of races
    with an amended result.

    `market_knowledge` in [0, 1] sets how good the prices are. At 1 the market prices every horse's true win probability (to
    the nearest price of the ladder), and nothing can beat it. At 0 it knows only lasting ability, with much noise: form,
    stable, jockey, draw, going and distance are not in the prices. It affects prices only: specs that differ only in it have
    the same runners and results.

    Raises `UserError` for a value out of range.
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
        """Horses in training at one time; by default about seven runs a year each."""
        return self.horses if self.horses is not None else max(240, int(self.races_per_year * 1.35))

    @property
    def yards(self) -> int:
        """Trainers; by default about fifty horses each."""
        return self.trainers if self.trainers is not None else max(24, self.stabled // 50)

    @property
    def riders(self) -> int:
        """Jockeys, Flat and jumps together; by default enough for every meeting."""
        return self.jockeys if self.jockeys is not None else max(90, self.races_per_year // 50)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"{name} {value!r}: must be between {low} and {high}; give a value in that range")
