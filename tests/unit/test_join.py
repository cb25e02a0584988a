"""The point-in-time join held to plain twins: a walk through all rows, and DuckDB's own ASOF JOIN."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from velo.errors import UserError
from velo.feature_repo.stores import key_encoding as keys_module
from velo.feature_repo.stores.asof_join import point_in_time
from velo.feature_repo.stores.changelog import FeatureColumn, Table

INSTANT = pa.timestamp("us", "UTC")
NAMES = st.sampled_from(["a", "", "a|b", "’ \n", "a\x00", None])
SOON = st.sampled_from([None, *range(-2, 5)])


class Row(NamedTuple):
    """A row of a changelog; instants in µs."""

    keys: tuple[str | None, ...]
    event: int | None
    created: int | None
    value: int | None


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[Row]], list[tuple[tuple[str | None, ...], int | None]], int]:
    """Parts, entity rows, and how many columns a key has. Parts as a build, a stream or anyone else lays them out."""
    width = draw(st.integers(1, 3))
    key = st.sampled_from(draw(st.lists(st.tuples(*[NAMES] * width), min_size=1, max_size=4)))  # few, so that they meet
    row = st.builds(Row, key, SOON, SOON, st.one_of(st.none(), st.integers(0, 99)))
    parts = draw(st.lists(st.lists(row, max_size=12), max_size=4))
    order = draw(st.sampled_from(["as drawn", "forward", "backward"]))
    if order != "as drawn":
        for part in parts:
            part.sort(key=lambda each: (each.event is None, each.event or 0), reverse=order == "backward")
            part.sort(key=lambda each: str(each.keys))
    asked = st.tuples(st.one_of(key, key, key, st.tuples(*[NAMES] * width)), SOON)
    return parts, draw(st.lists(asked, min_size=1, max_size=16)), width


def written(folder: Path, parts: Sequence[Sequence[Row]], width: int, group: int) -> list[str]:
    paths = []
    for number, rows in enumerate(parts):
        columns: dict[str, pa.Array] = {
            f"key {at}": pa.array([row.keys[at] for row in rows], pa.string()) for at in range(width)
        }
        columns["event"] = pa.array([row.event for row in rows], INSTANT)
        columns["created"] = pa.array([row.created for row in rows], INSTANT)
        columns["value"] = pa.array([row.value for row in rows], pa.int32())
        columns["name"] = pa.array([None if row.value is None else f"n{row.value}" for row in rows], pa.string())
        paths.append(str(folder / f"part-{number}.parquet"))
        pq.write_table(pa.table(columns), paths[-1], row_group_size=group)
    return paths


def walked(parts: Sequence[Sequence[Row]], key: tuple[str | None, ...], at: int | None, life: int | None) -> int | None:
    """The value that holds, found by looking at every row there is."""
    held: tuple[int, float, int] | None = None
    value = None
    for number, row in enumerate(row for part in parts for row in part):
        if at is None or None in key or row.keys != key or row.event is None or row.event > at:
            continue
        rank = (row.event, float("-inf") if row.created is None else row.created, number)
        if held is None or rank > held:
            held, value = rank, row.value
    return None if held is None or at is None or (life and at - held[0] > life) else value


@pytest.mark.slow
@settings(max_examples=300)
@given(
    case=cases(),
    life=st.sampled_from([None, 2, 4]),
    group=st.integers(1, 5),
    rows_at_once=st.sampled_from([1, 4, 1000]),
    values_at_once=st.sampled_from([1, 6, 1000]),
    dense=st.sampled_from([0, 1 << 22]),
)
def test_every_entity_row_gets_what_a_walk_through_all_rows_finds(
    case: tuple[list[list[Row]], list[tuple[tuple[str | None, ...], int | None]], int],
    life: int | None,
    group: int,
    rows_at_once: int,
    values_at_once: int,
    dense: int,
) -> None:
    """Ties, nulls, unknown keys, rows said twice, empty tables, any order of rows and parts, any size of slices."""
    parts, asked, width = case
    entities = pa.table(
        {
            **{f"key {at}": pa.array([key[at] for key, _ in asked], pa.string()) for at in range(width)},
            "at": pa.array([at for _, at in asked], INSTANT),
        }
    )
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys_module, "DENSE", dense)
        table = Table(
            "view",
            written(Path(folder), parts, width, group),
            [(f"key {at}", f"key {at}") for at in range(width)],
            "event",
            "created",
            [FeatureColumn("value", "v", pa.int32()), FeatureColumn("name", "n", pa.string())],
            timedelta(microseconds=life) if life else None,
        )
        answer = point_in_time(entities, "at", [table], rows_at_once=rows_at_once, values_at_once=values_at_once)
    expected = [walked(parts, key, at, life) for key, at in asked]
    assert answer.select(entities.column_names).equals(entities)
    assert answer.column("v").type == pa.int32()
    assert answer.column("v").to_pylist() == expected
    assert answer.column("n").to_pylist() == [None if value is None else f"n{value}" for value in expected]


@pytest.mark.parametrize("order", ["by key", "by key, backward", "by instant", "none"])
def test_the_answer_is_that_of_duckdbs_asof_join(order: str, tmp_path: Path) -> None:
    chance = np.random.default_rng(11)
    rows, asked = 20_000, 5_000
    history = pa.table(
        {
            "horse": pa.array([f"h{number}" for number in chance.integers(0, 700, rows)]),
            "course": pa.array([f"c{number}" for number in chance.integers(0, 5, rows)]),
            "event": pa.array(chance.choice(10**9, rows, replace=False), INSTANT),
            "value": pa.array(chance.normal(size=rows), pa.float64(), mask=chance.random(rows) < 0.1),
        }
    )
    by = {"by key": "ascending", "by key, backward": "descending"}
    if order in by:
        history = history.sort_by([("horse", "ascending"), ("course", "ascending"), ("event", by[order])])
    if order == "by instant":
        history = history.sort_by("event")
    paths = [str(tmp_path / f"{part}.parquet") for part in range(3)]
    for part, path in enumerate(paths):
        pq.write_table(history.slice(part * 7000, 7000), path, row_group_size=2000)
    entities = pa.table(
        {
            "row": pa.array(range(asked)),
            "horse": pa.array([f"h{number}" for number in chance.integers(0, 800, asked)]),
            "course": pa.array([f"c{number}" for number in chance.integers(0, 6, asked)]),
            "at": pa.array(chance.integers(0, 10**9, asked), INSTANT),
        }
    )
    table = Table(
        "view",
        paths,
        [("horse", "horse"), ("course", "course")],
        "event",
        None,
        [FeatureColumn("value", "v", pa.float64())],
    )
    ours = point_in_time(entities, "at", [table], rows_at_once=5000, values_at_once=5000)
    theirs = duckdb.execute(
        "SELECT h.value FROM entities e ASOF LEFT JOIN history h "
        "ON e.horse = h.horse AND e.course = h.course AND e.at >= h.event ORDER BY e.row"
    ).fetchall()
    assert ours.column("v").to_pylist() == [value for (value,) in theirs]
    assert 500 < ours.column("v").null_count < asked - 500


def joined(tmp_path: Path, history: pa.Table | Sequence[pa.Table], entities: pa.Table, **changes: Any) -> list[Any]:
    """One column of foreign tables: whole-numbered keys, other names, instants as they come."""
    parts = [history] if isinstance(history, pa.Table) else history
    for number, part in enumerate(parts):
        pq.write_table(part, tmp_path / f"{number}.parquet")
    fields: dict[str, Any] = {"keys": [("driver", "driver")], "event": "ts", "created": None} | changes
    table = Table(
        "drivers",
        [str(tmp_path / f"{number}.parquet") for number in range(len(parts))],
        fields["keys"],
        fields["event"],
        fields["created"],
        [FeatureColumn("trips", "trips", pa.int64())],
    )
    values: list[Any] = point_in_time(entities, "at", [table]).column("trips").to_pylist()
    return values


def asked_at(*at: int, driver: pa.DataType | None = None) -> pa.Table:
    return pa.table(
        {"driver": pa.array([7] * len(at), pa.int64()).cast(driver or pa.int64()), "at": pa.array(at, INSTANT)}
    )


@pytest.mark.parametrize(
    "kind", [pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.timestamp("us"), pa.timestamp("ms", "Asia/Hong_Kong")]
)
def test_instants_of_any_grain_and_zone_are_the_same_instants(kind: pa.TimestampType, tmp_path: Path) -> None:
    event = pa.array([1_000_000, 2_000_000], INSTANT).cast(kind)
    history = pa.table({"driver": [7, 7], "ts": event, "trips": [1, 2]})
    assert joined(tmp_path, history, asked_at(999_999, 1_000_000, 1_999_999, 2_000_000)) == [None, 1, 1, 2]


def test_whole_numbers_as_keys_may_be_of_any_width(tmp_path: Path) -> None:
    history = pa.table({"driver": pa.array([7, 8], pa.int32()), "ts": pa.array([1, 1], INSTANT), "trips": [1, 2]})
    assert joined(tmp_path, history, asked_at(5, driver=pa.int64())) == [1]
    assert joined(tmp_path, history, asked_at(5, driver=pa.int16())) == [1]


def test_an_older_part_without_a_column_gives_null_and_one_of_a_narrower_type_its_value(tmp_path: Path) -> None:
    def at(instant: int, **columns: pa.Array) -> pa.Table:
        return pa.table({"driver": [7], "ts": pa.array([instant], INSTANT), **columns})

    parts = [at(1), at(2, trips=pa.array([2], pa.int32())), at(3, trips=pa.array([3], pa.int64()))]
    assert joined(tmp_path, parts, asked_at(1, 2, 3, 0)) == [None, 2, 3, None]


def test_text_laid_out_in_another_way_is_the_same_text(tmp_path: Path) -> None:
    history = pa.table(
        {"driver": pa.array(["x", "y"]).dictionary_encode(), "ts": pa.array([1, 1], INSTANT), "trips": [1, 2]}
    )
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        entities = pa.table({"driver": pa.array(["y", "z"]).cast(kind), "at": pa.array([1, 1], INSTANT)})
        assert joined(tmp_path, history, entities) == [2, None]


def test_what_cannot_be_joined_is_reported_with_the_remedy(tmp_path: Path) -> None:
    history = pa.table({"driver": ["x"], "ts": pa.array([1], INSTANT), "trips": [1]})
    with pytest.raises(UserError, match="driver is int64 in the entity rows and string in drivers: cast it"):
        joined(tmp_path, history, asked_at(1))
    with pytest.raises(UserError, match="drivers has no column 'when'"):
        joined(tmp_path, history, asked_at(1, driver=pa.string()), event="when")
    with pytest.raises(UserError, match=r"drivers has no column 'trips'.* run `velo build`"):
        joined(tmp_path, history.drop_columns("trips"), asked_at(1, driver=pa.string()))
    with pytest.raises(UserError, match="ts of drivers is string, not an instant: store it as a timestamp"):
        joined(tmp_path, history.set_column(1, "ts", pa.array(["noon"])), asked_at(1, driver=pa.string()))
    with pytest.raises(UserError, match="parts of drivers have conflicting types"):
        joined(tmp_path, [history, history.set_column(2, "trips", pa.array(["one"]))], asked_at(1, driver=pa.string()))


def test_no_entity_rows_are_no_error_and_the_columns_have_their_types(tmp_path: Path) -> None:
    history = pa.table({"driver": [7], "ts": pa.array([1], INSTANT), "trips": [1]})
    pq.write_table(history, tmp_path / "part.parquet")
    for parts in ([str(tmp_path / "part.parquet")], []):
        table = Table(
            "drivers", parts, [("driver", "driver")], "ts", None, [FeatureColumn("trips", "trips", pa.int64())]
        )
        answer = point_in_time(asked_at(), "at", [table])
        assert answer.num_rows == 0
        assert answer.schema.field("trips").type == pa.int64()


def test_a_row_half_a_century_old_holds_and_so_does_one_before_1970(tmp_path: Path) -> None:
    event = pa.array([datetime(1911, 6, 1, tzinfo=UTC), datetime(1971, 1, 1, tzinfo=UTC)], INSTANT)
    history = pa.table({"driver": [7, 7], "ts": event, "trips": [1, 2]})
    at = [int(datetime(year, 6, 2, tzinfo=UTC).timestamp() * 1e6) for year in (1911, 1969, 2026)]
    assert joined(tmp_path, history, asked_at(*at)) == [1, 1, 2]
