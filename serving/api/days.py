"""The races of a day and the state of one race, as plain values of the HTTP interface."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from velo.racing.cards import Declared, declared_at
from velo.racing.clock import to_text
from velo.racing.messages import FINISHED, Message, Racecard, Result, Runner, instant_of, to_record, type_name
from velo.racing.undeclared import undeclared

RUN: Final = "run"
OFF: Final = "off"
TO_COME: Final = "to come"
_OF_RACE: Final = (
    "race_id",
    "race_no",
    "course",
    "race_name",
    "going",
    "distance_m",
    "race_class",
    "surface",
    "handicap",
)
_OF_RUNNER: Final = (
    "horse_id", "runner_no", "draw", "jockey_id", "trainer_id", "age", "sex", "weight_lbs", "official_rating", "headgear",
)  # fmt: skip
_ABOUT: Final = ("horse_id", "reason", "jockey_id", "jockey", "going", "source", "prices", "result_version")


def line_of(messages: Sequence[Message], now: datetime) -> dict[str, Any] | None:
    """A race's line in a list of races; None if no runner was declared by now."""
    race = declared_at(messages, now)
    return None if race is None else _line(race, _latest_result(messages, now), now)


def card_of(messages: Sequence[Message], now: datetime) -> dict[str, Any] | None:
    """The state of a race with its messages; None if no runner was declared by now."""
    race = declared_at(messages, now)
    if race is None:
        return None
    result = _latest_result(messages, now)
    came = {runner.horse_id: runner for runner in result.runners} if result else {}
    odds = {horse: price for horse, price in race.odds.prices.items() if price > 1.0} if race.odds else {}
    known = sorted((message for message in messages if message.known_at and message.known_at <= now), key=instant_of)
    return _line(race, result, now) | {
        "declared": [_runner(runner, odds, came) for runner in race.runners],
        "non_runners": [_runner(runner, odds, came) for runner in race.withdrawn],
        "odds_source": race.odds.source if race.odds else None,
        "changes": [_change(message) for message in known],
        "undeclared": undeclared_in(known),
    }


def undeclared_in(messages: Sequence[Message], races: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The messages of one race about an undeclared horse, or about an undeclared race; `races` are declared ones."""
    return [
        {
            "type": message.type,
            "race_id": message.race_id,
            "horses": list(message.horses),
            "nearest": message.nearest,
            "known_at": to_text(message.known_at) if message.known_at else None,
            "declared_at": to_text(message.declared_at) if message.declared_at else None,
            "says": message.says,
        }
        for message in undeclared(messages, races)
    ]


def _line(race: Declared, result: Result | None, now: datetime) -> dict[str, Any]:
    of = race.race
    return {name: getattr(of, name) for name in _OF_RACE} | {
        "off_time": to_text(of.off_time),
        "status": RUN if result is not None else TO_COME if now < of.off_time else OFF,
        "runners": len(race.runners),
        "withdrawn": len(race.withdrawn),
        "odds_known_at": to_text(race.odds.known_at) if race.odds and race.odds.known_at else None,
        "winners": [
            {"horse_id": runner.horse_id, "horse": runner.horse or runner.horse_id, "sp_decimal": runner.sp_decimal}
            for runner in (result.runners if result is not None else ())
            if runner.won
        ],
    }


def _runner(runner: Runner, odds: Mapping[str, float], came: Mapping[str, Runner]) -> dict[str, Any]:
    ran = came.get(runner.horse_id)
    return {name: getattr(runner, name) for name in _OF_RUNNER} | {
        "horse": runner.horse or runner.horse_id,
        "jockey": runner.jockey or runner.jockey_id,
        "trainer": runner.trainer or runner.trainer_id,
        "odds": odds.get(runner.horse_id),
        "status": ran.status if ran else None,
        "position": ran.position if ran and (ran.won or ran.status == FINISHED) else None,
        "sp_decimal": ran.sp_decimal if ran else None,
    }


def _change(message: Message) -> dict[str, Any]:
    record = to_record(message)
    about: dict[str, Any] = {name: record[name] for name in _ABOUT if name in record}
    if isinstance(message, Racecard):
        about["runners"] = sum(runner.status is None for runner in message.runners)
    return {"type": type_name(message), "known_at": to_text(instant_of(message)), "about": about}


def _latest_result(messages: Sequence[Message], now: datetime) -> Result | None:
    results = [
        message for message in messages if isinstance(message, Result) and message.known_at and message.known_at <= now
    ]
    return max(results, key=lambda result: result.result_version) if results else None
