"""A kind of aggregate is one formula: its SQL is what existing tables were made by, and all its forms give one value."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velo.feature_repo.catalogue.aggregates import STARTS_OF_A_KEY, Aggregate, OffsetSum, Ratio, Sum, Text
from velo.feature_repo.catalogue.recent_aggregates import Ewma, Last, LastKnown, Max, Recent, Slope, Variance
from velo.racing.measures import unit

TOTALS: dict[str, tuple[Aggregate, str]] = {
    "sum": (Sum("x", "win"), "CAST(win AS INTEGER)"),
    "ratio": (Ratio("x", "win", "one"), "CAST(win AS DOUBLE) / NULLIF(CAST(one AS DOUBLE), 0)"),
    "ratio of billionths": (
        Ratio("x", "prb_e9", "prb_known"),
        "CAST(prb_e9 AS DOUBLE) / NULLIF(CAST(prb_known * 1000000000 AS DOUBLE), 0)",
    ),
    "ratio with a prior": (
        Ratio("x", "win", "uni_e9", prior=5),
        "CAST((win + 5) * 1000000000 AS DOUBLE) / NULLIF(CAST((uni_e9 + 5000000000) AS DOUBLE), 0)",
    ),
    "offset sum": (
        OffsetSum("x", "over_e9", "over_known", 1),
        "CASE WHEN over_known > 0 THEN CAST(over_e9 - 1000000000 * over_known AS DOUBLE) / 1000000000.0 END",
    ),
}
RECENTS: dict[str, tuple[Recent, str]] = {
    "last": (Last("x", "prb_e9"), "CAST(last AS DOUBLE) / 1000000000.0"),
    "last known": (LastKnown("x", "race_day"), "CAST(n0 AS INTEGER)"),
    "mean": (
        Ewma("x", "win", 2),
        (
            "CAST(coalesce(n0, 0) * 5 + coalesce(n1, 0) * 3 AS DOUBLE) / NULLIF(CAST((CASE WHEN n0 IS NULL THEN 0 ELSE 5 END"
            " + CASE WHEN n1 IS NULL THEN 0 ELSE 3 END)::BIGINT * 1 AS DOUBLE), 0)"
        ),
    ),
    "slope": (
        Slope("x", "win", 2, 2),
        (
            "CASE WHEN C >= 2 THEN CAST(C * ((C - 1) * (coalesce(n0, 0) + coalesce(n1, 0)) - (0 * coalesce(n0, 0) + 1 * coalesce(n1, 0)))"
            " - (C * (C - 1) // 2) * (coalesce(n0, 0) + coalesce(n1, 0)) AS DOUBLE) / CAST((C * C * (C * C - 1) // 12) * 1 AS DOUBLE) END"
        ),
    ),
    "variance": (
        Variance("x", "prb_e9", 2),
        "CASE WHEN C >= 2 THEN CAST(C * (A * A + B * B) - (A + B) * (A + B) AS DOUBLE) / (CAST(C * (C - 1) AS DOUBLE) * 1e+18) END",
    ),
    "largest": (Max("x", "win", 2), "CAST(greatest(n0, n1) AS DOUBLE) / 1.0"),
}
"""C is the number of known values, A and B the two newest less a half in billionths."""
SHORT = {
    "C": "((n0 IS NOT NULL)::BIGINT + (n1 IS NOT NULL)::BIGINT)",
    "A": "coalesce(n0 - 500000000, 0)",
    "B": "coalesce(n1 - 500000000, 0)",
}


@pytest.mark.parametrize("kind", TOTALS)
def test_the_sql_of_totals_is_what_existing_tables_were_made_by(kind: str) -> None:
    """A store's tables carry a fingerprint of it: another text, even of the same value, rebuilds them all."""
    aggregate, sql = TOTALS[kind]
    assert aggregate.sql(str) == sql
    assert aggregate.spark(str) == sql.replace(" // ", " div ")


@pytest.mark.parametrize("kind", RECENTS)
def test_the_sql_of_last_starts_is_what_existing_tables_were_made_by(kind: str) -> None:
    recent, sql = RECENTS[kind]
    made = recent.sql(lambda back: f"n{back}", "last")
    for short, text in SHORT.items():
        made = made.replace(text, short)
    assert made == sql


@pytest.mark.parametrize("kind", TOTALS)
@given(data=st.data())
def test_every_form_of_totals_gives_one_value(kind: str, data: st.DataObject) -> None:
    aggregate, _ = TOTALS[kind]
    totals = {measure: data.draw(st.integers(0, STARTS_OF_A_KEY * unit(measure))) for measure in aggregate.measures}
    value = aggregate.value(totals)
    assert eval(aggregate.python(lambda measure: f"totals[{measure!r}]"), {"totals": totals}) == value
    [of_array] = aggregate.arrays({measure: np.array([total]) for measure, total in totals.items()})
    assert of_array == value or (value is None and np.isnan(of_array))


@pytest.mark.parametrize("kind", RECENTS)
@given(newest=st.lists(st.integers(-(10**9), 2 * 10**9), max_size=10), known=st.booleans())
def test_what_the_stream_compiles_of_last_starts_and_their_arrays_are_their_value(
    kind: str, newest: list[int], known: bool
) -> None:
    recent, _ = RECENTS[kind]
    last = newest[0] if newest and known else None
    bound: dict[str, Any] = {}

    def bind(value: object) -> str:
        name = f"bound_{len(bound)}"
        bound[name] = value
        return name

    value = recent.value(newest, last)
    text = recent.python("last", "newest", bind)
    assert eval(text, {"last": last, "newest": newest, **bound}) == value
    values = [(np.array([each]), np.array([True])) for each in newest]
    unknown = (np.array([0]), np.array([False]))
    [of_array] = recent.arrays(values + [unknown] * (10 - len(values)), unknown if last is None else values[0])
    assert of_array == value or (value is None and np.isnan(of_array))


@pytest.mark.parametrize(
    "formula",
    [
        lambda a, b: a * (b - 1) - (a - b) // 3 * 2,
        lambda a, b: (a + b) * (a - b) - 3 * (a - (b - a)),
        lambda a, b: (a + b) / (a * b) * 2.5,
        lambda a, b: +(a + 1) * 2 + b,
    ],
)
@given(a=st.integers(1, 99), b=st.integers(1, 99))
def test_the_text_of_a_formula_means_what_its_numbers_do(formula: Callable[[Any, Any], Any], a: int, b: int) -> None:
    assert eval(formula(Text("a"), Text("b")).text, {"a": a, "b": b}) == formula(a, b)
