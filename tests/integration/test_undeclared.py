"""Messages about nobody: kept, counted, known with the nearest declared name, and in effect once a card declares them."""

from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.integration.test_declared_everywhere import NOW, OFF, a_story
from tests.support.feeds import Listed, drained, encoded, sent, sent_result
from tests.support.logs import a_store
from tests.support.seasons import opened
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
    instant_of,
)
from velo.racing.undeclared import nearest, undeclared
from velo.storage.log.reader import messages as logged
from velo.storage.log.writer import LogWriter
from velo.streams.batch.build import build
from velo.streams.status import status
from velo.streams.undeclared import undeclared_of

RACE = Race("A1", date(2024, 5, 1), OFF, "Ascot")
CARD = Racecard(RACE, (Runner("plain sailing"), Runner("second thoughts")), OFF - timedelta(hours=5))


def before(minutes: float) -> datetime:
    return OFF - timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("plain saling", "plain sailing (ire)"),
        ("Plain  Sailing", "plain sailing (ire)"),
        ("second thought", "second thoughts (gb)"),
        ("zzz", None),
    ],
)
def test_the_nearest_name_is_the_one_most_alike(asked: str, found: str | None) -> None:
    assert nearest(asked, ["stayed home (gb)", "second thoughts (gb)", "plain sailing (ire)"]) == found
    assert nearest(asked, []) is None


@pytest.mark.parametrize(
    "message",
    [
        NonRunner("A1", "plain saling", None, before(60)),
        Reinstated("A1", "plain saling", before(60)),
        JockeyChange("A1", "plain saling", "j", "J", before(60)),
        Market("A1", {"second thoughts": 2.0, "plain saling": 3.0}, "show", before(60)),
    ],
)
def test_each_kind_of_message_about_a_horse_that_is_not_declared_is_reported(message: Message) -> None:
    [each] = undeclared([CARD, message])
    assert (each.race_id, each.horses, each.nearest, each.declared_at) == (
        "A1",
        ("plain saling",),
        "plain sailing",
        None,
    )
    [each] = undeclared([message], ["A11", "B2"])
    assert (each.horses, each.nearest) == ((), "A11")


def test_a_message_about_whom_a_card_declares_later_says_when_it_did() -> None:
    messages: list[Message] = [
        NonRunner("A1", "plain sailing", None, before(400)),
        GoingChange("A1", "Soft", before(399)),
        CARD,
    ]
    assert [(report.type, report.declared_at) for report in undeclared(messages)] == [
        ("non_runner", CARD.known_at),
        ("going_change", CARD.known_at),
    ]
    assert [report.declared_at for report in undeclared(messages[:2])] == [None, None]


def test_what_is_known_of_declared_horses_or_of_a_race_that_was_run_is_about_somebody() -> None:
    result = Result(RACE, (Runner("plain sailing", status="FINISHED", position=1),), known_at=before(-15))
    messages: list[Message] = [
        NonRunner("A1", "second thoughts", None, before(60)),
        Market("A1", {"x": 2.0}, "betfair-sp", before(-16)),
    ]
    assert undeclared([CARD, messages[0]]) == []
    assert undeclared([result, messages[1]]) == []


# Where it is shown


DAY = [
    sent("non_runner", "A1", horse="Plain Sailing"),
    sent(
        "racecard", "A1", race_date="2024-05-01", off_time="2099-05-01T13:30:00Z", course="Ascot",
        runners=[{"horse": "Plain Sailing"}, {"horse": "Second Thoughts"}],
    ) | {"race_date": "2099-05-01"},
    sent("non_runner", "A1", horse="Second Thought", reason="lame"),
    sent("jockey_change", "A1", horse="Second Thoughts", jockey="A Jockey"),
    sent("going_change", "A11", going="Soft"),
    sent("market", "A1", prices={"second thoughts": 2.0, "nobody at all": 3.0}, source="tote"),
    sent("market", "A1", prices={"second thoughts": 2.1, "nobody at all": 3.1}, source="tote"),
]  # fmt: skip
SAID = (
    "non_runner about race 'A1', which nobody declared",
    "non_runner about 'second thought' in race 'A1', which nobody declared; the nearest declared name is 'second thoughts'",
    "going_change about race 'A11', which nobody declared; the nearest declared name is 'A1'",
    "market about 'nobody at all' in race 'A1', which nobody declared",
)


def test_the_follower_keeps_counts_and_says_what_is_about_nobody(tmp_path: Path) -> None:
    store = a_store(tmp_path / "home")
    report = drained(store, Listed(encoded(*DAY)))
    assert (report.appended, sum(report.refused.values()), report.undeclared) == (7, 0, 5)
    assert report.undeclared_told == SAID


@pytest.mark.parametrize("built", [0, 3, 7])
def test_the_status_counts_them_and_leaves_out_who_was_declared_since(tmp_path: Path, built: int) -> None:
    """Whether the tables hold all of the log, some of it or none."""
    store = a_store(tmp_path / "home")
    drained(store, Listed(encoded(*DAY[:built])))
    if built:
        build(store, NOW)
    rest = Listed(encoded(*DAY[built:]))
    rest.name = "the rest"
    drained(store, rest)
    report = status(store, NOW)
    assert (report.undeclared, report.undeclared_waiting) == (5, 4)
    assert report.undeclared_last == SAID[1:]
    shown = {name: value for name, value in report.lines() if name}
    assert len(shown) <= 10
    assert shown["dead letters"] == "0; 5 messages about undeclared races or horses, 1 of them declared since"


def test_a_feed_that_ends_with_its_results_has_nothing_about_nobody_in_them(tmp_path: Path) -> None:
    report = drained(a_store(tmp_path / "home"), Listed(encoded(sent_result("R1"), sent_result("R2"))))
    assert (report.undeclared, report.undeclared_told) == (0, ())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(a_story())
def test_the_writer_reports_of_each_message_what_all_of_them_show_afterwards(story: list[Message]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        store = opened(Path(folder) / "home").save()
        clock = [OFF]
        live: list[datetime] = []
        with LogWriter.open(store, clock=lambda: clock[0]) as writer:
            for message in story:
                clock[0] = instant_of(message)
                if writer.append(message).undeclared is not None:
                    live.append(instant_of(message))
        held = [each for _, each in logged(store.home)]
        assert live == [report.known_at for report in undeclared(held)]
        assert [report.known_at for report in undeclared_of(store.home)] == live
