"""Validate bytes from a producer: into a message of the log, or a dead letter with the reason.

The rules are those of `velo ingest runners` (contract 3); `schema/messages-v2.json` describes them for producers. The
`known_at` of a live message is its arrival, whatever it claims. Unknown fields are kept with it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Final

import orjson

from velo.errors import Refused
from velo.racing.aliases import FIELDS
from velo.racing.deductions import known_factor
from velo.racing.messages import (
    SCHEMA_VERSION,
    TYPES,
    GoingChange,
    JockeyChange,
    Market,
    Message,
    NonRunner,
    Race,
    Racecard,
    Reinstated,
    Result,
)
from velo.settings import KeyPolicy
from velo.storage.log.format import ENVELOPE
from velo.storage.store import Store
from velo.streams.importers.columns import COLUMNS, RACE_COLUMNS, RUNNER_COLUMNS, WANTED, value_of
from velo.streams.importers.dead_letters import BAD, DeadLetter
from velo.streams.importers.parsers import INTEGERS
from velo.streams.importers.race_maker import RaceMaker, bad_value, refuse_control_characters

SOURCE: Final = "feed"
"""The source in the dead letters of feeds."""
MAX_BYTES: Final = 16 * 2**20
MAX_DEPTH: Final = 32
"""The deepest nesting of objects and lists: far more than a message needs, and safe to serialise."""
MAX_WHOLE: Final = INTEGERS - 1
"""The largest absolute value of an integer in a message."""
LETTER_CHARACTERS: Final = 65536
"""A longer message is cut in its dead letter, which records its length."""
PRODUCED: Final = ("result", "racecard", "non_runner", "reinstated", "jockey_change", "going_change", "market")
"""The types a producer may send; only the log's writer makes ticks."""

_HEAD: Final = frozenset({"type", "schema_version", "known_at", "race_id"})
_RACE_FIELDS: Final = frozenset(field.name for field in fields(Race))
_OWN: Final[dict[str, frozenset[str]]] = {
    "result": _HEAD | _RACE_FIELDS | {"result_version", "runners"},
    "racecard": _HEAD | _RACE_FIELDS | {"runners"},
    **{name: _HEAD | {field.name for field in fields(TYPES[name])} for name in PRODUCED[2:]},
}
_TAKEN_NAMES: Final = frozenset().union(*_OWN.values(), FIELDS, {"midnight", "kept"})
_NO_ODDS: Final = 1.0
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class ValidMessage:
    """A valid message, with the unknown fields that are kept beside it in the log."""

    message: Message
    kept: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MessageValidator:
    """Validates the messages for one store. `warnings` counts what it corrected."""

    store: Store
    policy: KeyPolicy
    warnings: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, store: Store) -> "MessageValidator":
        """Return the validator of a store; a store without a key policy gets `id`."""
        return cls(store, store.keys or "id")

    def take(self, body: bytes | None, arrived: datetime) -> ValidMessage | DeadLetter:
        """Validate JSON that arrived at an instant (UTC): return the message, or the dead letter with the remedy.

        The instant is the later of the clock and the log's end, as the log will stamp it.
        """
        record: Mapping[str, Any] = {}
        try:
            record = _record(body)
            message = self._message(record, arrived)
        except Refused as why:
            return letter(body, record, why)
        except OverflowError:
            beyond = "race_date, off_time or race_no makes an instant beyond the calendar: correct it"
            return letter(body, record, Refused("bad value", beyond))
        return ValidMessage(message, _kept(record))

    def _message(self, record: Mapping[str, Any], arrived: datetime) -> Message:
        kind, race_id = record["type"], _text(record, "race_id")
        refuse_control_characters(race_id)
        if kind in ("result", "racecard"):
            return self._race_message(record, race_id, arrived)
        if kind == "going_change":
            return GoingChange(race_id, _text(record, "going"))
        if kind == "market":
            return Market(race_id, self._prices(record), _text(record, "source"), volumes=_volumes(record))
        row = _typed({name: record.get(name) for name in ("horse_id", "horse", "jockey_id", "jockey")}, RUNNER_COLUMNS)
        for name, value in row.get(BAD, {}).items():
            raise bad_value(name, value, WANTED[COLUMNS[name]])
        runner = RaceMaker(self.store, self.policy, self.warnings).runner(row)
        if not runner.horse_id:
            raise Refused("runner without a horse", f"a {kind} is about a horse: give it horse_id or horse")
        if kind == "non_runner":
            reason, factor = record.get("reason"), record.get("reduction_factor")
            if factor is not None and known_factor(factor) is None:
                raise bad_value("reduction_factor", factor, "a percentage from 0 to below 100")
            text = None if reason is None else _text(record, "reason")
            return NonRunner(race_id, runner.horse_id, text, reduction_factor=known_factor(factor))
        if kind == "reinstated":
            return Reinstated(race_id, runner.horse_id)
        if runner.jockey_id is None:
            raise Refused("no jockey", "a jockey_change names who rides: give it jockey_id or jockey")
        return JockeyChange(race_id, runner.horse_id, runner.jockey_id, runner.jockey)

    def _race_message(self, record: Mapping[str, Any], race_id: str, arrived: datetime) -> Message:
        runners = record.get("runners")
        if not isinstance(runners, list) or not runners or not all(isinstance(runner, dict) for runner in runners):
            raise Refused("no runners", "runners must be a list of at least one object: give one for each runner")
        for name in {name for runner in runners for name in runner if "\0" in name}:
            raise bad_value("a field's name", name, "a name without the character U+0000")
        given_race = {
            name: record.get(name) for name in RACE_COLUMNS if name != "known_at" and not _is_other(name, record)
        }
        race = _typed(given_race, RACE_COLUMNS)
        rows = [_row(race, runner) for runner in runners]
        maker = RaceMaker(self.store, self.policy, self.warnings)
        if record["type"] == "racecard":
            card = maker.card(race_id, rows)
            return replace(card, runners=_with_race_names(card, runners), known_at=None)
        given = record.get("result_version")
        version = 1 if given is None else _typed({"result_version": given}, COLUMNS).get("result_version")
        if version is None:
            raise bad_value("result_version", given, WANTED["whole number"])
        result = maker.result(race_id, version, [{**row, "known_at": arrived} for row in rows], live=True)
        return replace(result, runners=_with_race_names(result, runners), known_at=None)

    def _prices(self, record: Mapping[str, Any]) -> dict[str, float]:
        given = record.get("prices")
        if not isinstance(given, dict):
            raise bad_value("prices", given, "an object of decimal odds by horse_id")
        prices: dict[str, float] = {}
        for horse_id, odds in given.items():
            if not horse_id.strip() or isinstance(odds, bool) or not isinstance(odds, int | float):
                raise bad_value(f"the price of {horse_id!r}", odds, "a number, its key a horse_id")
            if odds > _NO_ODDS:
                prices[horse_id.strip()] = float(odds)
            else:
                self.warnings["odds of 1 or less"] += 1
        if not prices:
            raise Refused("no prices", "no horse has odds above 1: send a market when there is one")
        return prices


def letter(body: bytes | None, record: Mapping[str, Any], why: Refused) -> DeadLetter:
    """Return the dead letter of a refused message, with the message as it arrived."""
    text = (body or b"")[: 4 * LETTER_CHARACTERS].decode("utf-8", "replace")[:LETTER_CHARACTERS]
    row: dict[str, Any] = {"message": text}
    if body is not None and len(body) > len(text.encode()):
        row["message_bytes"] = len(body)
    race_id, version = record.get("race_id"), record.get("result_version")
    return DeadLetter(
        SOURCE,
        _cut(race_id) if isinstance(race_id, str) else None,
        version if isinstance(version, int) and abs(version) <= MAX_WHOLE else None,
        _cut(why.reason),
        _cut(why.detail),
        (row,),
    )


def _record(body: bytes | None) -> dict[str, Any]:
    """Parse a body into a JSON object of a known type and schema version; raises `Refused` otherwise."""
    if body is None:
        raise Refused("no message", "the entry holds no message: put the JSON in its value, or its field `message`")
    if len(body) > MAX_BYTES:
        raise Refused(
            "too long", f"{len(body):,} bytes, but a message has at most {MAX_BYTES:,}: send one race per message"
        )
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError as wrong:
        raise Refused("no JSON", f"{wrong}: send one JSON object, in UTF-8, without NaN or Infinity") from None
    if not isinstance(record, dict):
        raise Refused("no object", f"{_cut(repr(record))} is not a JSON object: send one, with its type")
    if _deeper(record, MAX_DEPTH):
        raise Refused("nested too deep", f"objects and lists are nested more than {MAX_DEPTH} deep: flatten it")
    kind, version = record.get("type"), record.get("schema_version")
    if kind not in PRODUCED:
        raise Refused("unknown type", f"type is {kind!r}, but a producer sends one of {', '.join(PRODUCED)}: use one")
    if isinstance(version, bool) or version != SCHEMA_VERSION:
        raise Refused(
            "unknown schema_version",
            f"schema_version is {version!r}, but this version takes {SCHEMA_VERSION}: send that, or upgrade velo",
        )
    return record


def _deeper(value: dict[str, Any], levels: int) -> bool:
    """Whether containers are nested more than `levels` deep; iterative, so the input cannot exhaust the stack."""
    level: list[dict[str, Any] | list[Any]] = [value]
    for _ in range(levels):
        inner = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _row(race: Mapping[str, Any], runner: Mapping[str, Any]) -> dict[str, Any]:
    """Return a runner's row of the runner table: its columns typed, its unknown fields unchanged."""
    row = _typed({name: runner.get(name) for name in RUNNER_COLUMNS}, RUNNER_COLUMNS)
    unknown = {name: value for name, value in runner.items() if name not in COLUMNS and value is not None}
    both = {**race.get(BAD, {}), **row.get(BAD, {})}
    return {**unknown, **race, **row} | ({BAD: both} if both else {})


def _with_race_names(message: Result | Racecard, records: list[dict[str, Any]]) -> tuple[Any, ...]:
    """Return a message's runners with their unknown fields whose names are columns of the race."""
    others = COLUMNS.keys() - RUNNER_COLUMNS.keys()
    return tuple(
        replace(runner, kept={**runner.kept, **more})
        if (more := {name: record[name] for name in record.keys() & others if record[name] is not None})
        else runner
        for runner, record in zip(message.runners, records, strict=True)
    )


def _typed(given: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return values converted to the kinds of their columns, without nulls; `BAD` holds those that do not convert."""
    row: dict[str, Any] = {}
    bad: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        try:
            typed = value_of(value, kinds[name])
        except (ValueError, TypeError, OverflowError):
            bad[name] = value
            continue
        if typed is not None:
            row[name] = typed
    return row | ({BAD: bad} if bad else {})


def _volumes(record: Mapping[str, Any]) -> dict[str, float] | None:
    given = record.get("volumes")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise bad_value("volumes", given, "an object of stakes by horse_id")
    for horse_id, stakes in given.items():
        number = isinstance(stakes, int | float) and not isinstance(stakes, bool)
        if not horse_id.strip() or not number or stakes < 0:
            raise bad_value(f"the volume of {horse_id!r}", stakes, "a number of 0 or more, its key a horse_id")
    return {horse_id.strip(): float(stakes) for horse_id, stakes in given.items()} or None


def _text(record: Mapping[str, Any], name: str) -> str:
    given = record.get(name)
    if given is None or (isinstance(given, str) and not given.strip()):
        raise Refused(f"no {name}", f"a {record['type']} needs {name}: give it as text")
    if not isinstance(given, str):
        raise bad_value(name, given, "text")
    return given.strip()


def _kept(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the unknown fields; those with a meaning in another message go under `kept`, where nothing reads them."""
    others = {
        name: value
        for name, value in record.items()
        if value is not None and (name not in _OWN[record["type"]] or _is_other(name, record)) and name not in ENVELOPE
    }
    misplaced = {name: value for name, value in others.items() if name.casefold() in _TAKEN_NAMES}
    kept = {name: value for name, value in others.items() if name not in misplaced}
    return kept | ({"kept": misplaced} if misplaced else {})


def _is_other(name: str, record: Mapping[str, Any]) -> bool:
    """Whether a field is a source's own of a name that has a meaning here: dividends are text, those of another form are kept unread."""
    return name == "dividends" and not isinstance(record.get(name), str)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
