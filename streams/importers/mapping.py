"""A mapping: what the columns of a source mean, declared in TOML. docs/mappings.md describes every entry.

`parse_mapping` checks the whole declaration, and an error names the entry, its value and what it may be. What a declared rule does
with the cells of a file is in `velo.streams.importers.mapped`.
"""

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from velo.errors import UserError
from velo.racing.messages import FINISHED, RAN, STATUSES
from velo.settings import KeyPolicy, zone_named
from velo.streams.importers import parsers
from velo.streams.importers.columns import COLUMNS, value_of
from velo.streams.importers.units import (
    UNITS,
    Reader,
    date_reader,
    divided,
    instant_reader,
    reader_of,
    with_decimal_comma,
)

Names = tuple[str, ...]
"""One column of a source, under the names that its releases give it."""
Otherwise = Literal["refuse", "keep", "unknown", "next"]
Finish = tuple[str, int | None] | None
"""A status and a position; None where the next rule decides."""
COURSE_ZONE: Final = "course"
"""The zone of a clock that is local at each course."""
_TOP: Final = (
    "name", "help", "kind", "keys", "needs", "rows", "encoding", "optional", "keep", "blank", "repeated_rows", "join", "clock",
    "columns", "finish",
)  # fmt: skip
_COLUMN: Final = (
    "column", "columns", "join", "value", "unit", "stake", "format", "zone", "decimal", "pattern", "codes", "otherwise", "matches",
)  # fmt: skip
_MADE_ELSEWHERE: Final = {"off_time": "[clock]", "status": "[[finish]]", "position": "[[finish]]"}


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """One column of the runner table: from which columns of the source, joined by `join`, or a `constant`; and how it is read."""

    target: str
    sources: tuple[Names, ...]
    join: str
    constant: Any
    read: Reader


@dataclass(frozen=True, slots=True)
class FinishRule:
    """How one column encodes a runner's outcome."""

    source: Names
    pattern: re.Pattern[str] | None
    codes: Mapping[str, Finish]
    otherwise: Otherwise


@dataclass(frozen=True, slots=True)
class ClockRule:
    """How the off is written: an instant, or a time of day on the clock of 12 or 24 `hours` of a zone.

    `zone` is a zone, or the one of each course (None); `zones` are by the cell of `zone_source`.
    """

    instant: Names | None
    time: Names | None
    hours: int
    zone: ZoneInfo | None
    zone_source: Names | None
    zones: Mapping[str, ZoneInfo]


@dataclass(frozen=True, slots=True)
class JoinRule:
    """Two files that make one row: races and runners, each recognised by the columns it needs and joined by its key."""

    races_key: str
    runners_key: str
    races_need: Names
    runners_need: Names


@dataclass(frozen=True, slots=True)
class SourceMapping:
    """One source. `needs` are columns that its files have and others lack; `optional` are targets whose columns a release may lack."""

    name: str
    help: str
    kind: Literal["results", "cards"]
    keys: KeyPolicy
    needs: Names
    rows_at: str | None
    encoding: str
    optional: frozenset[str]
    keep: frozenset[str] | None
    blank: frozenset[str]
    leave_out_repeats: bool
    join: JoinRule | None
    clock: ClockRule | None
    columns: tuple[ColumnRule, ...]
    finish: tuple[FinishRule, ...]

    def sources_of(self, target: str) -> tuple[Names, ...]:
        """Return the columns of the source from which a column of the runner table is read."""
        if target in ("status", "position"):
            return tuple(rule.source for rule in self.finish)
        if target == "off_time" and self.clock:
            return tuple(names for names in (self.clock.instant, self.clock.time) if names)
        return next((rule.sources for rule in self.columns if rule.target == target), ())


def read_mapping(path: Path) -> SourceMapping:
    """Return the mapping in a TOML file. Raises `UserError` for a file that cannot be read, or an entry that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as refused:
        why = getattr(refused, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{path} cannot be read ({why}): name a mapping in TOML") from None
    return parse_mapping(text, str(path))


def parse_mapping(text: str, label: str) -> SourceMapping:
    """Return the mapping declared by a text of TOML; `label` begins each error."""
    try:
        declared = tomllib.loads(text)
    except tomllib.TOMLDecodeError as broken:
        raise UserError(f"{label} is no TOML ({broken}): correct it") from None
    return mapping_of(declared, label)


def mapping_of(declared: Mapping[str, Any], label: str) -> SourceMapping:
    """Return the mapping that a parsed document of TOML declares (see `parse_mapping`)."""
    return _Parser(label).mapping(declared)


@dataclass(frozen=True, slots=True)
class _Parser:
    label: str

    def mapping(self, declared: Mapping[str, Any]) -> SourceMapping:
        self._known("the file", declared, _TOP)
        name = self._text("name", declared.get("name"))
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise self._wrong("name", name, "small letters, digits and hyphens")
        kind = self._one_of("kind", declared.get("kind", "results"), ("results", "cards"))
        columns = tuple(self._columns(self._table("columns", declared.get("columns"))))
        targets = {rule.target for rule in columns}
        for needed in ("race_id", "race_date", "course", ("horse", "horse_id")):
            if targets.isdisjoint([needed] if isinstance(needed, str) else needed):
                shown = needed if isinstance(needed, str) else " or ".join(needed)
                raise UserError(f"{self.label}: [columns] lacks {shown}, which every race needs: say where it is")
        finish = tuple(
            self._finish(at, rule) for at, rule in enumerate(self._list("finish", declared.get("finish", [])))
        )
        if kind == "results" and not finish:
            raise UserError(f"{self.label} has no [[finish]], which says who won and who ran: add one")
        optional = frozenset(self._names("optional", declared.get("optional", [])))
        if unknown := sorted(optional - set(COLUMNS)):
            raise self._wrong("optional", unknown[0], "a column of the runner table")
        keep = declared.get("keep", True)
        return SourceMapping(
            name=name,
            help=self._text("help", declared.get("help", f"Load {name} files.")),
            kind="cards" if kind == "cards" else "results",
            keys="id" if self._one_of("keys", declared.get("keys", "name"), ("name", "id")) == "id" else "name",
            needs=self._names("needs", declared.get("needs", [])),
            rows_at=None if "rows" not in declared else self._text("rows", declared["rows"], blank=True),
            encoding=self._encoding(declared.get("encoding", "utf-8")),
            optional=optional,
            keep=None if keep is True else frozenset() if keep is False else frozenset(self._names("keep", keep)),
            blank=frozenset(word.casefold() for word in self._names("blank", declared.get("blank", []))),
            leave_out_repeats=self._one_of(
                "repeated_rows", declared.get("repeated_rows", "refuse"), ("refuse", "leave out")
            )
            == "leave out",
            join=self._join(declared.get("join")),
            clock=self._clock(declared.get("clock")),
            columns=columns,
            finish=finish,
        )

    def _columns(self, declared: Mapping[str, Any]) -> "list[ColumnRule]":
        rules = []
        for target, rule in declared.items():
            where = f"[columns] {target}"
            if target in _MADE_ELSEWHERE:
                raise UserError(f"{self.label}: {where} is declared in {_MADE_ELSEWHERE[target]}: move it there")
            if target not in COLUMNS:
                raise UserError(
                    f"{self.label}: {where} is no column of the runner table: use one of {', '.join(sorted(COLUMNS))}"
                )
            given = rule if isinstance(rule, dict) else {"column": rule}
            self._known(where, given, _COLUMN)
            if ("value" in given) + ("column" in given) + ("columns" in given) != 1:
                raise UserError(f"{self.label}: {where} needs exactly one of column, columns and value: leave one")
            rules.append(self._column(target, where, given))
        return rules

    def _column(self, target: str, where: str, given: Mapping[str, Any]) -> ColumnRule:
        if "value" in given:
            try:
                return ColumnRule(target, (), "", value_of(given["value"], COLUMNS[target]), lambda cell: None)
            except (ValueError, TypeError):
                raise self._wrong(f"{where} value", given["value"], "a value of its kind") from None
        if "columns" in given:
            parts = given["columns"]
            if not isinstance(parts, list) or not parts:
                raise self._wrong(f"{where} columns", parts, "a list of column names")
            sources = tuple(self._names(f"{where} columns", part) for part in parts)
        else:
            sources = (self._names(f"{where} column", given["column"]),)
        return ColumnRule(
            target,
            sources,
            self._text(f"{where} join", given.get("join", " "), blank=True),
            None,
            self._reader(target, where, given),
        )

    def _reader(self, target: str, where: str, given: Mapping[str, Any]) -> Reader:
        unit = given.get("unit")
        try:
            read = reader_of(target, unit)
        except (KeyError, TypeError):
            units = ", ".join(UNITS.get(target, ())) or "none, since it is no measure"
            raise UserError(
                f"{self.label}: {where} has the unit {unit!r}, but its units are {units}: correct it"
            ) from None
        if target == "race_date":
            read = date_reader(self._names(f"{where} format", given.get("format", [])))
        elif "format" in given:
            raise UserError(f"{self.label}: {where} has a format, which only race_date has: leave it out")
        if COLUMNS[target] == "instant":
            read = instant_reader(self._zone(f"{where} zone", given["zone"]) if "zone" in given else None)
        if unit == "tote":
            stake = given.get("stake", 1)
            if not isinstance(stake, int | float) or stake <= 0:
                raise self._wrong(f"{where} stake", stake, "the money that the dividend is for, above 0")
            read = divided(read, stake)
        if self._one_of(f"{where} decimal", given.get("decimal", "."), (".", ",")) == ",":
            read = with_decimal_comma(read)
        if "matches" in given:
            found = self._pattern(f"{where} matches", given["matches"])
            return lambda cell: None if cell is None else found.search(cell) is not None
        pattern = self._pattern(f"{where} pattern", given["pattern"], groups=1) if "pattern" in given else None
        codes = {
            str(code).casefold(): value for code, value in self._table(f"{where} codes", given.get("codes", {})).items()
        }
        otherwise = self._one_of(f"{where} otherwise", given.get("otherwise", "refuse"), ("refuse", "keep", "unknown"))
        return _in_steps(read, pattern, codes, otherwise, coded=bool(codes) and COLUMNS[target] == "text")

    def _finish(self, at: int, rule: Any) -> FinishRule:
        where = f"[[finish]] {at + 1}"
        given = self._table(where, rule)
        self._known(where, given, ("column", "pattern", "codes", "otherwise"))
        codes: dict[str, Finish] = {}
        for code, meaning in self._table(f"{where} codes", given.get("codes", {})).items():
            status, _, position = str(meaning).partition(" ")
            placed = position == "" or (status in (FINISHED, RAN) and position.isdecimal() and int(position) > 0)
            if meaning == "next":
                codes[code.casefold()] = None
            elif status in STATUSES and placed:
                codes[code.casefold()] = status, int(position) if position else None
            else:
                raise self._wrong(
                    f"{where} code {code!r}", meaning, f"next, {', '.join(sorted(STATUSES))}, or RAN 1 for a winner"
                )
        pattern = self._pattern(f"{where} pattern", given["pattern"], groups=1) if "pattern" in given else None
        otherwise = self._one_of(f"{where} otherwise", given.get("otherwise", "refuse"), ("refuse", "next"))
        return FinishRule(
            self._names(f"{where} column", given.get("column")),
            pattern,
            codes,
            "next" if otherwise == "next" else "refuse",
        )

    def _clock(self, declared: Any) -> ClockRule | None:
        if declared is None:
            return None
        given = self._table("[clock]", declared)
        self._known("[clock]", given, ("instant", "time", "hours", "zone", "zone_column", "zones"))
        if ("instant" in given) == ("time" in given):
            raise UserError(
                f"{self.label}: [clock] needs either instant or time, the column of the off: name one of them"
            )
        zone, zones = given.get("zone"), self._table("[clock] zones", given.get("zones", {}))
        if "time" in given and zone is None and not zones:
            raise UserError(
                f"{self.label}: [clock] needs a zone, such as Europe/London, or {COURSE_ZONE!r} for each course's own: "
                "an off without one is no instant"
            )
        if bool(zones) != ("zone_column" in given):
            raise UserError(f"{self.label}: [clock] zones and zone_column belong together: give both or neither")
        hours = given.get("hours", 24)
        if hours not in (12, 24):
            raise self._wrong("[clock] hours", hours, "12 or 24")
        return ClockRule(
            instant=self._names("[clock] instant", given["instant"]) if "instant" in given else None,
            time=self._names("[clock] time", given["time"]) if "time" in given else None,
            hours=hours,
            zone=None if zone in (None, COURSE_ZONE) else self._zone("[clock] zone", zone),
            zone_source=self._names("[clock] zone_column", given["zone_column"]) if zones else None,
            zones={cell.casefold(): self._zone(f"[clock] zones {cell}", named) for cell, named in zones.items()},
        )

    def _join(self, declared: Any) -> JoinRule | None:
        if declared is None:
            return None
        given = self._table("[join]", declared)
        self._known("[join]", given, ("races", "runners", "races_need", "runners_need"))
        rule = JoinRule(
            races_key=self._text("[join] races", given.get("races")),
            runners_key=self._text("[join] runners", given.get("runners")),
            races_need=self._names("[join] races_need", given.get("races_need", [])),
            runners_need=self._names("[join] runners_need", given.get("runners_need", [])),
        )
        if not rule.races_need or not rule.runners_need:
            raise UserError(
                f"{self.label}: [join] needs races_need and runners_need, columns that tell the two files apart: name them"
            )
        return rule

    def _known(self, where: str, given: Mapping[str, Any], known: Collection[str]) -> None:
        if unknown := sorted(set(given) - set(known)):
            raise UserError(
                f"{self.label}: {where} has the entry {unknown[0]!r}, but its entries are {', '.join(known)}: correct it"
            )

    def _table(self, where: str, given: Any) -> Mapping[str, Any]:
        if not isinstance(given, dict):
            raise self._wrong(where, given, "a table of entries")
        return given

    def _list(self, where: str, given: Any) -> Sequence[Any]:
        if not isinstance(given, list):
            raise self._wrong(where, given, "a list of tables: write [[finish]]")
        return given

    def _text(self, where: str, given: Any, *, blank: bool = False) -> str:
        if not isinstance(given, str) or not (given or blank):
            raise self._wrong(where, given, "a text")
        return given

    def _names(self, where: str, given: Any) -> Names:
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise self._wrong(where, given, "a text or a list of texts")
        return tuple(names)

    def _one_of(self, where: str, given: Any, allowed: Sequence[str]) -> str:
        if given not in allowed:
            raise self._wrong(where, given, f"one of {', '.join(map(repr, allowed))}")
        return str(given)

    def _pattern(self, where: str, given: Any, groups: int = 0) -> re.Pattern[str]:
        try:
            pattern = re.compile(self._text(where, given))
        except re.error as broken:
            raise self._wrong(where, given, f"a regular expression ({broken})") from None
        if groups and pattern.groups != groups:
            raise self._wrong(where, given, "a regular expression with one group in parentheses, which is the value")
        return pattern

    def _zone(self, where: str, given: Any) -> ZoneInfo:
        try:
            return zone_named(self._text(where, given))
        except UserError:
            raise self._wrong(where, given, "a time zone such as Europe/London") from None

    def _encoding(self, given: Any) -> str:
        try:
            "".encode(self._text("encoding", given))
        except LookupError:
            raise self._wrong("encoding", given, "an encoding such as utf-8 or cp1254") from None
        return str(given)

    def _wrong(self, where: str, given: Any, wanted: str) -> UserError:
        return UserError(f"{self.label}: {where} is {given!r}, but it holds {wanted}: correct it")


def _in_steps(
    read: Reader, pattern: re.Pattern[str] | None, codes: Mapping[str, Any], otherwise: str, *, coded: bool
) -> Reader:
    """Return a reader: the pattern's group of the cell, the meaning of its code, then the unit.

    `coded`: the codes are all that the column may hold. `otherwise` says what becomes of a cell that none of them reads.
    """
    if pattern is None and not codes and otherwise == "refuse":
        return read

    def in_steps(cell: str | None) -> Any:
        given = cell
        if pattern is not None and not _is_blank(cell):
            found = pattern.search(cell or "")
            given = found[1] if found else cell if otherwise == "keep" else None
            if given is None and otherwise == "refuse":
                raise ValueError(cell)
        code = (given or "").casefold()
        if code in codes:
            return read(str(codes[code]))
        if coded and otherwise != "keep":
            if otherwise == "unknown" or _is_blank(given):
                return None
            raise ValueError(cell)
        try:
            return read(given)
        except ValueError:
            if otherwise == "unknown":
                return None
            raise

    return in_steps


def _is_blank(cell: str | None) -> bool:
    return parsers.text(cell) is None or (cell or "").strip().casefold() in parsers.NOTHING
