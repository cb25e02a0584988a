"""The season simulator's promises: a believable season, as a runner table, the same for the same seed."""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.support.simulated import LONDON, NON_FINISHERS, WEEK, Row, first_versions, season, starters, versions
from velo.errors import UserError
from velo.racing.going import going_group
from velo.racing.messages import IN_RUNNING
from velo.racing.names import name_key
from velo.simulator import CARD_SCHEMA, OUTCOME_COLUMNS, SeasonSpec, in_running, simulate, snapshots_of, split_card


def faults(rows: list[Row]) -> list[str]:
    """What contract 3 would refuse in one version of a race, and what no judge would sign; apart from the importer."""
    horses = [row["horse_id"] for row in rows]
    ran = starters(rows)
    found = []
    if len(set(horses)) < len(horses) or None in horses or None in {row["horse"] for row in rows}:
        found.append("a horse twice or nameless")
    if {row["status"] for row in rows} - NON_FINISHERS - {"FINISHED", "NR", "VOID"}:
        found.append("unknown status")
    if not ran and not any(row["status"] == "VOID" for row in rows):
        found.append("nobody ran")
    if ran and any(row["status"] == "VOID" for row in rows):
        found.append("void and run")
    positions = sorted(row["position"] or 0 for row in rows if row["status"] == "FINISHED")
    if ran and positions[:1] != [1]:
        found.append("no winner")
    if any(row["position"] is not None for row in rows if row["status"] != "FINISHED"):
        found.append("placed without finishing")
    if positions != [positions.index(position) + 1 for position in positions]:
        found.append("positions are not those of a race with its ties")
    if rows[0]["known_at"].astimezone(LONDON).date() < rows[0]["race_date"]:
        found.append("known before the day")
    for name in ("jockey_id", "runner_no", "draw"):
        values = [row[name] for row in rows if row[name] is not None]
        if len(set(values)) < len(values):
            found.append(f"{name} twice")
    return found


def test_the_same_seed_gives_the_same_table_and_another_seed_another() -> None:
    """A season is a function of its spec."""
    assert simulate(WEEK).equals(simulate(WEEK))
    assert not simulate(WEEK).equals(simulate(replace(WEEK, seed=4)))


def test_the_table_has_exactly_the_columns_of_the_runner_table() -> None:
    """Names, order and types of contract 3, and nothing else."""
    text, whole, real, instant = pa.string(), pa.int32(), pa.float64(), pa.timestamp("us", tz="UTC")
    expected = [
        ("race_id", text), ("race_date", pa.date32()), ("off_time", instant), ("race_no", whole), ("course", text),
        ("country", text), ("race_name", text), ("race_type", text), ("race_class", whole), ("rating_band", text),
        ("handicap", pa.bool_()), ("surface", text), ("course_config", text), ("going", text), ("distance_m", real),
        ("runner_no", whole), ("draw", whole), ("horse_id", text), ("horse", text), ("jockey_id", text),
        ("jockey", text), ("trainer_id", text), ("trainer", text), ("age", whole), ("sex", text), ("weight_lbs", real),
        ("body_weight_lbs", real), ("official_rating", whole), ("headgear", text), ("status", text),
        ("position", whole), ("beaten_lengths", real), ("finish_time_s", real), ("sp_decimal", real),
        ("result_version", whole), ("known_at", instant),
    ]  # fmt: skip
    assert simulate(WEEK).schema.equals(pa.schema(expected))


def test_every_race_in_every_version_would_be_accepted() -> None:
    """No race of a year breaks a rule of contract 3."""
    broken = {race: found for race, rows in versions().items() if (found := faults(rows))}
    assert broken == {}
    assert len(first_versions()) > 2_500


def test_beaten_lengths_and_times_follow_the_finishing_order() -> None:
    """Nobody behind another is beaten by less, a dead heat is level, and the winner is beaten by nothing."""
    for rows in first_versions():
        for measure in ("beaten_lengths", "finish_time_s"):
            placed = sorted(
                (row["position"], row[measure]) for row in rows if row["position"] and row[measure] is not None
            )
            values = [value for _, value in placed]
            assert values == sorted(values)
        lengths = [(row["position"], row["beaten_lengths"]) for row in rows if row["beaten_lengths"] is not None]
        assert len({value for position, value in lengths if position == 1} - {0.0}) == 0
        assert len(set(lengths)) == len({position for position, _ in lengths})


def test_every_corner_of_a_season_occurs() -> None:
    """Dead heats, fallers and the rest, non-runners with and without odds, void races, debutants, gaps."""
    rows = [row for race in first_versions() for row in race]
    statuses = Counter(row["status"] for row in rows)
    assert {"FINISHED", "PU", "F", "UR", "BD", "NR", "RO", "REF", "SU"} <= set(statuses)
    assert 0.02 < statuses["NR"] / len(rows) < 0.10
    assert {row["sp_decimal"] is None for row in rows if row["status"] == "NR"} == {True, False}
    assert any(sum(row["position"] == 1 for row in race) == 2 for race in first_versions())
    assert any(row["official_rating"] is None for row in rows)
    assert any(row["beaten_lengths"] is None for row in rows if row["status"] == "FINISHED")
    assert {row["race_type"] for row in rows} == {"Flat", "Hurdle", "Chase", "NHF"}
    assert {row["surface"] for row in rows} == {"Turf", "AW"}
    assert all((row["draw"] is not None) == (row["race_type"] == "Flat") for row in rows)
    assert {going_group(row["going"]) for row in rows if row["going"]} == {"fast", "good", "easy", "soft"}
    fallers = [row for row in rows if row["status"] == "F"]
    assert all(row["race_type"] in {"Hurdle", "Chase"} for row in fallers)


def test_amended_results_come_later_and_change_something() -> None:
    """Version 2 and now and then 3, each known after the one before, with the same runners; some race is voided."""
    seconds = [key for key in versions() if key[1] == 2]
    thirds = [key for key in versions() if key[1] == 3]
    assert len(seconds) > 20
    assert thirds
    voided = 0
    for race, version in seconds + thirds:
        before, after = versions()[race, version - 1], versions()[race, version]
        assert after[0]["known_at"] > before[0]["known_at"]
        assert [row["horse_id"] for row in after] == [row["horse_id"] for row in before]
        placings = ("status", "position", "beaten_lengths")
        assert any(a[name] != b[name] for a, b in zip(after, before, strict=True) for name in placings)
        voided += any(row["status"] == "VOID" for row in after)
    assert voided


def test_names_are_unique_even_as_keys() -> None:
    """No two horses, trainers or jockeys share a name once it is a key (contract 3)."""
    table = season().runners
    for kind in ("horse", "trainer", "jockey"):
        pairs = set(zip(table[f"{kind}_id"].to_pylist(), table[kind].to_pylist(), strict=True))
        assert len(pairs) == len({name_key(name) for _, name in pairs}) == len({key for key, _ in pairs})


def test_a_split_card_knows_no_outcome_of_its_day_and_nothing_amended_later() -> None:
    """History ends before nine that morning; the card has the declared runners and no outcome columns."""
    table = season().runners
    late = next(
        rows[0]
        for (_, version), rows in versions().items()
        if version == 2 and rows[0]["known_at"] > rows[0]["off_time"] + timedelta(days=9)
    )
    racing = {rows[0]["race_date"] for rows in first_versions()}
    day = min(day for day in racing if day > late["race_date"])
    history, card = split_card(table, day)
    morning = datetime(day.year, day.month, day.day, 9, tzinfo=LONDON).astimezone(UTC)
    assert card.schema.equals(CARD_SCHEMA)
    assert not set(card.column_names) & set(OUTCOME_COLUMNS)
    assert set(card["race_date"].to_pylist()) == {day}
    assert set(card["known_at"].to_pylist()) == {morning}
    assert card.num_rows == sum(len(rows) for rows in first_versions() if rows[0]["race_date"] == day) > 0
    assert max(history["race_date"].to_pylist()) < day
    assert max(history["known_at"].to_pylist()) <= morning
    later = [rows for rows in versions().values() if rows[0]["race_date"] < day and rows[0]["known_at"] > morning]
    assert late["race_id"] in {rows[0]["race_id"] for rows in later}
    assert history.num_rows == table.filter(pc.less(table["race_date"], day)).num_rows - sum(map(len, later))


def test_a_day_without_racing_has_an_empty_card() -> None:
    """Nobody races on Christmas Day."""
    assert split_card(season().runners, date(2023, 12, 25))[1].num_rows == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"market_knowledge": 1.5}, "market_knowledge 1.5"),
        ({"days": 0}, "days 0"),
        ({"courses": 2}, "courses 2"),
        ({"timezone": "Mars/Olympus"}, "timezone 'Mars/Olympus'"),
    ],
)
def test_a_spec_out_of_range_is_refused_in_one_line(change: dict[str, Any], words: str) -> None:
    """The line begins with the value and says what would do."""
    with pytest.raises(UserError, match=f"^{words}.*; give ") as refused:
        SeasonSpec(**change)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("courses", [4, 12])
def test_a_small_world_still_races(courses: int) -> None:
    """The smallest season that is allowed holds races that would be accepted."""
    table = simulate(SeasonSpec(days=60, races_per_year=300, horses=60, trainers=6, jockeys=72, courses=courses))
    races: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in table.to_pylist():
        races[row["race_id"], row["result_version"]].append(row)
    assert races
    assert [faults(rows) for rows in races.values() if faults(rows)] == []


def test_the_moving_market_ends_at_the_starting_prices_and_knows_less_the_earlier_it_is() -> None:
    """The season itself stays as it is; early odds predict winners worse, and a move that has begun goes on."""
    table = season().runners
    table = table.filter(pc.less(table["race_date"], table["race_date"][0].as_py() + timedelta(days=40)))
    moving = snapshots_of(table, 3).to_pylist()
    assert snapshots_of(table, 3).equals(snapshots_of(table, 3))
    first = {(row["race_id"], row["horse_id"]): row for race in first_versions() for row in race}
    shown: dict[int, dict[tuple[str, str], float]] = {}
    for row in moving:
        key = row["race_id"], row["horse_id"]
        minutes = (first[key]["off_time"] - row["known_at"]).seconds // 60
        shown.setdefault(minutes, {})[key] = row["odds"]
    losses: dict[int, float] = {}
    drifts: dict[int, dict[tuple[str, str], float]] = {}
    for minutes, odds in shown.items():
        books: dict[str, float] = defaultdict(float)
        for (race, _), price in odds.items():
            books[race] += 1 / price
        won = [key for key in odds if first[key]["position"] == 1]
        losses[minutes] = sum(math.log(odds[key] * books[key[0]]) for key in won) / len(won)
        drifts[minutes] = {key: math.log(price * books[key[0]]) for key, price in odds.items()}
    assert losses[90] > losses[30] > losses[5] > losses[1]
    both = drifts[30].keys() & drifts[5].keys() & drifts[1].keys()
    begun = [drifts[5][key] - drifts[30][key] for key in both]
    after = [drifts[1][key] - drifts[5][key] for key in both]
    assert np.corrcoef(begun, after)[0, 1] > 0.5
    assert {row["status"] for key, row in first.items() if key in shown[90] and key not in shown[5]} <= {"NR", "VOID"}
    assert any(first[key]["status"] == "NR" for key in shown[30])
    assert not any(first[key]["status"] in ("NR", "VOID") for key in shown[5])
    stakes = [row["volume"] for row in moving if (row["race_id"], row["horse_id"]) == next(iter(both))]
    assert stakes == sorted(stakes)
    assert stakes[-1] > 0


def test_in_running_data_fit_the_result_and_the_style_of_each_horse() -> None:
    """The season itself stays as it is; calls are places of the field, sections are shorter than the race, later versions agree."""
    table = season().runners
    table = table.filter(pc.less(table["race_date"], table["race_date"][0].as_py() + timedelta(days=120)))
    ran = in_running(table, 3)
    assert ran.equals(in_running(table, 3))
    assert ran.drop_columns(list(IN_RUNNING)).equals(table)
    races: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in ran.to_pylist():
        races[row["race_id"], row["result_version"]].append(row)
    styles: dict[str, list[float]] = defaultdict(list)
    moves: list[tuple[int, int, int]] = []
    for (race, version), rows in races.items():
        out = [row for row in rows if row["status"] in ("NR", "VOID")]
        assert all(row[name] is None for row in out for name in IN_RUNNING)
        if version > 1:
            before = {row["horse_id"]: row for row in races[race, 1]}
            assert all(row[name] == before[row["horse_id"]][name] for row in starters(rows) for name in IN_RUNNING)
            continue
        field = starters(rows)
        assert sorted(row["first_call_position"] for row in field) == list(range(1, len(field) + 1))
        placed = [row for row in field if row["position"]]
        assert sorted(row["last_call_position"] for row in placed) == list(range(1, len(placed) + 1))
        for row in field:
            timed = row["finish_time_s"] is not None
            assert (row["first_section_ms"] is not None, row["last_section_ms"] is not None) == (timed, timed)
            assert not timed or 0 < row["first_section_ms"] + row["last_section_ms"] < 1000 * row["finish_time_s"]
            styles[row["horse_id"]].append(row["first_call_position"] / len(field))
        moves += [(row["first_call_position"], row["last_call_position"], row["position"]) for row in placed]
    pairs = np.array([places[:2] for places in styles.values() if len(places) > 1])
    assert np.corrcoef(pairs.T)[0, 1] > 0.5
    first, last, finish = np.array(moves).T
    assert np.corrcoef(first, last)[0, 1] > 0.5
    assert np.corrcoef(last, finish)[0, 1] > np.corrcoef(first, finish)[0, 1] + 0.2
