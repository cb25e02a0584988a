"""A user's mistake is reported in one line that names the value and the remedy, and exits 2; nothing is half done."""

import resource
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.builders import a_race, a_runner, write_csv, write_runner_table
from tests.support.cli import velo, velo_forked
from tests.support.logs import a_store, fixed
from velo.errors import UserError
from velo.settings import Settings
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home, Store
from velo.storage.table_versions import sole_publisher

GOOD = a_race()
HEADER = "race_id,race_date,course,horse,status,position"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built store with one race, keyed by id."""
    folder = tmp_path_factory.mktemp("mistakes")
    table = write_runner_table(folder / "a.parquet", GOOD)
    for command in (("ingest", "runners", table), ("build",)):
        assert velo(*command, home=folder / "home").code == 0
    return folder / "home"


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("is empty", "export it again")),
        (HEADER + "\n", ("has no rows", "export it again")),
        ("race_id,race_date,course,horse\nR1,2024-05-01,Ascot,Arkle\n", ("no column status", "add it")),
        ("race_id,race_date,course,hors,status\nR1,2024-05-01,Ascot,A,NR\n", ("no column horse", "rename column hors")),
        (f"{HEADER}\nR1,soon,Ascot,Arkle,FINISHED,1\n", ("race_date has 'soon'", "a date such as", "correct")),
        (f"{HEADER}\nR1,2024-05-01,Ascot,Arkle,FINISHED,first\n", ("position has 'first'", "a whole number")),
        (b"\x7fELF\x02\x01\x01\0\0\0\0", ("another binary file", "export it")),
        (b"PAR1 and no more of it", ("cannot be read", "export it again")),
        ("h\xf6rse".encode("latin-1"), ("is not UTF-8 text", "save it as CSV in UTF-8")),
    ],
)
def test_a_file_that_is_no_runner_table_is_named_with_what_is_wrong(
    tmp_path: Path, content: bytes | str, words: tuple[str, ...]
) -> None:
    path = written(tmp_path / "bad.csv", content)
    velo("ingest", "runners", path, home=tmp_path / "home").told(str(path), *words)
    assert not (tmp_path / "home" / "log").exists()


@pytest.mark.parametrize(
    ("command", "content", "words"),
    [
        (("ingest", "raceform"), "", ("is empty", "fetch it again")),
        (
            ("ingest", "raceform"),
            "date,course\n2024-05-01,Ascot\n",
            ("no column", "export it with the missing columns"),
        ),
        (("ingest", "raceform"), b"\0\1\2", ("is a binary file", "give the CSV in UTF-8")),
        (("ingest", "betfair-sp"), "EVENT_ID,BSP\n1,2.0\n", ("no column", "a Betfair SP file", "missing columns")),
        (("ingest", "betfair-sp"), b"\0", ("is a binary file", "give the CSV in UTF-8")),
    ],
)
def test_a_file_of_another_source_is_named_with_what_is_wrong(
    tmp_path: Path, command: tuple[str, ...], content: bytes | str, words: tuple[str, ...]
) -> None:
    path = written(tmp_path / "bad.csv", content)
    velo(*command, path, home=tmp_path / "home").told(str(path), *words)


@pytest.mark.parametrize("command", [("ingest", "runners"), ("ingest", "raceform"), ("cards", "runners")])
def test_a_file_that_is_not_there_and_a_folder_are_reported(tmp_path: Path, command: tuple[str, ...]) -> None:
    velo(*command, tmp_path / "none.csv", home=tmp_path).told("none.csv", "No such file", ": ")
    velo(*command, tmp_path, home=tmp_path).told(str(tmp_path), "s a directory")


@pytest.mark.parametrize(
    ("rows", "reason", "detail"),
    [
        (a_race(a_runner("Arkle", 1), a_runner("ARKLE ", 2)), "horse appears twice", "'arkle'"),
        (a_race(a_runner("Arkle", 1), a_runner("Mill House", status="XX")), "unknown status XX", "use one of"),
        (a_race(race_date="2024-05-02", known_at="2024-05-01 10:00"), "race_date later than known_at", "2024-05-02"),
        (a_race(a_runner("Arkle", 2)), "no winner", "correct the positions"),
    ],
)
def test_a_race_that_breaks_a_rule_is_kept_with_its_reason_and_the_rest_goes_on(
    tmp_path: Path, rows: list[dict[str, object]], reason: str, detail: str
) -> None:
    """No mistake of the command: it exits 0, counts the refusal and says where to look."""
    table = write_csv(tmp_path / "a.csv", [*a_race(race_id="R0"), *rows])
    loaded = velo("ingest", "runners", table, home=tmp_path / "home")
    assert (loaded.code, loaded.err) == (0, "")
    assert f"refused 1 × {reason}" in loaded.out
    (letter,) = velo("dead-letters", "--json", home=tmp_path / "home").document
    assert (letter["race_id"], letter["reason"], len(letter["rows"])) == ("R1", reason, len(rows))
    assert detail in letter["detail"]
    assert velo("status", "--json", home=tmp_path / "home").document["messages"] == 1


def test_a_file_older_than_the_logs_end_asks_for_late(home: Path, tmp_path: Path) -> None:
    table = write_runner_table(tmp_path / "a.parquet", a_race(race_id="R0", race_date="2020-05-01"))
    velo("ingest", "runners", table, home=home).told("race R0", "2020-05-01", "add --late", "velo log rebuild")


def test_what_is_no_export_of_dead_letters_is_reported(home: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", f"{HEADER}\nR1,2024-05-01,Ascot,Arkle,FINISHED,1\n")
    velo("dead-letters", "replay", "--file", path, home=home).told(str(path), "not an open dead letter", "as it was")
    velo("dead-letters", "replay", "--file", tmp_path / "none", home=home).told("none", "cannot be read", "name an")


# Places


@pytest.mark.parametrize(
    "command", [("init",), ("ingest", "runners"), ("build",), ("status",), ("tick",), ("dead-letters",), ("down",)]
)
def test_a_home_that_cannot_be_is_reported(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Below a file, where not even root can make a folder."""
    table = write_runner_table(tmp_path / "a.parquet", GOOD)
    argv = (*command, table) if "ingest" in command else command
    velo(*argv, home=table / "home").told(str(table / "home"), "set VELO_HOME")


def test_an_answer_that_cannot_be_written_is_reported(home: Path, tmp_path: Path) -> None:
    below = written(tmp_path / "file", "") / "out.csv"
    velo("simulate", below, "--days", 3, home=home).told(str(below.parent), "name a file in a folder you may write to")
    velo("dead-letters", "export", below, home=home).told(str(below), "name a file in a folder you may write to")


def capped(size: int) -> Callable[[], None]:
    """No file may grow beyond a size: a full disk, as far as a process can see."""
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_is_reported_and_what_was_there_stands(tmp_path: Path) -> None:
    """The load and the build are repeated with room, and all is well."""
    races = [row for number in range(100) for row in a_race(race_id=f"R{number}", race_no=number + 1)]
    table, home = write_runner_table(tmp_path / "a.parquet", races), tmp_path / "home"
    full = velo_forked("ingest", "runners", table, home=home, prepared=capped(20_000))
    full.told("cannot write to the log", "make room", "repeat")
    assert velo("log", "check", home=home).code == 0
    assert velo("ingest", "runners", table, "--json", home=home).document["next_seq"] == 100
    full = velo_forked("build", home=home, prepared=capped(5_000))
    full.told("make room", "repeat")
    assert not (home / "offline").exists()
    assert velo("build", "--json", home=home).document["messages"] == 100
    full = velo_forked("build", "--whole", home=home, prepared=capped(5_000))
    full.told("the build could not read or write", "make room")
    assert velo("sql", "select count(*) as n from horse_form", "--json", home=home).document != []


def test_measured_starts_that_are_damaged_are_made_again_by_a_whole_build(tmp_path: Path) -> None:
    table, home = write_runner_table(tmp_path / "a.parquet", GOOD), tmp_path / "home"
    for command in (("ingest", "runners", table), ("build",)):
        velo(*command, home=home)
    (part,) = Home(home).batch.glob("starts-*.parquet")
    part.write_bytes(b"")
    assert velo("build", "--whole", home=home).code == 0


# Settings


def test_a_setting_that_is_none_is_reported(tmp_path: Path) -> None:
    velo("status", home=tmp_path, VELO_TIMEZONE="Mars/Olympus").told("'Mars/Olympus'", "such as 'Europe/London'")
    velo("status", home=tmp_path, VELO_KEYS="both").told("VELO_KEYS is 'both'", "'name' or by 'id'", "unset it")


def test_a_setting_other_than_the_stores_is_reported(home: Path) -> None:
    done = velo("build", home=home, VELO_TIMEZONE="Asia/Hong_Kong")
    done.told("'Asia/Hong_Kong'", "'Europe/London'", "unset it, or use another VELO_HOME")
    velo("status", home=home, VELO_KEYS="name").told("'name'", "'id'", "unset it, or use another VELO_HOME")


# Redis


@pytest.mark.parametrize("url", ["http://x/", "redis://x:99999", "redis://x/0?socket_timeout=abc"])
@pytest.mark.parametrize(
    "command",
    [
        ("stream", "--once"), ("stream",), ("online", "rebuild"), ("audit",), ("serve",), ("cards", "list"),
        ("cards", "rebuild"), ("feed", "redis", "FILE"), ("ingest", "--follow", "--redis", "racing"),
    ],
)  # fmt: skip
def test_a_redis_url_that_names_no_redis_is_refused_and_not_waited_for(
    home: Path, tmp_path: Path, command: tuple[str, ...], url: str
) -> None:
    """No server that comes up later would answer there."""
    table = write_runner_table(tmp_path / "a.parquet", GOOD)
    argv = [str(table) if each == "FILE" else each for each in command]
    velo(*argv, home=home, REDIS_URL=url).told("REDIS_URL is ")


def test_redis_down_or_with_another_password_is_reported(home: Path) -> None:
    """By what every command that fills the online store calls; a password asked with is never shown."""
    from velo.feature_repo.feast_store import apply, materialize
    from velo.feature_repo.stores import embedded_redis

    apply(Store.open(Settings(home)))
    own = urlsplit(embedded_redis.ensure(Home(home)))
    try:
        for url, words in (
            ("redis://127.0.0.1:1/0", ("cannot use Redis at redis://127.0.0.1:1/0", "start it, correct REDIS_URL")),
            (f"unix://:sesame@{own.path}", ("refuses the password", own.path, "correct it in REDIS_URL")),
            ("http://127.0.0.1", ("REDIS_URL is 'http://127.0.0.1'", "must begin with one of redis://")),
        ):
            store = Store.open(replace(Settings(home), redis_url=url))
            with pytest.raises(UserError) as refused:
                materialize(store, datetime(2024, 5, 2, tzinfo=UTC))
            line = str(refused.value)
            assert all(word in line for word in words), line
            assert "\n" not in line
            assert "sesame" not in line
        materialize(Store.open(Settings(home)), datetime(2024, 5, 2, tzinfo=UTC))
    finally:
        assert velo("down", "--json", home=home).document == {"stopped": True}


# One at a time


def test_a_second_writer_learns_who_the_first_is(tmp_path: Path) -> None:
    store = a_store(tmp_path / "home")
    table = write_runner_table(tmp_path / "a.parquet", GOOD)
    with LogWriter.open(store, clock=fixed()):
        velo("ingest", "runners", table, home=store.home.root).told("being written by process", "wait until it ends")
    assert velo("ingest", "runners", table, home=store.home.root).code == 0
    with sole_publisher(store.home):
        velo("build", home=store.home.root).told("another build is writing", "wait for it to end")


# Order and arguments


def test_what_comes_before_is_named(tmp_path: Path) -> None:
    velo("build", home=tmp_path).told(str(tmp_path / "log"), "is empty", "velo ingest runners FILE")
    velo("sql", "select 1", home=tmp_path).told("there is no warehouse", "run `velo build` first")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", ("'' asks nothing", "write a SELECT")),
        ("selec 1", ('"selec"', "correct it", "show tables")),
        ("from nothing", ("Table with name nothing", "show tables")),
        ("drop view starts", ("does more than read", "write a SELECT")),
    ],
)
def test_a_query_that_cannot_be_answered_is_reported(home: Path, query: str, words: tuple[str, ...]) -> None:
    velo("sql", query, home=home).told(*words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("frobnicate",), ("No such command 'frobnicate'", "see `velo --help`")),
        (("build", "--frobnicate"), ("No such option: --frobnicate", "see `velo build --help`")),
        (("simulate",), ("FILE", "see `velo simulate --help`")),
        (("simulate", "a.csv", "--days", "many"), ("--days", "--days many", "integer", "see `velo simulate --help`")),
        (("simulate", "a.csv", "--days", "0"), ("days 0", "between 1 and")),
        (("log", "rebuild", "a.csv", "--source", "tips"), ("--source", "'tips'", "raceform")),
        (
            ("stream", "--once", "--processes", "2"),
            ("--processes 2 is not supported", "one process", "leave the option out"),
        ),
        (("stream", "--workers", "2"), ("--processes 2 is not supported", "leave the option out")),
        (("tick", "--at", "yesterday"), ("'yesterday' is not a timestamp", "write it like 2025-06-21T13:55:00Z")),
        (("tick", "--at", "2024-05-01T12:00:00"), ("is not a timestamp with a UTC offset", "write it like")),
        (("tick", "--at", "2999-01-01T00:00:00Z"), ("2999-01-01", "in the future")),
    ],
)
def test_an_argument_that_is_none_is_reported(home: Path, argv: tuple[str, ...], words: tuple[str, ...]) -> None:
    velo(*argv, home=home).told(*words)


def test_a_group_alone_shows_its_commands(home: Path) -> None:
    for group, command in (((), "ingest"), (("ingest",), "raceform"), (("log",), "rebuild")):
        shown = velo(*group, home=home)
        assert (shown.code, shown.err) == (2, "")
        assert command in shown.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("trainer_id\nt\n", ("no column event_timestamp", "add")),
        ("who,event_timestamp\nt,2024-05-01T00:00:00Z\n", ("no entity column", "name at least one of", "trainer_id")),
        ("trainer_id,event_timestamp\nt,soon\n", ("event_timestamp is not a timestamp", "ISO 8601")),
        ("", ("cannot be read", "give a Parquet or CSV file")),
    ],
)
def test_entities_that_cannot_be_asked_about_are_reported(
    home: Path, tmp_path: Path, content: str, words: tuple[str, ...]
) -> None:
    entities = written(tmp_path / "e.csv", content)
    velo("features", "--entities", entities, "--out", tmp_path / "o.csv", home=home).told(str(entities), *words)
    assert not (tmp_path / "o.csv").exists()


def test_features_of_a_store_that_was_never_built_are_reported(tmp_path: Path) -> None:
    entities = written(tmp_path / "e.csv", "trainer_id,event_timestamp\nt,2024-05-01T00:00:00Z\n")
    asked = ("features", "--entities", entities, "--out", tmp_path / "o.csv")
    velo(*asked, home=tmp_path / "home").told("velo build")


def test_a_score_without_a_model_and_a_bad_instant_are_reported(home: Path) -> None:
    velo("score", "R1", home=home).told("there is no model", "velo train")
    velo("score", "R1", "--as-of", "yesterday", home=home).told("'yesterday' is not a timestamp", "write it like")


def test_a_wrong_staking_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    velo("backtest", "--staking", "cap=2", home=tmp_path).told("the Kelly cap must be above 0 and at most 1, got 2")
    velo("backtest", "--staking", "cap", home=tmp_path).told("--staking 'cap' must be name=value", "commission=0.02")
    velo("backtest", "--staking", "stake=1", home=tmp_path).told("staking has no 'stake': choose from fraction, cap")
