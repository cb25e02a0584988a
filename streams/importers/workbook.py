"""Read an Excel workbook (xlsx): the cells of each sheet as text, dates and times in ISO form."""

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import IO, Final
from xml.etree import ElementTree as ET

from velo.errors import UserError

_MAIN: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_PART: Final = re.compile(r"^(?:/xl/|xl/|/)?")
_COLUMN: Final = re.compile(r"[A-Z]+")
_DATE_FORMATS: Final = frozenset((*range(14, 23), *range(45, 48)))
"""The formats of dates and times that every workbook has."""
_DATE_SIGNS: Final = re.compile(r'"[^"]*"|\[[^\]]*\]|\\.')
_DAY_0: Final = datetime(1899, 12, 30)  # noqa: DTZ001 a workbook's days have no zone
_MOST_BYTES: Final = 2**26
_MOST_COLUMNS: Final = 2_000
Cells = list[str | None]


def sheets(label: str, file: IO[bytes]) -> Iterator[tuple[str, list[Cells]]]:
    """Yield the name and the rows of each sheet that has cells; rows are as long as the longest.

    Raises `UserError` for a workbook that is too big or has a part that cannot be read.
    """
    with zipfile.ZipFile(file) as archive:
        try:
            strings = [_text(item) for item in _part(label, archive, "xl/sharedStrings.xml").iter(f"{_MAIN}si")]
            dates = _date_styles(_part(label, archive, "xl/styles.xml"))
            places = {
                str(relation.get("Id")): "xl/" + _PART.sub("", str(relation.get("Target")))
                for relation in _part(label, archive, "xl/_rels/workbook.xml.rels")
            }
            for sheet in _part(label, archive, "xl/workbook.xml").iter(f"{_MAIN}sheet"):
                place = places.get(str(sheet.get(_RELATION)), "")
                rows = _rows(_part(label, archive, place), strings, dates) if place.startswith("xl/worksheets/") else []
                if rows:
                    yield str(sheet.get("name")), rows
        except (ET.ParseError, ValueError, IndexError, OverflowError) as broken:
            raise UserError(
                f"{label} is a workbook that cannot be read ({broken}): save its sheet as CSV in UTF-8"
            ) from None


def _part(label: str, archive: zipfile.ZipFile, name: str) -> ET.Element:
    """Return a part of a workbook; an empty element where it has none."""
    if name not in archive.namelist():
        return ET.Element("none")
    with archive.open(name) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UserError(f"{label} has a sheet of more than {_MOST_BYTES:,} bytes: save it as CSV in UTF-8")
    if b"<!DOCTYPE" in content[:1024].upper():
        raise UserError(f"{label} is no workbook that Excel wrote: save its sheet as CSV in UTF-8")
    return ET.fromstring(content)  # noqa: S314 without a document type there are no entities


def _text(item: ET.Element) -> str:
    """Return the text of a string, which may be in several runs; a reading aid beside it is left out."""
    runs = [run for child in item if child.tag == f"{_MAIN}r" for run in child.iter(f"{_MAIN}t")]
    return "".join(run.text or "" for run in (runs or item.findall(f"{_MAIN}t")))


def _date_styles(styles: ET.Element) -> frozenset[int]:
    """Return the cell styles that show a number as a date or a time."""
    own = {
        int(str(form.get("numFmtId"))): _DATE_SIGNS.sub("", str(form.get("formatCode"))).casefold()
        for form in styles.iter(f"{_MAIN}numFmt")
    }
    of_dates = _DATE_FORMATS | {number for number, code in own.items() if set(code) & set("ydh")}
    used = styles.find(f"{_MAIN}cellXfs")
    numbers = [int(style.get("numFmtId", "0")) for style in (used if used is not None else ())]
    return frozenset(at for at, number in enumerate(numbers) if number in of_dates)


def _rows(sheet: ET.Element, strings: Sequence[str], dates: frozenset[int]) -> list[Cells]:
    by_place: list[Mapping[int, str | None]] = []
    width = 0
    for row in sheet.iter(f"{_MAIN}row"):
        cells: dict[int, str | None] = {}
        for cell in row.iter(f"{_MAIN}c"):
            place = _COLUMN.match(str(cell.get("r", "")))
            at = _number(place[0]) if place else len(cells)
            if at >= _MOST_COLUMNS:
                raise ValueError(f"a cell is in column {at + 1}, beyond {_MOST_COLUMNS}")
            cells[at] = _cell(cell, strings, dates)
        if any(value is not None for value in cells.values()):
            by_place.append(cells)
            width = max(width, max(cells) + 1)
    return [[cells.get(at) for at in range(width)] for cells in by_place]


def _number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1


def _cell(cell: ET.Element, strings: Sequence[str], dates: frozenset[int]) -> str | None:
    kind, value = cell.get("t", "n"), cell.findtext(f"{_MAIN}v")
    if kind == "inlineStr":
        inline = cell.find(f"{_MAIN}is")
        return (_text(inline).strip() or None) if inline is not None else None
    if value is None or kind == "e":
        return None
    if kind == "s":
        return strings[int(value)].strip() or None
    if kind == "b":
        return "true" if value == "1" else "false"
    if kind != "n":
        return value.strip() or None
    number = float(value)
    if int(cell.get("s", "0")) in dates:
        return _moment(number)
    return str(int(number)) if number == int(number) else repr(number)


def _moment(days: float) -> str:
    """Return a number of days as a date, a date and time, or, below one day, a time of day."""
    moment = _DAY_0 + timedelta(seconds=round(days * 86_400))
    if 0 <= days < 1:
        return f"{moment:%H:%M:%S}"
    return moment.date().isoformat() if moment.time() == _DAY_0.time() else moment.isoformat()
