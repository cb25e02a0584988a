"""A race as it stood at an instant: the last word before it counts, and nothing said after it."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from velo.racing.cards import FROM_CARD, FROM_RESULT, Declared, decision_time, declared_at, withdrawn_since
from velo.racing.messages import (
    GoingChange,
    JockeyChange,
    Market,
    Message,
    NonRunner,
    Race,
    Racecard,
    Reinstated,
    Result,
    Runner,
)

OFF = datetime(2024, 5, 1, 14, 0, tzinfo=UTC)
LEAD = timedelta(minutes=5)
RACE = Race("R1", date(2024, 5, 1), OFF, "Ascot", surface="Turf", going="Good", distance_m=1200.0)
RUNNERS = tuple(
    Runner(f"h{n}", f"H{n}", runner_no=n, draw=n, jockey_id=f"j{n}", trainer_id=f"t{n}", weight_lbs=120.0 + n)
    for n in range(1, 7)
)


def before(minutes: float) -> datetime:
    return OFF - timedelta(minutes=minutes)


def a_card(minutes: float = 240, race: Race = RACE, runners: tuple[Runner, ...] = RUNNERS) -> Racecard:
    return Racecard(race, runners, before(minutes))


def a_result(version: int = 1, runners: tuple[Runner, ...] = RUNNERS, minutes: float = -15) -> Result:
    finished = tuple(
        replace(runner, status="FINISHED", position=place, beaten_lengths=1.0, sp_decimal=3.0, kept={"rpr": 99})
        for place, runner in enumerate(runners, 1)
    )
    return Result(RACE, finished, version, before(minutes))


def stood(*messages: Message, minutes: float = 5) -> Declared:
    found = declared_at(messages, before(minutes))
    assert found is not None
    return found


def horses(race: Declared) -> list[str]:
    return [runner.horse_id for runner in race.runners]


def test_a_card_names_the_runners_and_the_result_does_not() -> None:
    race = stood(a_card(), a_result(runners=RUNNERS[:3]))
    assert (race.source, horses(race)) == (FROM_CARD, ["h1", "h2", "h3", "h4", "h5", "h6"])


def test_without_a_card_known_by_then_the_starters_of_the_first_result_stand_in_and_it_says_so() -> None:
    ran = a_result().runners
    result = replace(a_result(), runners=(replace(ran[0], status="NR", position=None), *ran[1:]))
    race = stood(a_card(minutes=2), result, a_result(version=2, runners=RUNNERS[:2], minutes=-60))
    assert (race.source, horses(race)) == (FROM_RESULT, ["h2", "h3", "h4", "h5", "h6"])
    assert [runner.horse_id for runner in race.withdrawn] == ["h1"]


def test_no_outcome_reaches_a_declared_runner() -> None:
    for runner in stood(a_result()).runners:
        assert (runner.status, runner.position, runner.beaten_lengths, runner.sp_decimal) == (None, None, None, None)
        assert not runner.kept


@pytest.mark.parametrize(("minutes", "stands"), [(30, False), (5, False), (4.99, True)])
def test_a_withdrawal_counts_from_the_instant_it_is_known(minutes: float, stands: bool) -> None:
    race = stood(a_card(), NonRunner("R1", "h2", None, before(minutes)))
    assert ("h2" in horses(race)) is stands
    assert [runner.horse_id for runner in race.withdrawn] == ([] if stands else ["h2"])


def out(*messages: Message, minutes: float = 5) -> list[str]:
    return [runner.horse_id for runner in stood(*messages, minutes=minutes).withdrawn]


def marked(horse_id: str, minutes: float) -> Racecard:
    runners = tuple(replace(runner, status="NR") if runner.horse_id == horse_id else runner for runner in RUNNERS)
    return a_card(minutes, runners=runners)


def test_a_card_without_the_mark_a_reinstatement_and_a_start_each_take_a_withdrawal_back() -> None:
    withdrawn = NonRunner("R1", "h2", "by mistake", before(60))
    for back in (a_card(minutes=30), Reinstated("R1", "h2", before(30)), replace(a_result(), known_at=before(30))):
        messages = (a_card(), withdrawn, back)
        assert [out(*messages, minutes=minutes) for minutes in (61, 31, 29)] == [[], ["h2"], []]
        assert horses(stood(*messages)) == ["h1", "h2", "h3", "h4", "h5", "h6"]
    assert out(a_card(), withdrawn, marked("h2", 30)) == ["h2"]
    assert out(a_card(), withdrawn, a_card(30), NonRunner("R1", "h2", None, before(20))) == ["h2"]


def test_a_mark_on_a_card_withdraws_until_a_card_comes_without_it() -> None:
    messages = (marked("h2", 240), a_card(60))
    assert [out(*messages, minutes=minutes) for minutes in (61, 59)] == [["h2"], []]
    assert out(marked("h2", 240), Reinstated("R1", "h2", before(60))) == []


def test_a_withdrawal_stands_since_it_was_first_known_without_a_break() -> None:
    messages: list[Message] = [marked("h2", 240), NonRunner("R1", "h2", None, before(230)), marked("h2", 200)]
    assert withdrawn_since(messages, before(5)) == {"h2": before(240)}
    messages += [Reinstated("R1", "h2", before(100)), NonRunner("R1", "h2", None, before(50))]
    assert withdrawn_since(messages, before(5)) == {"h2": before(50)}


def test_a_result_of_a_lower_version_takes_no_withdrawal_back() -> None:
    without = tuple(runner for runner in RUNNERS if runner.horse_id != "h2")
    messages = (a_card(), NonRunner("R1", "h2", None, before(60)), a_result(2, without, 40), a_result(1, RUNNERS, 30))
    assert out(*messages) == ["h2"]


@pytest.mark.parametrize(("card", "takes_effect"), [(240, True), (0.1, True), (-1, False)])
def test_what_was_known_of_nobody_takes_effect_with_the_card_that_declares_it_before_the_off(
    card: float, takes_effect: bool
) -> None:
    messages = (
        NonRunner("R1", "h2", None, before(300)),
        JockeyChange("R1", "h1", "x", "X", before(299)),
        GoingChange("R1", "Heavy", before(298)),
        a_card(card),
    )
    race = stood(*messages, minutes=-2)
    assert ([runner.horse_id for runner in race.withdrawn] == ["h2"]) is takes_effect
    assert (race.runners[0].jockey_id == "x") is takes_effect
    assert race.race.going == ("Heavy" if takes_effect else "Good")
    assert out(*messages, a_card(-1.5), minutes=-2) == []


def test_a_withdrawal_of_a_horse_that_only_a_later_card_names_waits_for_that_card() -> None:
    messages = (a_card(240, runners=RUNNERS[1:]), NonRunner("R1", "h1", None, before(200)), a_card(100))
    assert [out(*messages, minutes=minutes) for minutes in (101, 99)] == [[], ["h1"]]
    assert horses(stood(*messages, minutes=101)) == ["h2", "h3", "h4", "h5", "h6"]
    back = Reinstated("R1", "h1", before(150))
    assert out(*messages[:2], back, marked("h1", 100)) == []


def test_the_draw_is_cut_in_thirds_of_those_who_are_left() -> None:
    everyone = stood(a_card())
    assert everyone.draw_thirds == (1, 1, 2, 2, 3, 3)
    fewer = stood(a_card(), *(NonRunner("R1", horse, None, before(60)) for horse in ("h1", "h2", "h3")))
    assert fewer.draw_thirds == (1, 2, 3)
    assert [of["draw_cell"] for of in fewer.entity_keys()] == [f"Ascot|Turf|sprint|good|{third}" for third in (1, 2, 3)]


def test_a_runner_without_a_draw_leaves_the_race_without_thirds() -> None:
    runners = (replace(RUNNERS[0], draw=0), *RUNNERS[1:])
    assert stood(a_card(runners=runners)).draw_thirds == (0,) * 6


def test_the_last_word_on_a_jockey_counts() -> None:
    early, late = (JockeyChange("R1", "h1", key, key, before(m)) for key, m in (("x", 60), ("y", 50)))
    assert stood(a_card(), late, early).runners[0].jockey_id == "y"
    assert stood(a_card(), early, a_card(minutes=40)).runners[0].jockey_id == "j1"
    assert stood(a_card(), early, late, minutes=55).runners[0].jockey_id == "x"
    assert stood(a_card(), JockeyChange("R1", "h1", None, None, before(60))).runners[0].jockey_id is None


def test_a_card_silent_on_a_jockey_or_the_going_leaves_what_was_known_before_it() -> None:
    change, going = JockeyChange("R1", "h1", "x", "X", before(60)), GoingChange("R1", "Soft", before(60))
    silent = a_card(minutes=30, race=replace(RACE, going=None), runners=(replace(RUNNERS[0], jockey_id=None),))
    race = stood(a_card(), change, going, silent)
    assert (race.runners[0].jockey_id, race.race.going) == ("x", "Soft")


def test_the_last_word_on_the_going_counts_in_every_key_made_of_it() -> None:
    race = stood(a_card(), GoingChange("R1", "Heavy", before(60)), GoingChange("R1", "Firm", before(1)))
    assert race.race.going == "Heavy"
    assert {of["going_group"] for of in race.entity_keys()} == {"soft"}
    assert stood(a_card(), GoingChange("R1", "Heavy", before(60)), a_card(minutes=30)).race.going == "Good"


def test_the_latest_odds_known_by_then_are_the_odds() -> None:
    odds = [Market("R1", {"h1": price}, "show", before(minutes)) for price, minutes in ((3.0, 30), (4.0, 6), (5.0, 4))]
    race = stood(a_card(), *odds)
    assert race.odds is not None
    assert race.odds.prices == {"h1": 4.0}
    assert stood(a_card()).odds is None


def test_a_race_is_decided_before_the_off_of_the_latest_card_that_was_in_time() -> None:
    moved = a_card(minutes=60, race=replace(RACE, off_time=OFF + timedelta(minutes=20)))
    assert decision_time([a_card(), a_result()], LEAD) == before(5)
    later = replace(a_result(), known_at=OFF + timedelta(minutes=25))
    assert decision_time([a_card(), moved, later], LEAD) == before(-15)
    too_late = a_card(minutes=-16, race=replace(RACE, off_time=OFF + timedelta(minutes=20)))
    assert decision_time([a_card(), too_late, a_result()], LEAD) == before(5)
    assert decision_time([a_result()], LEAD) == before(5)
    assert decision_time([NonRunner("R1", "h1", None, before(60))], LEAD) is None


def test_a_race_whose_result_came_before_its_off_is_decided_before_that_result() -> None:
    """Declared for 14:20, run and known at 14:15: decided at 14:10. The first version to come counts, whichever it is."""
    moved = a_card(minutes=60, race=replace(RACE, off_time=OFF + timedelta(minutes=20)))
    assert decision_time([moved, a_result()], LEAD) == before(-10)
    early = replace(a_result(), known_at=before(30))
    assert decision_time([a_card(), early], LEAD) == before(35)
    assert decision_time([a_card(), replace(early, result_version=2), a_result()], LEAD) == before(35)
    assert decision_time([early], LEAD) == before(35)
    after_that = a_card(minutes=33, race=replace(RACE, off_time=before(120)))
    assert decision_time([a_card(), after_that, early], LEAD) == before(35), "the second card was not in time"


def test_a_race_with_neither_card_nor_first_result_has_nobody_declared() -> None:
    assert declared_at([a_result(version=2)], before(5)) is None
