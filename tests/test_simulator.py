"""The season simulator's promises: a believable season, told in the runner table, the same for the same seed."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from velo.errors import UserError
from velo.racing.going import going_group
from velo.racing.names import name_key
from velo.simulator import CARD_SCHEMA, OUTCOME_COLUMNS, Season, SeasonSpec, simulate, simulate_season, split_card

LONDON = ZoneInfo("Europe/London")
YEAR = SeasonSpec(seed=7, start=date(2023, 3, 1), days=365, races_per_year=3000, amended_share=0.02)
WEEK = SeasonSpec(seed=3, start=date(2024, 6, 1), days=7, races_per_year=2000)
NON_FINISHERS = {"PU", "F", "UR", "BD", "SU", "RO", "REF", "RR", "LFT", "CO", "DNF", "DSQ"}
Row = dict[str, Any]


@cache
def season(knowledge: float = YEAR.market_knowledge) -> Season:
    """A year of racing, made once for each market."""
    return simulate_season(replace(YEAR, market_knowledge=knowledge))


@cache
def versions() -> dict[tuple[str, int], list[Row]]:
    """The year's rows by race and version."""
    races: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in season().runners.to_pylist():
        races[row["race_id"], row["result_version"]].append(row)
    return dict(races)


def first_versions() -> list[list[Row]]:
    """The races as weighed in."""
    return [rows for (_, version), rows in versions().items() if version == 1]


def starters(rows: Iterable[Row]) -> list[Row]:
    """Who ran."""
    return [row for row in rows if row["status"] in NON_FINISHERS | {"FINISHED"}]


def faults(rows: list[Row]) -> list[str]:
    """What SPEC 3 would refuse in one version of a race, and what no judge would sign; apart from the importer."""
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


def market_log_loss(season_: Season) -> float:
    """Mean −ln π of the winners of fully priced first versions; π is 1/SP over its race's sum."""
    losses = []
    races: dict[str, list[tuple[float | None, int | None]]] = defaultdict(list)
    table = season_.runners.filter(pc.equal(season_.runners["result_version"], 1))
    ran = table.filter(pc.invert(pc.is_in(table["status"], pa.array(["NR", "VOID"]))))
    for race, price, position in zip(
        *(ran[name].to_pylist() for name in ("race_id", "sp_decimal", "position")), strict=True
    ):
        races[race].append((price, position))
    for runners in races.values():
        inverse = [1 / price for price, _ in runners if price is not None]
        if len(inverse) == len(runners):
            won = [price for price, position in runners if position == 1 and price is not None]
            losses.append(sum(-math.log(1 / price / sum(inverse)) for price in won) / len(won))
    return float(np.mean(losses))


def true_log_loss() -> float:
    """Mean −ln of the winners' true chances, over the races `market_log_loss` counts."""
    chances = {(row["race_id"], row["horse_id"]): row["win_probability"] for row in season().chances.to_pylist()}
    losses = []
    for rows in first_versions():
        if starters(rows) and all(row["sp_decimal"] for row in starters(rows)):
            won = [chances[row["race_id"], row["horse_id"]] for row in rows if row["position"] == 1]
            losses.append(float(np.mean(-np.log(won))))
    return float(np.mean(losses))


def test_the_same_seed_gives_the_same_table_and_another_seed_another() -> None:
    """A season is a function of its spec."""
    assert simulate(WEEK).equals(simulate(WEEK))
    assert not simulate(WEEK).equals(simulate(replace(WEEK, seed=4)))


def test_the_table_has_exactly_the_columns_of_the_runner_table() -> None:
    """Names, order and types of SPEC 3, and nothing else."""
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
    """No race of a year breaks a rule of SPEC 3."""
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


def test_fields_and_jockeys_are_those_of_british_racing() -> None:
    """Two to twenty runners, about nine; a rider and a horse are once in a race, a horse once a day."""
    sizes = [len(starters(rows)) for rows in first_versions() if starters(rows)]
    assert min(sizes) >= 2
    assert max(sizes) <= 20
    assert 8.0 < float(np.mean(sizes)) < 10.0
    days = [(row["race_date"], row["horse_id"]) for rows in first_versions() for row in rows]
    assert len(days) == len(set(days))


def test_offs_are_local_clock_times_summer_and_winter() -> None:
    """Racing is from 12:20 to 20:30 by the local clock on both sides of each change of the clocks, daytime in winter
    ends by 16:00, and a result is known a good ten minutes later on the same day, to the second.
    """
    for rows in first_versions():
        off, known = rows[0]["off_time"].astimezone(LONDON), rows[0]["known_at"].astimezone(LONDON)
        minutes = 60 * off.hour + off.minute
        assert 12 * 60 + 20 <= minutes <= 20 * 60 + 30
        assert off.date() == known.date() == rows[0]["race_date"]
        assert timedelta(minutes=8) < known - off < timedelta(minutes=45)
        assert known.microsecond == 0
        if off.month in {11, 12, 1, 2} and rows[0]["surface"] == "Turf":
            assert minutes <= 16 * 60
    assert any(rows[0]["off_time"].astimezone(LONDON).utcoffset() for rows in first_versions())


def test_jumping_is_a_winter_and_turf_flat_racing_a_summer_sport() -> None:
    """The Flat turf season runs from March to November."""
    turf = Counter(
        rows[0]["race_date"].month
        for rows in first_versions()
        if rows[0]["race_type"] == "Flat" and rows[0]["surface"] == "Turf"
    )
    jumps = Counter(rows[0]["race_date"].month for rows in first_versions() if rows[0]["race_type"] != "Flat")
    assert not set(turf) & {12, 1, 2}
    assert sum(jumps[month] for month in (11, 12, 1, 2)) > 2 * sum(jumps[month] for month in (5, 6, 7, 8))


def test_starting_prices_are_board_prices_with_a_bookmakers_margin() -> None:
    """Overround by race within 1.05 to 1.30, about 1.12 to 1.25 for nearly all; favourites win 28 to 40 %."""
    margins, favourites, won = [], 0, 0.0
    for rows in first_versions():
        ran = starters(rows)
        if not ran or any(row["sp_decimal"] is None for row in ran):
            continue
        margins.append(sum(1 / row["sp_decimal"] for row in ran))
        shortest = [row for row in ran if row["sp_decimal"] == min(other["sp_decimal"] for other in ran)]
        favourites += 1
        won += sum(row["position"] == 1 for row in shortest) / len(shortest)
    assert 1.12 < float(np.mean(margins)) < 1.25
    assert np.mean([1.10 < margin < 1.26 for margin in margins]) > 0.97
    assert min(margins) > 1.0
    assert 0.28 < won / favourites < 0.40


def test_true_chances_sum_to_one_and_are_kept_by_the_winners() -> None:
    """The hidden truth is one probability a starter, and winners come as often as it says."""
    chances = season().chances.to_pylist()
    totals: dict[str, float] = defaultdict(float)
    for row in chances:
        totals[row["race_id"]] += row["win_probability"]
    assert max(abs(total - 1.0) for total in totals.values()) < 1e-9
    started = {(row["race_id"], row["horse_id"]) for rows in first_versions() for row in starters(rows)}
    winners = {(r["race_id"], r["horse_id"]) for rows in first_versions() for r in rows if r["position"] == 1}
    known = {(row["race_id"], row["horse_id"]): row["win_probability"] for row in chances}
    assert started <= set(known)
    for low, high in ((0.0, 0.05), (0.05, 0.15), (0.15, 0.35), (0.35, 1.0)):
        band = [key for key in started if low <= known[key] < high]
        expected = sum(known[key] for key in band)
        assert abs(sum(key in winners for key in band) - expected) < 4 * math.sqrt(expected)


def test_a_wiser_market_prices_better_and_changes_nothing_else() -> None:
    """Log loss of SP falls with knowledge; at full knowledge it is the truth's own, and the results are the same."""
    losses = [market_log_loss(season(knowledge)) for knowledge in (0.0, 0.5, 1.0)]
    assert losses[0] > losses[1] + 0.01
    assert losses[1] > losses[2] + 0.01
    unpriced = season(0.0).runners.drop_columns(["sp_decimal"])
    assert unpriced.equals(season(1.0).runners.drop_columns(["sp_decimal"]))
    assert abs(losses[2] - true_log_loss()) < 0.003


def test_the_draw_matters_in_its_cells() -> None:
    """Wins by third of the draw and cell stray further from chance than with the stall numbers shuffled."""
    races = [
        (rows[0]["course"], rows[0]["distance_m"] < 1900, going_group(rows[0]["going"]), starters(rows))
        for rows in first_versions()
        if rows[0]["race_type"] == "Flat" and len(starters(rows)) >= 5
    ]
    rng = np.random.default_rng(1)

    def stray(shuffled: bool) -> float:
        wins: dict[Any, float] = defaultdict(float)
        fair: dict[Any, float] = defaultdict(float)
        for course, short, ground, ran in races:
            draws = np.array([row["draw"] for row in ran])
            ranks = (rng.permutation(draws) if shuffled else draws).argsort().argsort()
            for row, rank in zip(ran, ranks, strict=True):
                cell = (course, short, ground, int(3 * rank // len(ran)))
                wins[cell] += row["position"] == 1
                fair[cell] += 1 / len(ran)
        return sum((wins[cell] - fair[cell]) ** 2 / fair[cell] for cell in fair if fair[cell] >= 5)

    assert stray(shuffled=False) > max(stray(shuffled=True) for _ in range(20))


def test_a_stable_in_form_stays_in_form_for_a_while() -> None:
    """Runs of a yard that beat a simple market over 30 days go on beating it: what velocity windows are for."""
    days: dict[str, dict[date, list[float]]] = defaultdict(lambda: defaultdict(list))
    table = season(0.0).runners
    races: dict[str, list[Row]] = defaultdict(list)
    wanted = ["race_id", "race_date", "trainer_id", "position", "sp_decimal", "status"]
    for row in table.filter(pc.equal(table["result_version"], 1)).select(wanted).to_pylist():
        races[row["race_id"]].append(row)
    for rows in races.values():
        ran = starters(rows)
        if all(row["sp_decimal"] for row in ran):
            total = sum(1 / row["sp_decimal"] for row in ran)
            for row in ran:
                surprise = (row["position"] == 1) - 1 / row["sp_decimal"] / total
                days[row["trainer_id"]][row["race_date"]].append(surprise)
    before, after = [], []
    for yard in days.values():
        for day, surprises in yard.items():
            past = [s for ago in range(1, 31) for s in yard.get(day - timedelta(days=ago), ())]
            if len(past) >= 5:
                before += [sum(past) / len(past)] * len(surprises)
                after += surprises
    assert float(np.corrcoef(before, after)[0, 1]) * math.sqrt(len(before)) > 3.0


def test_names_are_unique_even_as_keys() -> None:
    """No two horses, trainers or jockeys share a name once it is a key (SPEC 3)."""
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
