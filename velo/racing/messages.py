"""The messages of the log (contract 3 and 10) as frozen values, and their conversion to and from records.

A record is a JSON object: `type`, `schema_version`, `known_at`, `race_id`, then the message's own fields without those
that are unknown. `horse_id`, `jockey_id` and `trainer_id` are the store's keys; `horse`, `jockey` and `trainer` are
display names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from operator import attrgetter
from typing import Any, Final, cast, get_args

from velo.racing.clock import from_text, to_text
from velo.racing.deductions import known_factor

SCHEMA_VERSION: Final = 2
"""Version of the records this code writes; `velo.storage.log.migrations` reads older ones."""

FINISHED: Final = "FINISHED"
RAN: Final = "RAN"
"""Started, place unknown: a source of prices records only who won and who lost."""
NON_RUNNER: Final = "NR"
VOID: Final = "VOID"
NON_FINISHERS: Final = frozenset({"PU", "F", "UR", "BD", "SU", "RO", "REF", "RR", "LFT", "CO", "DNF", "DSQ"})
STARTED: Final = NON_FINISHERS | {FINISHED, RAN}
STATUSES: Final = STARTED | {NON_RUNNER, VOID}


@dataclass(frozen=True, slots=True)
class Race:
    """The columns that all runners of a race share. `off_time` is UTC; `race_date` is the date at the course.

    `dividends` is of a result: what its pools paid, in the form of `velo.racing.pools`.
    """

    race_id: str
    race_date: date
    off_time: datetime
    course: str
    race_no: int | None = None
    country: str | None = None
    race_name: str | None = None
    race_type: str | None = None
    race_class: int | None = None
    rating_band: str | None = None
    handicap: bool | None = None
    surface: str | None = None
    course_config: str | None = None
    going: str | None = None
    distance_m: float | None = None
    dividends: str | None = None


@dataclass(frozen=True, slots=True)
class Runner:
    """One declared runner. On a racecard `status` is None, or NR if the card marks it as a non-runner.

    `kept` holds the columns that the runner table does not have; a user's own features alone read them (`extra`).
    """

    horse_id: str
    horse: str | None = None
    runner_no: int | None = None
    draw: int | None = None
    jockey_id: str | None = None
    jockey: str | None = None
    trainer_id: str | None = None
    trainer: str | None = None
    age: int | None = None
    sex: str | None = None
    weight_lbs: float | None = None
    body_weight_lbs: float | None = None
    official_rating: int | None = None
    headgear: str | None = None
    status: str | None = None
    position: int | None = None
    beaten_lengths: float | None = None
    finish_time_s: float | None = None
    sp_decimal: float | None = None
    first_call_position: int | None = None
    last_call_position: int | None = None
    first_section_ms: int | None = None
    last_section_ms: int | None = None
    widest_path: int | None = None
    slow_away: bool | None = None
    hampered: bool | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def started(self) -> bool:
        """Whether it ran, whatever its outcome."""
        return self.status in STARTED

    @property
    def won(self) -> bool:
        """Whether it won, alone or in a dead heat; only a FINISHED or RAN runner can."""
        return self.position == 1 and self.status in (FINISHED, RAN)


class _OfRace:
    """A message with its race's columns."""

    __slots__ = ()
    race: Race

    @property
    def race_id(self) -> str:
        """The id of its race."""
        return self.race.race_id


@dataclass(frozen=True, slots=True)
class Result(_OfRace):
    """One version of a race's result; `known_at` is None until the log stamps it."""

    race: Race
    runners: tuple[Runner, ...]
    result_version: int = 1
    known_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Racecard(_OfRace):
    """The declared runners of a future race; a later card of the race replaces it."""

    race: Race
    runners: tuple[Runner, ...]
    known_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NonRunner:
    """A declared runner will not run. `reduction_factor` is the exchange's, in per cent, by which matched prices are reduced."""

    race_id: str
    horse_id: str
    reason: str | None = None
    known_at: datetime | None = None
    reduction_factor: float | None = None


@dataclass(frozen=True, slots=True)
class Reinstated:
    """A withdrawal is cancelled: the horse runs after all."""

    race_id: str
    horse_id: str
    known_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class JockeyChange:
    """Another jockey rides."""

    race_id: str
    horse_id: str
    jockey_id: str | None
    jockey: str | None
    known_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class GoingChange:
    """The official going of a future race has changed."""

    race_id: str
    going: str
    known_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Market:
    """A snapshot of decimal odds by horse key, from `source` (`betfair-sp` is the exchange's starting price).

    `volumes` are the stakes matched so far by horse key, in the source's currency; None if the source does not say.
    """

    race_id: str
    prices: Mapping[str, float]
    source: str
    known_at: datetime | None = None
    volumes: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """The clock passed a local midnight (`midnight`, UTC); it is about no race."""

    midnight: datetime
    known_at: datetime | None = None
    race_id: str | None = None


@dataclass(frozen=True, slots=True)
class Alias:
    """A key means the same horse, jockey or trainer (`of`) as another; without `same_as` it means its own again."""

    of: str
    key: str
    same_as: str | None = None
    known_at: datetime | None = None
    race_id: str | None = None


Message = Result | Racecard | NonRunner | Reinstated | JockeyChange | GoingChange | Market | Tick | Alias
TYPES: Final[dict[str, type]] = {
    "result": Result,
    "racecard": Racecard,
    "non_runner": NonRunner,
    "reinstated": Reinstated,
    "jockey_change": JockeyChange,
    "going_change": GoingChange,
    "market": Market,
    "tick": Tick,
    "alias": Alias,
}
_NAMES: Final = {kind: name for name, kind in TYPES.items()}
_RACE: Final = tuple(field.name for field in fields(Race))
_RUNNER: Final = tuple(field.name for field in fields(Runner) if field.name != "kept")
UNREAD: Final = frozenset({"race_type", "course_config"})
"""Columns of the runner table that no feature, settlement, card or other computation reads."""
_RUNNER_SET: Final = frozenset(_RUNNER)
_RUNNER_VALUES: Final = attrgetter(*_RUNNER)
IN_RUNNING: Final = _RUNNER[_RUNNER.index("first_call_position") :]
"""What a runner did between the off and the finish. Older logs may hold values of other kinds under these names: unknown."""
OUTCOMES: Final = ("status", "position", "beaten_lengths", "finish_time_s", "sp_decimal", *IN_RUNNING)
"""Columns of a runner that a racecard does not have."""


def column_types(of: type[Race | Runner]) -> dict[str, type]:
    """The type of each column of a race or a runner, in order: str, int, float, bool, date or datetime."""
    types = {field.name: next(iter(get_args(field.type)), field.type) for field in fields(of) if field.name != "kept"}
    return cast("dict[str, type]", types)


def type_name(message: Message) -> str:
    """Return the record type of a message: `result`, `racecard`, …"""
    return _NAMES[type(message)]


def instant_of(message: Message) -> datetime:
    """Return when a message became known. Raises ValueError for a message that the log has not stamped."""
    if message.known_at is None:
        raise ValueError(f"a {type(message).__name__} without known_at: only the log says when it was known")
    return message.known_at


def to_record(message: Message) -> dict[str, Any]:
    """Convert a message to a record without its position in the log; leaves out unknown (None) fields."""
    record: dict[str, Any] = {"type": type_name(message), "schema_version": SCHEMA_VERSION}
    if message.known_at is not None:
        record["known_at"] = to_text(message.known_at)
    if isinstance(message, Result | Racecard):
        record |= _known({name: getattr(message.race, name) for name in _RACE})
        if isinstance(message, Result):
            record["result_version"] = message.result_version
        record["runners"] = [_runner_record(runner) for runner in message.runners]
        return record
    own = (field.name for field in fields(message) if field.name != "known_at")
    return record | _known({name: getattr(message, name) for name in own})


def from_record(record: Mapping[str, Any]) -> Message:
    """Convert a record of the current schema to a message. Raises KeyError or ValueError for a malformed record."""
    kind = TYPES[record["type"]]
    known_at = from_text(record["known_at"]) if record.get("known_at") else None
    if kind is Tick:
        return Tick(midnight=from_text(record["midnight"]), known_at=known_at)
    if kind in (Result, Racecard):
        own = {name: record[name] for name in _RACE if name in record}
        own["race_date"] = date.fromisoformat(own["race_date"])
        own["off_time"] = from_text(own["off_time"])
        if not isinstance(own.get("dividends"), str):
            own.pop("dividends", None)  # an older log may hold a source's own field of that name
        runners = tuple(_runner(runner) for runner in record["runners"])
        if kind is Result:
            return Result(Race(**own), runners, record["result_version"], known_at)
        return Racecard(Race(**own), tuple(map(_marked, runners)), known_at)
    values = {field.name: record.get(field.name) for field in fields(kind)} | {"known_at": known_at}
    # fields of these names in an older log, where nothing read them
    if kind is Market and not isinstance(values["volumes"], Mapping):
        values["volumes"] = None
    if kind is NonRunner:
        values["reduction_factor"] = known_factor(values["reduction_factor"])
    message: Message = kind(**values)
    return message


def notice_of(row: Mapping[str, Any]) -> Message:
    """Convert a row of the table `notices` to its message: any but a result, a racecard or a tick."""
    kind = TYPES[row["type"]]
    values = {field.name: row.get(field.name) for field in fields(kind)}
    if kind is Market:
        # tables of an earlier version have no volumes
        values |= {"prices": dict(values["prices"] or ()), "volumes": dict(values["volumes"] or ()) or None}
    message: Message = kind(**values)
    return message


def kept_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that its message does not hold: unknown fields and the log's own framing."""
    kind = TYPES[record["type"]]
    own = {field.name for field in fields(kind)} | {"type", "schema_version"}
    if kind in (Result, Racecard):
        own |= set(_RACE)
    return {name: value for name, value in record.items() if name not in own}


def differences(one: Result, other: Result, extra: Iterable[str] = ()) -> list[str]:
    """Return the columns in which two results differ, in column order.

    `extra` are columns of a user's own files that features read.

    Ignores the order of the runners, `known_at`, and columns that no feature, settlement or card reads (contract 3).
    `runners` means that the horses differ.
    """
    of_race = [name for name in _RACE if name not in UNREAD and getattr(one.race, name) != getattr(other.race, name)]
    ours, theirs = ({runner.horse_id: runner for runner in result.runners} for result in (one, other))
    if ours.keys() != theirs.keys():
        return [*of_race, "runners"]
    changed = {name for name in _RUNNER for horse in ours if getattr(ours[horse], name) != getattr(theirs[horse], name)}
    kept = sorted(
        name for name in extra if any(ours[horse].kept.get(name) != theirs[horse].kept.get(name) for horse in ours)
    )
    return of_race + [name for name in _RUNNER if name in changed] + kept


def _runner(record: Mapping[str, Any]) -> Runner:
    if record.keys() <= _RUNNER_SET:
        return Runner(**record)
    return Runner(
        **{name: record[name] for name in _RUNNER if name in record},
        kept={name: value for name, value in record.items() if name not in _RUNNER_SET},
    )


def is_marked(runner: Mapping[str, Any]) -> bool:
    """Whether a card's record marks a runner as a non-runner; older logs use the source's field `non_runner`."""
    status, mark = runner.get("status"), runner.get("non_runner")
    return status == NON_RUNNER or (status is None and (mark is True or mark == "true"))


def _marked(runner: Runner) -> Runner:
    """Return a card's runner with its mark as its status."""
    return replace(runner, status=NON_RUNNER) if runner.status is None and is_marked(runner.kept) else runner


def _runner_record(runner: Runner) -> dict[str, Any]:
    """Return a runner's known fields, which are all plain, and the columns kept with it."""
    own = {name: value for name, value in zip(_RUNNER, _RUNNER_VALUES(runner), strict=True) if value is not None}
    return {**own, **runner.kept} if runner.kept else own


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, date):
        return value.isoformat()
    return dict(value) if isinstance(value, Mapping) else value
