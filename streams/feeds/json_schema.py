"""The JSON Schema of a producer's messages, generated from the dataclasses and column kinds that validate them.

The copy committed for producers is `schema/messages-v{SCHEMA_VERSION}.json`; `velo feed schema` prints it.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from velo.racing.messages import NON_RUNNER, OUTCOMES, SCHEMA_VERSION, STATUSES, TYPES, Race, Runner
from velo.streams.feeds.validation import MAX_DEPTH, MAX_WHOLE, PRODUCED
from velo.streams.importers.columns import COLUMNS, RACE_COLUMNS, RUNNER_COLUMNS

COMMITTED: Final = Path(__file__).parent / "schema" / f"messages-v{SCHEMA_VERSION}.json"
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "text": {"type": "string"},
    "whole number": {"type": "integer", "minimum": -MAX_WHOLE, "maximum": MAX_WHOLE},
    "number": {"type": "number"},
    "date": {"type": "string", "format": "date"},
    "instant": {"type": "string", "format": "date-time"},
    "truth": {"type": "boolean"},
}
_SAID: Final = {
    "race_id": "the race; the same in every message about it",
    "race_date": "the local date of the race",
    "off_time": "the scheduled off; without it, 13:00 local plus 30 minutes for each race_no after 1",
    "race_type": "Flat, Hurdle, Chase or NHF",
    "race_class": "1 is best",
    "surface": "Turf, AW or Dirt",
    "draw": "0 is missing",
    "horse_id": "the horse's key; without it, the horse's name is",
    "jockey_id": "the jockey's key; without it, the jockey's name is",
    "trainer_id": "the trainer's key; without it, the trainer's name is",
    "weight_lbs": "carried",
    "position": "for FINISHED: 1 or more, the same for each horse of a dead heat; for RAN (place unknown): 1 if it won",
    "beaten_lengths": "behind the winner",
    "first_call_position": "position at the first call; 1 led",
    "last_call_position": "position at the last call before the finish",
    "first_section_ms": "time of the first section, in milliseconds",
    "last_section_ms": "time of the last section, in milliseconds",
    "widest_path": "the widest path that it raced on, counted from the rail: 1, 2, …",
    "slow_away": "whether it was slow from the start",
    "hampered": "whether it was blocked, checked or bumped",
    "sp_decimal": "decimal odds, stake included; 1 or less counts as missing",
    "result_version": "higher replaces lower; an amended result needs a higher one than the last",
    "known_at": "ignored: a live message is known when it arrives",
    "going": "the official going",
    "dividends": "of a result: what its pools paid, such as `place 12 1.95; quinella 11,12 32.15`, by runner number, for one unit, stake included",
    "reason": "why it will not run",
    "reduction_factor": "the exchange's, in per cent from 0 to below 100: matched prices are reduced by it",
    "prices": "decimal odds by horse_id, as the store keys horses; 1 or less counts as missing",
    "source": "whose odds",
    "volumes": "stakes matched so far by horse_id, in the source's currency",
    "status": "NR marks a non-runner; a later card that names the horse without the mark takes the withdrawal back",
}
_BLANK: Final = r"\S"


def message_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a message: one definition per type; unknown fields are allowed."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:velo:messages:{SCHEMA_VERSION}",
        "title": f"A message to VÉLØ, schema_version {SCHEMA_VERSION}",
        "description": f"One JSON object in UTF-8, at most {MAX_DEPTH} levels deep; fields that are unknown are kept.",
        "oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in PRODUCED],
        "$defs": {kind: _message(kind) for kind in PRODUCED},
    }


def _message(kind: str) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "type": {"const": kind},
        "schema_version": {"const": SCHEMA_VERSION},
        "known_at": _nullable("known_at", _KINDS["instant"]),
        "race_id": _needed("race_id"),
    }
    required = ["type", "schema_version", "race_id"]
    if kind in ("result", "racecard"):
        needed = ("race_date", "course")
        race = (field.name for field in fields(Race) if field.name != "race_id")
        properties |= {name: _needed(name) if name in needed else _column(name) for name in race}
        if kind == "result":
            properties["result_version"] = _nullable(
                "result_version", {**_KINDS["whole number"], "minimum": 1, "default": 1}
            )
        properties["runners"] = {"type": "array", "minItems": 1, "items": _runner(kind)}
        required += [*needed, "runners"]
        return _object(properties, required)
    own = [field.name for field in fields(TYPES[kind]) if field.name not in properties]
    properties |= {name: _column(name) if name in COLUMNS and name != "going" else _own(name) for name in own}
    required += [name for name in own if name in ("going", "prices", "source")]
    schema = _object(properties, required)
    if kind in ("non_runner", "reinstated", "jockey_change"):
        schema["properties"]["horse"] = _column("horse")
        schema["allOf"] = [_either("horse")] + ([_either("jockey")] if kind == "jockey_change" else [])
    return schema


def _runner(kind: str) -> dict[str, Any]:
    names = [field.name for field in fields(Runner) if field.name in RUNNER_COLUMNS]
    if kind == "racecard":
        columns = {name: _column(name) for name in names if name not in OUTCOMES}
        mark = _said("status", {"enum": [NON_RUNNER, None]})
        return _object(columns | {"status": mark}, []) | _either("horse")
    properties = {name: _column(name) for name in names} | {"status": {"enum": sorted(STATUSES)}}
    finished = {
        "if": {"properties": {"status": {"const": "FINISHED"}}},
        "then": {"properties": {"position": {"type": "integer", "minimum": 1}}, "required": ["position"]},
    }
    return _object(properties, ["status"]) | _either("horse") | finished


def _own(name: str) -> dict[str, Any]:
    if name == "reason":
        return _nullable(name, {"type": "string"})
    if name == "reduction_factor":
        return _nullable(name, {"type": "number", "minimum": 0, "exclusiveMaximum": 100})
    if name == "prices":
        prices = {"type": "number"}
        return _said(name, {"type": "object", "minProperties": 1, "additionalProperties": prices})
    if name == "volumes":
        stakes = {"type": "number", "minimum": 0}
        return _said(name, {"type": ["object", "null"], "additionalProperties": stakes})
    return _said(name, {"type": "string", "pattern": _BLANK})


def _column(name: str) -> dict[str, Any]:
    return _nullable(name, _KINDS[(RACE_COLUMNS | RUNNER_COLUMNS)[name]])


def _needed(name: str) -> dict[str, Any]:
    kind = COLUMNS[name]
    return _said(name, _KINDS[kind] | ({"pattern": _BLANK} if kind == "text" else {}))


def _nullable(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return _said(name, {**schema, "type": [schema["type"], "null"]})


def _said(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return ({"description": _SAID[name]} if name in _SAID else {}) | schema


def _either(who: str) -> dict[str, Any]:
    """Require the id or the name, as text other than blanks and dashes."""
    named = {"type": "string", "pattern": r"[^\s\-‐‑‒–—―−]"}
    return {"anyOf": [{"properties": {name: named}, "required": [name]} for name in (f"{who}_id", who)]}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}
