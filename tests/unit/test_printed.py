"""What a command prints can be read wherever it goes: no name is cut and no number folded in a pipe or a narrow terminal."""

from io import StringIO

import pytest
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from benchmarks.serve import Latencies, ServeFigures, table
from tests.support.cli import velo
from velo.commands import edge
from velo.commands.edge import fitted, show

FLOOR = "floor: as many bytes, one pipeline"
GET = "get_online_features().to_dict()"
FIGURES = ServeFigures(
    20_000,
    1000.0,
    "a machine",
    [
        Latencies(FLOOR, 8, False, 500, 0, 0.58, 0.82, 1.2, 1500.0),
        Latencies(GET, 40, True, 100, 3, 22.3, 48.0, 61.7, 41.2),
    ],
)


def test_in_a_pipe_a_row_of_many_columns_is_one_whole_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show(FIGURES, False, lambda: Group(Text("first"), table(FIGURES)))
    printed = capsys.readouterr().out
    assert "…" not in printed
    (floor,) = (line for line in printed.splitlines() if FLOOR in line)
    (get,) = (line for line in printed.splitlines() if GET in line)
    assert floor.split()[-2:-1] == ["1,500"]
    assert all(value in get for value in ("40", "1,000 starts/s", "100", "22.30", "61.70", "41"))


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_where_a_table_is_too_wide_its_rows_are_reported_one_after_another_and_nothing_of_them_is_cut(
    columns: int,
) -> None:
    made = table(FIGURES)
    out = StringIO()
    Console(file=out, width=columns).print(fitted(Group(made), columns))
    printed = out.getvalue()
    assert "…" not in printed
    for column in made.columns[1:]:
        assert str(column.header) in printed
    for row in (FLOOR, GET):
        assert f"what: {row}" in " ".join(printed.split())
    assert "p99.9 ms  61.7" in printed


def test_a_table_that_fits_stays_a_table_and_columns_say_how_wide_a_pipe_may_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Table("name", "value")
    small.add_row("a", "1")
    assert fitted(small, 80) is small
    monkeypatch.setenv("COLUMNS", "70")
    show(FIGURES, False, lambda: table(FIGURES))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 70


def test_json_is_as_it_was(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One document, whatever the width."""
    home = tmp_path_factory.mktemp("printed")
    assert velo("paper", "--report", "--json", home=home, COLUMNS="20").document == {"step": None, "models": []}


def test_a_long_step_says_where_it_is_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quick one says nothing, and so does one that is asked for JSON."""
    with edge.steps(quiet=False) as step:
        step("measure", 0, 1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(edge, "LINE_SECONDS", 0.01)
    with edge.steps(quiet=True) as step:
        step("measure", 0, 1)
    said = ""
    with edge.steps(quiet=False) as step:
        step("grow trees", 3, 13)
        while said.count("\n") < 2:
            said += capsys.readouterr().err
    assert said.splitlines()[-1].startswith("grow trees (3 of 13), 0 s so far")
