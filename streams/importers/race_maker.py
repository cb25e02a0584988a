"""Make the result or the racecard of one race from its rows, by the defaults, keys and refusals of contract 3."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Final

from velo.errors import Refused
from velo.racing.clock import RESULT_DELAY, YEARS, assumed_off, local_date, to_text
from velo.racing.messages import (
    FINISHED,
    IN_RUNNING,
    NON_RUNNER,
    OUTCOMES,
    RAN,
    STARTED,
    STATUSES,
    VOID,
    Race,
    Racecard,
    Result,
    Runner,
    instant_of,
)
from velo.racing.names import is_missing, name_key
from velo.racing.pools import dividends_of
from velo.settings import KeyPolicy
from velo.storage.store import Store
from velo.streams.importers.columns import COLUMNS, RACE_COLUMNS, WANTED
from velo.streams.importers.dead_letters import BAD, RESERVED, Row, json_value
from velo.streams.importers.parsers import text

_KNOWN: Final = frozenset(COLUMNS) | RESERVED
ONE_DAY: Final = timedelta(days=1)
BEFORE_OFF: Final = "result before its scheduled off"
"""The warning for a live result before its off."""
_NO_ODDS: Final = 1.0
_SHOWN_CHARACTERS: Final = 100
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class RaceMaker:
    """Makes the result or the racecard of a race from its rows."""

    store: Store
    policy: KeyPolicy
    warnings: Counter[str]

    def result(self, race_id: str, version: int, rows: Sequence[Row], *, live: bool = False) -> Result:
        """Return the checked result; raises `Refused` for the first broken rule.

        A result known before its off is a warning if `live`, since the off was only scheduled; in a file it is refused.
        """
        _refuse_bad_values(rows, version)
        horses = [self.horse_key(row) for row in rows]
        _refuse_outcomes(rows, horses)
        race, known_at = self._race(race_id, rows)
        result = Result(race, tuple(map(self.runner, rows, horses)), version, known_at or race.off_time + RESULT_DELAY)
        self._refuse_early(result, live=live, assumed=not any(row.get("off_time") for row in rows))
        self._refuse_contradictions(race, rows)
        return result

    def card(self, race_id: str, rows: Sequence[Row]) -> Racecard:
        """Return the racecard, without outcomes; raises `Refused` for the first broken rule.

        A row of status NR stays on the card with its mark, so that a later card without the mark reinstates the horse.
        """
        _refuse_bad_values(rows, version=1)
        horses = [self.horse_key(row) for row in rows]
        _refuse_twice(horses)
        _refuse_horseless(horses)
        race, known_at = self._race(race_id, rows)
        self._refuse_contradictions(race, rows)
        race = replace(race, dividends=None)
        return Racecard(race, tuple(self.runner(_as_declared(row)) for row in rows), known_at)

    def _race(self, race_id: str, rows: Sequence[Row]) -> tuple[Race, datetime | None]:
        refuse_control_characters(race_id)
        values, conflicting = _race_values(rows)
        for name in ("race_date", "course"):
            if values[name] is None:
                raise Refused(f"no {name}", f"none of the race's rows has a {name}: add it to one of them")
        try:
            off_time = values["off_time"] or assumed_off(values["race_date"], values["race_no"], self.store.timezone)
        except OverflowError:
            beyond = f"race_no {values['race_no']} puts the off beyond the calendar: correct it, or give off_time"
            raise Refused("bad value", beyond) from None
        known_at = values.pop("known_at")
        _refuse_other_years({"race_date": values["race_date"], "off_time": off_time, "known_at": known_at})
        try:
            dividends_of(values["dividends"])
        except ValueError as bad:
            raise Refused("bad value", f"dividends: {bad}: correct it, or leave the column empty") from None
        for name in conflicting:
            self.warnings[f"conflicting {name}"] += 1
        return Race(**{**values, "race_id": race_id, "off_time": off_time}), known_at

    def _refuse_early(self, result: Result, *, live: bool, assumed: bool) -> None:
        """Refuse a result known before its day or its off; the off is `assumed` if no row gives one."""
        race, known_at, timezone = result.race, instant_of(result), self.store.timezone
        if race.race_date > local_date(known_at, timezone):
            raise Refused(
                "race_date later than known_at",
                f"race_date {race.race_date} is later than known_at {to_text(known_at)} in {timezone.key}: correct either",
            )
        if not is_early(result, known_at):
            return
        if live:
            self.warnings[BEFORE_OFF] += 1
            return
        off = f"{to_text(race.off_time)}{' (assumed, since none is given)' if assumed else ''}"
        raise Refused(
            "known_at before off_time",
            f"known_at {to_text(known_at)} is before the off at {off}: correct either, or leave known_at out",
        )

    def _refuse_contradictions(self, race: Race, rows: Sequence[Row]) -> None:
        """Refuse an off far from the race's day, and rows of more than one race."""
        timezone = self.store.timezone
        if abs(local_date(race.off_time, timezone) - race.race_date) > ONE_DAY:
            raise Refused(
                "off_time far from race_date",
                f"off_time {to_text(race.off_time)} is more than a day from race_date {race.race_date} in {timezone.key}: "
                "correct either",
            )
        dates = sorted({row["race_date"] for row in rows if row.get("race_date") is not None})
        written = dict.fromkeys(row["course"] for row in rows if row.get("course") is not None)
        courses = {name_key(course): course for course in written}
        for name, given in (("race_date", dates), ("course", list(courses.values()))):
            if len(given) > 1:
                raise Refused(
                    f"more than one {name}",
                    f"its rows name {' and '.join(map(str, given[:2]))}: give each race a race_id of its own",
                )

    def runner(self, row: Row, horse_key: str | None = None) -> Runner:
        """Return one runner, under its horse's key where the caller has it.

        Odds of 1 or less and a draw of 0 are missing; a RAN runner keeps only a position of 1.
        """
        get = row.get
        in_running, kept = _beside(tuple(row))
        odds = get("sp_decimal")
        if odds is not None and odds <= _NO_ODDS:
            self.warnings["odds of 1 or less"] += 1
            odds = None
        if get("status") == RAN and get("position") not in (None, 1):
            self.warnings["RAN with a position but 1, unused"] += 1
        return Runner(
            horse_id=horse_key or self.horse_key(row) or "",
            runner_no=get("runner_no"),
            horse=text(get("horse")),
            draw=get("draw") or None,
            jockey_id=_key(get("jockey_id"), get("jockey"), self.policy),
            jockey=text(get("jockey")),
            trainer_id=_key(get("trainer_id"), get("trainer"), self.policy),
            trainer=text(get("trainer")),
            age=get("age"),
            sex=get("sex"),
            weight_lbs=get("weight_lbs"),
            body_weight_lbs=get("body_weight_lbs"),
            official_rating=get("official_rating"),
            headgear=get("headgear"),
            status=get("status"),
            position=get("position"),
            beaten_lengths=get("beaten_lengths"),
            finish_time_s=get("finish_time_s"),
            sp_decimal=odds,
            kept={
                name: value if type(value) is str else json_value(value)
                for name in kept
                if (value := row[name]) is not None
            },
            **{name: row[name] for name in in_running},
        )

    def horse_key(self, row: Row) -> str | None:
        """Return the key of a row's horse."""
        return _key(row.get("horse_id"), row.get("horse"), self.policy)


def _as_declared(row: Row) -> Row:
    """Return a row without its outcome, except the mark of a non-runner."""
    mark = {"status": NON_RUNNER} if row.get("status") == NON_RUNNER else {}
    return {name: value for name, value in row.items() if name not in OUTCOMES} | mark


@lru_cache(maxsize=256)
def _beside(columns: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return which of a row's columns are of the running, and which the runner table lacks: the same for all rows of a file."""
    return [name for name in columns if name in IN_RUNNING], [name for name in columns if name not in _KNOWN]


@cache
def _key(given: str | None, name: str | None, policy: KeyPolicy) -> str | None:
    own = None if given is None or is_missing(given) else given.strip()
    return own or name_key(name) if policy == "id" else name_key(name) or own


def bad_value(name: str, value: object, wanted: str) -> Refused:
    """Return the refusal of a field with a wrong value; a long value is cut."""
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"
    return Refused("bad value", f"{name} is {shown}, but holds {wanted}: correct it")


def is_early(result: Result, known_at: datetime) -> bool:
    """Whether a result with starters is known before its off, which then was only scheduled."""
    return known_at < result.race.off_time and any(runner.started for runner in result.runners)


def _refuse_bad_values(rows: Sequence[Row], version: int) -> None:
    for row in rows:
        for column, value in row.get(BAD, {}).items():
            raise value if isinstance(value, Refused) else bad_value(column, value, WANTED[COLUMNS[column]])
    if version < 1:
        raise Refused("bad value", f"result_version is {version}, but versions count from 1: correct it")


def refuse_control_characters(race_id: str) -> None:
    """Raise `Refused` for a race id with control characters, which screens and addresses do not show."""
    if _CONTROL.search(race_id):
        raise Refused(
            "control character in race_id",
            f"race_id is {race_id!r}, but is used in addresses and on screens: leave out characters that cannot be read",
        )


def _refuse_other_years(moments: Mapping[str, date | None]) -> None:
    """Refuse a year without racing, which is a mistake: the log's clock could never go back from it."""
    for name, moment in moments.items():
        if moment is not None and moment.year not in YEARS:
            years = f"{YEARS[0]} to {YEARS[-1]}"
            raise Refused("bad value", f"{name} {moment.isoformat()} is not in the years {years}: correct it")


def _refuse_outcomes(rows: Sequence[Row], horses: Sequence[str | None]) -> None:
    """Apply the rules of contract 3 about a race's runners, in its order."""
    _refuse_twice(horses)
    statuses = [row.get("status") for row in rows]
    for status in statuses:
        if status not in STATUSES:
            known = ", ".join(sorted(STATUSES))
            raise Refused(f"unknown status {status}" if status else "no status", f"use one of {known}")
    places = {kind: _positions(rows, kind) for kind in (FINISHED, RAN)}
    if any(position is None or position < 1 for position in places[FINISHED]):
        raise Refused(
            "FINISHED without a position",
            "give it a position of 1 or more, or the status it ended with (RAN where its place is unknown)",
        )
    if any(status in STARTED for status in statuses):
        if 1 not in places[FINISHED] + places[RAN]:
            raise Refused(
                "no winner", "there are starters, but none is FINISHED or RAN at position 1: correct the positions"
            )
    elif VOID not in statuses:
        raise Refused("no starters", "nobody ran and nobody is VOID: give the starters, or VOID for a void race")
    _refuse_horseless(horses)


def _positions(rows: Sequence[Row], status: str) -> list[int | None]:
    return [row.get("position") for row in rows if row.get("status") == status]


def _refuse_twice(horses: Sequence[str | None]) -> None:
    named = [horse for horse in horses if horse is not None]
    if len(set(named)) < len(named):
        twice = next(horse for horse, times in Counter(named).items() if times > 1)
        raise Refused("horse appears twice", f"{twice!r} has more than one row: leave one of them")


def _refuse_horseless(horses: Sequence[str | None]) -> None:
    if None in horses:
        raise Refused("runner without a horse", "a row has neither horse_id nor horse: give it either")


def _race_values(rows: Sequence[Row]) -> tuple[dict[str, Any], list[str]]:
    """Return the first value of each race column, and the columns with conflicting values."""
    values: dict[str, Any] = {}
    conflicting = []
    for name in RACE_COLUMNS:
        given = [row.get(name) for row in rows]
        first = given[0]
        if given.count(first) < len(given):
            given = [value for value in given if value is not None]
            first = given[0]
            if given.count(first) < len(given):
                conflicting.append(name)
        values[name] = first
    return values, conflicting
