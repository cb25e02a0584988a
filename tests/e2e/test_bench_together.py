"""`velo bench` runs everything in one go, and its document says what it printed, each table with the command above it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import growth, page
from benchmarks.interleaved import Timing
from benchmarks.parts_batch import LoadedStores
from benchmarks.whole import PARTS, QUICK
from tests.support.cli import velo
from tests.support.forked import forked_benchmarks
from tests.support.shared import REPO
from velo.errors import UserError

COMMAND = re.compile(r"^`velo bench[^`]*`")
CHART = re.compile(r"^!\[[^\]]+\]\(([^)]+)\)$")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What a quick run printed, and the document that it wrote."""
    out = tmp_path_factory.mktemp("bench") / "costs.md"
    with forked_benchmarks():
        done = velo("bench", "--quick", "--out", out, "--json", home=out.parent / "home")
    assert done.code == 0, done.err
    return json.loads(done.out), out


def without_command(document: Path) -> list[str]:
    """The tables of a document that do not have, as the last line above, their command, machine and versions."""
    lines = [line for line in document.read_text(encoding="utf-8").splitlines() if line.strip()]
    heads = [at for at, line in enumerate(lines) if line.startswith("|") and not lines[at - 1].startswith("|")]
    assert heads, f"{document} has no table"
    found = re.compile(r"\d+ cores, [\d.]+ GB, ")
    return [lines[at] for at in heads if not COMMAND.match(lines[at - 1]) or not found.search(lines[at - 1])]


def test_a_run_has_every_part_but_those_that_a_quick_run_leaves_out(ran: tuple[dict[str, Any], Path]) -> None:
    report, _ = ran
    assert [part["name"] for part in report["parts"]] == [name for name in PARTS if name not in {"race", "growth"}]
    for part in report["parts"]:
        assert part["rows"], part["name"]
        assert all(len(row) == len(part["columns"]) for row in part["rows"])
        assert not any("failed" in cell for row in part["rows"] for cell in row), part["rows"]


@pytest.mark.prove
def test_growth_measures_every_step_of_a_store(tmp_path: Path) -> None:
    sizes = replace(QUICK, growth=(400,))
    with forked_benchmarks():
        part = growth.growing(LoadedStores(tmp_path, sizes, None, "Europe/London"))
    assert part is not None
    [row] = part.rows
    assert row[0] == "400"
    assert all(float(cell.split()[0].replace(",", "")) > 0 for cell in row[1:])


def test_every_contender_of_the_join_and_of_the_reads_gives_the_same_answer(ran: tuple[dict[str, Any], Path]) -> None:
    report, _ = ran
    for name in ("join", "online"):
        part = next(part for part in report["parts"] if part["name"] == name)
        assert {row[part["columns"].index("answer")] for row in part["rows"]} <= {"the same", ""}


def test_the_document_says_what_was_printed_and_nothing_else(ran: tuple[dict[str, Any], Path]) -> None:
    report, document = ran
    printed = [("aim", "found", "met")]
    for part in report["parts"]:
        printed += [part["columns"], *part["rows"]]
        printed += [(aim["what"], aim["found"], "not measured at this size") for aim in part["aims"]]
    written = [line for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert sorted(written) == sorted(f"| {' | '.join(row)} |" for row in printed)


def test_no_table_of_the_document_lacks_its_command_and_machine(ran: tuple[dict[str, Any], Path]) -> None:
    _, document = ran
    assert without_command(document) == []
    assert without_command(REPO / "docs" / "benchmarks.md") == []


@pytest.mark.parametrize("own", [True, False], ids=["this run's", "the checkout's"])
def test_every_chart_is_there_and_a_screen_reader_gets_its_figures(own: bool, ran: tuple[dict[str, Any], Path]) -> None:
    document = ran[1] if own else REPO / "docs" / "benchmarks.md"
    charts = [match[1] for line in document.read_text(encoding="utf-8").splitlines() if (match := CHART.match(line))]
    assert charts
    for name in charts:
        root = ET.fromstring((document.parent / name).read_text(encoding="utf-8"))
        said = {child.tag.rpartition("}")[2]: child.text for child in root}
        assert root.tag.endswith("svg")
        assert said["title"]
        assert re.search(r"\d", said["desc"] or "")


def test_without_a_checkout_there_is_no_page_to_write_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before anything is measured."""
    monkeypatch.setattr(page, "CHECKOUT", tmp_path)
    with pytest.raises(UserError, match=r"is not a checkout of velo.* --out FILE\.md"):
        page.where_to(None)
    assert page.where_to(tmp_path / "x.md") == tmp_path / "x.md"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--only", "speed"), "the parts are build, join"),
        (("--out", "costs.txt"), "a name that ends in .md"),
        (("--runners", "none.parquet"), "does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_runs(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = velo("bench", *options, home=tmp_path)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_spread_is_the_median_and_the_range() -> None:
    assert Timing.of([3.0, 1.0, 2.0]).shown(".1f") == "2.0 (1.0–3.0)"
