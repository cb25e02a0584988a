"""rpscrape's racecards whose runners have no region: which horse of the log each is."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.raceform_rows import ROW, SECOND, written
from tests.support.rpscrape_files import OTHER, RUNNER, a_race, a_store, only, read
from velo.storage.store import Store
from velo.streams.importers.declare import declare
from velo.streams.importers.ingest import ingest
from velo.streams.importers.sources.raceform import read_raceform

ARRIVED = datetime(2026, 1, 17, 9, 0, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path)


PLACELESS = [each | {"region": None} for each in (RUNNER, OTHER)]
NOTED = "runner without region, "


def horses_met(store: Store, folder: Path, *runners: dict[str, Any]) -> tuple[list[str], dict[str, int]]:
    parsed = read(store, folder, a_race(*runners, race_id=733001))
    return [runner.horse_id for runner in only(parsed).runners], dict(parsed.warnings)


@pytest.mark.parametrize("with_ids", [True, False])
def test_runners_without_region_meet_the_horses_of_the_log_by_id_else_by_the_only_name(
    with_ids: bool, store: Store, tmp_path: Path
) -> None:
    rows = [row if with_ids else row | {"horse_id": ""} for row in (ROW, ROW | SECOND)]
    ingest(store, read_raceform([written(tmp_path / "results.csv", *rows)], store), clock=lambda: ARRIVED)
    how = "by its id" if with_ids else "by the only such name"
    assert horses_met(store, tmp_path, *PLACELESS) == (
        ["plain sailing (ire)", "second thoughts (gb)"],
        {NOTED + f"found in the log {how}": 2, "race without regions of its runners": 1},
    )


def test_of_several_horses_of_a_name_the_id_says_which_and_without_it_none_is_chosen(
    store: Store, tmp_path: Path
) -> None:
    namesake = {"horse": "Plain Sailing (AUS)", "horse_id": "1009"}
    rows = written(tmp_path / "results.csv", ROW, ROW | SECOND | namesake)
    ingest(store, read_raceform([rows], store), clock=lambda: ARRIVED)
    by_id = horses_met(store, tmp_path, PLACELESS[0] | {"horse_id": 1009}, OTHER)
    assert by_id == (["plain sailing (aus)", "second thoughts (gb)"], {NOTED + "found in the log by its id": 1})
    for unknown in (None, 777):
        assert horses_met(store, tmp_path, PLACELESS[0] | {"horse_id": unknown}, OTHER) == (
            ["plain sailing", "second thoughts (gb)"],
            {NOTED + "not found: the log has several of that name": 1},
        )


def test_a_runner_without_region_that_the_log_has_not_is_british_by_the_rule_and_counted(
    store: Store, tmp_path: Path
) -> None:
    assert horses_met(store, tmp_path, *PLACELESS) == (
        ["plain sailing (gb)", "second thoughts (gb)"],
        {
            NOTED + "not found: the log has none of that name, taken as GB": 2,
            "race without regions of its runners": 1,
        },
    )


def test_a_country_in_the_name_is_read_and_the_log_is_not_asked(store: Store, tmp_path: Path) -> None:
    named = [each | {"name": f"{each['name']} (FR)"} for each in PLACELESS]
    assert horses_met(store, tmp_path, *named) == (["plain sailing (fr)", "second thoughts (fr)"], {})


def test_an_earlier_card_says_the_horse_too_and_a_result_knows_it_better(store: Store, tmp_path: Path) -> None:
    cells = [RUNNER | {"horse_id": None}, OTHER | {"region": "FR", "horse_id": None}]
    declare(store, read(store, tmp_path, a_race(*cells)), clock=lambda: ARRIVED)
    assert horses_met(store, tmp_path, *PLACELESS)[0] == ["plain sailing (ire)", "second thoughts (fr)"]
    rows = written(tmp_path / "results.csv", ROW, ROW | SECOND)
    ingest(store, read_raceform([rows], store), late=True, clock=lambda: ARRIVED)
    assert horses_met(store, tmp_path, *PLACELESS)[0] == ["plain sailing (ire)", "second thoughts (gb)"]
