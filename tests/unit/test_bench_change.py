"""The parts of `velo bench change` that decide what is wrong."""

import re
from typing import Any

import pytest

from benchmarks import CHECKOUT
from benchmarks.change import EDITS, Edit, RowRead, _agrees
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
        return _agrees(RowRead("view", frozenset(), ("a",), event_us, values), changelog)

    assert read(10, 1.0, 0.5)
    assert read(15, 1.0, 0.5), "a row equal to the one before may be left out"
    assert read(20, 2.0, None)
    assert not read(20, 1.0, 0.5), "older values at a newer instant"
    assert not read(20, 2.0, 0.5)
    assert not read(10, 1.0), "other columns"
    assert not read(9, 1.0, 0.5), "before the first row"
