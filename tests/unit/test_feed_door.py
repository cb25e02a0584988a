"""The door: what the committed schema allows is taken, what breaks a rule is kept with its reason, nothing breaks it."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import a_race, a_runner
from tests.support.feeds import encoded, sent, sent_result
from tests.support.logs import NOON, a_store
from tests.support.shared import REPO
from velo.racing.messages import (
    SCHEMA_VERSION,
    GoingChange,
    JockeyChange,
    Market,
    NonRunner,
    Racecard,
    Result,
    from_record,
    to_record,
)
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.feeds.json_schema import COMMITTED, message_schema
from velo.streams.feeds.validation import (
    LETTER_CHARACTERS,
    MAX_BYTES,
    MAX_DEPTH,
    PRODUCED,
    MessageValidator,
    ValidMessage,
)
from velo.streams.importers.columns import COLUMNS, RUNNER_COLUMNS
from velo.streams.importers.dead_letters import DeadLetter
from velo.streams.importers.sources.runners import parse_rows

AFTERNOON = NOON + timedelta(hours=6)
SCHEMA = json.loads(COMMITTED.read_text(encoding="utf-8"))
VALID = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> MessageValidator:
    return MessageValidator.of(a_store(tmp_path_factory.mktemp("home")))


def taken(door: MessageValidator, message: dict[str, Any], arrived: datetime = NOON) -> ValidMessage:
    through = door.take(orjson.dumps(message), arrived)
    assert isinstance(through, ValidMessage), through
    return through


def refused(door: MessageValidator, body: bytes | None, arrived: datetime = NOON) -> DeadLetter:
    through = door.take(body, arrived)
    assert isinstance(through, DeadLetter), through
    return through


# The schema


def test_the_committed_schema_is_that_of_the_dataclasses() -> None:
    """A field added to a message, or a new schema version, is noticed here: write the file again from the function."""
    assert message_schema() == SCHEMA
    assert COMMITTED.name == f"messages-v{SCHEMA_VERSION}.json"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_what_the_log_writes_of_a_message_is_what_a_producer_may_send(door: MessageValidator) -> None:
    """A record of each type fits the schema, passes the door and is the same message again."""
    card = sent_result() | {"type": "racecard", "runners": [{"horse": "Arkle", "draw": 3}]}
    examples = [
        sent_result(race_class=2, handicap=True, distance_m=1609.0, result_version=3),
        card,
        sent("non_runner", horse_id="arkle", reason="lame"),
        sent("reinstated", horse_id="arkle"),
        sent("jockey_change", horse_id="arkle", jockey="L Piggott"),
        sent("going_change", going="Soft"),
        sent("market", prices={"arkle": 2.5}, source="tote"),
    ]
    assert [each["type"] for each in examples] == list(PRODUCED)
    for example in examples:
        VALID.validate(example)
        through = taken(door, example)
        record = to_record(through.message)
        VALID.validate(record)
        assert taken(door, record).message == through.message == from_record(record)


_TEXT = st.text('Aé7-:. {"\0', max_size=6)
_NAME = st.sampled_from(["Arkle", "Mill House", "Flyingbolt", "Captain Christy"])
_LOOSE = st.none() | st.booleans() | st.integers(-3, 40) | st.floats(allow_nan=False, width=32) | _TEXT | st.just("GB")
_FIELDS = [*SCHEMA["$defs"]["result"]["properties"]["runners"]["items"]["properties"], "silks", "course"]
_RUNNER = st.fixed_dictionaries(
    {"horse": _NAME, "status": st.sampled_from(["FINISHED", "PU", "NR", "VOID", "XX"])},
    optional={name: _LOOSE for name in _FIELDS if name not in ("horse", "status", "position")}
    | {"position": st.integers(-1, 4)},
)
_RACE = {name: _LOOSE for name in SCHEMA["$defs"]["result"]["properties"] if name not in ("type", "runners")}


@given(st.fixed_dictionaries({"runners": st.lists(_RUNNER, max_size=3)}, optional=_RACE), st.sampled_from(PRODUCED))
def test_the_door_takes_or_keeps_whatever_comes_and_a_bad_type_by_the_schema_is_the_only_reason_of_that_name(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any], kind: str
) -> None:
    """Never an exception; and what the schema allows is never refused for the kind of a value, dates apart."""
    door = MessageValidator.of(a_store(tmp_path_factory.getbasetemp() / "door"))
    message = sent_result() | {"type": kind} | fields
    through = door.take(orjson.dumps(message), NOON)
    if isinstance(through, ValidMessage):
        orjson.dumps({**through.kept, **to_record(through.message)})
    else:
        assert through.letter
        dated = re.match(r"(race_date|off_time) is ", through.detail)
        assert through.reason != "bad value" or dated or not VALID.is_valid(message)


@given(st.binary(max_size=60) | _TEXT.map(str.encode))
def test_no_bytes_break_the_door(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    door = MessageValidator.of(a_store(tmp_path_factory.getbasetemp() / "door"))
    assert refused(door, body).letter


# What is taken


def test_a_live_result_is_the_one_that_the_same_rows_make_in_a_runner_table(door: MessageValidator) -> None:
    """Keys, fills, odds of 1, draw 0: one implementation."""
    rows = a_race(
        a_runner("Arkle  (IRE)", 1, draw=0, sp_decimal=1.0),
        a_runner("Mill House", 2, horse_id="MH1", jockey="-"),
        known_at=AFTERNOON,
        race_date="2024-05-01",
        race_no=2,
    )
    race = {name: rows[0][name] for name in ("course", "race_type", "race_class", "surface", "going", "distance_m")}
    message = sent("result", "R1", race_date="2024-05-01", race_no=2, **race)
    message["runners"] = [{name: row[name] for name in a_runner() if row[name] is not None} for row in rows]
    (loaded,) = parse_rows(rows, door.store).messages
    made = taken(door, message, AFTERNOON).message
    assert isinstance(made, Result)
    assert (made.race, made.runners, made.result_version) == (loaded.race, loaded.runners, 1)


def test_each_type_becomes_its_message(door: MessageValidator) -> None:
    changed = sent("jockey_change", horse_id=" arkle ", jockey="L Piggott")
    assert taken(door, changed).message == JockeyChange("R1", "arkle", "l piggott", "L Piggott")
    assert taken(door, sent("non_runner", horse="Arkle")).message == NonRunner("R1", "arkle")
    assert taken(door, sent("going_change", going="Soft")).message == GoingChange("R1", "Soft")
    market = taken(door, sent("market", prices={"arkle": 3, "mill house": 1.0}, source="tote")).message
    assert market == Market("R1", {"arkle": 3.0}, "tote")
    staked = taken(door, sent("market", prices={"arkle": 3}, source="tote", volumes={" arkle": 120})).message
    assert staked == Market("R1", {"arkle": 3.0}, "tote", volumes={"arkle": 120.0})
    card = taken(door, sent_result() | {"type": "racecard"}).message
    assert isinstance(card, Racecard)
    assert [runner.status for runner in card.runners] == [None, None]


def test_unknown_fields_are_kept_where_no_table_reads_them(door: MessageValidator) -> None:
    """Also a name that means something in another message, or at another place of this one."""
    message = sent_result(weather={"wind": [3]}, prices="none", seq=7, silence=None)
    message["runners"][0] |= {"silks": "yellow", "going": "Heavy"}
    through = taken(door, message)
    assert through.kept == {"weather": {"wind": [3]}, "kept": {"prices": "none"}}
    assert isinstance(through.message, Result)
    assert through.message.runners[0].kept == {"silks": "yellow", "going": "Heavy"}
    assert through.message.race.going is None


def test_dividends_are_read_as_text_and_a_sources_own_of_another_form_are_kept(door: MessageValidator) -> None:
    """A dividend of a settled pool that cannot be read refuses the result; an older log's own field of that name is no dividend."""
    told = taken(door, sent_result(dividends="place 1 1.5; double 1/2 9")).message
    assert isinstance(told, Result)
    assert told.race.dividends == "place 1 1.5; double 1/2 9"
    own = [{"pool": "place", "pays": 1.5}]
    through = taken(door, sent_result(dividends=own))
    assert through.kept == {"kept": {"dividends": own}}
    assert isinstance(through.message, Result)
    assert through.message.race.dividends is None
    old = from_record(to_record(through.message) | {"dividends": own})
    assert isinstance(old, Result)
    assert old.race.dividends is None
    assert "is not a dividend" in refused(door, orjson.dumps(sent_result(dividends="place 1"))).detail


def test_in_a_store_keyed_by_name_the_name_is_the_key(tmp_path: Path) -> None:
    door = MessageValidator.of(Store.open(Settings(tmp_path, keys="name")))
    assert taken(door, sent("non_runner", horse_id="H1", horse="Arkle (IRE)")).message == NonRunner("R1", "arkle (ire)")


def test_a_result_is_known_when_it_arrives_whatever_it_claims(door: MessageValidator) -> None:
    """So a race that has not been run where we are has no result, in local dates."""
    message = sent_result(race_date="2024-06-01", off_time="2024-06-01T10:45:00Z", known_at="2030-01-01T00:00:00Z")
    midnight = datetime(2024, 5, 31, 23, 0, tzinfo=UTC)
    assert (
        refused(door, orjson.dumps(message), midnight - timedelta(microseconds=1)).reason
        == "race_date later than known_at"
    )
    assert taken(door, message, midnight).message.known_at is None


def test_a_result_before_its_scheduled_off_is_taken_and_counted(tmp_path: Path) -> None:
    """The off was only scheduled, and the result is here; a void race is often known hours before."""
    door = MessageValidator.of(a_store(tmp_path))
    early = NOON - timedelta(hours=1)
    assert isinstance(taken(door, sent_result(), early).message, Result)
    assert door.warnings == {"result before its scheduled off": 1}
    void = [{"horse": "Arkle", "status": "VOID"}, {"horse": "Mill House", "status": "VOID"}]
    taken(door, sent_result(runners=void), early)
    taken(door, sent_result(), NOON)
    assert door.warnings == {"result before its scheduled off": 1}


@pytest.mark.parametrize("kind", ["result", "racecard"])
def test_an_off_more_than_a_day_from_the_races_date_is_refused(door: MessageValidator, kind: str) -> None:
    for off, reason in (("2024-05-02T22:59:00Z", None), ("2024-05-02T23:00:00Z", "off_time far from race_date")):
        through = door.take(orjson.dumps(sent_result(off_time=off) | {"type": kind}), NOON)
        assert (through.reason if isinstance(through, DeadLetter) else None) == reason


# What is refused


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        (None, "no message", "holds no message"),
        (b"", "no JSON", "send one JSON object"),
        (b"\xff\xfe", "no JSON", "UTF-8"),
        (b"[]", "no object", r"\[\] is not a JSON object"),
        (b'{"type": NaN}', "no JSON", "without NaN or Infinity"),
        (b'{"type": 1e999}', "no JSON", "without NaN or Infinity"),
        (b'{"type": "going_change", "schema_version": 2, "race_id": "\\ud800"}', "no JSON", "surrogate"),
        (b"[" * 100_000, "no JSON", "depth limit"),
        (b'{"type": "tick", "schema_version": 2}', "unknown type", "type is 'tick', but a producer sends one of result"),
        (b'{"type": [], "schema_version": 2}', "unknown type", "use one"),
        (b'{"type": "result", "schema_version": 3}', "unknown schema_version", "upgrade velo"),
        (b'{"type": "result"}', "unknown schema_version", "None"),
        *((*encoded(message), reason, detail) for message, reason, detail in (
            (sent_result() | {"race_id": " "}, "no race_id", "needs race_id"),
            (sent_result() | {"race_id": 7}, "bad value", "race_id is 7, but holds text"),
            (sent_result(runners=[]), "no runners", "one for each runner"),
            (sent_result(runners=[7]), "no runners", "list of at least one object"),
            (sent_result(runners=[{"horse": "A", "status": "XX"}]), "unknown status XX", "use one of"),
            (sent_result(runners=[{"horse": "A", "status": "PU"}]), "no winner", "correct the positions"),
            (sent_result(runners=[{"status": "NR", "\0bad": 1}]), "bad value", r"a field's name is '\\x00bad'"),
            (sent_result(course=None), "no course", "add it"),
            (sent_result(race_class=2**31), "bad value", "race_class is 2147483648, but holds a whole number"),
            (sent_result(race_no=2**31 - 1, off_time=None), "bad value", "beyond the calendar"),
            (sent_result(distance_m="far"), "bad value", "distance_m is 'far', but holds a number"),
            (sent_result(result_version=0), "bad value", "versions count from 1"),
            (sent_result(result_version="two"), "bad value", "result_version is 'two'"),
            (sent("market", prices=[1], source="x"), "bad value", "an object of decimal odds"),
            (sent("market", prices={"a": "2"}, source="x"), "bad value", "the price of 'a' is '2'"),
            (sent("market", prices={"a": 1}, source="x"), "no prices", "no horse has odds above 1"),
            (sent("market", prices={"a": 2}), "no source", "needs source"),
            (sent("market", prices={"a": 2}, source="x", volumes=[1]), "bad value", "an object of stakes"),
            (sent("market", prices={"a": 2}, source="x", volumes={"a": -1}), "bad value", "the volume of 'a' is -1"),
            (sent("going_change"), "no going", "needs going"),
            (sent("non_runner", horse="-"), "runner without a horse", "give it horse_id or horse"),
            (sent("non_runner", horse=[]), "bad value", "horse is"),
            (sent("jockey_change", horse="A"), "no jockey", "jockey_id or jockey"),
        )),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_a_letter_with_the_value_the_rule_and_the_remedy(
    door: MessageValidator, body: bytes | None, reason: str, detail: str
) -> None:
    letter = refused(door, body)
    assert letter.reason == reason
    assert re.search(detail, letter.detail), letter.detail
    assert letter.source == "feed"
    assert letter.letter == refused(door, body, NOON + timedelta(days=1)).letter


_WHOLE = [name for name, kind in COLUMNS.items() if kind == "whole number"]
_NUMBERS = [name for name, kind in COLUMNS.items() if kind == "number"]
_BEYOND = (
    "9223372036854775808",
    "18446744073709551616",
    "1" + 30 * "0",
    "-9223372036854775809",
    "2147483648",
    "2e9999",
)


def _with(name: str, value: str) -> bytes:
    """A result that says a field in the very characters given."""
    message = sent_result()
    (message["runners"][0] if name in RUNNER_COLUMNS else message)[name] = "@"
    return orjson.dumps(message).replace(b'"@"', value.encode())


@pytest.mark.parametrize("name", _WHOLE)
@pytest.mark.parametrize("value", [*_BEYOND, "1e308", "2.5", "true", '"1e30"', f'"{400 * "9"}"', "[1]"])
def test_a_whole_number_that_no_table_could_hold_is_a_letter_of_one_line(
    door: MessageValidator, name: str, value: str
) -> None:
    """Versions, positions, draws and the like: the log and the tables have 32 or 64 bits for them, JSON has no bound."""
    letter = refused(door, _with(name, value))
    assert "\n" not in letter.detail
    if letter.reason != "no JSON":
        assert letter.reason == "bad value"
        assert re.fullmatch(rf"{name} is .+, but holds a whole number of 32 bits: correct it", letter.detail)


@pytest.mark.parametrize("name", [*_WHOLE, *_NUMBERS])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_what_is_no_number_of_json_is_a_letter_of_one_line(door: MessageValidator, name: str, value: str) -> None:
    letter = refused(door, _with(name, value))
    assert (letter.reason, "\n" in letter.detail) == ("no JSON", False)
    assert letter.detail.endswith("send one JSON object, in UTF-8, without NaN or Infinity")


def test_a_message_too_long_or_nested_too_deep_is_refused_and_its_letter_stays_small(door: MessageValidator) -> None:
    long = refused(door, orjson.dumps(sent("going_change", going="x" * MAX_BYTES)))
    assert long.reason == "too long"
    assert len(long.rows[0]["message"]) == LETTER_CHARACTERS
    assert long.rows[0]["message_bytes"] > MAX_BYTES
    odd = refused(door, orjson.dumps(sent_result(runners=[{"horse": "A", "status": "x" * 10**6}])))
    assert len(odd.reason) + len(odd.detail) < 1000
    deep: Any = {}
    for _ in range(MAX_DEPTH - 1):
        deep = {"in": deep}
    assert taken(door, sent("going_change", going="Soft", deep=deep["in"])).kept
    assert refused(door, orjson.dumps(sent("going_change", going="Soft", deep=deep))).reason == "nested too deep"


# The page


def test_the_examples_of_the_page_fit_the_schema_and_pass_the_door(door: MessageValidator) -> None:
    page = (REPO / "docs" / "feeds.md").read_text(encoding="utf-8")
    examples = [json.loads(line) for line in page.splitlines() if line.startswith('{"type"')]
    assert {each["type"] for each in examples} == set(PRODUCED)
    for example in examples:
        VALID.validate(example)
        taken(door, example, datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("mark", ["\n", "\0", "\x1b", "\x7f", "\x85"])
@pytest.mark.parametrize("kind", PRODUCED)
def test_a_race_id_with_a_control_character_is_refused_whatever_sends_it(
    door: MessageValidator, kind: str, mark: str
) -> None:
    about = {"horse_id": "arkle", "jockey_id": "p taaffe", "going": "Good", "source": "tote", "prices": {"arkle": 2.0}}
    message = {**sent_result(), **about, "type": kind, "race_id": f"R{mark}1"}
    letter = refused(door, orjson.dumps(message))
    assert letter.reason == "control character in race_id"
    assert repr(f"R{mark}1") in letter.detail
    taken(door, {**message, "race_id": "R 1 – Ascot"})
