"""Aliases in the log: what they repeat under which keys, from when, and how they are undone (contract 11)."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.support.logs import NOON, a_store, fixed, held, logged, told
from velo.errors import Refused, UserError
from velo.racing.aliases import GIVEN, REPEATS, SOURCE_VERSION
from velo.racing.cards import declared_at, first_result
from velo.racing.clock import MICROSECOND
from velo.racing.messages import (
    Alias,
    GoingChange,
    JockeyChange,
    Market,
    Message,
    NonRunner,
    Racecard,
    Result,
    Runner,
    instant_of,
)
from velo.storage.log import reader
from velo.storage.log.format import segments
from velo.storage.log.rebuild import rebuild
from velo.storage.log.writer import Appended, LogWriter
from velo.storage.store import Store
from velo.streams import names

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LATER = NOON + 30 * DAY
OLD = Alias("horse", "arkle", "arkle (ire)")
ARKLE, MILL = Runner("arkle", "Arkle", status="FINISHED", position=1), Runner("mill house", status="PU")
ENABLE = Runner("enable", status="FINISHED", position=1)


def applied(store: Store, *aliases: Alias, at: datetime = LATER) -> list[Appended | Refused]:
    with LogWriter.open(store, clock=fixed(at)) as writer:
        return writer.apply(aliases)


def horses(message: Message) -> list[str]:
    assert isinstance(message, Result | Racecard)
    return [runner.horse_id for runner in message.runners]


def results(store: Store, race_id: str = "R1") -> list[Result]:
    return [message for message in held(store) if isinstance(message, Result) and message.race_id == race_id]


def test_an_alias_repeats_the_races_of_the_old_key_under_the_new_one_from_its_instant(store: Store) -> None:
    logged(store, told("R1", NOON), told("R2", NOON + HOUR, runners=(ENABLE,)), told("R3", NOON + 2 * HOUR))
    [done] = applied(store, OLD)
    assert done == Appended(3, "appended", repeated=2)
    alias, first, third = held(store)[3:]
    assert alias == replace(OLD, known_at=LATER)
    assert [horses(first), horses(third)] == [["arkle (ire)", "mill house"]] * 2
    assert [instant_of(each) for each in (alias, first, third)] == [LATER, LATER + MICROSECOND, LATER + 2 * MICROSECOND]
    assert [result.result_version for result in results(store)] == [1, 2]
    assert first_result(results(store)) == told("R1", NOON)
    assert reader.check(store.home) == []
    assert [(aliase.key, aliase.same_as) for aliase in reader.aliases(store.home)] == [("arkle", "arkle (ire)")]


def test_a_later_message_that_names_the_old_key_is_read_as_the_new_one_and_keeps_what_it_said(store: Store) -> None:
    logged(store, told("R1", NOON))
    applied(store, OLD)
    logged(store, told("R2", LATER + HOUR))
    with LogWriter.open(store, clock=fixed(LATER + 2 * HOUR)) as writer:
        writer.append(told("R3", None))
    assert [horses(*results(store, race_id)) for race_id in ("R2", "R3")] == [["arkle (ire)", "mill house"]] * 2
    records = {record["race_id"]: record for record in reader.records(store.home) if record["type"] == "result"}
    assert records["R3"][GIVEN] == [[0, "horse_id", "arkle"]]
    assert REPEATS not in records["R3"]


def test_undone_every_race_has_the_keys_that_its_source_gave(store: Store) -> None:
    """Races before the alias and races since, also those that named the other key all the time."""
    other = told("R0", NOON - HOUR, runners=(Runner("arkle (ire)", status="FINISHED", position=1), MILL))
    logged(store, other, told("R1", NOON))
    applied(store, OLD)
    logged(store, told("R2", LATER + HOUR))
    [undone] = applied(store, Alias("horse", "arkle"), at=LATER + DAY)
    assert isinstance(undone, Appended)
    assert undone.repeated == 2
    last = {race_id: results(store, race_id)[-1] for race_id in ("R0", "R1", "R2")}
    assert {race_id: horses(each)[0] for race_id, each in last.items()} == {
        "R0": "arkle (ire)",
        "R1": "arkle",
        "R2": "arkle",
    }
    assert reader.aliases(store.home) == []


def test_the_source_goes_on_counting_its_versions(store: Store) -> None:
    """Its second version is the log's third after one repeat; what it sends again is a duplicate, under either key."""
    logged(store, told("R1", NOON))
    applied(store, OLD)
    second = told("R1", None, 2, (MILL, Runner("arkle", status="FINISHED", position=1, draw=4)))
    third = told("R1", None, 3, (MILL, Runner("arkle (ire)", status="FINISHED", position=1, draw=5)))
    with LogWriter.open(store, clock=fixed(LATER + HOUR)) as writer:
        assert writer.append(told("R1", None)).outcome == "identical"
        assert writer.append(second).outcome == "appended"
        assert writer.append(second).outcome == "identical"
        assert writer.append(told("R1", None)).outcome == "identical"
        assert writer.append(third).outcome == "appended"
        with pytest.raises(
            Refused, match=r"other content in result_version 2 .*give the amended result result_version 4"
        ):
            writer.append(replace(second, runners=(MILL, Runner("arkle", status="FINISHED", position=1, draw=9))))
    assert [result.result_version for result in results(store)] == [1, 2, 3, 4]
    assert horses(results(store)[-1]) == ["mill house", "arkle (ire)"]
    with LogWriter.open(store, clock=fixed(LATER + 2 * HOUR)) as writer:
        assert writer.append(third).outcome == "identical"
        assert writer.append(told("R1", None)).outcome == "identical"


def test_a_version_between_two_that_the_log_has_changes_nothing(store: Store) -> None:
    logged(store, told("R1", NOON), told("R1", NOON + HOUR, 3, (ENABLE, ARKLE)))
    applied(store, OLD)
    with LogWriter.open(store, clock=fixed(LATER + HOUR)) as writer:
        assert writer.append(told("R1", None, 2, (MILL, ARKLE))).outcome == "lower_version"
    assert max(results(store), key=lambda result: result.result_version).runners[0].horse_id == "enable"


def test_a_load_that_is_repeated_after_an_alias_appends_nothing(store: Store) -> None:
    """Results, cards, withdrawals and prices: all are there, under the other key."""
    card = Racecard(told().race, (ARKLE, MILL), NOON - 3 * HOUR)
    messages = (
        card,
        Market("R1", {"arkle": 3.0, "mill house": 2.0}, "test", NOON - 2 * HOUR),
        NonRunner("R1", "mill house", "lame", NOON - HOUR),
        told("R1", NOON),
    )
    with LogWriter.open(store, clock=fixed(NOON)) as writer:
        writer.load(messages)
    applied(store, OLD)
    later = Racecard(replace(told().race, race_id="R2"), (ARKLE, MILL), LATER + HOUR)
    with LogWriter.open(store, clock=fixed(LATER + HOUR)) as writer:
        assert writer.load([later, *messages]).appended == 1
        assert writer.load([*messages, later, OLD]).appended == 0


def test_an_alias_recorded_twice_is_recorded_once(store: Store) -> None:
    logged(store, told("R1", NOON))
    assert [getattr(each, "outcome", None) for each in applied(store, OLD, OLD)] == ["appended", "identical"]
    assert [getattr(each, "outcome", None) for each in applied(store, OLD)] == ["identical"]


def test_aliases_chain_and_each_link_can_be_undone(store: Store) -> None:
    logged(store, told("R1", NOON))
    applied(store, OLD, Alias("horse", "arkle (ire)", "arkle 1957"))
    assert horses(results(store)[-1])[0] == "arkle 1957"
    applied(store, Alias("horse", "arkle"), at=LATER + HOUR)
    assert horses(results(store)[-1])[0] == "arkle"
    applied(store, OLD, at=LATER + 2 * HOUR)
    assert horses(results(store)[-1])[0] == "arkle 1957"


def test_a_trainer_s_alias_leaves_a_jockey_of_that_name_alone(store: Store) -> None:
    runners = (replace(ARKLE, trainer_id="t dreaper", jockey_id="t dreaper"), MILL)
    logged(store, told("R1", NOON, runners=runners))
    applied(store, Alias("trainer", "t dreaper", "tom dreaper"))
    [now] = [runner for runner in results(store)[-1].runners if runner.horse_id == "arkle"]
    assert (now.trainer_id, now.jockey_id) == ("tom dreaper", "t dreaper")


@pytest.mark.parametrize(
    ("alias", "reason"),
    [
        (
            Alias("horse", "arkle", "mill house"),
            "one horse twice: 'arkle' and 'mill house' run in race 'R1', so they are two",
        ),
        (Alias("horse", "arkle"), "no such alias: horse 'arkle' has no alias to undo"),
        (Alias("horse", "arkle", "arkle"), "circular alias: horse 'arkle' already means 'arkle'"),
    ],
)
def test_an_alias_that_cannot_be_is_refused_and_nothing_is_appended(store: Store, alias: Alias, reason: str) -> None:
    logged(store, told("R1", NOON))
    [why] = applied(store, alias)
    assert isinstance(why, Refused)
    assert reason in str(why)
    assert held(store) == [told("R1", NOON)]


def test_a_result_with_both_names_of_one_horse_is_refused(store: Store) -> None:
    logged(store, told("R1", NOON))
    applied(store, OLD)
    both = told("R2", None, runners=(ARKLE, Runner("arkle (ire)", status="PU")))
    with LogWriter.open(store, clock=fixed(LATER + HOUR)) as writer:
        with pytest.raises(Refused, match=r"'arkle' and 'arkle \(ire\)' run in race 'R2'"):
            writer.append(both)
        assert [why.reason for _, why in writer.load([replace(both, known_at=LATER + HOUR)]).refused] == [
            "one horse twice"
        ]


def a_card(*runners: Runner, known_at: datetime | None = NOON - 5 * HOUR) -> Racecard:
    return Racecard(replace(told().race, going="Good"), runners or (ARKLE, MILL), known_at)


def state(store: Store, at: datetime) -> tuple[list[tuple[str, str | None]], list[str], str | None, dict[str, float]]:
    declared = declared_at([message for message in held(store) if message.race_id == "R1"], at)
    assert declared is not None
    riders = [(runner.horse_id, runner.jockey_id) for runner in declared.runners]
    prices = dict(declared.odds.prices) if declared.odds else {}
    return riders, [runner.horse_id for runner in declared.withdrawn], declared.race.going, prices


def test_a_race_to_come_keeps_its_withdrawals_riders_going_and_prices_under_the_new_key(store: Store) -> None:
    runners = tuple(
        Runner(horse, jockey_id="a", trainer_id="t") for horse in ("arkle", "mill house", "enable", "shergar")
    )
    logged(
        store,
        a_card(*runners),
        NonRunner("R1", "enable", "lame", NOON - 4 * HOUR),
        JockeyChange("R1", "arkle", "b", "B", NOON - 4 * HOUR),
        GoingChange("R1", "Soft", NOON - 4 * HOUR),
        Market("R1", {"arkle": 3.0, "mill house": 2.0}, "test", NOON - 4 * HOUR),
        NonRunner("R1", "not yet declared", None, NOON - 4 * HOUR),
    )
    at = NOON - 3 * HOUR
    before = state(store, at)
    applied(store, OLD, Alias("horse", "not yet declared", "declared"), Alias("jockey", "b", "b b"), at=at)
    riders, withdrawn, going, prices = state(store, NOON)
    assert riders == [("arkle (ire)", "b b"), ("mill house", "a"), ("shergar", "a")]
    assert (withdrawn, going, prices) == (["enable"], "Soft", {"arkle (ire)": 3.0, "mill house": 2.0})
    assert state(store, at - MICROSECOND) == before
    logged(store, a_card(*runners, Runner("declared"), known_at=NOON - 2 * HOUR))
    everyone = [("arkle (ire)", "a"), ("mill house", "a"), ("enable", "a"), ("shergar", "a")]
    assert state(store, NOON)[:2] == (everyone, ["declared"])
    applied(store, Alias("horse", "arkle"), at=NOON - 2 * HOUR + HOUR / 2)
    assert state(store, NOON)[:2] == ([("arkle", "a"), *everyone[1:]], ["declared"])


def test_a_rider_that_a_change_named_is_the_one_it_named_when_his_alias_is_undone(store: Store) -> None:
    at = NOON - 3 * HOUR
    logged(store, a_card(), JockeyChange("R1", "arkle", "b", "B", at))
    applied(store, Alias("jockey", "b", "b b"), at=at)
    applied(store, Alias("horse", "mill house", "mill house (ire)"), at=at)
    assert state(store, NOON)[0] == [("arkle", "b b"), ("mill house (ire)", None)]
    applied(store, Alias("jockey", "b"), at=at)
    assert state(store, NOON)[0] == [("arkle", "b"), ("mill house (ire)", None)]


def test_a_horse_of_a_race_being_run_is_refused_and_its_yard_is_not(store: Store) -> None:
    """Its bets and its label are matched by its key to the first result."""
    logged(store, a_card(replace(ARKLE, trainer_id="t"), MILL))
    [why, done] = applied(store, OLD, Alias("trainer", "t", "tom"), at=NOON - HOUR)
    assert isinstance(why, Refused)
    assert "race being run: 'arkle' or its other key runs in race 'R1'" in str(why)
    assert isinstance(done, Appended)
    logged(store, told("R1", NOON))
    [done] = applied(store, OLD)
    assert isinstance(done, Appended)


def test_a_writer_killed_amid_the_repeats_is_finished_by_the_next(store: Store) -> None:
    logged(store, *(told(f"R{number}", NOON + number * HOUR) for number in range(4)))
    whole = a_store(store.home.root.parent / "whole")
    logged(whole, *(told(f"R{number}", NOON + number * HOUR) for number in range(4)))
    applied(store, OLD)
    applied(whole, OLD)
    [segment] = segments(store.home)
    lines = segment.path.read_bytes().splitlines(keepends=True)
    for kept in (5, 7, 8):
        segment.path.write_bytes(b"".join(lines[:kept]) + lines[kept][:40] if kept < len(lines) else b"".join(lines))
        with LogWriter.open(store, clock=fixed(LATER + DAY)) as writer:
            assert writer.next_seq == len(lines)
        assert held(store) == held(whole)
        assert reader.check(store.home) == []


def test_an_index_that_is_kept_between_two_writers_knows_the_aliases_of_another_process(store: Store) -> None:
    logged(store, told("R1", NOON))
    with LogWriter.open(store, clock=fixed(NOON)) as writer:
        index = writer.close_to_go_on()
    applied(store, OLD)
    with LogWriter.open(store, clock=fixed(LATER + HOUR), index=index) as writer:
        assert writer.append(told("R1", None)).outcome == "identical"
        writer.append(told("R2", None))
    assert horses(*results(store, "R2"))[0] == "arkle (ire)"


def test_a_rebuilt_log_applies_the_aliases_again_where_they_were_recorded(store: Store) -> None:
    logged(store, told("R1", NOON))
    applied(store, OLD)
    logged(store, told("R1", LATER + HOUR, 2, (MILL, replace(ARKLE, draw=3))), told("R2", LATER + 2 * HOUR))
    before = [(record["type"], record["known_at"], record.get("runners")) for record in reader.records(store.home)]
    rebuild(store, [], clock=fixed())
    assert [
        (record["type"], record["known_at"], record.get("runners")) for record in reader.records(store.home)
    ] == before
    rebuild(store, [told("R0", NOON - HOUR)], clock=fixed())
    assert [horses(result)[0] for result in results(store, "R0")] == ["arkle", "arkle (ire)"]
    assert [result.result_version for result in results(store, "R1")] == [1, 2, 3]
    assert [record.get(SOURCE_VERSION) for record in reader.records(store.home) if record.get("race_id") == "R1"] == [
        None,
        1,
        2,
    ]


def approved(store: Store, rows: Sequence[Sequence[str]]) -> None:
    with (store.home.root / "names.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names.HEADER, *rows])


def test_a_file_applies_what_a_person_approved_and_undoes_it(store: Store) -> None:
    logged(
        store,
        told("R1", NOON),
        told("R2", NOON + HOUR, runners=(Runner("arkle (ire)", status="FINISHED", position=1),)),
    )
    file = store.home.root / "names.csv"
    approved(
        store,
        [("yes", "horse", "arkle", "arkle (ire)", "1", "1", ""), ("", "horse", "mill house", "arkle", "1", "1", "")],
    )
    [(alias, done)] = names.apply(store, file, clock=fixed(LATER))
    assert (alias, getattr(done, "repeated", None)) == (OLD, 1)
    names.apply(store, file, clock=fixed(LATER + HOUR), undo=True)
    assert horses(results(store)[-1])[0] == "arkle"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("", "horse", "arkle", "mill house", "", "", "")], "approves nothing: write yes"),
        (
            [("yes", "owner", "arkle", "mill house", "", "", "")],
            "line 2: of is 'owner', but must be horse, jockey, trainer",
        ),
        ([("yes", "horse", "arkle", "", "", "", "")], "line 2: key and same_as must both be given"),
        ([("yes", "horse", "arkle", "arklee", "", "", "")], "names 'arklee', a key that no message has"),
    ],
)
def test_a_file_that_is_wrong_records_nothing(store: Store, rows: list[tuple[str, ...]], said: str) -> None:
    logged(store, told("R1", NOON))
    approved(store, rows)
    with pytest.raises(UserError, match=said):
        names.apply(store, store.home.root / "names.csv", clock=fixed(LATER))
    assert len(held(store)) == 1
