"""`velo names match` and what explain says of an alias, in a built store."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.logs import a_store, fixed, logged
from tests.support.stores import NOW
from velo.racing.cards import declared_at
from velo.racing.messages import Alias, Race, Racecard, Result, Runner
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams import names
from velo.streams.batch.build import build
from velo.streams.explain import explain

OFF = datetime(2024, 5, 1, 13, 0, tzinfo=UTC)
YARD = {"trainer_id": "t dreaper", "trainer": "T Dreaper", "jockey_id": "p taaffe", "jockey": "P Taaffe"}


def ran(race_id: str, day: int, *runners: Runner, course: str = "Ascot") -> Result:
    off = OFF + timedelta(days=day)
    race = Race(race_id, date(2024, 5, 1) + timedelta(days=day), off, course)
    placed = tuple(
        replace(runner, runner_no=number, status="FINISHED", position=number)
        for number, runner in enumerate(runners, 1)
    )
    return Result(race, placed, 1, off + timedelta(minutes=15))


def horse(key: str, age: int = 5, sex: str = "g", trainer: str = "t dreaper", **more: Any) -> Runner:
    return Runner(key, key.title(), age=age, sex=sex, trainer_id=trainer, trainer=trainer.title(), **more)


def built(tmp_path: Path, *results: Result) -> Store:
    store = a_store(tmp_path / "home")
    logged(store, *results)
    build(store, NOW)
    return store


def test_alike_names_are_proposed_where_their_starts_fit_and_never_by_likeness_alone(tmp_path: Path) -> None:
    """One stops where the other begins, in one yard, at one age; another age, sex, yard or race keeps two apart."""
    store = built(
        tmp_path,
        ran("R1", 0, horse("arkle"), horse("enable", sex="f"), horse("red rum"), horse("o'brien's boy"), horse("twin")),
        ran(
            "R2", 9, horse("arklé (ire)"), horse("enable (gb)", sex="c"), horse("red rum (usa)", age=3), horse("filler")
        ),
        ran("R3", 20, horse("obriens boy", trainer="another yard"), horse("twin (ire)"), horse("twin")),
    )
    [found] = names.match(store.home)
    assert (found.of, {found.key, found.same_as}) == ("horse", {"arkle", "arklé (ire)"})
    assert (found.starts_key, found.starts_same_as) == (1, 1)
    assert found.evidence == (
        "both were born in 2019; 'Arkle' last ran on 2024-05-01, 'Arklé (Ire)' first on 2024-05-10; "
        "both were trained by 't dreaper'; never in one race in 2 starts"
    )


def test_keys_in_the_same_place_of_one_race_from_two_sources_are_proposed_whatever_their_names(tmp_path: Path) -> None:
    """Twice in the same place, each the other's only partner; once is not enough, nor are two partners."""
    two = [
        ran(f"{source}{day}", day, *(horse(f"{source}{number}") for number in (1, 2)), horse(f"{source} once {day}"))
        for day in (0, 7)
        for source in ("hk", "uk")
    ]
    store = built(tmp_path, *two, ran("else", 7, horse("hk9"), course="York"))
    found = {(each.key, each.same_as, each.evidence) for each in names.match(store.home)}
    assert {pair[:2] for pair in found} == {("hk1", "uk1"), ("hk2", "uk2")}
    assert all("2 races of two sources have them in the same place" in said for _, _, said in found)


def test_two_spellings_of_a_rider_are_proposed_for_the_horses_they_share(tmp_path: Path) -> None:
    def ridden(jockey: str, *horses: str) -> list[Runner]:
        return [replace(horse(each, trainer="t"), jockey_id=jockey.casefold(), jockey=jockey) for each in horses]

    store = built(
        tmp_path,
        ran("R1", 0, *ridden("Mr J P O'Brien", "a"), *ridden("A Smith", "d")),
        ran("R2", 3, *ridden("Mr J P O'Brien", "b"), *ridden("B Smith", "d")),
        ran("R3", 9, *ridden("Joseph OBrien", "a"), *ridden("A. Smith", "e")),
        ran("R4", 12, *ridden("Joseph OBrien", "b")),
    )
    [found] = names.match(store.home)
    assert {found.key, found.same_as} == {"mr j p o'brien", "joseph obrien"}
    assert found.evidence == "both rode 'a' and 1 more horses; never in one race in 4 starts"


def test_explain_shows_the_starts_of_an_alias_under_the_name_they_were_run_in(tmp_path: Path) -> None:
    """Before its instant the new key has one start, from it two, one of them as `Arkle`."""
    store = built(tmp_path, ran("R1", 0, horse("arkle"), horse("b")), ran("R2", 9, horse("arkle (ire)"), horse("b")))
    at = OFF + timedelta(days=20)
    with LogWriter.open(store, clock=fixed(at)) as writer:
        writer.apply([Alias("horse", "arkle", "arkle (ire)")])
    race = Race("R3", date(2024, 5, 30), OFF + timedelta(days=29), "Ascot")
    card = Racecard(race, (horse("arkle (ire)"), horse("b")), at + timedelta(hours=1))
    logged(store, card)
    build(store, NOW)
    named = {}
    for instant in (at - timedelta(hours=1), at + timedelta(hours=2)):
        declared = declared_at([card], card.known_at or instant)
        assert declared is not None
        report = explain(store, replace(declared, instant=instant), "arkle (ire)")
        [form] = [view for view in report.views if view.view == "horse_form"]
        assert report.differences == ()
        named[instant] = [start.named for start in form.starts]
    assert list(named.values()) == [["Arkle (Ire)"], ["Arkle (Ire)", "Arkle"]]
