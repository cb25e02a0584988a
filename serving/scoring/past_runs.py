"""The past starts of horses, trainers or jockeys as they were known at an instant, from the tables and the log after them."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, Final, Literal

from velo.errors import UserError
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.messages import STARTED, Result, Runner, instant_of
from velo.serving.scoring.history import LogView
from velo.storage import table_versions
from velo.storage.log.format import generation
from velo.storage.store import Home

Kind = Literal["horse", "trainer", "jockey"]
MEMORY_LIMIT: Final = "500MB"
ASKED_CACHED: Final = 500
_AT_ONCE: Final = BoundedSemaphore(2)
"""Each query has an engine of its own, which takes memory that scoring needs."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """One start, of the version of its result that was known; instants are UTC, `race_date` is local.

    `known_at` is when that version became known. `starters` counts those who ran. `favourite`: no starter had a shorter SP;
    None where a starter has none.
    """

    race_id: str
    race_date: date
    off_time: datetime
    known_at: datetime
    result_version: int
    course: str
    race_name: str | None
    race_class: int | None
    going: str | None
    distance_m: float | None
    horse_id: str
    horse: str | None
    jockey_id: str | None
    jockey: str | None
    trainer_id: str | None
    trainer: str | None
    draw: int | None
    weight_lbs: float | None
    official_rating: int | None
    headgear: str | None
    status: str
    position: int | None
    beaten_lengths: float | None
    sp_decimal: float | None
    starters: int
    favourite: bool | None


_STORED: Final = tuple(field.name for field in fields(PastRun) if field.name not in ("starters", "favourite"))


@dataclass(slots=True)
class PastRuns:
    """Reads the past starts of one store. Safe for threads; asks the tables once for the keys of a race."""

    home: Home
    log: LogView
    _asked: "OrderedDict[tuple[object, ...], list[PastRun]]" = field(default_factory=OrderedDict)
    _newer: list[Result] = field(default_factory=list)
    _read_to: int = 0
    _source: tuple[Path | None, int] = (None, -1)
    _lock: Lock = field(default_factory=Lock)

    def of(self, kind: Kind, keys: Iterable[str], as_of: datetime) -> dict[str, list[PastRun]]:
        """The starts of each key that were known at an instant, latest first; a key without one has an empty list.

        A race counts by its highest version known by then; a start that this version lacks is none. Raises `UserError` where
        the log or the tables cannot be read.
        """
        wanted = sorted(set(keys))
        snapshot = Snapshot()
        folder, next_seq, parts = self._tables(snapshot)
        built = [] if folder is None else self._built(folder, parts, kind, wanted, as_of)
        newer = self._results(folder, next_seq, as_of)
        runs = _merged(built, newer, kind, set(wanted))
        found: dict[str, list[PastRun]] = {key: [] for key in wanted}
        for run in sorted(runs, key=lambda each: (each.off_time, each.race_id, each.horse_id), reverse=True):
            found[getattr(run, f"{kind}_id")].append(run)
        return found

    def parts(self) -> list[str]:
        """The files of the messages in the tables; empty before the first build."""
        return self._tables(Snapshot())[2]

    def _tables(self, snapshot: Snapshot) -> tuple[Path | None, int, list[str]]:
        if table_versions.current(self.home) is None:
            return None, 0, []
        folder = snapshot.folder(self.home.offline / "runners").parent
        try:
            parts = snapshot.parts(self.home.offline / "runners")
        except UserError:  # a stream has tables of features before the first build has any of messages
            return None, 0, []
        return folder, table_versions.manifest_of(folder).next_seq, parts

    def _built(self, folder: Path, parts: list[str], kind: Kind, keys: list[str], as_of: datetime) -> list[PastRun]:
        known_at = table_versions.manifest_of(folder).known_at
        # later than the tables' end all instants see the same rows
        asked = (str(folder), kind, *keys, None if as_of >= known_at else as_of)
        with self._lock:
            if (held := self._asked.get(asked)) is not None:
                self._asked.move_to_end(asked)
                return held
        with _AT_ONCE, changelog.engine(MEMORY_LIMIT) as connection:
            rows = connection.execute(_query(parts, kind), {"as_of": as_of, "keys": keys}).fetchall()
        found = [PastRun(*row) for row in rows]
        with self._lock:
            self._asked[asked] = found
            while len(self._asked) > ASKED_CACHED:
                self._asked.popitem(last=False)
        return found

    def _results(self, folder: Path | None, next_seq: int, as_of: datetime) -> list[Result]:
        """The results of the log after the tables, known by an instant; each is parsed once."""
        with self._lock:
            source = (folder, generation(self.home))
            if source != self._source:
                self._newer, self._read_to, self._source = [], next_seq, source
            results = self.log.results_after(self._read_to)
            if results:
                self._newer += [result for _, result in results]
                self._read_to = results[-1][0] + 1
            newer = list(self._newer)
        return [result for result in newer if instant_of(result) <= as_of]


def _query(parts: Sequence[str], kind: Kind) -> str:
    started = ", ".join(f"'{status}'" for status in sorted(STARTED))
    stored = ", ".join(_STORED)
    return f"""
        WITH known AS (
            SELECT {stored} FROM {changelog.scan(parts, changelog.BY_NAME)} WHERE type = 'result' AND known_at <= $as_of
        ),
        asked AS (SELECT DISTINCT race_id FROM known WHERE {kind}_id IN (SELECT unnest($keys))),
        latest AS (
            FROM known SEMI JOIN asked USING (race_id)
            QUALIFY rank() OVER (PARTITION BY race_id ORDER BY result_version DESC) = 1
        ),
        started AS (
            SELECT {stored}, count(*) OVER race AS starters,
                CASE WHEN count(*) FILTER (sp_decimal > 1) OVER race = count(*) OVER race
                    THEN sp_decimal = min(sp_decimal) OVER race END AS favourite
            FROM latest WHERE status IN ({started}) WINDOW race AS (PARTITION BY race_id)
        )
        SELECT {stored}, starters, favourite FROM started WHERE {kind}_id IN (SELECT unnest($keys))
    """  # noqa: S608 the kind is one of three words, paths are quoted, values are bound


def _merged(built: Sequence[PastRun], newer: Sequence[Result], kind: Kind, keys: set[str]) -> list[PastRun]:
    """The starts of the tables with those of newer results; the highest version of a race counts."""
    versions: dict[str, Result] = {}
    for result in newer:
        before = versions.get(result.race_id)
        if before is None or result.result_version > before.result_version:
            versions[result.race_id] = result
    older = {run.race_id: run.result_version for run in built}
    replaced = {race_id for race_id, result in versions.items() if result.result_version > older.get(race_id, 0)}
    kept = [run for run in built if run.race_id not in replaced]
    for race_id in replaced:
        kept += [run for run in runs_of(versions[race_id]) if getattr(run, f"{kind}_id") in keys]
    return kept


def runs_of(result: Result) -> list[PastRun]:
    """The starts of a result as past starts."""
    starters = [runner for runner in result.runners if runner.started]
    prices = [starter.sp_decimal for starter in starters if starter.sp_decimal is not None and starter.sp_decimal > 1.0]
    shortest = min(prices) if prices and len(prices) == len(starters) else None
    return [_run_of(result, runner, len(starters), shortest) for runner in starters]


def _run_of(result: Result, runner: Runner, starters: int, shortest: float | None) -> PastRun:
    values: dict[str, Any] = {
        name: getattr(result.race, name) if hasattr(result.race, name) else getattr(runner, name, None)
        for name in _STORED
    }
    values |= {"known_at": instant_of(result), "result_version": result.result_version}
    favourite = None if shortest is None else runner.sp_decimal == shortest
    return PastRun(**values, starters=starters, favourite=favourite)
