"""The season simulator makes a world like racing: its fields, calendar, prices, draw and form, and chances that it keeps."""

import math
from collections import Counter, defaultdict
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.support.simulated import LONDON, Row, first_versions, season, starters
from velo.racing.going import going_group
from velo.simulator import SimulatedSeason


def market_log_loss(season_: SimulatedSeason) -> float:
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


@pytest.mark.slow
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
