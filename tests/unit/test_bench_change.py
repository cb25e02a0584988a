"""The parts of `velo bench change` that decide what is wrong."""

import re
from threading import Event
from typing import Any

import pytest

from benchmarks import CHECKOUT
from benchmarks.change import EDITS, Edit, _values
from benchmarks.change_reads import RowRead, agrees, beside
from velo.feature_repo.catalogue.families import BY_VIEW


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_an_edit_finds_what_it_replaces_in_the_catalogue(edit: Edit) -> None:
    for path, pattern, text in edit.replaced:
        before = (CHECKOUT / path).read_text()
        after, count = re.subn(pattern, text, before, count=1)
        assert count == 1
        compile(after, str(path), "exec")
        assert all(f'"{view}' not in after for view in edit.dropped)
    assert all(family != BY_VIEW[family.view] for family in edit.changed)


def test_a_row_agrees_with_the_changelog_at_its_instant_and_nothing_else_does() -> None:
    changelog: dict[tuple[str, ...], list[tuple[int, tuple[Any, ...]]]] = {("a",): [(10, (1, 0.5)), (20, (2, None))]}

    def read(event_us: int, *values: float | None) -> bool:
        return agrees(RowRead("view", frozenset(), ("a",), event_us, values), changelog)

    assert read(10, 1.0, 0.5)
    assert read(15, 1.0, 0.5), "a row equal to the one before may be left out"
    assert read(20, 2.0, None)
    assert not read(20, 1.0, 0.5), "older values at a newer instant"
    assert not read(20, 2.0, 0.5)
    assert not read(10, 1.0), "other columns"
    assert not read(9, 1.0, 0.5), "before the first row"


def test_values_are_compared_at_every_instant_of_either_table() -> None:
    before, after = [(10, (1, 0.5)), (30, (2, 0.5))], [(10, (0.5,)), (20, (0.25,))]
    assert list(_values(before, after, 1, 0)) == [(0.5, 0.5), (0.5, 0.25), (0.5, 0.25)]
    assert list(_values(before, after, None, 0)) == [(None, 0.5), (None, 0.25), (None, 0.25)]


def test_what_runs_beside_ends_with_the_block_which_raises_its_failure() -> None:
    seen = list[bool]()

    def work(stop: Event) -> None:
        assert stop.wait(60)
        seen.append(True)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"), beside(work):
        assert seen == []
    assert seen == [True]
