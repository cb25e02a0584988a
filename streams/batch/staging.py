"""The measured starts of a store's log, as Parquet parts beside the store, and the DuckDB connection to build from them.

Measuring a start needs only its own message, except what it earned by Elo (`rating`). So measured starts are kept between
builds, and a build reads only what was appended to the log since the last one.
"""

import json
import os
import re
import tokenize
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from hashlib import blake2b
from importlib.resources import files
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import duckdb

from velo.errors import UserError
from velo.feature_repo.stores import changelog
from velo.racing import measures
from velo.racing.going import going_group
from velo.racing.jurisdiction import DEFAULT, Jurisdiction
from velo.storage.atomic_files import make_folder, sync_file, write_atomically
from velo.storage.log.format import generation
from velo.storage.log.migrations import readable_segments
from velo.storage.log.reader import LogEnd, end
from velo.storage.store import Home
from velo.streams.batch.measured_starts import WholeColumns
from velo.streams.batch.measuring import constants, filled
from velo.streams.batch.rating import RATED_KINDS, RatedBefore, rate

LAYOUT: Final = 2
"""The version of the kept files. Layout 1 reused file names, so a killed build could leave other content under them."""
MERGED_AT_ONCE: Final = 8
LEAST_RECORDS: Final = 100
MERGED_RECORDS: Final = 20_000
"""Parts between these sizes differ in size; larger parts are not merged."""
KINDS: Final = ("results", "starts", "runners", "notices")
STEPS: Final = ("log", *KINDS, "applied")
Modules = tuple[tuple[str, str], ...]
GOINGS: Final[Modules] = (("velo.racing", "going.py"),)
LATER_FIELDS: Final = {
    "$volumes_column": ", volumes: 'JSON'",
    "$volumes_name": ", TRY_CAST(volumes AS MAP(VARCHAR, DOUBLE)) AS volumes",
    "$factor_column": ", reduction_factor: 'JSON'",
    "$factor_name": (
        ", CASE WHEN json_type(reduction_factor) IN ('BIGINT', 'UBIGINT', 'DOUBLE') "
        "AND TRY_CAST(reduction_factor AS DOUBLE) >= 0 AND TRY_CAST(reduction_factor AS DOUBLE) < 100 "
        "THEN TRY_CAST(reduction_factor AS DOUBLE) END AS reduction_factor"
    ),
}
"""The stakes of a market message and the reduction factor of a withdrawal, by placeholder.

They are unknown in an older log whose field of this name holds something else.

No start is measured by them, so they are outside the fingerprint of the formulas.
"""
RATINGS: Final[Modules] = (("velo.racing", "elo.py"), ("velo.streams.aggregation", "ratings.py"))
"""The modules, by package and file, whose code is part of the formulas."""
Measure = Callable[[int, Path], str]
"""Measures the starts of a segment, given with its index, and returns the name of their part."""
Spread = Callable[[Measure, Sequence[int], Sequence[Path]], Iterable[str]]
"""Runs `Measure` on segments, given their indexes and paths; gives the names of their parts in that order, each once it is written."""


def cores() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def scratch_connection(
    home: Home, memory_limit: str, threads: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new DuckDB connection that spills to a folder of the store beyond its memory limit. Instants are UTC.

    Raises `UserError` where a file cannot be read or written, as on a full disk, or the memory does not suffice.
    """
    with TemporaryDirectory(dir=make_folder(home.batch), prefix="scratch-") as scratch:
        config: dict[str, str | bool | int | float | list[str]] = {
            "temp_directory": scratch,
            "memory_limit": memory_limit,
            "threads": threads or cores(),
        }
        with duckdb.connect(config=config) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            try:
                yield connection
            except (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.InvalidInputException) as failed:
                raise UserError(unreadable(home, first_line(failed))) from None


def unreadable(home: Home, reason: object) -> str:
    """The message of an error in reading or writing a store's files."""
    return (
        f"the build could not read or write below {home.root} ({reason}): make room there and "
        "repeat it; where a file is damaged or gone, run `velo build --whole`"
    )


def first_line(failed: duckdb.Error) -> str:
    """The message of a DuckDB error, without the excerpt of the query below it, and without the wrapping of an asynchronous one."""
    line = str(failed).splitlines()[0]
    wrapped = re.search(r'"exception_message":("(?:[^"\\]|\\.)*")', line)
    return str(json.loads(wrapped[1])) if wrapped else line


@dataclass(frozen=True, slots=True)
class StagedStarts:
    """The record of the measured starts: their log, their formulas, and the first record that is not measured.

    `parts` are complete and never change: each has a name of its own, and is written, rated and synced before this record
    names it. `layout` is the version of the files.
    """

    log_generation: int
    formulas: str
    next_seq: int
    parts: tuple[str, ...] = ()
    layout: int = LAYOUT


def on_threads(measure: Measure, places: Sequence[int], segments: Sequence[Path]) -> Iterator[str]:
    """Measure segments on this machine's cores, one on each at a time."""
    with ThreadPoolExecutor(cores()) as pool:
        yield from pool.map(measure, places, segments)


def measure_new(
    home: Home,
    memory_limit: str,
    spread: Spread = on_threads,
    *,
    whole: bool = False,
    jurisdiction: Jurisdiction = DEFAULT,
    own: tuple[measures.Measure, ...] = (),
    columns: WholeColumns | None = None,
) -> LogEnd:
    """Measure the starts of every record not measured yet, its segments run by `spread`; returns the end of the log.

    `whole` measures every record again. `columns` takes those that are read of all starts. The record of the parts is replaced in one step, after the new parts are complete and
    before old ones are removed: a build killed anywhere leaves a record whose parts exist. Raises `UserError` for an empty log.
    """
    log_end = end(home)
    if log_end.known_at is None:
        raise UserError(f"the log at {home.log} is empty: load results with `velo ingest runners FILE` first")
    kept = _kept(home)
    same = (kept.log_generation, kept.formulas) == (generation(home), formulas(jurisdiction, own))
    if whole or not same or kept.next_seq > log_end.next_seq:
        kept = StagedStarts(generation(home), formulas(jurisdiction, own), 0)
    make_folder(home.batch)
    _remove_unnamed(home)
    if kept.next_seq < log_end.next_seq:
        measured = _measure(home, kept.next_seq, log_end.next_seq, memory_limit, spread, jurisdiction, own)
        before = [_named(home, kind, kept.parts) for kind in RATED_KINDS]
        parts = rate(
            home.batch, RatedBefore(*before) if kept.parts else None, measured, {} if columns is None else columns
        )
        every = _merged(home, memory_limit, (*kept.parts, *parts))
        for kind in KINDS:
            for path in _named(home, kind, [part for part in every if part not in kept.parts]):
                sync_file(path)
        kept = replace(kept, next_seq=log_end.next_seq, parts=every)
        write_atomically(_state(home), json.dumps(asdict(kept)).encode())
        _remove_unnamed(home)
    return log_end


def _merged(home: Home, memory_limit: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """The parts, with the last ones as one file of each kind where they are `MERGED_AT_ONCE` of a size, and again after that.

    So a store that is built daily for years has a few dozen.
    """
    while of_a_size([_records(part) for part in parts[-MERGED_AT_ONCE:]], LEAST_RECORDS, MERGED_RECORDS):
        last = parts[-MERGED_AT_ONCE:]
        name = f"{last[0].split('-')[0]}-{last[-1].split('-')[1]}-0000-{uuid.uuid4().hex[:12]}"
        with scratch_connection(home, memory_limit) as connection:
            for kind in KINDS:
                keep(connection, f"FROM {parquet(_named(home, kind, last))}", home.batch / f"{kind}-{name}.parquet")
        parts = (*parts[:-MERGED_AT_ONCE], name)
    return parts


def of_a_size(sizes: Sequence[int], least: int, most: int) -> bool:
    """Whether some parts are to be one: `MERGED_AT_ONCE` of a size, or all below the `least`. One above the `most` stays."""
    return len(sizes) == MERGED_AT_ONCE and min(sizes) <= most and max(sizes) < MERGED_AT_ONCE * max(min(sizes), least)


def _records(part: str) -> int:
    begun, ended, *_ = part.split("-")
    return int(ended) - int(begun)


def _remove_unnamed(home: Home) -> None:
    """Remove the parts that the record does not name: those of a killed build, or replaced ones."""
    named = set(_kept(home).parts)
    for path in home.batch.glob("*.parquet"):
        if path.stem.split("-", 1)[1] not in named:
            path.unlink()
    for folder in (home.batch, home.batch / "upgraded"):
        for path in folder.glob(".*"):
            if path.suffix in (".parquet", ".tmp"):
                path.unlink()


def _measure(
    home: Home,
    begun: int,
    ended: int,
    memory_limit: str,
    spread: Spread,
    jurisdiction: Jurisdiction,
    own: tuple[measures.Measure, ...],
) -> Iterable[str]:
    """Measure the starts of the records from `begun` to before `ended`; gives the names of their parts, each once it is written.

    Each core measures one segment at a time, so memory does not grow with the log.
    """
    fixed = {**constants(jurisdiction, own), "$begun": str(begun), "$ended": str(ended)}

    unique = uuid.uuid4().hex[:12]

    def measure(place: int, segment: Path) -> str:
        part = f"{begun:012d}-{ended:012d}-{place:04d}-{unique}"
        with scratch_connection(home, memory_limit, threads=1) as connection:
            measure_segment(connection, segment, fixed, jurisdiction, home.batch, part)
        return part

    paths = readable_segments(home, begun)
    return spread(measure, range(len(paths)), paths)


def measure_segment(
    connection: duckdb.DuckDBPyConnection,
    segment: Path,
    fixed: Mapping[str, str],
    jurisdiction: Jurisdiction,
    folder: Path,
    part: str,
) -> None:
    """Write the parts of one segment of the log to a folder: `KIND-PART.parquet` for each of `KINDS`."""
    fixed = {**fixed, **LATER_FIELDS}
    files = f"{changelog.text(str(segment))}, hive_partitioning = false"
    log = filled("log", {**fixed, "$files": files})
    connection.execute("CREATE TEMP TABLE log AS " + log)
    rows = connection.execute("SELECT DISTINCT going FROM log WHERE going IS NOT NULL").fetchall()
    goings = [going for (going,) in rows]
    connection.execute(
        "CREATE TEMP TABLE goings AS "
        "SELECT unnest($goings::VARCHAR[]) AS going, unnest($groups::VARCHAR[]) AS going_group",
        {"goings": goings, "groups": [going_group(going, jurisdiction) for going in goings]},
    )
    for kind in KINDS:
        keep(connection, filled(kind, fixed), folder / f"{kind}-{part}.parquet")


def keep(connection: duckdb.DuckDBPyConnection, select: str, path: Path) -> None:
    """Write the rows of a query to a Parquet file, which appears complete or not at all."""
    aside = path.with_name("." + path.name)
    connection.execute(f"COPY ({select}) TO {changelog.text(str(aside))} (FORMAT parquet, COMPRESSION lz4)")
    aside.replace(path)


def parquet(paths: Iterable[Path]) -> str:
    """The SQL of the rows of Parquet files."""
    return changelog.scan(paths)


def parts_of(home: Home, kind: str) -> list[Path]:
    """The files of a kind: `starts` and `results` are measured, `runners` and `notices` are as in the messages."""
    return _named(home, kind, _kept(home).parts)


def record_of(home: Home) -> StagedStarts:
    """The record of a home's measured starts; an empty one before the first build."""
    return _kept(home)


def link_parts(home: Home, other: Home) -> None:
    """Give another home of the same log the measured starts of this one, by links; raises `FileNotFoundError` for a part that
    a build of this home replaced meanwhile."""
    kept = _kept(home)
    make_folder(other.batch)
    for kind in KINDS:
        for part in _named(home, kind, kept.parts):
            os.link(part, other.batch / part.name)
    write_atomically(_state(other), json.dumps(asdict(kept)).encode())


def measured_in(
    home: Home, generation: Path, jurisdiction: Jurisdiction, own: tuple[measures.Measure, ...]
) -> tuple[list[Path], list[Path]] | None:
    """The parts of results and of starts in a generation; None where they were measured by other formulas, or are unknown."""
    kept = _kept(home)
    found = [sorted((generation / kind).glob("*.parquet")) for kind in ("results", "starts")]
    named = {path.stem.split("-", 1)[1] for paths in found for path in paths}
    same = kept.formulas == formulas(jurisdiction, own) and named <= {*kept.parts}
    return (found[0], found[1]) if same and named else None


def _named(home: Home, kind: str, parts: Sequence[str]) -> list[Path]:
    return [home.batch / f"{kind}-{part}.parquet" for part in parts]


@lru_cache
def formulas(jurisdiction: Jurisdiction = DEFAULT, own: tuple[measures.Measure, ...] = ()) -> str:
    """Fingerprint of the measures of a start: the queries as rendered, the jurisdiction's rules, and the ratings."""
    text = measuring_text(constants(jurisdiction, own), jurisdiction, (*GOINGS, *RATINGS))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def measuring_text(fixed: Mapping[str, str], jurisdiction: Jurisdiction, modules: Modules) -> str:
    """The queries that measure starts, filled with `fixed`; the jurisdiction's rules; and the code of some modules."""
    measured = {**fixed, **dict.fromkeys(LATER_FIELDS, "")}
    return "".join(filled(step, measured) for step in STEPS) + repr(jurisdiction) + code_of_modules(modules)


@cache
def code_of_modules(modules: Modules) -> str:
    """The code of some modules, each named by its package and its file, as of the first call in this process."""
    return "".join(code_of(files(package).joinpath(name).read_text()) for package, name in modules)


def code_of(source: str) -> str:
    """A module's code without comments, docstrings and layout, so that new wording does not change the fingerprint."""
    statement_begins = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    layout = (*statement_begins, tokenize.NL, tokenize.COMMENT)
    code: list[str] = []
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type not in layout and not (token.type == tokenize.STRING and before in statement_begins):
            code.append(token.string)
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.type
    return "".join(code)


def _state(home: Home) -> Path:
    return home.batch / "measured.json"


def _kept(home: Home) -> StagedStarts:
    """The record of the parts; an empty one where it is missing, cannot be read, or is of another layout."""
    nothing = StagedStarts(-1, "", 0)
    try:
        written: dict[str, Any] = json.loads(_state(home).read_bytes())
        kept = StagedStarts(**({"layout": 1} | written | {"parts": tuple(written["parts"])}))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return nothing
    return kept if kept.layout == LAYOUT else nothing
