"""`velo bench sizing`: what a start costs, measured on stores that were built, and what that makes of all racing.

The second follows from the first by arithmetic alone, from the figures as they are shown: a reader can check it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import duckdb
from rich.table import Table

from benchmarks.page import put_between, text_table
from benchmarks.stores import hardware, versions
from benchmarks.stream_long import handover
from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.settings import Settings
from velo.storage.store import Home, Store

MARK: Final = "velo bench sizing"
YEARS: Final = 20
GENERATIONS: Final = 2
PEAK: Final = 10
"""A Saturday's busiest second, of so many mean ones."""
STARTS_A_YEAR: Final = {
    "Great Britain and Ireland": 125_000,
    "every thoroughbred race": 1_550_000,
    "everything that races": 3_800_000,
}
"""Assumed, with reasons, in docs/scale.md."""
_MB, _GB = 2**20, 10**9
_SECONDS_A_YEAR: Final = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Sized:
    """A store that was built, and a stream that took it over: sizes in MB, `live` and `cpu` in seconds."""

    starts: int
    log: float
    kept: float
    tables: float
    rows: int
    keys: int
    stream: float
    redis: float
    live: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Units:
    """What a unit costs, rounded as it is shown; what grows from a base has that too."""

    log_bytes_a_start: float
    kept_bytes_a_start: float
    rows_a_start: float
    table_bytes_a_start: float
    keys_a_start: float
    stream_mb: float
    stream_kb_a_key: float
    redis_bytes_a_key: float
    live_s: float
    live_s_a_million: float


WORDS: Final = {
    "log_bytes_a_start": "log, bytes a start",
    "kept_bytes_a_start": "measured starts that the build keeps, bytes a start",
    "rows_a_start": "rows of the tables, a start",
    "table_bytes_a_start": "tables, bytes a start and generation",
    "keys_a_start": "keys, a start",
    "stream_mb": "stream's memory without a key, MB",
    "stream_kb_a_key": "stream's memory, KB a key",
    "redis_bytes_a_key": "Redis, bytes a key",
    "live_s": "stream live after a build, processor seconds without a start",
    "live_s_a_million": "stream live after a build, processor seconds a million starts",
}
"""The figures of `Units` as the page calls them."""


@dataclass(frozen=True, slots=True)
class SizingFigures:
    """The stores, smallest first, and the units that they give."""

    stores: tuple[Sized, ...]
    units: Units
    machine: str


def measure(homes: Sequence[Path]) -> SizingFigures:
    """Measure stores that were built; each is only read. Raises `UserError` for one without tables."""
    stores = tuple(sorted(map(sized, homes), key=lambda one: one.starts))
    return SizingFigures(stores, units_of(stores), f"{hardware()}; {versions('duckdb', 'bytewax', 'redis-server')}")


def sized(root: Path) -> Sized:
    """One store, and a stream that takes a copy of it over."""
    home = Home(root)
    if not home.offline.exists():
        raise UserError(f"{root} has no tables: name the folder of a store, after `velo build`")
    folder = home.offline.resolve()
    files = {family.view: str(folder / family.view / "*.parquet") for family in FAMILIES}
    with duckdb.connect() as connection:
        rows = sum(_count(connection, glob) for glob in files.values())
        starts = _count(connection, str(folder / "starts" / "*.parquet"))
    taken = handover(Store.open(Settings(root)).home.root)
    return Sized(
        starts,
        _size(home.log),
        _size(home.batch),
        sum(_size(folder / view) for view in files),
        rows,
        taken.online_rows,
        taken.peak_mb,
        taken.redis_mb,
        taken.live,
        taken.cpu,
    )


def _count(connection: duckdb.DuckDBPyConnection, glob: str) -> int:
    [(rows,)] = connection.execute("SELECT count(*) FROM read_parquet($glob)", {"glob": glob}).fetchall()
    return int(rows)


def _size(folder: Path) -> float:
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file()) / _MB


def units_of(stores: Sequence[Sized]) -> Units:
    """A start's share in the store where it is dearest; of what has a base, the line through the smallest and the largest."""
    few, many = stores[0], stores[-1]
    stream_mb, mb_a_key = _line((few.keys, few.stream), (many.keys, many.stream))
    live_s, s_a_start = _line((few.starts, few.cpu), (many.starts, many.cpu))
    told = (
        max(one.log * _MB / one.starts for one in stores),
        max(one.kept * _MB / one.starts for one in stores),
        max(one.rows / one.starts for one in stores),
        max(one.tables * _MB / one.starts for one in stores),
        max(one.keys / one.starts for one in stores),
        max(stream_mb, 0.0),
        mb_a_key * 1024,
        max(one.redis * _MB / one.keys for one in stores),
        max(live_s, 0.0),
        s_a_start * 1e6,
    )
    return Units(*map(_rounded, told))


def _rounded(value: float) -> float:
    """To three figures, or to the unit."""
    return float(round(value)) if value >= 100 else float(f"{value:.3g}")


def _line(one: tuple[int, float], other: tuple[int, float]) -> tuple[float, float]:
    """Base and slope through two points; all is slope where they are one size."""
    if one[0] == other[0]:
        return 0.0, other[1] / other[0]
    slope = (other[1] - one[1]) / (other[0] - one[0])
    return one[1] - slope * one[0], slope


def grown(units: Units) -> list[tuple[str, ...]]:
    """What the units make of all racing: a line a quantity, a column a part of the world."""
    every = [starts * YEARS for starts in STARTS_A_YEAR.values()]
    keys = [starts * units.keys_a_start for starts in every]
    seconds = [units.live_s + units.live_s_a_million * starts / 1e6 for starts in every]
    return [
        ("", *STARTS_A_YEAR),
        (f"starts in {YEARS} years, millions", *(f"{starts / 1e6:.1f}" for starts in every)),
        ("log, GB", *(f"{starts * units.log_bytes_a_start / _GB:.1f}" for starts in every)),
        ("measured starts, GB", *(f"{starts * units.kept_bytes_a_start / _GB:.1f}" for starts in every)),
        (
            "tables in two generations, GB",
            *(f"{starts * units.table_bytes_a_start * GENERATIONS / _GB:.1f}" for starts in every),
        ),
        ("keys, millions", *(f"{count / 1e6:.1f}" for count in keys)),
        ("Redis, GB", *(f"{count * units.redis_bytes_a_key / _GB:.1f}" for count in keys)),
        (
            "stream's memory, GB",
            *(f"{(units.stream_mb + count * units.stream_kb_a_key / 1024) / 1000:.1f}" for count in keys),
        ),
        ("stream live after a build, processor minutes", *(f"{one / 60:.1f}" for one in seconds)),
        (
            f"live starts a second, {PEAK} times the year's mean",
            *(f"{starts * PEAK / _SECONDS_A_YEAR:.2f}" for starts in STARTS_A_YEAR.values()),
        ),
    ]


def markdown(figures: SizingFigures) -> str:
    """As docs/scale.md holds it."""
    names = (
        "starts",
        "log MB",
        "kept MB",
        "tables MB",
        "rows",
        "keys",
        "stream MB",
        "Redis MB",
        "s until live",
        "processor s",
    )
    stores = [tuple(_shown(value) for value in asdict(one).values()) for one in figures.stores]
    units = [(WORDS[name], _shown(value)) for name, value in asdict(figures.units).items()]
    return "\n".join(
        (
            f"On {figures.machine}.\n",
            *_lines([names, *stores]),
            "",
            *_lines([("unit", "cost"), *units]),
            "",
            *_lines(grown(figures.units)),
        )
    )


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = rows
    marks = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(row)} |" for row in (head, marks, *rest)]


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{_rounded(value):,.10g}"


def table(figures: SizingFigures) -> list[Table]:
    """The units and the extrapolation for the terminal."""
    units = [(WORDS[name], _shown(value)) for name, value in asdict(figures.units).items()]
    columns, *rows = grown(figures.units)
    return [
        text_table("what a unit costs", ("unit", "cost"), units),
        text_table("extrapolated to all racing", columns, rows),
    ]


def write_into(page: Path, figures: SizingFigures) -> None:
    """Put the tables between the page's marks; raises `UserError` for a page without them."""
    put_between(page, MARK, lambda _: markdown(figures) + "\n")
