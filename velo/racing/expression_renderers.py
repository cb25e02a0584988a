"""Renderers of expressions: the SQL of DuckDB and Spark, a Python function, and the values over NumPy arrays.

All give the same values bit for bit, which tests compare on random expressions and rows.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from velo.racing.expressions import COMPARISONS, E9, OPPOSITES, Expression, depth_first


class Sql:
    """Renders expressions as SQL of one engine. `names` has the SQL of each column; `known` that of expressions with a name."""

    def __init__(self, column_sql: Callable[[Any], str], *, spark: bool = False) -> None:
        self._column = column_sql
        self._spark = spark
        self.known: dict[Expression, str] = {}

    def of(self, expression: Expression) -> str:
        """The SQL of an expression."""
        if expression in self.known:
            return self.known[expression]
        op, args = expression.op, [self.of(arg) for arg in expression.args]
        if op == "column":
            return self._column(expression.data)
        if op == "literal":
            return _sql_literal(expression.data)
        if op in COMPARISONS:
            return f"({args[0]} {COMPARISONS[op]} {args[1]})"
        if op in ("+", "-", "*"):
            return f"({_cast(expression, 0, args)} {op} {_cast(expression, 1, args)})"
        if op == "//":
            return self._floor_division(expression, *args)
        if op == "case":
            pairs = " ".join(
                f"WHEN {args[at]} THEN {_cast(expression, at + 1, args)}" for at in range(0, len(args) - 1, 2)
            )
            last = f" ELSE {_cast(expression, len(args) - 1, args)}" if len(args) % 2 else ""
            return f"CASE {pairs}{last} END"
        return self._function(expression, args)

    def _function(self, expression: Expression, args: list[str]) -> str:
        op = expression.op
        if op in ("and", "or"):
            return f"({args[0]} {op.upper()} {args[1]})"
        if op in ("least", "greatest"):
            # both engines leave nulls out
            known = " AND ".join(
                f"{text} IS NOT NULL" for argument, text in zip(expression.args, args, strict=True) if argument.nullable
            )
            text = f"{op}({_cast(expression, 0, args)}, {_cast(expression, 1, args)})"
            return f"CASE WHEN {known} THEN {text} END" if known else text
        if op == "banded":
            ends, names = expression.data
            pairs = " ".join(f"WHEN {args[0]} <= {end} THEN '{name}'" for end, name in zip(ends, names, strict=False))
            return f"CASE {pairs} WHEN {args[0]} IS NOT NULL THEN '{names[-1]}' END"
        if op == "log2_e9":
            whole = f"(length(bin({args[0]})) - 1)"
            left = f"shiftleft(CAST(1 AS BIGINT), {whole})" if self._spark else f"(1::BIGINT << {whole})"
            part = f"({args[0]} - {left}) * {E9}"
            right = f"shiftright({part}, {whole})" if self._spark else f"(({part}) >> {whole})"
            return f"({whole} * CAST({E9} AS BIGINT) + {right})"
        form = {
            "not": "(NOT {})",
            "known": "({} IS NOT NULL)",
            "counted": "CAST({} AS BIGINT)",
            "rounded": "CAST(floor({} + 5e-1) AS BIGINT)",
        }
        return form[op].format(*args)

    def _floor_division(self, expression: Expression, over: str, under: str) -> str:
        top, bottom = expression.args
        divisor = under if bottom.least > 0 else f"nullif({under}, 0)"
        # both engines round a quotient towards 0: a negative dividend is first brought down to a multiple
        dividend = over if top.least >= 0 else f"({over} - ({over} % {divisor} + {divisor}) % {divisor})"
        return f"({dividend} {'div' if self._spark else '//'} {divisor})"


def compiled(
    expressions: Sequence[Expression],
    parameters: Sequence[str],
    column_text: Callable[[Any], str],
    made: Callable[[list[str]], str],
    names: dict[str, Any],
) -> Callable[..., Any]:
    """The Python function of `parameters` that computes `expressions` in order and returns what `made` writes of their texts.

    `column_text` has the Python text of each column, and `names` what these texts need. Unknown is None.
    """
    writer = _Python(column_text, expressions)
    values = [writer.of(expression) for expression in expressions]
    body = "".join(f"    {line}\n" for line in writer.lines)
    text = f"def measured({', '.join(parameters)}):\n{body}    return {made(values)}\n"
    scope = {"floor": math.floor, "log2_of": log2_of, "band_of": _band_of, **names}
    exec(text, scope)  # noqa: S102  the text is made of declared columns and constants only
    function: Callable[..., Any] = scope["measured"]
    return function


class _Python:
    """Writes the statements of a function: a value that is nullable or used twice gets a variable."""

    def __init__(self, column_text: Callable[[Any], str], roots: Sequence[Expression]) -> None:
        self._column = column_text
        self.lines: list[str] = []
        self._done: dict[Expression, str] = {}
        self._uses: dict[Expression, int] = {}
        for expression in depth_first(roots):
            self._uses.setdefault(expression, 0)
            for argument in expression.args:
                self._uses[argument] = self._uses.get(argument, 0) + 1
        for root in roots:
            self._uses[root] += 1

    def of(self, expression: Expression) -> str:
        if expression in self._done:
            return self._done[expression]
        args = [self.of(arg) for arg in expression.args]
        text = self._text(expression, args)
        simple = text.isidentifier() or expression.op == "literal"
        if not simple and (expression.nullable or self._uses[expression] > 1):
            name = f"v{len(self.lines)}"
            self.lines.append(f"{name} = {text}")
            text = name
        self._done[expression] = text
        return text

    def _text(self, expression: Expression, args: list[str]) -> str:
        op = expression.op
        if op == "column":
            return self._column(expression.data)
        if op == "literal":
            return repr(expression.data)
        if op == "case":
            text = _real(expression, len(args) - 1, args) if len(args) % 2 else "None"
            for at in range(len(args) - 2 - len(args) % 2, -1, -2):
                text = f"({_real(expression, at + 1, args)} if {args[at]} else {text})"
            return text
        if op == "known":
            return f"({args[0]} is not None)"
        if op in ("and", "or"):
            return self._logic(expression, args)
        if op in ("least", "greatest") and expression.kind == "real":
            whole = [arg.kind == "whole" for arg in expression.args]
            texts = [f"float({text})" if of else text for of, text in zip(whole, args, strict=True)]
        else:
            texts = args
        form = {
            "not": "(not {})",
            "counted": "(1 if {} else 0)",
            "rounded": "floor({} + 0.5)",
            "log2_e9": "log2_of({})",
            "banded": f"band_of({{}}, {expression.data!r})",
            "least": "min({}, {})",
            "greatest": "max({}, {})",
        }.get(op, f"({{}} {op} {{}})")
        text = form.format(*texts)
        unknown = [
            f"{text_of} is None" for argument, text_of in zip(expression.args, args, strict=True) if argument.nullable
        ]
        if op == "//" and expression.args[1].least <= 0:
            unknown.append(f"not {args[1]}")
        return f"(None if {' or '.join(dict.fromkeys(unknown))} else {text})" if unknown else text

    def _logic(self, expression: Expression, args: list[str]) -> str:
        op, (a, b) = expression.op, args
        if not expression.nullable:
            return f"({a} {op} {b})"
        decides, text = ("False", "True") if op == "and" else ("True", "False")
        return (
            f"({decides} if {a} is {decides} or {b} is {decides} else None if {a} is None or {b} is None else {text})"
        )


class Arrays:
    """Computes expressions over NumPy arrays of doubles, NaN for null; text is an array of objects, None for null.

    `numpy` is the module: this package imports the standard library alone.
    """

    def __init__(self, numpy: Any, columns: Callable[[Any], Any]) -> None:
        self._np = numpy
        self._columns = columns

    def of(self, expression: Expression) -> Any:
        """The values of an expression that is not a truth value."""
        np, op, args = self._np, expression.op, expression.args
        if op == "column":
            return self._columns(expression.data)
        if op == "literal":
            return expression.data
        if op == "case":
            value: Any = None if expression.kind == "text" else np.nan
            value = self.of(args[-1]) if len(args) % 2 else value
            for at in range(len(args) - 2 - len(args) % 2, -1, -2):
                value = np.where(self.truth(args[at]), self.of(args[at + 1]), value)
            return value.astype(object) if expression.kind == "text" else value
        if op == "banded":
            ends, names = expression.data
            number = np.asarray(self.of(args[0]))
            at = np.where(np.isnan(number), len(names), np.searchsorted(np.array(ends, dtype=float), number))
            return np.array([*names, None], dtype=object)[at]
        if op == "counted":
            return np.where(self.truth(args[0]), 1.0, np.where(self.falsehood(args[0]), 0.0, np.nan))
        values = [self.of(arg) for arg in args]
        if op == "//":
            under = np.where(np.asarray(values[1]) == 0, np.nan, values[1])
            return np.floor_divide(values[0], under)
        if op == "log2_e9":
            known = ~np.isnan(values[0])
            number = np.where(known, values[0], 1).astype(np.int64)
            whole = np.frexp(number.astype(float))[1].astype(np.int64) - 1
            part = (number - np.left_shift(np.int64(1), whole)) * E9
            return np.where(known, whole * E9 + np.right_shift(part, whole), np.nan)
        form: dict[str, Callable[..., Any]] = {
            "+": np.add,
            "-": np.subtract,
            "*": np.multiply,
            "least": np.minimum,
            "greatest": np.maximum,
            "rounded": lambda value: np.floor(value + 0.5),
        }
        return form[op](*values)

    def truth(self, expression: Expression) -> Any:
        """The rows in which a truth value is true."""
        np, op, args = self._np, expression.op, expression.args
        if op in ("and", "or"):
            return (np.logical_and if op == "and" else np.logical_or)(*map(self.truth, args))
        if op == "not":
            return self.falsehood(args[0])
        if op == "known":
            value = self.of(args[0])
            return np.not_equal(value, None) if args[0].kind == "text" else ~np.isnan(value)
        return expression.data if op == "literal" else self._compared(op, args)

    def falsehood(self, expression: Expression) -> Any:
        """The rows in which a truth value is false: neither true nor null."""
        np, op, args = self._np, expression.op, expression.args
        if op in ("and", "or"):
            return (np.logical_or if op == "and" else np.logical_and)(*map(self.falsehood, args))
        if op == "not":
            return self.truth(args[0])
        if op in ("known", "literal"):
            return ~np.asarray(self.truth(expression))
        return self._compared(OPPOSITES[op], args)

    def _compared(self, op: str, args: Sequence[Expression]) -> Any:
        np = self._np
        first, second = map(self.of, args)
        if args[0].kind == "text":
            known = np.not_equal(first, None) & np.not_equal(second, None)
            return (np.equal if op == "==" else np.not_equal)(first, second) & known
        compared = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal}
        if op != "!=":
            return compared[op](first, second)
        # NaN differs from everything, but a comparison with null is null
        return np.not_equal(first, second) & ~np.isnan(first) & ~np.isnan(second)


def _band_of(number: float, data: tuple[tuple[int, ...], tuple[str, ...]]) -> str:
    ends, names = data
    return next((name for end, name in zip(ends, names, strict=False) if number <= end), names[-1])


def log2_of(number: int) -> int:
    """The Python form of `log2_e9`."""
    whole = number.bit_length() - 1
    return whole * E9 + ((number - (1 << whole)) * E9 >> whole)


def _cast(expression: Expression, at: int, args: Sequence[str]) -> str:
    """The SQL of an argument, as a double where the result is one and the argument is whole."""
    whole = expression.kind == "real" and expression.args[at].kind == "whole"
    return f"CAST({args[at]} AS DOUBLE)" if whole else args[at]


def _real(expression: Expression, at: int, args: Sequence[str]) -> str:
    """The Python of a branch, as a float where the case is real and the branch is whole."""
    argument = expression.args[at]
    if expression.kind != "real" or argument.kind != "whole":
        return args[at]
    return f"(None if {args[at]} is None else float({args[at]}))" if argument.nullable else f"float({args[at]})"


def _sql_literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float):
        text = repr(value)
        # with an exponent every engine reads it as a double, not as a decimal
        return text if "e" in text else f"{text}e0"
    return str(value)
