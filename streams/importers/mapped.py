"""Read files by a mapping: join two files, read each column, the off and the finish, and give rows of the runner table."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from velo.errors import Refused, UserError
from velo.racing.messages import STATUSES
from velo.storage.store import Store
from velo.streams.importers import parsers
from velo.streams.importers.columns import COLUMNS, WANTED
from velo.streams.importers.csv_files import HEADER_AGAIN
from velo.streams.importers.dead_letters import BAD, PART, RAW, Row
from velo.streams.importers.declare import ParsedCards, checked_cards
from velo.streams.importers.frame import Column, Frame, RacesIndex, RowCells
from velo.streams.importers.frames import frames
from velo.streams.importers.importer import CardsImporter, ResultsImporter
from velo.streams.importers.mapping import Finish, FinishRule, Names, SourceMapping
from velo.streams.importers.off_clock import ClockReader
from velo.streams.importers.raceform_words import main_going, surface_of
from velo.streams.importers.results import Parsed, checked_results

REPEATED: Final = "row repeated exactly, left out"
_NO_RUNNERS: Final = "race without runners in the other file, left out"


def fits(mapping: SourceMapping, frame: Frame) -> bool:
    """Whether a file has the columns that a mapping needs; for a mapping of two files, those of either."""
    if mapping.join:
        sides = (mapping.join.races_need, mapping.join.runners_need)
        return any(not frame.lacks(needs) for needs in sides)
    rules = [(rule.target, names) for rule in mapping.columns for names in rule.sources]
    rules += [("status", rule.source) for rule in mapping.finish]
    needed = [names for target, names in rules if target not in mapping.optional]
    return not frame.lacks(mapping.needs) and all(map(frame.column, needed))


def importer_of(mapping: SourceMapping) -> ResultsImporter | CardsImporter:
    """Return the importer of a mapped source."""

    def read(paths: Sequence[Path], store: Store) -> Parsed:
        reading = _Reading(mapping, store)
        parsed = checked_results(reading.of_files(paths), store, mapping.name, keys=mapping.keys)
        parsed.warnings.update(reading.notes)
        return parsed

    def read_rows(rows: Sequence[Row], store: Store) -> Parsed:
        reading = _Reading(mapping, store)
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = {name: Column.of([None if row.get(name) is None else str(row[name]) for row in rows]) for name in names}
        frame = Frame.of("dead letter", cells, len(rows))
        return checked_results(reading.of_frame(frame, whole=False), store, mapping.name, keys=mapping.keys)

    def read_cards(paths: Sequence[Path], store: Store) -> ParsedCards:
        reading = _Reading(mapping, store)
        parsed = checked_cards(reading.of_files(paths), store, mapping.name, mapping.keys)
        parsed.warnings.update(reading.notes)
        return parsed

    if mapping.kind == "cards":
        return CardsImporter(mapping.name, mapping.help, read_cards)
    targets = {target: mapping.sources_of(target) for target in COLUMNS}
    return ResultsImporter(mapping.name, mapping.help, read, read_rows, {t: s for t, s in targets.items() if s})


@dataclass(slots=True)
class _Values:
    """The columns of the runner table as read, and by row what could not be read."""

    rows: int
    columns: dict[str, list[Any]] = field(default_factory=dict)
    bad: dict[int, dict[str, object]] = field(default_factory=dict)

    def refuse(self, row: int, target: str, what: object) -> None:
        self.bad.setdefault(row, {})[target] = what

    def of(self, target: str) -> list[Any]:
        """Return a column, of None where it is not mapped."""
        return self.columns.get(target) or [None] * self.rows


@dataclass(slots=True)
class _Reading:
    """One reading of files by a mapping; `notes` counts what was left out or inferred."""

    mapping: SourceMapping
    store: Store
    notes: Counter[str] = field(default_factory=Counter)

    def of_files(self, paths: Sequence[Path]) -> Iterator[Row]:
        """Yield the rows of some files. Raises `UserError` for a file of another source."""
        if not paths:
            raise UserError(f"no file is named: name one or more {self.mapping.name} files")
        read = (frame for path in paths for frame in self._frames(path))
        for frame in self._joined(list(read)) if self.mapping.join else read:
            yield from self.of_frame(frame)

    def _frames(self, path: Path) -> Iterator[Frame]:
        """Yield the frames of a file; of an archive, those of this source if it has any, the others counted."""
        read = frames(path, self.mapping.rows_at, self.mapping.encoding)
        first = next(read, None)
        if first is None or first.label == str(path):
            yield from () if first is None else (first,)
            return
        every = [first, *read]
        own = [frame for frame in every if fits(self.mapping, frame)] or every
        if len(own) < len(every):
            self.notes["file of an archive, of another source, left out"] += len(every) - len(own)
        yield from own

    def of_frame(self, frame: Frame, *, whole: bool = True) -> Iterator[Row]:
        """Yield the rows of one frame; `whole` refuses a column in which no cell can be read."""
        self._refuse_another_source(frame, self.mapping.needs)
        frame = self._without_repeats(frame)
        as_read, frame = frame.columns, frame.without(self.mapping.blank)
        values = _Values(frame.rows)
        placed: set[str] = set()
        for rule in self.mapping.columns:
            values.columns[rule.target] = (
                [rule.constant] * frame.rows
                if not rule.sources
                else self._read(frame, rule.target, values, placed, whole=whole)
            )
        self._add_offs(frame, values, placed)
        self._add_finish(frame, values, placed)
        self._add_ground(values)
        yield from self._rows(frame, as_read, values, placed)

    def _refuse_another_source(self, frame: Frame, needs: Names) -> None:
        if missing := frame.lacks(needs):
            has = list(frame.columns)
            raise UserError(
                f"{frame.label} has no column {', '.join(missing[:4])}, which a {self.mapping.name} file has; it has "
                f"{', '.join(has[:8])}{', …' if len(has) > 8 else ''}: `velo inspect` says what it is"
            )

    def _without_repeats(self, frame: Frame) -> Frame:
        """Return the frame without rows that repeat the header, and without those that repeat a row if the mapping says so."""
        keep = np.ones(frame.rows, bool)
        name, first = next(iter(frame.columns.items()))
        alike = [at for at, word in enumerate(first.words) if word is not None and word.casefold() == name.casefold()]
        for row in np.flatnonzero(np.isin(first.codes, alike)).tolist() if alike else ():
            cells = RowCells(frame.columns, row)
            if all((cells[column] or "").casefold() == column.casefold() for column in frame.columns):
                keep[row] = False
                self.notes[HEADER_AGAIN] += 1
        if self.mapping.leave_out_repeats:
            once = frame.first_of_each()
            repeated = int((keep & ~once).sum())
            self.notes.update({REPEATED: repeated} if repeated else {})
            keep &= once
        return frame if keep.all() else frame.take(np.flatnonzero(keep))

    def _source(self, frame: Frame, names: Names, target: str, placed: set[str]) -> Column | None:
        """Return a column of the file, marked as placed; None where a release may lack it. Raises `UserError` otherwise."""
        name = frame.name_of(names)
        if name is None:
            if target in self.mapping.optional:
                return None
            has = list(frame.columns)
            raise UserError(
                f"{frame.label} has no column {' or '.join(names)}, which the mapping {self.mapping.name} reads as {target}; "
                f"it has {', '.join(has[:8])}{', …' if len(has) > 8 else ''}: correct the mapping, or list {target} as optional"
            )
        placed.add(name)
        return frame.columns[name]

    def _read(self, frame: Frame, target: str, values: _Values, placed: set[str], *, whole: bool) -> list[Any]:
        rule = next(rule for rule in self.mapping.columns if rule.target == target)
        parts = [self._source(frame, names, target, placed) for names in rule.sources]
        present = [part for part in parts if part is not None]
        if len(present) < len(parts):
            return [None] * frame.rows
        column = present[0] if len(present) == 1 else Column.joined(present, rule.join)
        read, bad = column.read(rule.read)
        filled = column.filled()
        if whole and bad and len(bad) == filled and 2 * filled >= frame.rows:
            row, cell = next(iter(bad.items()))
            line = "" if frame.first_line is None else f", line {frame.first_line + row}"
            raise UserError(
                f"{frame.label}{line}: {' and '.join(names[0] for names in rule.sources)} is {cell!r}, and none of its cells "
                f"can be read as {target} ({WANTED[COLUMNS[target]]}): correct the mapping's unit, format or codes"
            )
        for row, cell in bad.items():
            values.refuse(row, target, cell)
        return read

    def _add_offs(self, frame: Frame, values: _Values, placed: set[str]) -> None:
        clock, days = self.mapping.clock, values.of("race_date")
        if clock is None:
            return
        instants: list[Any] = [None] * frame.rows
        inferred: list[bool | None] = [None] * frame.rows
        column = self._source(frame, clock.instant or clock.time or (), "off_time", placed)
        if column is None:
            return
        offs = ClockReader(clock, self.store.timezone)
        zones = self._source(frame, clock.zone_source, "off_time", placed) if clock.zone_source else None
        cells = column.cells(), zones.cells() if zones else [None] * frame.rows
        keys = list(zip(days, *cells, values.of("course"), values.of("country"), strict=True))
        read = offs.read(set(keys), frame.label)
        for row, key in enumerate(keys):
            found = read[key]
            if isinstance(found, Refused):
                values.refuse(row, "off_time", found)
            elif found is not None:
                instants[row], days[row] = found.instant, found.race_date
                inferred[row] = found.inferred or None
            elif key in offs.without_zone:
                inferred[row] = True
        values.columns |= {"off_time": instants, "race_date": days}
        if any(inferred):
            values.columns["off_inferred"] = inferred
            races = {race for race, is_inferred in zip(values.of("race_id"), inferred, strict=True) if is_inferred}
            self.notes["off inferred"] += len(races)
        courses = {key[3] for key in offs.without_zone}
        self.notes.update({f"course in no known zone, its offs estimated: {course}": 1 for course in courses})

    def _add_finish(self, frame: Frame, values: _Values, placed: set[str]) -> None:
        outcomes: list[Finish] = [None] * frame.rows
        for rule in self.mapping.finish:
            column = self._source(frame, rule.source, "status", placed)
            if column is None:
                continue
            read, bad = column.read(partial(_finish_of, rule=rule))
            for row, cell in bad.items():
                if outcomes[row] is None:
                    why = (
                        f"{rule.source[0]} is {cell!r}, which is no position and no code of the mapping: correct either"
                    )
                    values.refuse(row, "status", Refused("bad value", why))
            outcomes = [given or found for given, found in zip(outcomes, read, strict=True)]
        values.columns["status"] = [outcome and outcome[0] for outcome in outcomes]
        values.columns["position"] = [outcome and outcome[1] for outcome in outcomes]

    def _add_ground(self, values: _Values) -> None:
        """Set the going to its first words, and the surface to what course, name and going leave no doubt about (contract 10)."""
        goings = values.of("going")
        main = {going: main_going(going) for going in set(goings)}
        if any(main[going] != going for going in main):
            values.columns["source_going"] = [going if main[going] != going else None for going in goings]
        values.columns["going"] = [main[going] for going in goings]
        keys = list(
            zip(values.of("course"), values.of("surface"), values.columns["going"], values.of("country"), strict=True)
        )
        surfaces: dict[Any, str | None] = {}
        for key in set(keys):
            try:
                surfaces[key] = surface_of(key[0] or "", *key[1:])
            except ValueError:
                surfaces[key] = None
                self.notes["unreadable surface, unknown"] += 1
        values.columns["surface"] = [surfaces[key] for key in keys]

    def _rows(self, frame: Frame, as_read: Mapping[str, Column], values: _Values, placed: set[str]) -> Iterator[Row]:
        keep = self.mapping.keep
        kept = {
            f"source_{name}" if name in COLUMNS else name: column.cells()
            for name, column in frame.columns.items()
            if name not in placed and (keep is None or name in keep)
        }
        names = [*values.columns, *kept, PART]
        columns = [*values.columns.values(), *kept.values(), [frame.label] * frame.rows]
        for number, cells in enumerate(zip(*columns, strict=True)):
            row = dict(zip(names, cells, strict=True))
            row[RAW] = RowCells(as_read, number)
            if number in values.bad:
                row[BAD] = values.bad[number]
            yield row

    def _joined(self, read: Sequence[Frame]) -> Iterator[Frame]:
        """Yield each runners' frame with the columns of its races. Raises `UserError` where either kind of file is missing."""
        join = self.mapping.join
        if join is None:
            return
        sides: dict[str, list[Frame]] = {"races": [], "runners": []}
        for frame in read:
            side = next(
                (side for side, needs in (("races", join.races_need), ("runners", join.runners_need))
                 if not frame.lacks(needs)),
                None,
            )  # fmt: skip
            if side is None:
                self._refuse_another_source(frame, join.runners_need)
            else:
                sides[side].append(frame)
        for side, needs in (("races", join.races_need), ("runners", join.runners_need)):
            if not sides[side]:
                raise UserError(
                    f"no file of {side} is named (one with {', '.join(needs[:4])}): {self.mapping.name} has one of races and "
                    "one of runners, so name both"
                )
        races = RacesIndex.of(sides["races"], join.races_key)
        for runners in sides["runners"]:
            yield races.joined(runners, join.runners_key)
        without = len(races.index) - len(races.met)
        self.notes.update({_NO_RUNNERS: without} if without else {})


def _finish_of(cell: str | None, rule: FinishRule) -> Finish:
    """Return the status and the position that a cell says; None where the next rule decides. Raises ValueError for another text."""
    given = cell or ""
    if given.casefold() in rule.codes:
        return rule.codes[given.casefold()]
    found = rule.pattern.search(given) if rule.pattern else None
    status, position = parsers.finish(found[1] if found else cell)
    if position is not None and str(position) in rule.codes:
        return rule.codes[str(position)]
    if status in STATUSES:
        return status, position
    if status is None or rule.otherwise == "next":
        return None
    raise ValueError(cell)
