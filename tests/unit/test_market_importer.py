"""Market snapshots from a file: each race, instant and source is one message, every row is accounted for, and history takes its place."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from velo.errors import UserError
from velo.racing.messages import Market, Race, Result, Runner
from velo.settings import Settings
from velo.storage.log.reader import messages
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.importers import registry
from velo.streams.importers.dead_letters import read
from velo.streams.importers.importer import ResultsImporter
from velo.streams.importers.ingest import rebuild_from
from velo.streams.importers.sources.market import NO_ODDS

NOW = datetime(2025, 1, 1, tzinfo=UTC)
OFF = datetime(2024, 5, 1, 13, 0, tzinfo=UTC)
HEADER = "race_id,known_at,source,horse_id,odds,volume\n"
DAY = (
    HEADER
    + """R1,2024-05-01T12:30:00Z,tote,a,3.5,100
R1,2024-05-01T12:30:00Z,tote,b,2.0,300.5
R1,2024-05-01T12:30:00Z,exchange,a,3.6,
R1,2024-05-01T12:50:00Z,tote,a,4,150
R1,2024-05-01T12:50:00Z,tote,b,1,400
"""
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Settings(home=tmp_path / "home"))


def importer() -> ResultsImporter:
    found = registry.importer("market")
    assert isinstance(found, ResultsImporter)
    return found


def load(store: Store, tmp_path: Path, text: str, late: bool = False) -> dict[str, object]:
    path = tmp_path / "odds.csv"
    path.write_text(text)
    report = importer().load(store, [path], late=late, clock=lambda: NOW, progress=lambda done, total: None)
    return dict(report.facts())


def markets(store: Store) -> list[Market]:
    return [message for _, message in messages(store.home) if isinstance(message, Market)]


def test_the_rows_of_a_race_an_instant_and_a_source_are_one_snapshot(store: Store, tmp_path: Path) -> None:
    facts = load(store, tmp_path, DAY)
    assert (facts["rows"], facts["appended"], facts["refused"]) == (5, 3, 0)
    tote, exchange, later = sorted(markets(store), key=lambda market: (str(market.known_at), -len(market.prices)))
    assert (tote.prices, tote.volumes, tote.source) == ({"a": 3.5, "b": 2.0}, {"a": 100.0, "b": 300.5}, "tote")
    assert (exchange.prices, exchange.volumes, exchange.source) == ({"a": 3.6}, None, "exchange")
    assert (later.prices, later.known_at) == ({"a": 4.0}, OFF - timedelta(minutes=10)), "odds of 1 are no odds"
    assert later.volumes == {"a": 150.0, "b": 400.0}


def test_a_load_that_is_repeated_appends_nothing(store: Store, tmp_path: Path) -> None:
    load(store, tmp_path, DAY)
    again = load(store, tmp_path, DAY)
    assert (again["appended"], again["duplicates"]) == (0, 3)


def test_a_snapshot_that_breaks_a_rule_is_kept_with_its_reason_and_the_others_are_loaded(
    store: Store, tmp_path: Path
) -> None:
    text = HEADER + (
        "R1,2024-05-01T12:30:00Z,tote,a,abc,\n"
        "R1,2024-05-01T12:31:00Z,tote,a,2,\nR1,2024-05-01T12:31:00Z,tote,a,3,\n"
        "R1,,tote,a,2,\n"
        "R1,2024-05-01T12:32:00Z,tote,,2,\n"
        "R1,2024-05-01T12:33:00Z,tote,a,1,\n"
        "R1,2024-05-01T12:34:00Z,tote,a,2,\n"
    )
    facts = load(store, tmp_path, text)
    assert (facts["rows"], facts["appended"], facts["refused"]) == (7, 1, 5)
    assert sorted(letter.reason for letter in read(store.home)) == [
        "bad value", "horse twice", "no known_at", "no prices", "runner without a horse",
    ]  # fmt: skip


def test_a_file_without_a_column_that_is_needed_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no column odds"):
        load(store, tmp_path, "race_id,known_at,horse_id\nR1,2024-05-01T12:30:00Z,a\n")
    with pytest.raises(UserError, match="has no column horse_id and none horse"):
        load(store, tmp_path, "race_id,known_at,odds\nR1,2024-05-01T12:30:00Z,2\n")


def test_history_takes_its_place_among_the_results_of_the_log_once(store: Store, tmp_path: Path) -> None:
    """Loaded after the result it would be known only now; a rebuilt log has it before the off, also when rebuilt again."""
    runners = tuple(Runner(horse, status="FINISHED", position=place) for place, horse in enumerate("ab", 1))
    result = Result(Race("R1", date(2024, 5, 1), OFF, "Ayr"), runners, 1, OFF + timedelta(minutes=15))
    with LogWriter.open(store.with_keys("id"), clock=lambda: NOW) as writer:
        writer.load([result])
    with pytest.raises(UserError, match="older than the log's end"):
        load(store, tmp_path, DAY)
    path = tmp_path / "odds.csv"
    for _ in range(2):
        rebuild_from(store, [importer().read([path], store)], clock=lambda: NOW)
        assert [type(message) for _, message in messages(store.home)] == [Market, Market, Market, Result]
        assert {market.known_at for market in markets(store) if market.source == "exchange"} <= {
            OFF - timedelta(minutes=30, microseconds=-extra) for extra in range(2)
        }
    assert len(markets(store)) == 3
    assert NO_ODDS in importer().read([path], store).warnings
