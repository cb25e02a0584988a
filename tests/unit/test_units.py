"""Units of a mapping: what is printed in a source's form reads back as the value it was printed from."""

from datetime import date, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from velo.streams.importers import parsers
from velo.streams.importers.units import UNITS, date_reader, divided, instant_reader, reader_of, with_decimal_comma

BLANKS = (None, "", "  ", "-", "---", "nan")


@pytest.mark.parametrize("target", UNITS)
def test_a_blank_of_every_form_is_unknown_in_every_unit(target: str) -> None:
    for unit in UNITS[target]:
        assert [reader_of(target, unit)(blank) for blank in BLANKS] == [None] * len(BLANKS), (target, unit)


@given(some.integers(1, 4), some.integers(0, 7), some.integers(0, 219))
def test_miles_furlongs_and_yards_print_and_read_back(miles: int, furlongs: int, yards: int) -> None:
    printed = f"{miles}m" + (f"{furlongs}f" if furlongs else "") + (f"{yards}y" if yards else "")
    whole = (miles * 8 + furlongs) * 220 + yards
    read = reader_of("distance_m", "miles-furlongs")
    assert read(printed) == round(whole * 0.9144)
    assert reader_of("distance_m", "yards")(str(whole)) == read(printed)


@given(some.integers(5, 13), some.integers(0, 13))
def test_stones_and_pounds_print_and_read_back(stones: int, pounds: int) -> None:
    weight = reader_of("weight_lbs", "st-lb")(f"{stones}-{pounds}")
    assert (weight // 14, weight % 14) == (stones, pounds)


@given(some.integers(400, 800))
def test_kilograms_print_and_read_back_to_a_tenth(tenths: int) -> None:
    pounds = reader_of("weight_lbs", "kg")(f"{tenths / 10}")
    assert round(pounds * 0.45359237, 1) == tenths / 10


@given(some.integers(0, 9), some.integers(0, 59), some.integers(0, 99))
def test_times_print_and_read_back_with_colons_and_with_points(minutes: int, seconds: int, hundredths: int) -> None:
    whole = round(minutes * 60 + seconds + hundredths / 100, 2)
    assert reader_of("finish_time_s", "m:ss")(f"{minutes}:{seconds:02}.{hundredths:02}") == whole
    assert reader_of("finish_time_s", "m.ss.hh")(f"{minutes}.{seconds:02}.{hundredths:02}") == whole


@given(some.integers(0, 40), some.sampled_from([Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(0)]))
def test_lengths_print_and_read_back_as_fractions_of_every_form(whole: int, part: Fraction) -> None:
    read = reader_of("beaten_lengths", "lengths")
    forms = [f"{whole}-{part}", f"{whole} {part}", f"{float(whole + part)}"] if whole and part else [str(whole + part)]
    if whole and part:
        forms.append(f"{whole}{ {Fraction(1, 4): '¼', Fraction(1, 2): '½', Fraction(3, 4): '¾'}[part] }")
    assert {read(form) for form in forms} == {float(whole + part)}


@given(some.integers(1, 200), some.integers(1, 20))
def test_fractional_odds_print_and_read_back(numerator: int, denominator: int) -> None:
    read = reader_of("sp_decimal", "fractional")
    assert read(f"{numerator}/{denominator}F") == read(f"{numerator}/{denominator}") == numerator / denominator + 1


@given(some.integers(101, 100_000).map(lambda hundredths: hundredths / 100))
def test_odds_read_back_from_probabilities_dividends_and_american_lines(odds: float) -> None:
    assert reader_of("sp_decimal", "probability")(repr(1 / odds)) == pytest.approx(odds, abs=1e-4)
    assert divided(reader_of("sp_decimal", "tote"), 10)(f"{odds * 10:.2f}") == pytest.approx(odds, abs=1e-3)
    line = f"{(odds - 1) * 100:+.4f}" if odds >= 2 else f"{-100 / (odds - 1):.4f}"
    assert reader_of("sp_decimal", "american")(line) == pytest.approx(odds, abs=1e-3)


@pytest.mark.parametrize(("line", "odds"), [("+150", 2.5), ("-200", 1.5), ("+100", 2.0), ("250", 3.5)])
def test_american_odds_are_money_on_a_hundred(line: str, odds: float) -> None:
    assert reader_of("sp_decimal", "american")(line) == odds


@pytest.mark.parametrize(
    ("target", "unit", "cell"),
    [
        ("sp_decimal", "american", "+50"),
        ("sp_decimal", "probability", "1.5"),
        ("sp_decimal", "probability", "-0.2"),
        ("weight_lbs", "st-lb", "9-14"),
        ("finish_time_s", "m.ss.hh", "1.60.00"),
        ("distance_m", "miles-furlongs", "two miles"),
    ],
)
def test_what_a_unit_cannot_write_is_unreadable(target: str, unit: str, cell: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        reader_of(target, unit)(cell)


@given(some.integers(0, 10**7))
def test_numbers_with_a_decimal_comma_print_and_read_back(hundredths: int) -> None:
    printed = f"{hundredths / 100:,.2f}".translate(str.maketrans(",.", ".,"))
    assert with_decimal_comma(parsers.number)(printed) == hundredths / 100


@given(
    some.dates(date(1970, 1, 1), date(2068, 12, 31)),
    some.sampled_from(["%d/%m/%Y", "%y/%m/%d", "%Y%m%d", "%Y年%m月%d日"]),
)
def test_dates_print_and_read_back_in_every_format(day: date, form: str) -> None:
    assert date_reader((form, "%Y-%m-%d"))(day.strftime(form)) == day


@given(some.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1)))  # noqa: DTZ001 a clock on a wall
def test_an_instant_without_an_offset_is_one_only_where_a_zone_is_declared(wall: datetime) -> None:
    zone = ZoneInfo("Asia/Hong_Kong")
    read = instant_reader(zone)(wall.isoformat())
    assert read is not None
    assert read.astimezone(zone).replace(tzinfo=None) == wall
    with pytest.raises(ValueError, match=r".*"):
        instant_reader(None)(wall.isoformat())
