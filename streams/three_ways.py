"""One family computed three ways from a few messages: by the batch's SQL, by the stream's aggregation, and by brute force.

Brute force takes the starts known at an instant and applies the plain form of each aggregate. It needs no Redis, no Feast and no
store, so a test of a feature takes milliseconds.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from zoneinfo import ZoneInfo

import duckdb
import orjson

from velo.errors import UserError
from velo.feature_repo.catalogue.aggregates import Value
from velo.feature_repo.catalogue.families import is_rated
from velo.feature_repo.catalogue.family import Family
from velo.racing.clock import EPOCH, LocalDays, to_us
from velo.racing.jurisdiction import DEFAULT
from velo.racing.measures import MEASURES
from velo.racing.messages import Message, Result, instant_of, to_record
from velo.racing.starts import KEYS, starts_of
from velo.streams.aggregation.layout import Columns, Key
from velo.streams.aggregation.result_delta import ResultDelta, replacing
from velo.streams.aggregation.routing import Router
from velo.streams.aggregation.spill import FileSpill
from velo.streams.aggregation.window_state import BEGINNING, ShardState, WindowAggregator
from velo.streams.batch import staging, start_table
from velo.streams.batch.build import BEGINNING as LOG_BEGINNING
from velo.streams.batch.build import write_family
from velo.streams.batch.measuring import constants
from velo.streams.explain import Recomputed, recomputed, same_bits

MICROSECOND: Final = timedelta(microseconds=1)
Rows = dict[Key, list[tuple[datetime, tuple[Value, ...]]]]
"""The rows of each key in order of time: from when, and the values in the order of `Family.features`."""


@dataclass(frozen=True, slots=True)
class KnownStart:
    """One start of one version of a result, known from one instant until another."""

    since: datetime
    until: datetime | None
    key: Key
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One feature whose values differ at an instant; `starts` are those known of the key then, newest first."""

    view: str
    key: Key
    at: datetime
    feature: str
    sql: Value
    stream: Value
    brute_force: Value
    starts: tuple[dict[str, Any], ...]


class ThreeWays:
    """The values of one family at any instant, computed three ways. Messages are in log order, stamped.

    Raises `UserError` for a family of ratings, which depend on all results.
    """

    def __init__(self, family: Family, messages: Sequence[Message], timezone: ZoneInfo) -> None:
        if is_rated(family):
            raise UserError(f"{family.view} is made by ratings, which a few starts cannot show: use `velo audit`")
        self.family, self.messages, self.timezone = family, messages, timezone
        self.starts = list(_known(family, messages))
        with TemporaryDirectory() as folder:
            self.sql = _by_sql(family, messages, timezone, Path(folder)) if self.starts else {}
            self.stream = _by_stream(family, messages, timezone, Path(folder))

    def brute_force(self, key: Key, at: datetime) -> tuple[Recomputed | None, list[dict[str, Any]]]:
        """The values of a key at an instant by brute force, None before its first start; and its starts, newest first."""
        ever = [start for start in self.starts if start.key == key and start.since <= at]
        holds = [start.values for start in ever if start.until is None or start.until > at]
        holds.sort(key=lambda values: (values["off_time"], values["race_id"], values["horse_id"]), reverse=True)
        return (recomputed(self.family, holds, at, self.timezone) if ever else None), holds

    def at(self, key: Key, at: datetime) -> dict[str, tuple[Value, Value, Value]]:
        """The values of each feature at an instant by SQL, by the stream and by brute force; empty where none has a row."""
        plain, _ = self.brute_force(key, at)
        sql, stream = _value_at(self.sql, key, at), _value_at(self.stream, key, at)
        if sql is None and stream is None and plain is None:
            return {}
        nothing = (None,) * len(self.family.features)
        values = zip(sql or nothing, stream or nothing, plain.values if plain else nothing, strict=True)
        return {feature.name: found for feature, found in zip(self.family.features, values, strict=True)}

    def disagreements(self) -> Iterator[Disagreement]:
        """Every difference, at each change of any of the three and a microsecond before."""
        for key in dict.fromkeys(start.key for start in self.starts):
            changes = {at for rows in (self.sql, self.stream) for at, _ in rows.get(key, ())}
            changes |= {at for start in self.starts if start.key == key for at in (start.since, start.until) if at}
            for at in sorted({beside for change in changes for beside in (change - MICROSECOND, change)}):
                for feature, (sql, stream, plain) in self.at(key, at).items():
                    if not (same_bits(sql, plain) and same_bits(stream, plain)):
                        _, starts = self.brute_force(key, at)
                        yield Disagreement(self.family.view, key, at, feature, sql, stream, plain, tuple(starts))


def _value_at(rows: Rows, key: Key, at: datetime) -> tuple[Value, ...] | None:
    of_key = rows.get(key, [])
    place = bisect_right([since for since, _ in of_key], at)
    return of_key[place - 1][1] if place else None


def _known(family: Family, messages: Sequence[Message]) -> Iterator[KnownStart]:
    versions: dict[str, list[Result]] = {}
    for message in messages:
        if isinstance(message, Result):
            of_race = versions.setdefault(message.race_id, [])
            if not of_race or message.result_version > of_race[-1].result_version:
                of_race.append(message)
    for of_race in versions.values():
        for result, after in zip(of_race, [*of_race[1:], None], strict=True):
            for start in starts_of(result.race, result.runners, own=family.measures):
                key = tuple(getattr(start, name) for name in family.keys)
                if None not in key:
                    values = {name: getattr(start, name) for name in (*KEYS, *MEASURES)} | start.own
                    values |= {"race_id": result.race_id, "off_time": result.race.off_time}
                    until = None if after is None else instant_of(after)
                    yield KnownStart(instant_of(result), until, key, values)


def _by_sql(family: Family, messages: Sequence[Message], timezone: ZoneInfo, folder: Path) -> Rows:
    log, until = folder / "log.ndjson", instant_of(messages[-1])
    log.write_bytes(
        b"\n".join(orjson.dumps({"seq": seq, **to_record(message)}) for seq, message in enumerate(messages))
    )
    fixed = {**constants(DEFAULT, family.measures), "$begun": "0", "$ended": str(len(messages))}
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        staging.measure_segment(connection, log, fixed, DEFAULT, folder, "0")
        parts = [[folder / f"{kind}-0.parquet"] for kind in ("results", "starts")]
        start_table.lay_out_parts(connection, parts[0], parts[1], timezone, (family,))
        bound = {"$after": LOG_BEGINNING, "$until": until, "$created": until}
        write_family(connection, family, folder / "rows.parquet", bound)
        names = ", ".join((*family.keys, "event_timestamp", *(feature.name for feature in family.features)))
        found = connection.execute(
            f"SELECT {names} FROM {staging.parquet([folder / 'rows.parquet'])} ORDER BY event_timestamp"  # noqa: S608 declared names
        ).fetchall()
    rows: Rows = {}
    width = len(family.keys)
    for row in found:
        rows.setdefault(row[:width], []).append((row[width].astimezone(UTC), row[width + 1 :]))
    return rows


def _by_stream(family: Family, messages: Sequence[Message], timezone: ZoneInfo, folder: Path) -> Rows:
    days, router = LocalDays(timezone), Router((family,), shards=1)
    aggregator = WindowAggregator(family, days, FileSpill(folder, "make room there"))
    state, columns, today = ShardState(), Columns.of(family), BEGINNING
    races: dict[str, Result] = {}
    rows: Rows = {}
    for message in messages:
        known_at_us = to_us(instant_of(message))
        delta = ResultDelta(message.race_id or "")
        before = races.get(message.race_id or "")
        if isinstance(message, Result) and (before is None or message.result_version > before.result_version):
            delta = replacing(message, before, family.measures)
            races[message.race_id] = message
        updates = [update for _, of_shard in router.route(delta) for update in of_shard]
        if updates or days.day_of(known_at_us) > today:
            today = days.day_of(known_at_us)
            for key, event_us, career, recent, within, _ in aggregator.roll(state, ((known_at_us, updates),)):
                values = columns.values(career, recent, within)
                rows.setdefault(key, []).append((EPOCH + timedelta(microseconds=event_us), values))
    return rows
