"""A made-up training set with two planted leaks among honest columns: both are named, and nothing else is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from velo.commands.model import tried_title
from velo.errors import UserError
from velo.feature_repo.catalogue.columns import COLUMNS
from velo.resampling import Figure
from velo.training.dataset.training_set import LABEL, Provenance, TrainingSet
from velo.training.evaluation.sentinel import RESULT, SURVIVORS, ColumnTried, columns_of, tried

HORSES, DAYS, FIELD = 240, 260, 8
FIRST = np.datetime64("2020-01-05")


@pytest.fixture(scope="module")
def season() -> tuple[TrainingSet, pa.Table]:
    """Three years of races of 8 every fourth day; each horse races for some time and retires."""
    rng = np.random.default_rng(3)
    ability = rng.normal(size=HORSES)
    begins = rng.integers(-100, DAYS - 20, HORSES)
    ends = begins + rng.integers(20, 160, HORSES)
    rows: dict[str, list[object]] = {name: [] for name in ("race_id", "race_date", "horse_id", "share", "pi")}
    extra: dict[str, list[object]] = {
        name: [] for name in ("beaten", "survey", "form", "noise", "third_start_on", "winners_time")
    }
    starts, wins = np.zeros(HORSES), np.zeros(HORSES)
    for day in range(DAYS):
        active = np.flatnonzero((begins <= day) & (day < ends))
        runners = rng.permutation(active)[: FIELD * 3]
        for race in range(runners.size // FIELD):
            field = runners[race * FIELD : (race + 1) * FIELD]
            strength = ability[field] + rng.gumbel(size=FIELD)
            order = np.argsort(-strength)
            position = np.empty(FIELD)
            position[order] = np.arange(FIELD)
            chance = np.exp(ability[field]) / np.exp(ability[field]).sum()
            for place, horse in enumerate(field):
                rows["race_id"].append(f"{day}-{race}")
                rows["race_date"].append(FIRST + np.timedelta64(4 * day, "D"))
                rows["horse_id"].append(f"horse {horse}")
                rows["share"].append(float(position[place] == 0))
                rows["pi"].append(float(chance[place]))
                extra["beaten"].append(float(position[place] * 1.5))
                extra["survey"].append(float(ability[horse] ** 2) if ends[horse] >= DAYS else None)
                extra["form"].append(float(wins[horse] / starts[horse]) if starts[horse] else None)
                extra["noise"].append(float(rng.normal()) if rng.random() < 0.8 else None)
                extra["third_start_on"].append(float(starts[horse]) if starts[horse] >= 2 else None)
                extra["winners_time"].append(62.0 if position[place] == 0 else None)
            starts[field] += 1
            wins[field[order[0]]] += 1
    identity = pa.table({
        "race_id": pa.array(rows["race_id"]),
        "race_date": pa.array(np.array(rows["race_date"], dtype="datetime64[D]")),
        "horse_id": pa.array(rows["horse_id"]),
    })  # fmt: skip
    number = len(rows["share"])
    labels = pa.table({
        f"{LABEL}started": pa.array([True] * number),
        f"{LABEL}win_share": pa.array(rows["share"]),
        f"{LABEL}market_pi": pa.array(rows["pi"]),
        f"{LABEL}position": pa.array([1.0 if share else None for share in rows["share"]]),
    })  # fmt: skip
    known = datetime(2023, 1, 1, tzinfo=UTC)
    made_from = Provenance("f" * 32, number, known, timedelta(minutes=5), "Europe/London", "0" * 64)
    features = np.full((number, len(COLUMNS)), np.nan)
    table = pa.table({name: identity.column(name) for name in ("race_id", "horse_id")} | {
        name: pa.array(values, pa.float64()) for name, values in extra.items()
    })  # fmt: skip
    return TrainingSet(identity, features, labels, made_from), table


def test_the_title_says_which_signs_of_a_leak_had_nothing_to_compare() -> None:
    known, unknown = Figure(0.3, 0.2, 0.4, 90), Figure(None, None, None, 0)
    column = ColumnTried("a", known, known, unknown, None)
    assert tried_title([column]) == (
        "0 of 1 columns leak; not compared: survivors (too few starts 180 days old), served values (no served race)"
    )
    assert tried_title([replace(column, gap=known, leak=SURVIVORS, served=3), column]) == "1 of 2 columns leak"


def test_a_post_race_column_and_a_table_of_survivors_are_named_and_honest_columns_are_not(
    season: tuple[TrainingSet, pa.Table],
) -> None:
    rows, table = season
    found = tried(rows, columns_of(table, rows))
    leaks = {column.column: column.leak for column in found if column.leak}
    assert leaks == {"beaten": RESULT, "winners_time": RESULT, "survey": SURVIVORS}
    assert [column.column for column in found[:3]] == ["beaten", "survey", "winners_time"]
    by_name = {column.column: column for column in found}
    assert by_name["beaten"].order.value == 1.0
    assert (by_name["survey"].gap.low or 0) > 0.2
    assert abs(by_name["noise"].gap.value or 1) < 0.1
    form = by_name["form"]
    assert form.order.value is not None
    assert 0.5 < form.order.value < 0.75


def test_without_prices_a_column_that_is_nearly_certain_is_named(season: tuple[TrainingSet, pa.Table]) -> None:
    rows, table = season
    priceless = rows.labels.set_column(2, f"{LABEL}market_pi", pa.nulls(rows.rows, pa.float64()))
    unpriced = TrainingSet(rows.identity, rows.features, priceless, rows.provenance)
    leaks = {column.column for column in tried(unpriced, columns_of(table, rows)) if column.leak == RESULT}
    assert leaks == {"beaten", "winners_time"}


def test_a_table_without_keys_with_a_row_twice_or_with_text_is_refused(season: tuple[TrainingSet, pa.Table]) -> None:
    rows, table = season
    with pytest.raises(UserError, match="has no race_id: give one row a runner"):
        columns_of(table.drop_columns(["race_id"]), rows)
    with pytest.raises(UserError, match="two rows of one race_id and horse_id"):
        columns_of(pa.concat_tables([table, table.slice(0, 1)]), rows)
    text = table.select(["race_id", "horse_id"]).append_column("name", pa.array(["x"] * table.num_rows))
    with pytest.raises(UserError, match="column name is no number"):
        columns_of(text, rows)
