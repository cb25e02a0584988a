"""The columns of a start that an expression may read: those of the runner table, and values that need the whole race.

The values that need the whole race have two forms that tests compare: `velo.racing.race_values` in Python and
`streams/batch/sql/starts.sql` in SQL. A column that only a user's own file has is an `extra` column.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite
from typing import Any, Final

from velo.errors import UserError
from velo.racing.expressions import E9, Expression, Kind
from velo.racing.expressions import column as _declared
from velo.racing.messages import Race, Runner
from velo.racing.race_values import LONGEST_SECTION_MS

INT32: Final = 2**31 - 1
MOST_STARTERS: Final = 100_000
LARGEST_REAL: Final = 1e300
"""Typed columns are finite; their expressions are bounded where they are used."""
NUMBER: Final = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
"""The text of a number: the same in Python and SQL."""
_IS_NUMBER: Final = re.compile(NUMBER)
RUNNER_TABLE: Final = frozenset(
    {"result_version", "known_at", "non_runner", *(field.name for kind in (Race, Runner) for field in fields(kind))}
)
"""The columns that a message holds under their own names; all others are kept with a runner as they came."""


@dataclass(frozen=True, slots=True)
class ColumnForms:
    """A column of a start with its Python and its SQL text."""

    expression: Expression
    python: str
    sql: str


@dataclass(frozen=True, slots=True)
class Extra:
    """A column that only a user's own file has, by its name there. Values beyond the bounds are unknown."""

    name: str
    kind: Kind
    least: float
    most: float


def column(name: str) -> Expression:
    """The column of a start by its name; raises `UserError` for an unknown one."""
    form = FORMS.get(name)
    if form is None:
        alike = get_close_matches(name, FORMS, 1)
        hint = f"did you mean {alike[0]!r}? " if alike else ""
        raise UserError(
            f"{name!r} is not a column of a start: {hint}write extra({name!r}) for a column of your own file"
        )
    return form.expression


def extra(name: str, kind: Kind = "real", *, least: float = -1e9, most: float = 1e9) -> Expression:
    """A column that only your own files have, as a number from `least` to `most`, or text.

    A value that is not such a number (text that reads as one counts) is unknown. Raises `UserError` for a column that the
    runner table has itself.
    """
    if not name or '"' in name or name.casefold() in RUNNER_TABLE:
        raise UserError(
            f"{name!r} cannot be an extra column: the runner table has it, or it has a quote; write column(…)"
        )
    if kind not in ("real", "whole", "text") or max(-least, most) > 1e15:
        raise UserError(f"extra column {name!r} is {kind} from {least} to {most}: give real, whole or text, up to 1e15")
    return _declared(Extra(name, kind, least, most), kind, name, *_bounds(kind, least, most), nullable=True)


def number_of(value: object, least: float, most: float) -> float | None:
    """The number that an extra column holds, from JSON: a number, or text that reads as one; else None."""
    if isinstance(value, str):
        value = value.strip(" ")
        if not _IS_NUMBER.fullmatch(value):
            return None
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value)
    return number if isfinite(number) and least <= number <= most else None


def whole_of(value: object, least: float, most: float) -> int | None:
    """The whole number that an extra column holds; None if it is none."""
    number = number_of(value, least, most)
    return int(number) if number is not None and number.is_integer() else None


def python_of(data: Any) -> str:
    """The Python text of a column, over `race`, `runner`, `shared` and the values of a start."""
    if not isinstance(data, Extra):
        return FORMS[data].python
    value = f"runner.kept.get({data.name!r})"
    if data.kind == "text":
        return f"text_of({value})"
    return f"{'whole' if data.kind == 'whole' else 'number'}_of({value}, {float(data.least)!r}, {float(data.most)!r})"


def sql_of(data: Any) -> str:
    """The SQL text of a column in the query of measured starts; an extra column is JSON there."""
    if not isinstance(data, Extra):
        return FORMS[data].sql
    value = f'runner."{data.name}"'
    text = f"trim({value} ->> '$', ' ')"
    if data.kind == "text":
        return f"CASE WHEN json_type({value}) = 'VARCHAR' THEN {value} ->> '$' END"
    kinds = f"json_type({value}) IN ('VARCHAR', 'DOUBLE', 'BIGINT', 'UBIGINT', 'HUGEINT')"
    number = f"CASE WHEN {kinds} AND regexp_full_match({text}, '{NUMBER}') THEN TRY_CAST({text} AS DOUBLE) END"
    within = f"({number}) BETWEEN {float(data.least)!r}::DOUBLE AND {float(data.most)!r}::DOUBLE"
    if data.kind == "whole":
        return f"CASE WHEN {within} AND ({number}) = floor({number}) THEN CAST(({number}) AS BIGINT) END"
    return f"CASE WHEN {within} THEN {number} END"


def text_of(value: object) -> str | None:
    """The text that an extra column holds; None for anything else."""
    return value if isinstance(value, str) else None


def _bounds(kind: Kind, least: float, most: float) -> tuple[float, float]:
    return (int(least), int(most)) if kind == "whole" else (float(least), float(most)) if kind == "real" else (0, 0)


def _of_runner(name: str, kind: Kind, words: str) -> ColumnForms:
    return _typed(name, kind, words, f"runner.{name}", f'runner."{name}"')


def _of_race(name: str, kind: Kind, words: str) -> ColumnForms:
    return _typed(name, kind, words, f"race.{name}", name)


def _typed(name: str, kind: Kind, words: str, python: str, sql: str) -> ColumnForms:
    if kind == "whole":
        return ColumnForms(_declared(name, kind, words, -INT32, INT32, nullable=True), python, f"CAST({sql} AS BIGINT)")
    bounds = (-LARGEST_REAL, LARGEST_REAL) if kind == "real" else (0, 0)
    return ColumnForms(_declared(name, kind, words, *bounds, nullable=True), python, sql)


def _value(
    name: str, words: str, least: int, most: int, *, nullable: bool = True, of_race: bool = False, sql: str = ""
) -> ColumnForms:
    expression = _declared(name, "whole", words, least, most, nullable=nullable)
    return ColumnForms(expression, f"shared.{name}" if of_race else name, sql or name)


def _in_running(name: str, words: str, most: int | None = None) -> ColumnForms:
    """A column of `IN_RUNNING`: a whole number from 1 to `most`, or a truth. The log may hold anything under its name."""
    value = f'runner."{name}"'
    if most is None:
        sql = f"CASE WHEN json_type({value}) = 'BOOLEAN' THEN TRY_CAST({value} AS BOOLEAN) END"
        return ColumnForms(_declared(name, "truth", words, nullable=True), f"truth(runner.{name})", sql)
    number = f"CASE WHEN json_type({value}) IN ('BIGINT', 'UBIGINT') THEN TRY_CAST({value} AS BIGINT) END"
    sql = f"CASE WHEN ({number}) BETWEEN 1 AND {most} THEN {number} END"
    expression = _declared(name, "whole", words, 1, most, nullable=True)
    return ColumnForms(expression, f"whole_number(runner.{name}, 1, {most})", sql)


_STATUS = ColumnForms(_declared("status", "text", "status", nullable=False), "runner.status", "runner.status")
_WON = ColumnForms(
    _declared("won", "truth", "won", nullable=False),
    "runner.won",
    """(runner.status IN ('FINISHED', 'RAN') AND runner."position" IS NOT DISTINCT FROM 1)""",
)
_FORMS: Final = (
    _STATUS,
    _WON,
    *(
        _of_runner(name, "whole", words)
        for name, words in (
            ("runner_no", "runner's number"),
            ("draw", "draw"),
            ("age", "age"),
            ("official_rating", "official rating"),
        )
    ),
    *(
        _of_runner(name, "real", words)
        for name, words in (
            ("weight_lbs", "weight carried in pounds"),
            ("body_weight_lbs", "body weight in pounds"),
            ("beaten_lengths", "lengths behind the winner"),
            ("finish_time_s", "finishing time in seconds"),
            ("sp_decimal", "starting price"),
        )
    ),
    *(_of_runner(name, "text", name) for name in ("sex", "headgear")),
    *(_of_race(name, "whole", words) for name, words in (("race_class", "class of the race"),)),
    _of_race("distance_m", "real", "distance in metres"),
    *(_of_race(name, "text", name) for name in ("surface", "going")),
    _in_running("first_call_position", "position at the first call", MOST_STARTERS),
    _in_running("last_call_position", "position at the last call", MOST_STARTERS),
    _in_running("widest_path", "widest path", MOST_STARTERS),
    _in_running("slow_away", "slow away"),
    _in_running("hampered", "hampered"),
    _value("field", "number of starters", 1, MOST_STARTERS, nullable=False, of_race=True),
    _value("places", "places that count", 0, MOST_STARTERS, nullable=False, of_race=True, sql="$places"),
    _value(
        "race_day", "race day (days since 1970-01-01)", -719_162, 2_932_896, nullable=False, of_race=True,
        sql="CAST(race_date - DATE '1970-01-01' AS BIGINT)",
    ),
    _value("run_m", "distance in whole metres", 100, 100_000, of_race=True),
    _value("par_ms", "par time in milliseconds", 0, E9, of_race=True, sql="($par_ms)"),
    _value("book", "Σ inverse odds", 1, 10**14, of_race=True),
    _value("timed", "timed starters", 0, MOST_STARTERS, nullable=False, of_race=True),
    _value("clocked", "Σ times in milliseconds", 0, 9 * 10**9, of_race=True),
    _value("first_timed", "starters timed over the first section", 0, MOST_STARTERS, nullable=False, of_race=True),
    _value("first_clocked", "Σ times of the first section in milliseconds", 0, 9 * 10**9, of_race=True),
    _value("last_timed", "starters timed over the last section", 0, MOST_STARTERS, nullable=False, of_race=True),
    _value("last_clocked", "Σ times of the last section in milliseconds", 0, 9 * 10**9, of_race=True),
    _value("scale", "top rating − top weight, in billionths", -(10**12), 10**12, of_race=True),
    _value("mean_behind", "pounds of the mean lengths, in billionths", 0, 10**12, of_race=True),
    _value("position", "position", -INT32, INT32),
    _value("sharing", "starters that share the position", 0, MOST_STARTERS, nullable=False),
    _value("inverse", "inverse odds", 0, E9),
    _value("pairing", "Σ chances against each starter, in billionths", 0, MOST_STARTERS * E9),
    _value("time_ms", "time in milliseconds", 1, 86_400_000),
    _value("first_ms", "time of the first section in milliseconds", 1, LONGEST_SECTION_MS),
    _value("last_ms", "time of the last section in milliseconds", 1, LONGEST_SECTION_MS),
    _value("weight_e9", "weight in billionths of a pound", 0, 10**12),
    _value("behind", "lengths behind in billionths (15 at most)", 0, 15 * E9),
)  # fmt: skip
FORMS: Final[Mapping[str, ColumnForms]] = {form.expression.data: form for form in _FORMS}
CALENDAR_COLUMNS: Final = frozenset({"race_day"})
"""Columns that say when a start was."""
