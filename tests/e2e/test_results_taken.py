"""Which results and prices the log takes, on the command line: made-up files, and the shared cases where they are."""

import re
from csv import DictReader
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import velo
from tests.support.feeds import Listed, drained, encoded, sent_result
from tests.support.logs import fixed, held
from tests.support.shared import REPO, shared_file
from velo.racing.cards import decision_time, declared_at
from velo.racing.clock import MICROSECOND
from velo.racing.messages import UNREAD, Market, Message, instant_of
from velo.settings import Settings
from velo.storage.log import reader
from velo.storage.store import Store

BSP_HEADER = "event_id,menu_hint,event_name,event_dt,selection_id,selection_name,win_lose,bsp"


def case(name: str, file: str) -> Path:
    """A file of a shared case, or the test is skipped."""
    return shared_file(f"cases/{name}/{file}")


def ingested(home: Path, kind: str, *files: Path, **environ: str) -> Any:
    """What `velo ingest` reports of some files."""
    return velo("ingest", kind, *files, "--json", home=home, **environ).document


def store_at(home: Path) -> Store:
    return Store.open(Settings(home=home))


def messages_of(home: Path, race_id: str) -> list[Message]:
    return [message for message in held(store_at(home)) if message.race_id == race_id]


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# Betfair's file of a day


def a_day(folder: Path) -> Path:
    """Three races of one day at Thirsk, British summer time, known a quarter of an hour after their offs."""
    rows = [
        f"T{hour},2025-06-03,2025-06-03T{hour - 1}:10:00Z,Thirsk,{horse} {hour},FINISHED,{place}"
        for hour in (14, 15, 16)
        for place, horse in enumerate(("Early", "Late"), 1)
    ]
    return written(folder / "day.csv", "race_id,race_date,off_time,course,horse,status,position", *rows)


def prices(folder: Path, name: str, *rows: tuple[str, str, str]) -> Path:
    """Rows of (local time, horse, price) at Thirsk."""
    lines = [f"9,GB / Thirsk 3rd Jun,5f Hcap,03-06-2025 {at},7,{horse},0,{price}" for at, horse, price in rows]
    return written(folder / name, BSP_HEADER, *lines)


A_DAY = [
    (f"{hour}:10", f"{horse} {hour}", price)
    for hour in (14, 15, 16)
    for horse, price in (("Early", "2.5"), ("Late", "3.1"))
]


def test_starting_prices_of_a_day_that_is_known_go_in_without_late(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ingested(home, "runners", a_day(tmp_path))
    report = ingested(home, "betfair-sp", prices(tmp_path, "bsp.csv", *A_DAY))
    assert (report["races"], report["prices"], report["appended"], report["unmatched"]) == (3, 6, 3, [])
    assert ingested(home, "betfair-sp", tmp_path / "bsp.csv")["identical"] == 3
    markets = [message for message in held(store_at(home)) if isinstance(message, Market)]
    assert {market.race_id: dict(market.prices) for market in markets} == {
        f"T{hour}": {f"early {hour}": 2.5, f"late {hour}": 3.1} for hour in (14, 15, 16)
    }


def test_a_starting_price_that_comes_late_is_the_next_instant_of_the_log_and_no_earlier_one_shows_it(
    tmp_path: Path,
) -> None:
    """So the log goes on where it was: the next day's results are not older than its end."""
    home = tmp_path / "home"
    ingested(home, "runners", a_day(tmp_path))
    end = reader.end(store_at(home).home).known_at
    assert end == datetime(2025, 6, 3, 15, 25, tzinfo=UTC)
    ingested(home, "betfair-sp", prices(tmp_path, "bsp.csv", *A_DAY))
    markets = [message for message in held(store_at(home)) if isinstance(message, Market)]
    assert [instant_of(market) - end for market in markets] == [MICROSECOND, 2 * MICROSECOND, 3 * MICROSECOND]
    messages = messages_of(home, "T14")
    before, after = declared_at(messages, end), declared_at(messages, datetime(2025, 6, 4, tzinfo=UTC))
    assert before is not None
    assert before.odds is None
    assert after is not None
    assert after.odds is not None
    assert after.odds.source == "betfair-sp"


def test_a_starting_price_is_not_in_what_was_known_at_decision_time(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ingested(home, "runners", a_day(tmp_path))
    ingested(home, "betfair-sp", prices(tmp_path, "bsp.csv", *A_DAY))
    messages = messages_of(home, "T16")
    for lead in (timedelta(minutes=5), timedelta(0)):
        at = decision_time(messages, lead)
        assert at == datetime(2025, 6, 3, 15, 10, tzinfo=UTC) - lead
        race = declared_at(messages, at)
        assert race is not None
        assert race.odds is None


def test_every_row_of_two_files_put_together_is_a_price_a_repeat_or_unmatched(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ingested(home, "runners", a_day(tmp_path))
    rows = [*A_DAY, *A_DAY[:2], ("14:10", "Nobody", "4"), ("15:10", "Early 15", "")]
    report = ingested(home, "betfair-sp", prices(tmp_path, "two.csv", *rows))
    assert (report["rows"], report["prices"], report["repeated"], len(report["unmatched"])) == (10, 6, 2, 2)
    assert report["rows"] == report["prices"] + report["repeated"] + len(report["unmatched"])
    said = velo("ingest", "betfair-sp", tmp_path / "two.csv", home=home).out
    assert "repeated rows" in said


def test_case_10_a_day_of_betfair_prices_is_taken(tmp_path: Path) -> None:
    home, name = tmp_path / "home", "10-betfair-sp-always-late"
    ingested(home, "raceform", case(name, "results.csv"))
    report = ingested(home, "betfair-sp", case(name, "bsp.csv"))
    assert (report["races"], report["prices"], report["appended"], report["unmatched"]) == (3, 6, 3, [])


def test_case_12_a_repeated_row_is_counted(tmp_path: Path) -> None:
    home, name = tmp_path / "home", "12-bsp-row-not-told"
    ingested(home, "raceform", case(name, "results.csv"))
    report = ingested(home, "betfair-sp", case(name, "bsp.csv"))
    assert (report["rows"], report["prices"], report["repeated"], report["unmatched"]) == (2, 1, 1, [])


# Instants that cannot be


def test_a_result_known_before_its_off_is_refused_and_no_feature_has_it(tmp_path: Path) -> None:
    """An export that dates each result by its day: the race is a dead letter, the others of the file go in."""
    home = tmp_path / "home"
    day, later = "2025-06-03T00:00:00Z", "2025-06-03T15:00:00Z"
    rows = [
        f"{race},2025-06-03,2025-06-03T13:{minute}:00Z,Thirsk,{race} {horse},T,FINISHED,{place},{known_at}"
        for race, minute, known_at in (("A", 10, day), ("B", 45, later))
        for place, horse in enumerate(("one", "two"), 1)
    ]
    table = written(
        tmp_path / "r.csv", "race_id,race_date,off_time,course,horse,trainer,status,position,known_at", *rows
    )
    report = ingested(home, "runners", table)
    assert (report["appended"], report["refused"]) == (1, {"known_at before off_time": 1})
    asked = written(
        tmp_path / "e.csv", "horse_id,event_timestamp", "a one,2025-06-03T13:05:00Z", "b one,2025-06-03T15:00:00Z"
    )
    assert starts_known(home, asked, tmp_path) == [None, 1]


def starts_known(home: Path, entities: Path, folder: Path) -> list[int | None]:
    """`horse_form__starts` of some horses at some instants, through `velo build` and `velo features`."""
    out = folder / "out.csv"
    for command in (("build",), ("features", "--entities", entities, "--out", out)):
        assert velo(*command, home=home).code == 0
    with out.open(newline="") as file:
        return [
            int(float(row["horse_form__starts"])) if row["horse_form__starts"] else None for row in DictReader(file)
        ]


@pytest.mark.parametrize("command", [("ingest", "runners"), ("cards", "runners")])
def test_rows_that_name_two_days_or_courses_are_no_race_and_no_card(tmp_path: Path, command: tuple[str, str]) -> None:
    """The number at the meeting taken for an id; the day's other race is taken."""
    rows = [
        "1,2025-06-03,Thirsk,One,FINISHED,1",
        "1,2025-06-04,Ripon,Two,FINISHED,1",
        "2,2025-06-03,Thirsk,Three,FINISHED,1",
    ]
    table = written(tmp_path / "r.csv", "race_id,race_date,course,horse,status,position", *rows)
    report = velo(*command, table, "--json", home=tmp_path / "home").document
    assert (report["appended"], report["refused"]) == (1, {"more than one race_date": 1})
    (letter,) = velo("dead-letters", "--json", home=tmp_path / "home").document
    assert letter["detail"] == "its rows name 2025-06-03 and 2025-06-04: give each race a race_id of its own"
    assert len(letter["rows"]) == 2


def test_raceform_separates_two_days_under_one_id(tmp_path: Path) -> None:
    rows = [
        f"{day},{course},{off},{horse},1,9"
        for day, course, off, horse in (("2025-06-03", "Thirsk", "2:10", "One"), ("2025-06-04", "Ripon", "2:10", "Two"))
    ]
    table = written(tmp_path / "r.csv", "date,course,off,horse,pos,race_id", *rows)
    report = ingested(tmp_path / "home", "raceform", table)
    assert (report["appended"], report["refused"]) == (2, {})


def test_an_id_that_comes_again_the_next_day_is_refused_with_a_remedy_for_either_cause(tmp_path: Path) -> None:
    """As version 2 it would take yesterday's race out of every feature, so a race_id of its own is named first."""
    home = tmp_path / "home"
    header = "race_id,race_date,course,horse,status,position"
    ingested(home, "runners", written(tmp_path / "1.csv", header, "1,2025-06-03,Thirsk,One,FINISHED,1"))
    again = written(tmp_path / "2.csv", header, "1,2025-06-04,Ripon,One,FINISHED,1")
    assert ingested(home, "runners", again)["refused"] == {"raise result_version": 1}
    (letter,) = velo("dead-letters", "--json", home=home).document
    assert letter["detail"].endswith(
        "(race_date, off_time, course): if it is another race, give it a race_id of its own; else give the amended result "
        "result_version 2"
    )


def test_a_rebuilt_log_refuses_what_a_load_refuses(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ingested(home, "runners", a_day(tmp_path))
    rows = ["X,2025-06-03,2025-06-03T13:10:00Z,Thirsk,One,FINISHED,1,2025-06-03T00:00:00Z"]
    table = written(tmp_path / "x.csv", "race_id,race_date,off_time,course,horse,status,position,known_at", *rows)
    report = velo("log", "rebuild", table, "--json", home=home).document
    assert (report["from_files"], report["from_log"], report["refused"]) == (0, 3, {"known_at before off_time": 1})


def test_case_06_a_result_known_before_its_off_is_refused(tmp_path: Path) -> None:
    home, name = tmp_path / "home", "06-known-before-off"
    report = ingested(home, "runners", case(name, "results.csv"))
    assert (report["appended"], report["refused"]) == (0, {"known_at before off_time": 1})


def test_case_07_one_id_for_two_days_is_refused(tmp_path: Path) -> None:
    report = ingested(tmp_path / "home", "runners", case("07-one-id-two-days", "results.csv"))
    assert (report["appended"], report["refused"]) == (0, {"more than one race_date": 1})


# Starts without a place


RAN_HEADER = "race_id,race_date,off_time,course,horse,trainer,status,position,sp_decimal"


def test_a_race_of_which_only_the_winner_is_known_is_whole(tmp_path: Path) -> None:
    """W1 is sent by an exchange, W2 by a result page that stops at the winner: 5 starts, 2 wins, one place known."""
    home = tmp_path / "home"
    rows = [
        "W1,2025-06-03,2025-06-03T13:10:00Z,Thirsk,One,T,RAN,1,3",
        "W1,2025-06-03,2025-06-03T13:10:00Z,Thirsk,Two,T,RAN,,3",
        "W1,2025-06-03,2025-06-03T13:10:00Z,Thirsk,Three,T,RAN,4,3",
        "W2,2025-06-03,2025-06-03T14:10:00Z,Thirsk,Four,T,FINISHED,1,2",
        "W2,2025-06-03,2025-06-03T14:10:00Z,Thirsk,Five,T,RAN,,2",
    ]
    report = ingested(home, "runners", written(tmp_path / "w.csv", RAN_HEADER, *rows))
    assert (report["appended"], report["refused"]) == (2, {})
    assert report["warnings"] == {"RAN with a position but 1, unused": 1}
    assert velo("build", home=home).code == 0
    names = "runs_14d, wins_14d, places_14d, sr_14d, place_rate_14d, prb_14d"
    found = velo("sql", f"select {names} from trainer_velocity order by event_timestamp", "--json", home=home).document
    assert [list(row.values()) for row in found] == [[3, 1, 0, 1 / 3, None, None], [5, 2, 1, 0.4, 1.0, 1.0]]
    said = velo("explain", "W1", "One", "--as-of", "2025-06-03T15:00:00Z", home=home).out
    assert "W1 one: won of 3" in said


def test_training_knows_who_won_a_race_without_placings(tmp_path: Path) -> None:
    from velo.training.dataset.entity_rows import outcomes

    home = tmp_path / "home"
    rows = [
        f"W1,2025-06-03,2025-06-03T13:10:00Z,Thirsk,{horse},T,{status},{position},4"
        for horse, status, position in (("One", "RAN", 1), ("Two", "RAN", ""), ("Three", "RAN", 2), ("Four", "PU", 1))
    ]
    ingested(home, "runners", written(tmp_path / "w.csv", RAN_HEADER, *rows))
    assert velo("build", home=home).code == 0
    became = {outcome["horse_id"]: outcome for outcome in outcomes(store_at(home).home).to_pylist()}
    assert {horse: each["win_share"] for horse, each in became.items()} == {"one": 1, "two": 0, "three": 0, "four": 0}
    assert {each["position"] for each in became.values()} == {None}


def test_case_15_the_remedy_names_the_status_that_takes_the_race(tmp_path: Path) -> None:
    home, table = tmp_path / "home", case("15-winner-only", "results.csv")
    assert ingested(home, "runners", table)["refused"] == {"FINISHED without a position": 1}
    (letter,) = velo("dead-letters", "--json", home=home).document
    assert "RAN where its place is unknown" in letter["detail"]
    printed = table.read_text().replace("FINISHED,,", "RAN,,")
    mended = written(tmp_path / "mended.csv", *printed.splitlines())
    assert ingested(home, "runners", mended)["appended"] == 1
    assert velo("build", home=home).code == 0
    (row,) = velo(
        "sql", "select runs_14d, wins_14d, place_rate_14d from trainer_velocity", "--json", home=home
    ).document
    assert list(row.values()) == [3, 1, 1.0]


# A result sent again


SCRAPE_HEADER = (
    "date,region,course,race_id,off,race_name,type,class,going,dist_m,ran,num,pos,draw,ovr_btn,horse,age,sex,lbs,dec,"
    "jockey,trainer,or,rpr,ts,prize,comment"
)


def a_scrape(path: Path, *others: str, rating: str = "", race_type: str = "", turned: bool = False) -> Path:
    """Two runners of Ripon's 2:10, with what the page says of each beside its result."""
    rows = [
        f"2025-06-04,GB,Ripon,8001,14:10,A Stakes,{race_type},4,Good,1200,2,{place},{place},{place},{place - 1},{horse},4,G,"
        f"126,3.0,A Rider,A Trainer,{rating},{','.join(others) or ',,,'}"
        for place, horse in enumerate(("First (GB)", "Second (IRE)"), 1)
    ]
    return written(path, SCRAPE_HEADER, *(reversed(rows) if turned else rows))


def test_a_scrape_repeated_with_columns_that_nothing_reads_is_the_same_result(tmp_path: Path) -> None:
    """Ratings after the race, prizes, comments, and the rows in another order."""
    home = tmp_path / "home"
    ingested(home, "raceform", a_scrape(tmp_path / "1.csv"))
    filled = a_scrape(tmp_path / "2.csv", "88", "71", "5000", "led all the way", race_type="Flat", turned=True)
    report = ingested(home, "raceform", filled)
    assert (report["appended"], report["identical"], report["refused"]) == (0, 1, {})
    assert ingested(home, "raceform", filled, tmp_path / "1.csv")["identical"] == 2
    assert not any("led all the way" in path.read_text() for path in (home / "log").glob("*.ndjson"))


def test_a_scrape_repeated_with_another_official_rating_is_another_result_and_says_so(tmp_path: Path) -> None:
    """A horse's form has its last rating: version 1 with another one is refused, version 2 taken."""
    home = tmp_path / "home"
    ingested(home, "raceform", a_scrape(tmp_path / "1.csv"))
    report = ingested(home, "raceform", a_scrape(tmp_path / "2.csv", rating="70"))
    assert (report["appended"], report["refused"]) == (0, {"raise result_version": 1})
    (letter,) = velo("dead-letters", "--json", home=home).document
    assert (
        "other content in result_version 1 (official_rating): give the amended result result_version 2"
        in letter["detail"]
    )


def test_a_live_result_sent_again_with_other_unread_fields_is_identical(store: Store) -> None:
    message = sent_result()
    found = drained(
        store, Listed(encoded(message, message | {"dividends": {"win": 3.2}, "race_type": "Flat"})), fixed()
    )
    assert (found.appended, found.identical, found.refused) == (1, 1, {})


def test_no_formula_or_page_reads_a_column_that_does_not_count() -> None:
    """Else a result sent again with another value of it would change an answer and not the log."""
    read = [*(REPO / "feature_repo/catalogue").glob("*.py"), *(REPO / "serving").rglob("*.[pj][ys]")]
    read += [
        REPO / "streams/batch/sql/starts.sql",
        *(REPO / "training").rglob("*.py"),
        *(REPO / "training/dataset/sql").iterdir(),
    ]
    read += [path for path in (REPO / "velo/racing").glob("*.py") if path.name != "messages.py"]
    found = {name for path in read for name in UNREAD if re.search(rf"\b{name}\b", path.read_text())}
    assert found == set()


def test_case_09_a_repeated_scrape_is_identical(tmp_path: Path) -> None:
    home, name = tmp_path / "home", "09-rescrape-same-version"
    assert ingested(home, "raceform", case(name, "monday.csv"))["appended"] == 1
    report = ingested(home, "raceform", case(name, "tuesday.csv"))
    assert (report["appended"], report["identical"], report["refused"]) == (0, 1, {})
