"""The expression language: one declaration has one value in DuckDB, in Python, in NumPy, and in Spark where it is installed."""

import math
import shutil
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.engine import reading
from velo.errors import UserError
from velo.racing.expression_renderers import Arrays, Sql, compiled
from velo.racing.expressions import (
    Expression,
    banded,
    case,
    column,
    in_words,
    largest,
    literal,
    log2_e9,
    smallest,
)

COUNT = column("count", "whole", "count", 0, 40, nullable=False)
RATING = column("rating", "whole", "rating", -(10**6), 10**6, nullable=True)
WEIGHT = column("weight", "real", "weight", -1e6, 1e6, nullable=True)
STATUS = column("status", "text", "status", nullable=True)
TYPES = {"count": "BIGINT", "rating": "BIGINT", "weight": "DOUBLE", "status": "VARCHAR"}
Row = tuple[int, int | None, float | None, str | None]

rows = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.none() | st.integers(-(10**6), 10**6) | st.sampled_from((0, 1, -1, 7)),
        st.none() | st.floats(-1e6, 1e6) | st.sampled_from((0.0, -0.5, 0.5, 2.5, 126.75)),
        st.none() | st.sampled_from(("RAN", "PU", "O'Neill", "")),
    ),
    min_size=1,
    max_size=8,
)


@cache
def numbers(depth: int = 2) -> st.SearchStrategy[Expression]:
    leaf = st.sampled_from((COUNT, RATING, WEIGHT)) | st.integers(-9, 9).map(literal) | st.just(literal(0.5))
    if not depth:
        return leaf
    inner = numbers(depth - 1)
    whole = inner.filter(lambda each: each.kind == "whole")
    pairs = st.tuples(inner, inner)
    return st.one_of(
        leaf,
        pairs.map(lambda of: of[0] + of[1]),
        pairs.map(lambda of: of[0] - of[1]),
        pairs.map(lambda of: of[0] * of[1]),
        pairs.map(lambda of: smallest(*of)),
        pairs.map(lambda of: largest(*of)),
        pairs.map(lambda of: of[0].or_else(of[1])),
        inner.map(lambda each: each.clamped(-5, 5)),
        inner.map(lambda each: each.within(-5, 5)),
        inner.filter(lambda each: each.kind == "real").map(lambda each: each.clamped(-1e6, 1e6).rounded),
        st.tuples(whole, whole).map(lambda of: of[0] // of[1].clamped(0, 99)),
        whole.map(lambda each: log2_e9(each.clamped(1, 2**33))),
        truths(depth - 1).map(lambda each: each.counted),
        st.tuples(truths(depth - 1), inner, inner).map(lambda of: case(of[:2], default=of[2])),
        st.tuples(truths(depth - 1), inner, truths(depth - 1), inner).map(lambda of: case(of[:2], of[2:])),
    )


@cache
def truths(depth: int) -> st.SearchStrategy[Expression]:
    text = st.sampled_from((STATUS.equals("RAN"), STATUS.differs("O'Neill"), STATUS.known))
    if not depth:
        return text
    pairs, both = st.tuples(numbers(depth - 1), numbers(depth - 1)), st.tuples(truths(depth - 1), truths(depth - 1))
    return st.one_of(
        text,
        pairs.map(lambda of: of[0] < of[1]),
        pairs.map(lambda of: of[0] <= of[1]),
        pairs.map(lambda of: of[0].equals(of[1])),
        pairs.map(lambda of: of[0].differs(of[1])),
        numbers(depth - 1).map(lambda each: each.known),
        both.map(lambda of: of[0] & of[1]),
        both.map(lambda of: of[0] | of[1]),
        truths(depth - 1).map(lambda each: ~each),
    )


@st.composite
def expressions(draw: st.DrawFn) -> list[Expression]:
    """Some that are accepted: numbers, truths and bands."""
    made: list[Expression] = []
    for _ in range(4):
        try:
            made.append(draw(numbers() | truths(2)))
        except UserError as refused:
            assert "may not" in str(refused)  # noqa: PT017 a number that may not fit is refused at its declaration
    return [*made, banded(RATING, (-5, 0, 5), ("low", "less", "more", "high"))]


def by_sql(declared: Sequence[Expression], table: list[Row]) -> list[tuple[Any, ...]]:
    sql = Sql(str)
    values = ", ".join(
        "("
        + ", ".join(f"CAST({_literal(value)} AS {kind})" for value, kind in zip(row, TYPES.values(), strict=True))
        + ")"
        for row in table
    )
    columns = ", ".join(f"({sql.of(runner)}) AS c{at}" for at, runner in enumerate(declared))
    with reading() as connection:
        return connection.execute(f"SELECT {columns} FROM (VALUES {values}) AS t({', '.join(TYPES)})").fetchall()


def _literal(value: object) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return "NULL" if value is None else repr(value)


def by_python(declared: Sequence[Expression], table: list[Row]) -> list[tuple[Any, ...]]:
    measure = compiled(declared, tuple(TYPES), str, lambda values: f"({', '.join(values)},)", {})
    return [measure(*row) for row in table]


def by_arrays(declared: Sequence[Expression], table: list[Row]) -> list[list[Any]]:
    columns = {name: list(values) for name, values in zip(TYPES, zip(*table, strict=True), strict=True)}
    arrays = {name: np.array(values, dtype=float) for name, values in columns.items() if name != "status"}
    arrays["status"] = np.array(columns["status"], dtype=object)
    made = Arrays(np, arrays.__getitem__)
    listed = []
    for runner in declared:
        values = made.of(runner.counted if runner.kind == "truth" else runner)
        listed.append(np.broadcast_to(np.asarray(values), len(table)).tolist())
    return listed


def bits(value: object) -> object:
    """A value by its bits; zeros of either sign are one (SQL engines do not agree on the sign of 0 × −1)."""
    return (value + 0.0).hex() if isinstance(value, float) else value


@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(declared=expressions(), table=rows)
def test_sql_and_python_give_one_value_bit_for_bit_and_arrays_where_doubles_hold_it(
    declared: list[Expression], table: list[Row]
) -> None:
    sql, python = by_sql(declared, table), by_python(declared, table)
    assert [[*map(bits, row)] for row in sql] == [[*map(bits, row)] for row in python]
    for row in python:
        for runner, value in zip(declared, row, strict=True):
            assert value is not None or runner.nullable
            if runner.kind in ("whole", "real") and value is not None:
                assert runner.least <= value <= runner.most
                assert type(value) is (int if runner.kind == "whole" else float)
    exact = [at for at, runner in enumerate(declared) if all(map(_fits_a_double, _parts(runner)))]
    for at, values in zip(exact, by_arrays([declared[at] for at in exact], table), strict=True):
        for row, value in zip(python, values, strict=True):
            expected = row[at]
            unknown = value is None or (isinstance(value, float) and math.isnan(value))
            assert (None if unknown else value) == (float(expected) if isinstance(expected, bool) else expected)


def _fits_a_double(part: Expression) -> bool:
    return max(-part.least, part.most) < 2**53


def _parts(expression: Expression) -> list[Expression]:
    return [expression, *(part for argument in expression.args for part in _parts(argument))]


@pytest.mark.skipif(
    find_spec("pyspark") is None or shutil.which("java") is None, reason="PySpark or Java is not installed"
)
def test_spark_gives_the_same_values() -> None:
    from pyspark.sql import SparkSession

    declared = [
        (RATING - 3) // COUNT,
        (WEIGHT.clamped(-30, 30) * 10**9).rounded,
        log2_e9(largest(RATING, 1)),
        case((STATUS.equals("RAN") & (RATING > 2), 1), (~STATUS.known, 0)),
        smallest(RATING, COUNT),
        banded(RATING, (-5, 0, 5), ("low", "less", "more", "high")),
    ]
    table: list[Row] = [(0, None, -0.5, None), (7, -20, 2.5, "RAN"), (3, 1025, None, "PU"), (40, 4, 31.0, "RAN")]
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        spark.conf.set("spark.sql.ansi.enabled", "true")
        made = spark.createDataFrame(table, "count BIGINT, rating BIGINT, weight DOUBLE, status STRING")
        sql = Sql(str, spark=True)
        got = made.selectExpr(*(f"{sql.of(runner)} AS c{at}" for at, runner in enumerate(declared))).collect()
    finally:
        spark.stop()
    assert [tuple(row) for row in got] == by_python(declared, table)


def test_values_worked_by_hand() -> None:
    """Division rounds down and by 0 is null; halves round up; `or` of null and true is true; null is not below 5."""
    declared = [
        (RATING - 7) // COUNT,
        WEIGHT.rounded,
        (STATUS.equals("RAN") | (RATING > 0)).counted,
        case((RATING < 5, 1), default=0),
        literal(7) - COUNT * 2,
    ]
    table: list[Row] = [(2, 0, 2.5, None), (0, 9, -2.5, "PU"), (3, None, None, "RAN")]
    assert by_python(declared, table) == [(-4, 3, None, 1, 3), (None, -2, 1, 0, 7), (None, None, 1, 0, 1)]
    assert by_sql(declared, table) == by_python(declared, table)


def test_a_whole_default_of_a_real_value_is_a_double_in_both() -> None:
    declared = [WEIGHT.or_else(COUNT)]
    table: list[Row] = [(3, None, None, None), (3, None, 0.5, None)]
    assert [repr(row[0]) for row in by_python(declared, table)] == ["3.0", "0.5"]
    assert [repr(row[0]) for row in by_sql(declared, table)] == ["3.0", "0.5"]


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: RATING * 10**13, r"\(rating × 10,000,000,000,000\) may not fit 64 bits: .* \.clamped"),
        (lambda: COUNT // RATING, r"rating may be negative: // divides by a whole number of 0 or more"),
        (lambda: WEIGHT // COUNT, r"// takes a whole value, got real: weight"),
        (lambda: STATUS + 1, r"\+ takes numbers, got text: status"),
        (lambda: STATUS < "RAN", r"status is text: compare text by equals or differs only"),
        (lambda: STATUS.equals(3), r"status is text and 3 is whole: compare values of one kind"),
        (lambda: case((RATING, 1)), r"case takes a truth value, got whole: rating"),
        (lambda: case((RATING > 1, 1), default="many"), r"the branches of a case have kinds text, whole: give all"),
        (lambda: WEIGHT * 1e303, r"may not be finite"),
        (lambda: log2_e9(COUNT), r"log2_e9 takes 1 to 8589934592, got 0 to 40"),
    ],
)
def test_an_expression_that_could_not_be_exact_is_refused_when_it_is_declared(declare: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        declare()


def test_an_expression_reads_as_words() -> None:
    share = case((STATUS.differs("RAN"), (RATING + 1) // COUNT))
    assert in_words(share) == "(((rating + 1) ÷ count) if (status ≠ 'RAN'), else unknown)"
