"""Cells as racing papers print them: what they say is read, what cannot be read raises, and nothing is guessed."""

import pytest

from velo.streams.importers import parsers


@pytest.mark.parametrize(
    ("printed", "lengths"),
    [
        *(("0", 0.0), ("1.25", 1.25), ("30", 30.0)),
        *(("½", 0.5), ("¾", 0.75), ("1¼", 1.25), ("12½", 12.5), ("⅓", 1 / 3), ("2⅔", 8 / 3), ("1 ½", 1.5)),
        *(("1/2", 0.5), ("1 1/4", 1.25), ("1-3/4", 1.75), ("[1¾]", 1.75), ("2½L", 2.5), ("3 lengths", 3.0)),
        *(("dht", 0.0), ("DH", 0.0), ("nse", 0.05), ("Nose", 0.05), ("shd", 0.1), ("sht-hd", 0.1), ("s.hd", 0.1)),
        *(("short head", 0.1), ("hd", 0.2), ("Head", 0.2), ("snk", 0.2), ("sht-nk", 0.2), ("nk", 0.3), ("NECK", 0.3)),
        *(("lgnk", 0.4), ("lnk", 0.4), ("long neck", 0.4), ("dist", 30.0), ("dst", 30.0), ("dist.", 30.0)),
        *(("lg0.3", 0.4), ("sht-0.3", 0.2)),
    ],
)
def test_a_margin_is_read_as_printed_in_decimals_fractions_or_words(printed: str, lengths: float) -> None:
    """`lg0.3` is what rpscrape made of a long neck until 2026-02-04."""
    assert parsers.lengths(printed) == pytest.approx(lengths, abs=1e-12)


@pytest.mark.parametrize("printed", ["far", "1/0", "5/2", "1.25.5", "1e400", "l", "½½½", "2 far"])
def test_a_margin_that_says_nothing_clear_is_unreadable(printed: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parsers.lengths(printed)


@pytest.mark.parametrize(
    ("printed", "metres"),
    [
        ("5½f", 1106),
        ("1m½f", 1710),
        ("2m⅓f", 3286),
        ("1¼m", 2012),
        ("2½m", 4023),
        ("1200m", 1200),
        ("2400 metres", 2400),
        ("4m2f74y", 6907),
    ],
)
def test_a_distance_may_have_signs_for_fractions_and_be_in_metres(printed: str, metres: int) -> None:
    """2 miles and ⅓ furlong: 3520 + 73⅓ yards; 4 miles, 2 furlongs, 74 yards: 7040 + 440 + 74."""
    assert parsers.metres(printed) == metres
