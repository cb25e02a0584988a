"""The figures and marks of a form line, as a racecard prints them."""

from dataclasses import dataclass
from datetime import date

import pytest

from velo.racing.form_line import figures, marks


@dataclass(frozen=True)
class Ran:
    race_date: date
    status: str = "FINISHED"
    position: int | None = None
    course: str = "Ascot"
    distance_m: float | None = 1609.0
    favourite: bool | None = False


def latest_first(*runs: Ran) -> list[Ran]:
    return sorted(runs, key=lambda run: run.race_date, reverse=True)


def test_the_last_six_finishes_are_printed_oldest_first_with_letters_and_years_apart() -> None:
    """Tenth and worse is 0; a dash stands between two years, a stroke where more than a year is missing."""
    runs = latest_first(
        Ran(date(2021, 5, 1), position=4), Ran(date(2022, 9, 1), position=1), Ran(date(2023, 1, 5), position=12),
        Ran(date(2023, 2, 5), status="PU"), Ran(date(2023, 3, 5), status="UR"), Ran(date(2023, 4, 5), position=10),
    )  # fmt: skip
    assert figures(runs) == "4/1-0PU0"
    assert figures([Ran(date(2023, 5, 1), position=2), *runs]) == "1-0PU02"
    assert figures([]) == ""


@pytest.mark.parametrize(
    ("status", "position", "text"),
    [("FINISHED", 9, "9"), ("RAN", 1, "1"), ("RAN", None, "?"), ("F", None, "F"), ("REF", None, "R"), ("DSQ", None, "D"), ("DNF", None, "–")],
)  # fmt: skip
def test_a_finish_is_its_place_or_the_letter_of_why_there_is_none(status: str, position: int | None, text: str) -> None:
    assert figures([Ran(date(2023, 5, 1), status=status, position=position)]) == text


def test_course_and_distance_winners_are_marked_and_both_only_in_one_race() -> None:
    here, far = Ran(date(2023, 4, 1), position=1, distance_m=2012.0), Ran(date(2023, 3, 1), position=1, course="York")
    beaten = Ran(date(2023, 5, 1), position=3)
    assert marks([beaten, here, far], "Ascot", 1650.0) == ["C", "D"]
    assert marks([beaten, here, far], "Ascot", 2012.0) == ["CD"]
    assert marks([beaten], "Ascot", 1609.0) == []
    assert marks([beaten, here], "Ascot", None) == ["C"]


def test_a_beaten_favourite_is_one_of_the_last_race_alone() -> None:
    lost, won = Ran(date(2023, 5, 1), position=2, favourite=True), Ran(date(2023, 5, 1), position=1, favourite=True)
    assert marks([lost], "York", None) == ["BF"]
    assert "BF" not in marks([won, lost], "York", None)
    assert "BF" not in marks([Ran(date(2023, 6, 1), position=5), lost], "York", None)
    assert "BF" not in marks([Ran(date(2023, 6, 1), position=5, favourite=None)], "York", None)
