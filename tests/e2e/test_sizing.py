"""docs/scale.md's figures are those that `velo bench sizing` gives, and what it predicts follows from them alone."""

import re
from itertools import chain
from pathlib import Path

import pytest

from benchmarks import page, sizing
from benchmarks.sizing import STARTS_A_YEAR, WORDS, Sized, Units
from tests.support.builders import a_race, a_runner, write_csv
from tests.support.cli import velo
from tests.support.shared import REPO
from velo.errors import UserError

PAGE = REPO / "docs" / "scale.md"


def cells(text: str) -> list[tuple[str, ...]]:
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if "|" in line]


def units_on(page: str) -> Units:
    """The units of a page; raises ValueError unless the page gives each exactly once."""
    found = {
        name: re.findall(rf"^\| {re.escape(words)} \| ([\d,.]+) \|$", page, re.MULTILINE)
        for name, words in WORDS.items()
    }
    for name, values in found.items():
        if len(values) != 1:
            raise ValueError(f"the page gives {WORDS[name]} {len(values)} times")
    return Units(**{name: float(values[0].replace(",", "")) for name, values in found.items()})


def test_what_the_page_predicts_is_what_its_own_units_make() -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = cells(text)
    for line in sizing.grown(units_on(text)):
        assert line in found, f"{line[0]}: run `velo bench sizing HOME… --into docs/scale.md`"


def test_the_years_that_are_predicted_are_those_that_the_page_gives_reasons_for() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, starts in STARTS_A_YEAR.items():
        [(_, _, assumed, *_)] = [
            line for line in cells(text) if line[0].startswith(name) and len(line) == 4 and line[3][0].isalpha()
        ]
        assert assumed == f"{starts:,}", name


def test_a_line_through_two_stores_gives_base_and_slope_and_a_size_is_that_of_the_dearer() -> None:
    few = Sized(1_000, 0.5, 0.4, 0.6, 12_000, 500, 300.0, 1.0, 3.0, 2.0)
    many = Sized(11_000, 4.0, 4.4, 6.6, 154_000, 5_500, 310.0, 5.0, 9.0, 7.0)
    units = sizing.units_of([few, many])
    assert (units.rows_a_start, units.keys_a_start) == (14.0, 0.5)
    assert units.log_bytes_a_start == round(0.5 * 2**20 / 1_000)
    assert (units.stream_mb, units.stream_kb_a_key) == (299, 2.05)
    assert (units.live_s, units.live_s_a_million) == (1.5, 500.0)
    assert units_on(sizing.markdown(sizing.SizingFigures((few, many), units, "a machine"))) == units


@pytest.fixture
def built(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    races = [
        a_race(*(a_runner(f"h{n}", n) for n in range(1, 9)), race_id=f"R{day}", race_date=f"2024-05-{day:02d}")
        for day in range(1, 4)
    ]
    assert (
        velo("ingest", "runners", write_csv(tmp_path / "rows.csv", list(chain.from_iterable(races))), home=home).code
        == 0
    )
    assert velo("build", home=home).code == 0
    return home


def test_a_store_is_sized_and_the_page_written_between_its_marks(built: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n<!-- {sizing.MARK} -->\nold\n<!-- end -->\nafter\n")
    ran = velo("bench", "sizing", built, "--into", page, "--json", home=tmp_path / "other")
    report = ran.document
    [store] = report["stores"]
    assert store["starts"] == 24
    rows = velo("sql", "select count(*) as rows from horse_form", "--json", home=built).document[0]["rows"]
    assert rows < store["rows"]
    assert store["keys"] > 8
    assert store["log"] == pytest.approx(sum(path.stat().st_size for path in built.glob("log/*")) / 2**20)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert all(words in text for words in WORDS.values())


def test_a_home_without_tables_is_reported_in_one_line(tmp_path: Path) -> None:
    velo("bench", "sizing", tmp_path / "nowhere", home=tmp_path).told("has no tables", "`velo build`")
    with pytest.raises(UserError, match="has no `<!-- velo bench sizing -->`"):
        page.put_between(tmp_path / "none.md", sizing.MARK, str.strip)
