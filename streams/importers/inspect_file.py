"""Inspect files: which source they are of, what their columns mean, and what a load of them would refuse."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from velo.errors import UserError
from velo.storage.store import Store
from velo.streams.importers import betfair_match, registry
from velo.streams.importers.check import CheckReport, check, check_by
from velo.streams.importers.columns import REQUIRED
from velo.streams.importers.frame import Frame
from velo.streams.importers.frames import frames
from velo.streams.importers.guess import Guess, draft, guesses
from velo.streams.importers.mapped import fits, importer_of
from velo.streams.importers.mapping import parse_mapping
from velo.streams.importers.raceform_words import release, todays_names
from velo.streams.importers.rpscrape_tree import races
from velo.streams.importers.sources import betfair_stream, raceform

CHECKED_ROWS: Final = 150_000
"""The most rows for which an inspection says what a load would refuse: `velo ingest --check` says it of any number."""
_SAMPLE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file, or one file of a zip. `source` is an importer's name, None for unknown; `release` names an older form of it.

    `days` and `races` count distinct dates and race ids, None where no column shows them.
    """

    label: str
    source: str | None
    release: str | None
    rows: int
    days: int | None
    races: int | None
    columns: tuple[Guess, ...]


@dataclass(frozen=True, slots=True)
class InspectReport:
    """All files of a call. `check` is what a load would do, by the known source or by the draft; `why_not` is what to know of it.

    `mapping` is a draft for a file of an unknown source.
    """

    files: tuple[FileReport, ...]
    check: CheckReport | None
    why_not: str | None
    mapping: str | None

    @property
    def sources(self) -> list[str]:
        """The known sources of the files."""
        return list(dict.fromkeys(file.source for file in self.files if file.source))


def inspect(paths: Sequence[Path], store: Store) -> InspectReport:
    """Return what some files are. Nothing is loaded. Raises `UserError` for a file that cannot be read."""
    reports: list[FileReport] = []
    unknown: Frame | None = None
    for path in paths:
        cards = _rpscrape_cards(path)
        if cards is not None:
            reports.append(cards)
            continue
        for frame in frames(path):
            source, form = _source(path, frame)
            found = tuple(guesses(frame))
            reports.append(
                FileReport(
                    frame.label,
                    source,
                    form,
                    frame.rows,
                    _count(frame, found, "race_date"),
                    _count(frame, found, "race_id"),
                    found,
                )
            )
            unknown = unknown or (frame if source is None else None)
    mapping = None
    if unknown is not None:
        columns = next(report.columns for report in reports if report.label == unknown.label)
        mapping = draft(unknown, columns, _rows_at(unknown))
    checked, why_not = _checked(reports, mapping, paths, store)
    return InspectReport(tuple(reports), checked, why_not, mapping)


def _checked(
    reports: Sequence[FileReport], mapping: str | None, paths: Sequence[Path], store: Store
) -> tuple[CheckReport | None, str | None]:
    """Return what a load would do, by the files' source or by the drafted mapping, and why that cannot be said."""
    sources = {report.source for report in reports}
    if len(sources) > 1:
        return None, "the files are of several sources: inspect them one by one to see what a load would refuse"
    name = sources.pop() or "mapping.toml"
    if sum(report.rows for report in reports) > CHECKED_ROWS:
        return (
            None,
            f"more than {CHECKED_ROWS:,} rows: velo ingest FILE --as {name} --check says what a load would refuse",
        )
    try:
        if mapping is None:
            return check(name, paths, store), None
        drafted = check_by(importer_of(parse_mapping(mapping, "the drafted mapping")), paths, store)
    except UserError as refused:
        return None, str(refused)
    return (
        drafted,
        "no known source: correct the drafted mapping (--out mapping.toml), then velo ingest FILE --as mapping.toml --check",
    )


def _source(path: Path, frame: Frame) -> tuple[str | None, str | None]:
    """Return the importer that reads a frame, and the release that its columns show."""
    header = [name.casefold() for name in frame.columns]
    if set(REQUIRED) <= set(header):
        return "runners", None
    if set(betfair_match.REQUIRED) <= set(header):
        return betfair_match.SOURCE, None
    if "op" in frame.columns and frame.columns["op"].words[:1] == ["mcm"]:
        return betfair_stream.SOURCE, None
    if set(raceform.REQUIRED) <= set(todays_names(header)):
        return raceform.SOURCE, release(header)
    fitting = [mapping for mapping in registry.shipped_mappings() if fits(mapping, _by(path, frame, mapping.rows_at))]
    # the mapping that reads the most of its columns
    best = max(fitting, key=lambda mapping: len(mapping.columns) + 10 * len(mapping.needs), default=None)
    return (best.name if best else None), None


def _by(path: Path, frame: Frame, rows_at: str | None) -> Frame:
    """Return a frame with its JSON read at a mapping's rows."""
    if rows_at is None or frame.first_line is not None or str(path) != frame.label:
        return frame
    try:
        return next(iter(frames(path, rows_at)))
    except UserError:
        return frame


def _rows_at(frame: Frame) -> str | None:
    """Return the path to the rows of a JSON file: the longest that its columns share."""
    if frame.first_line is not None:
        return None
    return max(
        (name.rpartition(".")[0] for name in frame.columns), key=lambda path: path.count(".") + bool(path), default=""
    )


def _rpscrape_cards(path: Path) -> FileReport | None:
    """Return the report of a file of rpscrape's racecards, None for any other."""
    try:
        with path.open("rb") as file:
            if not file.read(_SAMPLE_BYTES).lstrip().startswith(b"{"):
                return None
        places = [place.race for place in races(path)]
    except (UserError, OSError):
        return None
    if not places or not all(isinstance(race, dict) and isinstance(race.get("runners"), list) for race in places):
        return None
    runners = sum(len(race["runners"]) for race in places)
    return FileReport(
        str(path), "rpscrape-cards", None, runners, len({race.get("date") for race in places}), len(places), ()
    )


def _count(frame: Frame, found: Sequence[Guess], meaning: str) -> int | None:
    name = next((guess.name for guess in found if guess.meaning == meaning), None)
    return None if name is None else len(frame.columns[name].words) - 1


def facts(report: FileReport) -> list[tuple[str, Any]]:
    """Names and numbers of a file to show."""
    source = (
        "unknown"
        if report.source is None
        else f"{report.source}{f', release of {report.release}' if report.release else ''}"
    )
    counted = [("days", report.days), ("races", report.races)]
    return [("source", source), ("rows", report.rows), *((name, count) for name, count in counted if count is not None)]
