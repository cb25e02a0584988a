"""A small made-up season with cards, withdrawals, changes and odds, put through the real log and build.

Seeded chance; horses have a lasting ability, so that there is something to learn. Instants are UTC; the local zone is
London's.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np

from velo.racing.messages import (
    FINISHED,
    GoingChange,
    JockeyChange,
    Market,
    Message,
    NonRunner,
    Race,
    Racecard,
    Result,
    Runner,
)
from velo.settings import Settings
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build

FIRST_DAY = date(2023, 3, 1)
BUILT_AT = datetime(2026, 1, 1, tzinfo=UTC)
COURSES = ("Ascot", "Ayr")
GOINGS = ("Good", "Soft", "Good to Firm")
HORSES, PEOPLE = 48, 9


def a_season(days: int, seed: int = 5, first_day: date = FIRST_DAY, races_a_day: int = 4) -> list[Message]:
    """Every message of a season with a race day in three days; two races in three have a card."""
    rng = np.random.default_rng(seed)
    ability = np.random.default_rng(77).normal(0.0, 1.0, HORSES)
    messages: list[Message] = []
    for day in range(0, days, 3):
        race_date = first_day + timedelta(days=day)
        fields = rng.permutation(HORSES)
        for number in range(races_a_day):
            horses = fields[number * 10 : number * 10 + int(rng.integers(5, 11))]
            messages += race_messages(rng, race_date, number + 1, horses, ability)
    return messages


def race_messages(
    rng: np.random.Generator, race_date: date, number: int, horses: np.ndarray, ability: np.ndarray
) -> list[Message]:
    """One race: perhaps a card with what follows it, always a result, now and then an amended one."""
    off = datetime(race_date.year, race_date.month, race_date.day, 13, 0, tzinfo=UTC) + number * timedelta(minutes=30)
    race_id = f"{race_date}-{number}"
    race = Race(
        race_id,
        race_date,
        off,
        str(rng.choice(COURSES)),
        race_no=number,
        race_class=int(rng.integers(1, 6)),
        surface="Turf",
        going=str(rng.choice(GOINGS)),
        distance_m=float(rng.choice([1200.0, 1609.0, 2400.0])),
    )
    runners = [_runner(rng, int(horse), place + 1) for place, horse in enumerate(horses)]
    messages: list[Message] = []
    withdrawn: set[str] = set()
    if rng.random() < 0.67:
        messages, withdrawn = _card_and_after(rng, race, runners)
    ran = [runner for runner in runners if runner.horse_id not in withdrawn]
    out = [replace(runner, status="NR") for runner in runners if runner.horse_id in withdrawn]
    strength = np.array([ability[int(each.horse_id.split()[1])] for each in ran])
    order = np.argsort(-(strength + rng.gumbel(size=len(ran))))
    chance = np.exp(strength) / np.exp(strength).sum()
    finishers = [
        replace(
            ran[at],
            status=FINISHED,
            position=place + 1,
            beaten_lengths=float(place) * 1.5,
            sp_decimal=float(round(max(1.05, 0.85 / chance[at]), 2)),
        )
        for place, at in enumerate(order)
    ]
    known_at = off + timedelta(minutes=12, seconds=int(rng.integers(0, 60)))
    messages.append(Result(race, (*finishers, *out), 1, known_at))
    if rng.random() < 0.05:
        messages.append(Result(race, (*_first_two_swapped(finishers), *out), 2, known_at + timedelta(days=2)))
    return messages


def a_card(race: Race, runners: Sequence[Runner], known_at: datetime) -> Racecard:
    return Racecard(race, tuple(runners), known_at)


def opened(home: Path) -> Store:
    return Store.open(Settings(home))


def a_store(home: Path, messages: Sequence[Message]) -> Store:
    """The messages through the real writer and build; messages later than those there may be added by calling again."""
    with LogWriter.open(opened(home).save(), clock=lambda: BUILT_AT) as writer:
        writer.load(messages)
    build(opened(home), BUILT_AT)
    return opened(home)


def _runner(rng: np.random.Generator, horse: int, number: int) -> Runner:
    trainer, jockey = horse % PEOPLE, int(rng.integers(0, PEOPLE))
    return Runner(
        f"horse {horse}",
        f"Horse {horse}",
        runner_no=number,
        draw=number,
        jockey_id=f"jockey {jockey}",
        jockey=f"Jockey {jockey}",
        trainer_id=f"trainer {trainer}",
        trainer=f"Trainer {trainer}",
        weight_lbs=float(rng.integers(112, 140)),
        official_rating=int(rng.integers(50, 90)) if rng.random() < 0.8 else None,
    )


def _card_and_after(rng: np.random.Generator, race: Race, runners: list[Runner]) -> tuple[list[Message], set[str]]:
    off = race.off_time
    messages: list[Message] = [a_card(race, runners, off - timedelta(hours=4, seconds=int(rng.integers(0, 60))))]
    withdrawn: set[str] = set()
    if rng.random() < 0.4:
        withdrawn.add(runners[0].horse_id)
        early = rng.random() < 0.7
        messages.append(
            NonRunner(race.race_id, runners[0].horse_id, "lame", off - timedelta(minutes=50 if early else 2))
        )
    if rng.random() < 0.4:
        change = JockeyChange(race.race_id, runners[1].horse_id, "jockey 3", "Jockey 3", off - timedelta(minutes=40))
        messages.append(change)
    if rng.random() < 0.3:
        messages.append(GoingChange(race.race_id, "Heavy", off - timedelta(minutes=90)))
    prices = {runner.horse_id: float(round(2 + 10 * rng.random(), 2)) for runner in runners}
    messages += [Market(race.race_id, prices, "show", off - timedelta(minutes=minutes)) for minutes in (30, 10)]
    return messages, withdrawn


def _first_two_swapped(finishers: list[Runner]) -> list[Runner]:
    first, second = finishers[:2]
    return [replace(first, position=2), replace(second, position=1), *finishers[2:]]
