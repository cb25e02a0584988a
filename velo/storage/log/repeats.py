"""The records that repeat earlier messages under other keys, when an alias is recorded or undone (contract 11)."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson

from velo.errors import Refused
from velo.racing.aliases import REPEATS, SOURCE_VERSION, Aliases, as_given
from velo.racing.cards import Declared, declared_at
from velo.racing.clock import from_text
from velo.racing.messages import NON_RUNNER, Alias, from_record, instant_of
from velo.storage.log.format import ENVELOPE, complete_length, lines, segments_in
from velo.storage.log.migrations import upgraded

BEFORE_OFF: Final = timedelta(hours=1)
AFTER_OFF: Final = timedelta(days=2)
"""From how long before its off until how long after it a race without a result keeps the keys of its horses: bets struck on
them, and labels, are matched to its first result."""
_KEY: Final = re.compile(rb'_id"[:,]("(?:[^"\\]|\\.)*")')
_RACE: Final = re.compile(rb'"race_id":("(?:[^"\\]|\\.)*")')
_MARKET: Final = re.compile(rb'.{0,160}"type":"market"')
Record = dict[str, Any]
CurrentResult = Callable[[str], Record | None]
"""Returns the record of the current version of a race's result, None without one."""


def races_naming(folder: Path, keys: Collection[str]) -> dict[str, list[str]]:
    """Return the races whose messages name each of these keys, as any kind of key, in the order of the log."""
    wanted = {orjson.dumps(key): key for key in keys}
    found: dict[str, dict[str, None]] = {key: {} for key in keys}
    for segment in segments_in(folder):
        for _, line in lines(segment.path, complete_length(segment.path)):
            named = {wanted[text] for text in _KEY.findall(line) if text in wanted}
            if _MARKET.match(line):
                named |= found.keys() & orjson.loads(line)["prices"].keys()
            race = _RACE.search(line) if named else None
            for key in named if race else ():
                assert race is not None
                found[key][orjson.loads(race[1])] = None
    return {key: list(races) for key, races in found.items()}


def repeats(
    alias: Alias, races: Sequence[str], aliases: Aliases, current: CurrentResult, folder: Path, now: datetime | None
) -> list[Record]:
    """Return the records that bring these races under the keys in force, without the log's own fields.

    A race with a result gets its current version again, with the next number. A race without one gets its card again, with the
    changes since, and the prices and notices that the card does not cover. Raises `Refused` where an alias makes two runners of a
    race one horse, or a horse's race is being run at `now`; None allows that.
    """
    made: list[Record] = []
    pending: list[str] = []
    for race_id in races:
        record = current(race_id)
        if record is None:
            pending.append(race_id)
        elif (under_keys := aliases.renamed(_bare(record))) != _bare(record):
            version = record["result_version"]
            made.append(
                under_keys
                | {"result_version": version + 1, SOURCE_VERSION: record.get(SOURCE_VERSION, version), REPEATS: True}
            )
    for messages in _messages(folder, pending).values():
        made += _of_declared(alias, messages, aliases, now)
    return made


def _of_declared(alias: Alias, records: Sequence[Record], aliases: Aliases, now: datetime | None) -> Iterator[Record]:
    """Yield what a race without a result needs: its state under the keys in force, in as few messages as that takes."""
    under_keys = [aliases.renamed(record) for record in records]
    cards = [place for place, record in enumerate(records) if record["type"] == "racecard"]
    named = {runner["horse_id"] for place in cards for runner in under_keys[place]["runners"]}
    if cards and _keys(_state(records)) != _keys(_state(under_keys)):
        off = from_text(records[cards[-1]]["off_time"])
        if now is not None and alias.of == "horse" and off - BEFORE_OFF <= now <= off + AFTER_OFF:
            raise Refused(
                "race being run",
                f"{alias.key!r} or its other key runs in race {records[cards[-1]]['race_id']!r}, whose off is at {off:%H:%M} UTC: "
                "repeat the command when its result is known",
            )
        yield _bare(aliases.renamed(_with_changes(records, under_keys, cards[-1]))) | {REPEATS: True}
    for record, now_named in zip(records, under_keys, strict=True):
        horse = now_named.get("horse_id")
        if horse is not None and horse not in named and now_named != record:
            yield _bare(now_named) | {REPEATS: True}
    markets = [place for place, record in enumerate(records) if record["type"] == "market"]
    if markets and under_keys[markets[-1]] != records[markets[-1]]:
        yield _bare(under_keys[markets[-1]]) | {REPEATS: True}


def _state(records: Sequence[Record]) -> Declared:
    """Return the state of a declared race after all of its messages."""
    messages = [from_record(record) for record in records]
    state = declared_at(messages, max(map(instant_of, messages)))
    assert state is not None
    return state


def _keys(state: Declared) -> list[tuple[str | None, ...]]:
    everyone = (*state.runners, *state.withdrawn)
    return [(runner.horse_id, runner.jockey_id, runner.trainer_id) for runner in everyone]


def _with_changes(records: Sequence[Record], under_keys: Sequence[Record], place: int) -> Record:
    """Return a race's latest card, as given, with its going, its riders and its withdrawals as they are by now."""
    state = _state(under_keys)
    card = as_given(records[place])
    if state.race.going is not None:
        card["going"] = state.race.going
    now = {runner.horse_id: runner for runner in (*state.runners, *state.withdrawn)}
    out = {runner.horse_id for runner in state.withdrawn}
    card["runners"] = [dict(runner) for runner in card["runners"]]
    for runner, declared in zip(card["runners"], under_keys[place]["runners"], strict=True):
        horse = declared["horse_id"]
        if now[horse].jockey_id != declared.get("jockey_id"):
            runner |= _rider(records, under_keys, horse)
        runner.pop("non_runner", None)
        if horse in out:
            runner["status"] = NON_RUNNER
        elif runner.get("status") == NON_RUNNER:
            del runner["status"]
    return card


def _rider(records: Sequence[Record], under_keys: Sequence[Record], horse: str) -> Record:
    """Return the last rider that a change named for a horse, as given."""
    changes = [
        as_given(record)
        for record, now_named in zip(records, under_keys, strict=True)
        if record["type"] == "jockey_change" and now_named["horse_id"] == horse
    ]
    return {"jockey_id": changes[-1].get("jockey_id"), "jockey": changes[-1].get("jockey")}


def _messages(folder: Path, races: Collection[str]) -> dict[str, list[Record]]:
    """Return every record about some races, in the order of the log."""
    wanted = {orjson.dumps(race_id) for race_id in races}
    found: dict[str, list[Record]] = {race_id: [] for race_id in races}
    for segment in segments_in(folder) if wanted else ():
        for _, line in lines(segment.path, complete_length(segment.path)):
            race = _RACE.search(line)
            if race and race[1] in wanted:
                record = upgraded(orjson.loads(line))
                found[record["race_id"]].append(record)
    return found


def _bare(record: Mapping[str, Any]) -> Record:
    return {name: value for name, value in record.items() if name not in ENVELOPE}
