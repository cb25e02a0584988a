"""rpscrape's racecards: what the file means, who is declared, and that a card meets the results of its source."""

import json
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.support.cli import velo
from tests.support.raceform_rows import ROW, SECOND, written
from tests.support.rpscrape_files import OTHER, RACE, RUNNER, a_file, a_race, a_store, only, read
from tests.support.shared import shared_file
from velo.errors import UserError
from velo.racing.cards import declared_at
from velo.racing.messages import NonRunner, Race, Racecard, Runner
from velo.settings import KeyPolicy
from velo.storage.log import reader
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.importers import dead_letters
from velo.streams.importers.declare import ParsedCards, declare
from velo.streams.importers.ingest import ingest
from velo.streams.importers.sources.raceform import read_raceform
from velo.streams.importers.sources.rpscrape_cards import SOURCE, read_rpscrape_cards

SAMPLE = "data/uk/racecards_sample.json"
ARRIVED = datetime(2026, 1, 17, 9, 0, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path)


# The real file


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> ParsedCards:
    return read_rpscrape_cards([shared_file(SAMPLE)], a_store(tmp_path_factory.mktemp("sample")))


def test_every_race_of_a_real_day_is_declared(sample: ParsedCards) -> None:
    assert (len(sample.messages), sample.rows, sample.refused, sample.keys) == (37, 348, [], "name")
    assert sum(len(card.runners) for card in sample.messages) == 348
    assert not sample.warnings


def test_a_real_hurdle_reads_as_its_page_does(sample: ParsedCards) -> None:
    card = next(message for message in sample.messages if message.race_id == "910453")
    assert card.race == Race(
        "910453", date(2026, 1, 17), datetime(2026, 1, 17, 12, 25, tzinfo=UTC), "Ascot", country="GB",
        race_name="BetMGM Juvenile Hurdle (GBB Race)", race_type="Hurdle", race_class=3, handicap=False,
        surface="Turf", going="Good To Soft", distance_m=3161.0,
    )  # fmt: skip
    assert len(card.runners) == 10
    first = card.runners[0]
    assert (first.horse_id, first.horse, first.runner_no, first.draw) == (
        "brave guest (ire)",
        "Brave Guest (IRE)",
        1,
        None,
    )
    assert (first.jockey_id, first.trainer_id) == ("marc goldstein", "sheena west")
    assert (first.age, first.sex, first.weight_lbs, first.official_rating) == (4, "G", 154.0, 109)
    assert (first.kept["source_horse_id"], first.kept["rpr"], first.kept["ts"]) == ("7583051", 114, 78)
    assert card.known_at is None


def test_a_real_all_weather_evening_race_reads_as_its_page_does(sample: ParsedCards) -> None:
    card = next(message for message in sample.messages if message.race_id == "910645")
    assert (card.race.course, card.race.surface, card.race.race_type) == ("Southwell (AW)", "AW", "Flat")
    assert (card.race.off_time, card.race.rating_band) == (datetime(2026, 1, 17, 20, 30, tzinfo=UTC), "0-55")
    assert (card.race.handicap, card.race.going, card.race.distance_m) == (True, "Standard", 1222.0)
    assert sorted(runner.draw or 0 for runner in card.runners) == list(range(1, 12))


def test_the_real_non_runners_are_announced_after_their_cards_and_have_no_jockey(sample: ParsedCards) -> None:
    assert {(notice.race_id, notice.horse_id) for notice in sample.notices} == {
        ("910460", "tommy combats (ire)"), ("910455", "nassalam (fr)"), ("910468", "good for you (fr)"),
        ("910645", "tickettothestars (ire)"),
    }  # fmt: skip
    out = [runner for card in sample.messages for runner in card.runners if runner.kept["non_runner"]]
    assert len(out) == 4
    assert {(each.jockey_id, each.jockey, each.kept.get("source_jockey_id")) for each in out} == {(None, None, None)}


# Who is declared


@pytest.mark.parametrize(
    "said", [{"jockey": "NON-RUNNER", "jockey_id": 74971}, {"jockey": "Non Runner"}, {"non_runner": True}]
)
def test_a_non_runner_stays_on_the_card_and_its_withdrawal_follows(
    said: dict[str, Any], store: Store, tmp_path: Path
) -> None:
    parsed = read(store, tmp_path, a_race(RUNNER | said, OTHER))
    report = declare(store, parsed, clock=lambda: ARRIVED)
    assert (report.appended, report.non_runners) == (2, 1)
    card, notice = (message for _, message in reader.messages(store.home))
    assert isinstance(card, Racecard)
    assert isinstance(notice, NonRunner)
    assert [runner.horse_id for runner in card.runners] == ["plain sailing (ire)", "second thoughts (gb)"]
    assert card.runners[0].jockey_id == (None if "jockey" in said else "a rider")
    assert (notice.race_id, notice.horse_id) == ("733000", "plain sailing (ire)")
    assert card.known_at == ARRIVED
    assert notice.known_at is not None
    assert notice.known_at > ARRIVED
    assert [runner.status for runner in card.runners] == ["NR", None]


def how_it_stands(store: Store, at: datetime) -> tuple[list[str], list[str]]:
    """Who runs and who is withdrawn in the one race of the log."""
    race = declared_at([message for _, message in reader.messages(store.home)], at)
    assert race is not None
    return [runner.horse_id for runner in race.runners], [runner.horse_id for runner in race.withdrawn]


def test_a_non_runner_that_the_next_card_puts_back_runs(store: Store, tmp_path: Path) -> None:
    """By mistake, then not, then for good: in files of their own, and sent again each time as a poll repeats it."""
    first, second = "plain sailing (ire)", "second thoughts (gb)"
    without, both = ([second], [first]), ([first, second], list[str]())
    for minute, (out, stands) in enumerate(((True, without), (False, both), (True, without))):
        for again in range(2):
            at = ARRIVED + timedelta(minutes=minute, seconds=again)
            parsed = read(store, tmp_path, a_race(RUNNER | {"non_runner": out}, OTHER))
            report = declare(store, parsed, clock=partial(max, at, at))
            assert bool(report.appended) is (again == 0)
            assert how_it_stands(store, at + timedelta(milliseconds=1)) == stands
    assert how_it_stands(store, ARRIVED + timedelta(seconds=30)) == ([second], [first])


def test_cards_of_one_load_are_each_followed_by_their_own_withdrawals(store: Store, tmp_path: Path) -> None:
    cards = []
    for out in (True, False):
        folder = tmp_path / f"{out}"
        folder.mkdir()
        cards.append(a_file(folder, a_race(RUNNER | {"non_runner": out}, OTHER)))
    declare(store, read_rpscrape_cards(cards, store), clock=lambda: ARRIVED)
    assert how_it_stands(store, ARRIVED + timedelta(minutes=1)) == (["plain sailing (ire)", "second thoughts (gb)"], [])


def test_the_shared_case_of_a_non_runner_put_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    try:
        for number in (1, 2):
            path = shared_file(f"cases/04-non-runner-back/{number}.json")
            assert velo("cards", "rpscrape", path, home=home).code == 0
        assert velo("stream", "--once", home=home).code == 0
        [line] = velo("cards", "list", "--json", home=home).document
        assert (line["race_id"], line["runners"], line["withdrawn"]) == ("800010", 2, 0)
    finally:
        velo("down", home=home)


def test_a_reserve_is_declared_only_once_it_has_a_run(store: Store, tmp_path: Path) -> None:
    waiting = read(store, tmp_path, a_race(RUNNER, OTHER | {"reserve": True, "non_runner": True}))
    assert [runner.horse_id for runner in only(waiting).runners] == ["plain sailing (ire)"]
    assert (waiting.warnings, waiting.notices) == ({"reserve, not declared": 1}, [])
    declare(store, waiting, clock=lambda: ARRIVED)
    drawn_in = read(store, tmp_path, a_race())
    assert declare(store, drawn_in, clock=lambda: ARRIVED).appended == 1
    assert len(only(drawn_in).runners) == 2


def test_the_same_file_again_adds_nothing(store: Store, tmp_path: Path) -> None:
    for appended, identical in ((2, 0), (0, 2)):
        report = declare(store, read(store, tmp_path, a_race(RUNNER | {"non_runner": True})), clock=lambda: ARRIVED)
        assert (report.appended, report.identical) == (appended, identical)


def test_a_known_at_that_the_file_brings_is_kept(store: Store, tmp_path: Path) -> None:
    found = "2026-07-04T08:00:00Z"
    declare(store, read(store, tmp_path, a_race(RUNNER | {"non_runner": True}, known_at=found)), clock=lambda: ARRIVED)
    known = [message.known_at for _, message in reader.messages(store.home)]
    assert [each.microsecond for each in known if each] == [0, 1]
    assert known[0] == datetime(2026, 7, 4, 8, tzinfo=UTC)


# What the cells say


def test_everything_may_be_null_but_the_horse(store: Store, tmp_path: Path) -> None:
    """What the race does not say of its place is read off the tree; all else is unknown."""
    bare = dict.fromkeys(RACE) | {"date": "2026-07-04", "runners": [dict.fromkeys(RUNNER) | {"name": "Arkle"}]}
    path = tmp_path / "cards.json"
    path.write_text(json.dumps({"GB": {"Ascot": {"14:10": bare}}}))
    card = only(read_rpscrape_cards([path], store))
    assert card.race == Race(
        "2026-07-04 ascot 14:10", date(2026, 7, 4), datetime(2026, 7, 4, 13, 10, tzinfo=UTC), "Ascot",
        country="GB",
    )  # fmt: skip
    assert card.runners == (Runner("arkle (gb)", "Arkle (GB)", kept={"non_runner": False}),)


@pytest.mark.parametrize(
    ("region", "course", "off", "utc", "named"),
    [
        ("GB", "Sandown", "15:35", "2026-07-04T14:35", "Sandown"),
        ("GB", "Sandown", "3:35", "2026-07-04T14:35", "Sandown"),
        ("IRE", "Naas", "15:35", "2026-07-04T14:35", "Naas (IRE)"),
        ("IRE", "Dundalk (AW)", "15:35", "2026-07-04T14:35", "Dundalk (AW) (IRE)"),
        ("IRE", "Naas (IRE)", "15:35", "2026-07-04T14:35", "Naas (IRE)"),
        ("HK", "Sha Tin", "05:35", "2026-07-04T04:35", "Sha Tin (HK)"),
        ("AUS", "Geelong", "06:35", "2026-07-04T05:35", "Geelong (AUS)"),
    ],
)
def test_offs_are_london_time_in_any_store_and_courses_are_named_as_in_results(
    region: str, course: str, off: str, utc: str, named: str, tmp_path: Path
) -> None:
    store = a_store(tmp_path, "Asia/Hong_Kong")
    card = only(read(store, tmp_path, a_race(region=region, course=course, off_time=off)))
    assert card.race.off_time == datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert (card.race.course, card.race.country) == (named, region)
    assert "off_inferred" not in card.runners[0].kept


def test_a_cell_that_cannot_be_read_is_unknown_counted_and_kept(store: Store, tmp_path: Path) -> None:
    parsed = read(store, tmp_path, a_race(RUNNER | {"lbs": "heavy", "draw": [3], "age": 4.0}, OTHER))
    runner = only(parsed).runners[0]
    assert (runner.weight_lbs, runner.draw, runner.age) == (None, None, 4)
    assert runner.kept["unreadable"] == {"lbs": "heavy", "draw": "[3]"}
    assert parsed.warnings == {"unreadable lbs, unknown": 1, "unreadable draw, unknown": 1}


def test_by_id_the_sources_own_ids_are_the_keys(tmp_path: Path) -> None:
    runner = only(read(a_store(tmp_path, keys="id"), tmp_path, a_race())).runners[0]
    assert (runner.horse_id, runner.jockey_id, runner.trainer_id) == ("1001", "2001", "3001")
    assert runner.horse == "Plain Sailing (IRE)"


# What is refused


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (a_race(RUNNER, RUNNER), "horse appears twice"),
        (a_race(RUNNER | {"name": None}, OTHER, race_id=1), "runner without a horse"),
        (a_race() | {"runners": []}, "no runners"),
        (a_race(RUNNER | {"reserve": True}), "no runners"),
        (a_race() | {"runners": None}, "bad value"),
        (a_race() | {"runners": ["Arkle"]}, "bad value"),
        (a_race(date=None), "bad value"),
        (a_race(date="4 July"), "bad value"),
        (a_race(off_time="soon"), "bad value"),
        (a_race(known_at="this morning"), "bad value"),
        (a_race(date="2026-07-05"), "race_id of another race"),
        (None, "no race"),
        ([1], "no race"),
    ],
)
def test_a_bad_race_goes_to_the_dead_letters_and_the_rest_goes_on(
    bad: Any, reason: str, store: Store, tmp_path: Path
) -> None:
    """`runner without a horse` has an id, which is then the key; only without both is it nobody."""
    if reason == "runner without a horse":
        bad["runners"][0]["horse_id"] = None
    path = tmp_path / "cards.json"
    path.write_text(json.dumps({"GB": {"Sandown": {"13:00": a_race(), "14:00": bad}}}))
    report = declare(store, read_rpscrape_cards([path], store), clock=lambda: ARRIVED)
    assert report.races == ("733000",)
    assert report.refused == {reason: 1}
    (kept,) = dead_letters.read(store.home)
    assert (kept.source, kept.reason) == (SOURCE, reason)
    assert kept.rows
    assert "\n" not in kept.detail


@pytest.mark.parametrize("bad", [{"IRE": None}, {"IRE": {"Naas": "none"}}], ids=str)
def test_a_region_or_a_course_without_races_costs_itself_alone(
    bad: dict[str, Any], store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "cards.json"
    path.write_text(json.dumps({"GB": {"Sandown": {"13:00": a_race()}}} | bad))
    report = declare(store, read_rpscrape_cards([path], store), clock=lambda: ARRIVED)
    assert (report.races, report.refused) == (("733000",), {"no race": 1})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("\udcff".encode("utf-8", "surrogateescape"), "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "it holds []"),
        ('{"GB": 3}', "GB has 3"),
        ('{"GB": {"Ascot": "none"}}', 'Ascot has "none"'),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(content: str | bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "cards.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    velo("cards", "rpscrape", path, home=tmp_path / "home").told(words, "racecards")


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    velo("cards", "rpscrape", tmp_path / "gone.json", home=tmp_path / "home").told("gone.json")
    with pytest.raises(UserError, match="no file is named"):
        read_rpscrape_cards([], a_store(tmp_path))


# Where a card and the results meet


@pytest.mark.parametrize("keys", ["name", "id"])
@pytest.mark.parametrize("with_race_id", [True, False])
def test_a_card_and_a_raceform_result_of_one_race_meet_on_the_same_keys(
    keys: KeyPolicy, with_race_id: bool, tmp_path: Path
) -> None:
    """Race, course, surface, distance, going, horse, jockey and trainer: whatever a feature is keyed by."""
    store = a_store(tmp_path, keys=keys)
    cells = {"date": "2026-07-04", "race_name": "Coral Summer Stakes"} | ({} if with_race_id else {"race_id": ""})
    rows = written(tmp_path / "results.csv", ROW | cells, ROW | cells | SECOND)
    (result,) = read_raceform([rows], store).messages
    card = only(read(store, tmp_path, a_race(**({} if with_race_id else {"race_id": None}))))
    assert card.race_id == result.race_id
    for name in (
        "race_date",
        "off_time",
        "course",
        "country",
        "surface",
        "race_type",
        "race_class",
        "going",
        "distance_m",
    ):
        assert getattr(card.race, name) == getattr(result.race, name), name
    for name in ("horse_id", "horse", "jockey_id", "trainer_id", "draw", "weight_lbs", "official_rating", "headgear"):
        assert [getattr(runner, name) for runner in card.runners] == [
            getattr(runner, name) for runner in result.runners
        ], name


def test_the_horse_of_a_card_finds_its_past_of_the_results(store: Store, tmp_path: Path) -> None:
    rows = written(tmp_path / "results.csv", ROW, ROW | SECOND)
    ingest(store, read_raceform([rows], store), clock=lambda: ARRIVED)
    card = only(read(store, tmp_path, a_race()))
    declare(store, read(store, tmp_path, a_race()), clock=lambda: ARRIVED)
    build(store, ARRIVED)
    for view, key in (("horse_form", "horse_id"), ("trainer_velocity", "trainer_id"), ("jockey_velocity", "jockey_id")):
        parts = f"{store.home.offline}/{view}/*.parquet"
        held = {row for (row,) in duckdb.connect().execute(f"SELECT DISTINCT {key} FROM '{parts}'").fetchall()}
        assert {getattr(runner, key) for runner in card.runners} <= held


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    path = a_file(tmp_path, a_race(RUNNER | {"non_runner": True}, OTHER, OTHER | {"reserve": True}))
    report = velo("cards", "rpscrape", path, "--json", home=tmp_path / "home").document
    assert report["races"] == ["733000"]
    assert (report["rows"], report["appended"], report["non_runners"]) == (3, 2, 1)
    assert report["warnings"] == {"reserve, not declared": 1}
    shown = velo("cards", "rpscrape", path, home=tmp_path / "home")
    assert shown.code == 0
    assert "duplicates" in shown.out
