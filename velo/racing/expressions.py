"""A small typed expression language for measures of a start and for features of the race asked about.

One declaration has all its forms: words (`in_words`) here; SQL, a Python function and NumPy arrays in
`velo.racing.expression_renderers`.

Kinds: `whole` (an integer of 64 bits), `real` (a double), `truth`, `text`. Unknown is null. A null operand makes the result
null, except in `known`, `or_else`, `case`, `&` and `|`, which follow SQL. `//` rounds down, and a division by 0 is null. The
bounds of every whole number are known when it is declared: one that might not fit 64 bits is refused with `UserError`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Union

from velo.errors import UserError

Kind = Literal["whole", "real", "truth", "text"]
Operand = Union["Expression", int, float, str]
LARGEST: Final = 2**63 - 1
EXACT_IN_DOUBLE: Final = 2**53
LOG2_MOST: Final = 2**33
"""The largest argument of `log2_e9`: the fraction times a billion then fits 64 bits."""
E9: Final = 10**9
COMPARISONS: Final = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "==": "=", "!=": "<>"}
OPPOSITES: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


@dataclass(frozen=True, eq=False)
class Expression:
    """A value computed from columns. `data` is a column's name, a literal, or the edges and names of a band.

    `least` and `most` bound a number. `nullable` says whether it can be unknown.
    """

    op: str
    kind: Kind
    args: tuple["Expression", ...] = ()
    data: Any = None
    nullable: bool = False
    least: float = 0
    most: float = 0
    words: str = field(default="", repr=False)

    def __add__(self, other: Operand) -> "Expression":
        return _arithmetic("+", self, other)

    def __radd__(self, other: Operand) -> "Expression":
        return _arithmetic("+", other, self)

    def __sub__(self, other: Operand) -> "Expression":
        return _arithmetic("-", self, other)

    def __rsub__(self, other: Operand) -> "Expression":
        return _arithmetic("-", other, self)

    def __mul__(self, other: Operand) -> "Expression":
        return _arithmetic("*", self, other)

    def __rmul__(self, other: Operand) -> "Expression":
        return _arithmetic("*", other, self)

    def __floordiv__(self, other: Operand) -> "Expression":
        return _quotient("//", self, other)

    def __rfloordiv__(self, other: Operand) -> "Expression":
        return _quotient("//", other, self)

    def __lt__(self, other: Operand) -> "Expression":
        return _comparison("<", self, other)

    def __le__(self, other: Operand) -> "Expression":
        return _comparison("<=", self, other)

    def __gt__(self, other: Operand) -> "Expression":
        return _comparison(">", self, other)

    def __ge__(self, other: Operand) -> "Expression":
        return _comparison(">=", self, other)

    def equals(self, other: Operand) -> "Expression":
        """Whether both are equal (`==` compares declarations, not values)."""
        return _comparison("==", self, other)

    def differs(self, other: Operand) -> "Expression":
        """Whether both are known and not equal."""
        return _comparison("!=", self, other)

    def __and__(self, other: "Expression") -> "Expression":
        return _logic("and", self, other)

    def __or__(self, other: "Expression") -> "Expression":
        return _logic("or", self, other)

    def __invert__(self) -> "Expression":
        _want(self, "truth", "~")
        return Expression("not", "truth", (self,), nullable=self.nullable)

    @property
    def known(self) -> "Expression":
        """Whether the value is not null; never null itself."""
        return Expression("known", "truth", (self,)) if self.nullable else literal(True)  # noqa: FBT003 the value itself

    @property
    def counted(self) -> "Expression":
        """1 for true, 0 for false."""
        _want(self, "truth", "counted")
        return Expression("counted", "whole", (self,), nullable=self.nullable, least=0, most=1)

    def or_else(self, other: Operand) -> "Expression":
        """The value, or `other` where it is null."""
        return case((self.known, self), default=other) if self.nullable else self

    def clamped(self, least: float, most: float) -> "Expression":
        """The number, or the bound that it is beyond."""
        return smallest(largest(self, _like(self, least)), _like(self, most))

    def within(self, least: float, most: float) -> "Expression":
        """The number, or null where it is beyond a bound."""
        if self.least >= least and self.most <= most:
            return self
        made = case(((self >= _like(self, least)) & (self <= _like(self, most)), self))
        return _bounded(made, max(least, self.least), min(most, self.most), nullable=True)

    @property
    def rounded(self) -> "Expression":
        """A real number to the nearest whole one, halves up."""
        _want(self, "real", "rounded")
        least, most = math.floor(self.least + 0.5), math.floor(self.most + 0.5)
        return _checked(Expression("rounded", "whole", (self,), nullable=self.nullable, least=least, most=most))

    def proved(self, least: float, most: float) -> "Expression":
        """The same value with bounds that its author has proved; nothing checks them."""
        return _bounded(self, least, most, nullable=self.nullable)

    def columns(self) -> Iterator["Expression"]:
        """The columns that it reads, each once, in the order of reading."""
        seen: dict[Any, Expression] = {}
        for expression in depth_first([self]):
            if expression.op == "column":
                seen.setdefault(expression.data, expression)
        yield from seen.values()


def column(name: Any, kind: Kind, words: str, least: float = 0, most: float = 0, *, nullable: bool) -> Expression:
    """A column by its name; a number has bounds."""
    return Expression("column", kind, data=name, nullable=nullable, least=least, most=most, words=words)


def literal(value: Operand) -> Expression:
    """A constant; an expression is returned as it is."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, bool):
        return Expression("literal", "truth", data=value)
    if isinstance(value, int):
        return _checked(Expression("literal", "whole", data=value, least=value, most=value))
    if isinstance(value, float):
        return _checked(Expression("literal", "real", data=value, least=value, most=value))
    if isinstance(value, str):
        return Expression("literal", "text", data=value)
    raise UserError(f"{value!r} is not a number, a text or an expression: write a column or a constant")


def case(*branches: tuple[Expression, Operand], default: Operand | None = None) -> Expression:
    """The value of the first branch whose condition is true; else the default, or null without one."""
    conditions = [condition for condition, _ in branches]
    for condition in conditions:
        _want(condition, "truth", "case")
    values = [literal(value) for _, value in branches] + ([] if default is None else [literal(default)])
    kinds = {value.kind for value in values}
    kind: Kind = "real" if kinds == {"whole", "real"} else values[0].kind
    if kinds - {kind, "whole"} or (len(kinds) > 1 and kind != "real"):
        raise UserError(f"the branches of a case have kinds {', '.join(sorted(kinds))}: give all the same kind")
    nullable = default is None or any(value.nullable for value in values)
    args = tuple(operand for pair in zip(conditions, values, strict=False) for operand in pair)
    least, most = min(value.least for value in values), max(value.most for value in values)
    return Expression("case", kind, args + tuple(values[len(conditions) :]), None, nullable, least, most)


def smallest(first: Operand, second: Operand) -> Expression:
    """The smaller of two numbers; null if either is."""
    return _extreme("least", min, literal(first), literal(second))


def largest(first: Operand, second: Operand) -> Expression:
    """The larger of two numbers; null if either is."""
    return _extreme("greatest", max, literal(first), literal(second))


def log2_e9(number: Expression) -> Expression:
    """log2 in billionths of a whole number from 1 to 2^33, linear between powers of two (Mitchell's approximation)."""
    _want(number, "whole", "log2_e9")
    if number.least < 1 or number.most > LOG2_MOST:
        raise UserError(f"log2_e9 takes 1 to {LOG2_MOST}, got {number.least} to {number.most}: clamp the number first")
    most = number.most.bit_length() * E9 if isinstance(number.most, int) else 34 * E9
    return Expression("log2_e9", "whole", (number,), nullable=number.nullable, least=0, most=most)


def banded(number: Expression, ends: Sequence[int], names: Sequence[str]) -> Expression:
    """The name of the band that a number is in: `ends` has the last number of each band but the last; null for null."""
    if len(names) != len(ends) + 1 or list(ends) != sorted(set(ends)):
        raise UserError(f"{len(ends)} ends make {len(ends) + 1} bands, and must ascend: got {ends} and {names}")
    return Expression("banded", "text", (number,), (tuple(ends), tuple(names)), nullable=number.nullable)


def in_words(expression: Expression) -> str:
    """The expression as a person writes it."""
    args = [in_words(arg) for arg in expression.args]
    op, data = expression.op, expression.data
    if op == "column":
        return expression.words or str(data)
    if op == "literal":
        return repr(data) if isinstance(data, str) else f"{data:,}" if isinstance(data, int) else str(data)
    if op in ("+", "-", "*", "//", "and", "or") or op in COMPARISONS:
        sign = {"*": "×", "//": "÷", "-": "−", "==": "=", "!=": "≠", "<=": "≤", ">=": "≥"}.get(op, op)
        return f"({args[0]} {sign} {args[1]})"
    if op == "case":
        pairs = [f"{value} if {condition}" for condition, value in zip(args[::2], args[1::2], strict=False)]
        return f"({', '.join(pairs)}, else {args[-1] if len(args) % 2 else 'unknown'})"
    form = {
        "not": "not {}",
        "known": "{} is known",
        "counted": "1 if {} else 0",
        "rounded": "{} rounded",
        "log2_e9": "log2 of {} in billionths",
        "banded": "band of {}",
        "least": "the smaller of {} and {}",
        "greatest": "the larger of {} and {}",
    }
    return form[op].format(*args)


def _arithmetic(op: str, first: Operand, second: Operand) -> Expression:
    a, b = _alike(literal(first), literal(second))
    for operand in (a, b):
        _want_number(operand, op)
    if op == "*":
        ends = [x * y for x in (a.least, a.most) for y in (b.least, b.most)]
    elif op == "+":
        ends = [a.least + b.least, a.most + b.most]
    else:
        ends = [a.least - b.most, a.most - b.least]
    if a.op == b.op == "literal":
        return literal({"+": a.data + b.data, "-": a.data - b.data, "*": a.data * b.data}[op])
    kind: Kind = "whole" if a.kind == b.kind == "whole" else "real"
    return _checked(Expression(op, kind, (a, b), None, a.nullable or b.nullable, min(ends), max(ends)))


def _quotient(op: str, first: Operand, second: Operand) -> Expression:
    a, b = literal(first), literal(second)
    for operand in (a, b):
        _want(operand, "whole", op)
    if b.least < 0:
        raise UserError(f"{in_words(b)} may be negative: // divides by a whole number of 0 or more (by 0 is null)")
    ends = [x // y for x in (int(a.least), int(a.most)) for y in (max(1, int(b.least)), max(1, int(b.most)))]
    nullable = a.nullable or b.nullable or b.least <= 0
    return _checked(Expression(op, "whole", (a, b), None, nullable, min(ends), max(ends)))


def _extreme(op: str, bound: Callable[..., float], first: Expression, second: Expression) -> Expression:
    a, b = _alike(first, second)
    for operand in (a, b):
        _want_number(operand, op)
    kind: Kind = "whole" if a.kind == b.kind == "whole" else "real"
    least, most = bound(a.least, b.least), bound(a.most, b.most)
    return Expression(op, kind, (a, b), None, a.nullable or b.nullable, least, most)


def _comparison(op: str, first: Operand, second: Operand) -> Expression:
    a, b = _alike(literal(first), literal(second))
    numbers = {"whole", "real"}
    if a.kind != b.kind and not {a.kind, b.kind} <= numbers:
        raise UserError(f"{in_words(a)} is {a.kind} and {in_words(b)} is {b.kind}: compare values of one kind")
    if a.kind == "text" and op not in ("==", "!="):
        raise UserError(f"{in_words(a)} is text: compare text by equals or differs only")
    return Expression(op, "truth", (a, b), nullable=a.nullable or b.nullable)


def _logic(op: str, first: Expression, second: Expression) -> Expression:
    for operand in (first, second):
        _want(operand, "truth", op)
    return Expression(op, "truth", (first, second), nullable=first.nullable or second.nullable)


def _alike(a: Expression, b: Expression) -> tuple[Expression, Expression]:
    """Both as doubles where one is: a constant becomes one, and a whole number must be exact as one."""
    if {a.kind, b.kind} != {"whole", "real"}:
        return a, b
    whole = a if a.kind == "whole" else b
    if max(-whole.least, whole.most) > EXACT_IN_DOUBLE:
        raise UserError(f"{in_words(whole)} may not be exact as a double: take a number of closer bounds")
    if whole.op != "literal":
        return a, b
    real = literal(float(whole.data))
    return (real, b) if whole is a else (a, real)


def _bounded(expression: Expression, least: float, most: float, *, nullable: bool) -> Expression:
    """The same expression with bounds that its parts do not show."""
    return replace(expression, nullable=nullable, least=least, most=most)


def _like(expression: Expression, bound: float) -> Expression:
    return literal(float(bound) if expression.kind == "real" else bound)


def _want(value: object, kind: Kind, what: str) -> None:
    kind_of = value.kind if isinstance(value, Expression) else type(value).__name__
    if kind_of != kind:
        raise UserError(f"{what} takes a {kind} value, got {kind_of}: {_text_of(value)}")


def _want_number(expression: Expression, what: str) -> None:
    if expression.kind not in ("whole", "real"):
        raise UserError(f"{what} takes numbers, got {expression.kind}: {in_words(expression)}")


def _text_of(value: object) -> str:
    return in_words(value) if isinstance(value, Expression) else repr(value)


def _checked(expression: Expression) -> Expression:
    """Raise `UserError` for a number that may not fit."""
    if expression.kind == "whole" and max(-expression.least, expression.most) > LARGEST:
        raise UserError(
            f"{in_words(expression)} may not fit 64 bits: take a number of closer bounds, as by .clamped(least, most)"
        )
    if expression.kind == "real" and not (math.isfinite(expression.least) and math.isfinite(expression.most)):
        raise UserError(
            f"{in_words(expression)} may not be finite: take a number of closer bounds, as by .clamped(least, most)"
        )
    return expression


def depth_first(roots: Sequence[Expression]) -> Iterator[Expression]:
    """Every expression within `roots`, each once."""
    seen: set[Expression] = set()
    stack = list(roots)
    while stack:
        expression = stack.pop()
        if expression not in seen:
            seen.add(expression)
            yield expression
            stack.extend(expression.args)
