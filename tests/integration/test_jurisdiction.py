"""One race measured under two jurisdictions: Python and the batch SQL agree, and both give the values worked by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import a_field, a_log, a_result
from tests.support.engine import reading
from tests.support.logs import a_store, logged
from tests.support.stores import NOW
from velo.feature_repo.catalogue.request_time import REQUEST, SINCE_LAST_RUN
from velo.racing.going import going_group
from velo.racing.jurisdiction import DEFAULT, JAPAN, Jurisdiction
from velo.racing.messages import Result, from_record
from velo.racing.starts import Start, starts_of
from velo.streams.batch import staging
from velo.streams.batch.build import build

pytestmark = pytest.mark.slow

RULED = ("horse_id", "distance_band", "going_group", "draw_cell", "place", "speed_e9")
"""The measures that depend on the jurisdiction, behind the horse they belong to."""


def a_race_of(runners: int, race_id: str = "R1", **columns: Any) -> Result:
    """Runners in order, each in 100 seconds, at Kyoto on turf."""
    columns = {"course": "Kyoto", "going": "Yielding", "distance_m": 1800.0} | columns
    [record] = a_log(a_result(*a_field(runners, finish_time_s=100.0), race_id=race_id, **columns))
    message = from_record(record)
    assert isinstance(message, Result)
    return message


def by_python(result: Result, jurisdiction: Jurisdiction) -> list[tuple[object, ...]]:
    return [tuple(start[:-1]) for start in starts_of(result.race, result.runners, jurisdiction)]


def by_sql(folder: Path, result: Result, jurisdiction: Jurisdiction) -> list[tuple[object, ...]]:
    """The starts of a store's build, without the ratings that `starts_of` leaves empty."""
    store = a_store(folder)
    logged(store, result)
    build(store, NOW, jurisdiction=jurisdiction)
    rated = {"elo_rated": "0", **{name: "NULL" for name in Start._fields if name.endswith("_elo_e9")}}
    columns = ", ".join(rated.get(name, name) for name in Start._fields[:-1])
    with reading() as connection:
        parts = staging.parquet(staging.parts_of(store.home, "starts"))
        return connection.execute(f"SELECT {columns} FROM {parts} ORDER BY horse_id").fetchall()


def ruled(starts: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [tuple(start[Start._fields.index(name)] for name in RULED) for start in starts]


@pytest.mark.parametrize(
    ("jurisdiction", "band", "group", "places", "speed_e9"),
    [
        # 96,900 ms + 200 m × 27,100 ms ÷ 400 m = 110,450 ms; the first of four is placed
        (DEFAULT, "mile", "easy", [1, 0, 0, 0], 1_104_500_000),
        # 90,500 ms + 200 m × 24,700 ms ÷ 400 m = 102,850 ms; no place bets on four runners
        (JAPAN, "mile", "easy", [0, 0, 0, 0], 1_028_500_000),
        # Hong Kong's place terms: two from four runners, three from seven
        (replace(JAPAN, place_terms=((3, 0), (6, 2))), "mile", "easy", [1, 1, 0, 0], 1_028_500_000),
    ],
    ids=["default", "japan", "place-terms-of-hong-kong"],
)
def test_four_runners_over_1800_m_measure_alike_in_python_and_sql(
    jurisdiction: Jurisdiction, band: str, group: str, places: list[int], speed_e9: int, tmp_path: Path
) -> None:
    result = a_race_of(4)
    python = by_python(result, jurisdiction)
    assert ruled(python) == [
        (f"horse {number}", band, group, f"Kyoto|Turf|{band}|{group}|{third}", place, speed_e9)
        for number, third, place in zip((1, 2, 3, 4), (1, 2, 3, 3), places, strict=True)
    ]
    assert by_sql(tmp_path, result, jurisdiction) == python


@pytest.mark.parametrize(
    ("jurisdiction", "distance_m", "going", "band", "group", "speed_e9"),
    [
        # 1300 m is a mile's shortest by the default and a sprint's longest in Japan
        (DEFAULT, 1300.0, "良", "mile", "unknown", 771_000_000),  # 70,500 + 100 × 26,400 ÷ 400
        (JAPAN, 1300.0, "良", "sprint", "fast", 719_750_000),  # 65,800 + 100 × 24,700 ÷ 400
        (DEFAULT, 2100.0, "Sloppy", "middle", "unknown", 1_309_250_000),  # 124,000 + 100 × 27,700 ÷ 400
        (JAPAN, 2100.0, "Sloppy", "intermediate", "soft", 1_215_500_000),  # 115,200 + 100 × 25,400 ÷ 400
        (DEFAULT, 2700.0, "Firm", "staying", "fast", 1_730_750_000),  # 151,700 + 300 × 57,000 ÷ 800
        (JAPAN, 2700.0, "Firm", "long", "fast", 1_600_620_000),  # 140,600 + 300 × 51,900 ÷ 800 = 160,062.5
        (JAPAN, 3400.0, "Standard", "extended", "fast", 2_000_000_000),  # 192,500 + 12,975, capped
    ],
)
def test_bands_goings_and_pars_at_their_edges_in_python_and_sql(
    jurisdiction: Jurisdiction, distance_m: float, going: str, band: str, group: str, speed_e9: int, tmp_path: Path
) -> None:
    result = a_race_of(9, going=going, distance_m=distance_m)
    python = by_python(result, jurisdiction)
    places = [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert [start[1:3] + start[4:] for start in ruled(python)] == [(band, group, place, speed_e9) for place in places]
    assert by_sql(tmp_path, result, jurisdiction) == python


def test_a_second_build_under_other_rules_measures_every_start_again(tmp_path: Path) -> None:
    """The rules are part of the fingerprint: no start of the one stays among those of the other."""
    result = a_race_of(4)
    assert by_sql(tmp_path, result, DEFAULT) == by_python(result, DEFAULT)
    build(a_store(tmp_path), NOW, jurisdiction=JAPAN)
    with reading() as connection:
        parts = staging.parquet(staging.parts_of(a_store(tmp_path).home, "starts"))
        assert connection.execute(f"SELECT DISTINCT place, speed_e9 FROM {parts}").fetchall() == [(0, 1_028_500_000)]


@pytest.mark.parametrize(("jurisdiction", "expected"), [(DEFAULT, 2), (JAPAN, -2)], ids=["default", "japan"])
def test_a_higher_class_is_easier_by_default_and_harder_in_japan(jurisdiction: Jurisdiction, expected: int) -> None:
    """From class 1 to class 3: an easier race in Britain, two wins up in Japan."""
    inputs = {column.name: [0.0] for column in REQUEST} | {each.feature: [0.0] for each in SINCE_LAST_RUN.stored}
    made = SINCE_LAST_RUN.listed(inputs | {"race_class": [3.0], "last_class": [1.0]}, jurisdiction)
    assert made["class_change"] == [expected]


def test_every_japanese_going_has_a_group_in_both_languages() -> None:
    groups = [[going_group(going, JAPAN) for going in pair] for pair in
              (("良", "Firm"), ("稍重", "Good"), ("重", "Yielding"), ("不良", "Soft"))]  # fmt: skip
    assert groups == [["fast"] * 2, ["good"] * 2, ["easy"] * 2, ["soft"] * 2]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"distance_bands": (("mile", 1900), ("sprint", 1300))}, "distance_bands must ascend"),
        ({"par_times_ms": ((0, 0), (1000, 0))}, "par_times_ms times must ascend"),
        ({"par_times_ms": ((0, 0),)}, "needs two points"),
        ({"place_terms": ((7, 2), (4, 1))}, "place_terms must ascend"),
        ({"going_groups": (("a", ("good",)), ("b", ("good",)))}, "a going is in two groups"),
        ({"class_direction": 0}, "class_direction must be 1 or -1"),
        ({"longest_band": "very|long"}, "must be one plain word"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(DEFAULT, **wrong)
