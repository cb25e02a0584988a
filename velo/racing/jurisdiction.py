"""The rules of one racing authority that decide how a start is measured: going, distance, par times, places, class.

`DEFAULT` holds the values of contract 4 and 5. Python (`going`, `measures`, `starts`) and the batch SQL
(`streams/batch/staging.py`) both read them from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Jurisdiction:
    """One authority's rules. Distances are in metres and times in milliseconds.

    `going_groups`: each group with its goings, casefolded and without text in parentheses.
    `distance_bands`: each band with the distance it ends before, ascending; `longest_band` holds all beyond.
    `par_times_ms`: distance and time of an ordinary race, both ascending; straight lines between and beyond.
    `place_terms`: the largest field and the places that count up to it, ascending; `most_places` in larger fields.
    `class_direction`: 1 where a higher class number is an easier class, -1 where it is a harder one.

    Raises `ValueError` for rules that contradict each other.
    """

    name: str
    going_groups: tuple[tuple[str, tuple[str, ...]], ...]
    distance_bands: tuple[tuple[str, int], ...]
    longest_band: str
    par_times_ms: tuple[tuple[int, int], ...]
    place_terms: tuple[tuple[int, int], ...]
    most_places: int
    class_direction: int

    def __post_init__(self) -> None:
        goings = [going for _, words in self.going_groups for going in words]
        ascending = {
            "distance_bands": [end_m for _, end_m in self.distance_bands],
            "par_times_ms distances": [at_m for at_m, _ in self.par_times_ms],
            "par_times_ms times": [time_ms for _, time_ms in self.par_times_ms],
            "place_terms": [field for field, _ in self.place_terms],
        }
        for rule, values in ascending.items():
            if any(after <= before for before, after in pairwise(values)):
                raise ValueError(f"{self.name}: {rule} must ascend, got {values}")
        if len(self.par_times_ms) < 2:
            raise ValueError(f"{self.name}: par_times_ms needs two points or more, got {self.par_times_ms}")
        if len(set(goings)) < len(goings):
            raise ValueError(f"{self.name}: a going is in two groups or twice in one: {sorted(goings)}")
        if self.class_direction not in (1, -1):
            raise ValueError(f"{self.name}: class_direction must be 1 or -1, got {self.class_direction}")
        for name in (*self.bands, *(group for group, _ in self.going_groups)):
            if not name.isidentifier():  # it becomes a part of a key, split at `|`, and a literal of the batch SQL
                raise ValueError(f"{self.name}: the name of a band or group must be one plain word, got {name!r}")

    @property
    def bands(self) -> tuple[str, ...]:
        """The names of the distance bands, shortest first."""
        return (*(band for band, _ in self.distance_bands), self.longest_band)

    @cached_property
    def group_of_going(self) -> Mapping[str, str]:
        """The group of each going."""
        return {going: group for group, goings in self.going_groups for going in goings}

    def distance_band(self, distance_m: float | None) -> str:
        """The band of a distance; unknown if the distance is missing."""
        if distance_m is None:
            return UNKNOWN
        return next((band for band, end_m in self.distance_bands if distance_m < end_m), self.longest_band)

    def places(self, starters: int) -> int:
        """The number of places that count in a field of `starters`."""
        return next((places for field, places in self.place_terms if starters <= field), self.most_places)

    @cached_property
    def par_lines(self) -> tuple[tuple[int, int, int, int], ...]:
        """The straight lines of `par_times_ms`: from metres, from milliseconds, to metres, to milliseconds."""
        return tuple((*start, *stop) for start, stop in pairwise(self.par_times_ms))

    def par_time_ms(self, run_m: int) -> int:
        """Milliseconds of an ordinary race over `run_m` metres."""
        from_m, from_ms, to_m, to_ms = next((line for line in self.par_lines if run_m < line[2]), self.par_lines[-1])
        return from_ms + (run_m - from_m) * (to_ms - from_ms) // (to_m - from_m)


DEFAULT: Final = Jurisdiction(
    name="default",
    going_groups=(
        ("fast", ("hard", "firm", "good to firm", "fast", "wet fast", "standard to fast")),
        ("good", ("good", "standard")),
        ("easy", ("good to soft", "good to yielding", "yielding", "standard to slow", "wet slow", "sealed")),
        ("soft", ("soft", "yielding to soft", "soft to heavy", "very soft", "heavy", "slow", "muddy")),
    ),
    distance_bands=(("sprint", 1300), ("mile", 1900), ("middle", 2700)),
    longest_band="staying",
    # Speed falls with the distance to the power of 0.107: a regression over 150,000 Hong Kong starts of 1000 to 2400 m.
    par_times_ms=(
        (0, 0), (800, 45_000), (1000, 57_600), (1200, 70_500), (1600, 96_900), (2000, 124_000), (2400, 151_700),
        (3200, 208_700), (4800, 327_000), (7200, 512_000),
    ),
    place_terms=((4, 1), (7, 2)),
    most_places=3,
    class_direction=1,
)  # fmt: skip
"""Contract 4 and 5: British and Irish place terms and going words, with those of Hong Kong and North America."""

JAPAN: Final = Jurisdiction(
    name="japan",
    # The Japan Racing Association grades turf and dirt in four steps, 良 稍重 重 不良; its English words follow each.
    going_groups=(
        ("fast", ("良", "firm", "standard")),
        ("good", ("稍重", "good")),
        ("easy", ("重", "yielding", "muddy")),
        ("soft", ("不良", "soft", "sloppy")),
    ),
    # SMILE, the categories of the World's Best Racehorse Rankings: sprint to 1300 m, mile to 1899 m,
    # intermediate to 2100 m, long to 2700 m, extended beyond.
    distance_bands=(("sprint", 1301), ("mile", 1900), ("intermediate", 2101), ("long", 2701)),
    longest_band="extended",
    # Winning times on turf that set a standard: CBC Sho 2022, Victoria Mile 2019, Tenno Sho (Autumn) 2023,
    # Japan Cup 2018, Tenno Sho (Spring) 2017.
    par_times_ms=((0, 0), (1200, 65_800), (1600, 90_500), (2000, 115_200), (2400, 140_600), (3200, 192_500)),
    # Place bets pay three from eight runners, two from five, and are not sold below.
    place_terms=((4, 0), (7, 2)),
    most_places=3,
    # A horse moves up a class with each win: 1勝 is easier than 3勝.
    class_direction=-1,
)
"""Japanese flat racing."""
