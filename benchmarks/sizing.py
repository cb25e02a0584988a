"""`velo bench sizing`: measure the cost of a start on built stores, and extrapolate to all racing.

The extrapolation uses only the figures shown, so a reader can check it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import duckdb
from rich.console import Group

from benchmarks.page import put_between
from benchmarks.stores import hardware, versions
from benchmarks.stream_long import handover
from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.settings import Settings
from velo.storage.store import Home, Store
from velo.text_tables import facts, markdown_table, table_of

MARK: Final = "velo bench sizing"
YEARS: Final = 20
GENERATIONS: Final = 2
PEAK: Final = 10
"""A Saturday's busiest second, as a multiple of the year's mean."""
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
    """A built store, and a stream that took it over: sizes in MB, `live` and `cpu` in seconds."""

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
    """The cost of each unit, rounded as shown; costs that grow from a base have the base too."""

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
"""The names of the figures of `Units` on the page."""


@dataclass(frozen=True, slots=True)
class SizingFigures:
    """The stores, smallest first, and the unit costs."""

    stores: tuple[Sized, ...]
    units: Units
    machine: str


def measure(homes: Sequence[Path]) -> SizingFigures:
    """Measure built stores, which are only read. Raises `UserError` for one without tables."""
    stores = tuple(sorted(map(sized, homes), key=lambda store: store.starts))
    return SizingFigures(stores, units_of(stores), f"{hardware()}; {versions('duckdb', 'bytewax', 'redis-server')}")


def sized(root: Path) -> Sized:
    """Measure one store, and a stream that takes over a copy of it."""
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
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / _MB


def units_of(stores: Sequence[Sized]) -> Units:
    """The largest cost per start over the stores; for costs with a base, the line through the smallest and largest store."""
    few, many = stores[0], stores[-1]
    stream_mb, mb_a_key = _line((few.keys, few.stream), (many.keys, many.stream))
    live_s, s_a_start = _line((few.starts, few.cpu), (many.starts, many.cpu))
    costs = (
        max(store.log * _MB / store.starts for store in stores),
        max(store.kept * _MB / store.starts for store in stores),
        max(store.rows / store.starts for store in stores),
        max(store.tables * _MB / store.starts for store in stores),
        max(store.keys / store.starts for store in stores),
        max(stream_mb, 0.0),
        mb_a_key * 1024,
        max(store.redis * _MB / store.keys for store in stores),
        max(live_s, 0.0),
        s_a_start * 1e6,
    )
    return Units(*map(_rounded, costs))


def _rounded(value: float) -> float:
    """Round to three significant figures, or to whole numbers from 100."""
    return float(round(value)) if value >= 100 else float(f"{value:.3g}")


def _line(first: tuple[int, float], last: tuple[int, float]) -> tuple[float, float]:
    """Base and slope through two points; base 0 if they have the same size."""
    if first[0] == last[0]:
        return 0.0, last[1] / last[0]
    slope = (last[1] - first[1]) / (last[0] - first[0])
    return first[1] - slope * first[0], slope


def grown(units: Units) -> list[tuple[str, ...]]:
    """The extrapolation to all racing: a row per quantity, a column per part of the world."""
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
        ("stream live after a build, processor minutes", *(f"{second / 60:.1f}" for second in seconds)),
        (
            f"live starts a second, {PEAK} times the year's mean",
            *(f"{starts * PEAK / _SECONDS_A_YEAR:.2f}" for starts in STARTS_A_YEAR.values()),
        ),
    ]


def markdown(figures: SizingFigures) -> str:
    """The tables of docs/scale.md."""
    names = "starts, log MB, kept MB, tables MB, rows, keys, stream MB, Redis MB, s until live, processor s".split(", ")
    stores = [tuple(_shown(value) for value in asdict(store).values()) for store in figures.stores]
    units = [(WORDS[name], _shown(value)) for name, value in asdict(figures.units).items()]
    columns, *rows = grown(figures.units)
    return "\n".join(
        (
            f"On {figures.machine}.\n",
            *markdown_table(names, stores, "---:"),
            "",
            *markdown_table(("unit", "cost"), units, "---:"),
            "",
            *markdown_table(columns, rows, "---:"),
        )
    )


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{_rounded(value):,.10g}"


def table(figures: SizingFigures) -> Group:
    """The units and the extrapolation for the terminal."""
    units = [(WORDS[name], _shown(value)) for name, value in asdict(figures.units).items()]
    columns, *rows = grown(figures.units)
    extrapolated = table_of("extrapolated to all racing", columns, rows, left=columns[:1])
    return Group(facts("what a unit costs", units), extrapolated)


def write_into(page: Path, figures: SizingFigures) -> None:
    """Put the tables between the page's marks; raises `UserError` for a page without them."""
    put_between(page, MARK, lambda _: markdown(figures) + "\n")
