"""`velo.open`: a store as an object. The commands call these methods too, so both give the same values, checks and errors."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast, overload

from velo.api.models import File, ModelMethods
from velo.api.opened import LEAD, Progress, silent, utc_now
from velo.api.values import Library, files, instant, refuse_library
from velo.errors import UserError
from velo.settings import KeyPolicy, Settings
from velo.storage.store import Home

if TYPE_CHECKING:
    import pyarrow as pa

    from velo.feature_repo.historical import JoinedFeatures
    from velo.serving.scoring.scored import ScoredRace
    from velo.streams.batch.build import BuildReport
    from velo.streams.explain import Explained
    from velo.streams.importers.check import CheckReport
    from velo.streams.importers.declare import DeclareReport
    from velo.streams.importers.importer import Report
    from velo.streams.importers.ingest import IngestReport
    from velo.streams.importers.inspect_file import InspectReport
    from velo.streams.status import Status

Frame = TypeVar("Frame")
"""A data frame of pandas or polars, an Arrow table, or any object with the Arrow stream interface."""
Source = Any
"""A frame, a file, or a list of files."""
Results = Literal["runners", "raceform"]
OF_FRAMES: Final = ("runners", "runners-cards")
"""The importers that read a frame as well as files."""


def open_store(
    home: File | None = None,
    *,
    timezone: str | None = None,
    keys: KeyPolicy | None = None,
    frames: Library = "pandas",
    clock: Callable[[], datetime] = utc_now,
) -> "RaceStore":
    """Open the store at `home`; it is created by the first load.

    Without `home` the rule of the commands holds: VELO_HOME, else `data` beside the nearest `feature_repo/`, else `./data`.
    `timezone` and `keys` ("name" or "id") matter for a new store; VELO_TIMEZONE and VELO_KEYS are read where they are left
    out. `frames` is the library of the frames that methods return, unless a frame goes in: then it is that one's. `clock`
    returns now, in UTC. Raises `UserError` for a bad value and for settings that contradict the store's own.
    """
    refuse_library(frames)
    given = {"VELO_HOME": None if home is None else os.fspath(home), "VELO_TIMEZONE": timezone, "VELO_KEYS": keys}
    settings = Settings.from_env(os.environ | {name: value for name, value in given.items() if value is not None})
    store = RaceStore(settings, frames=frames, clock=clock)
    store.opened()
    return store


class RaceStore(ModelMethods):
    """One store of races. Every method reads the store as it is then; instants are aware and in UTC, dates are local.

    Every method raises `UserError`, with one line that says the value, the rule and the remedy, for a mistake, an
    empty store and a damaged file. Files that a method writes are private to their owner.
    """

    def __repr__(self) -> str:
        with self._at_work() as store:
            from velo.storage.log.reader import end

            messages = end(store.home).next_seq
        state = f"{messages:,} messages" if messages else "empty: load results with ingest(frame_or_file)"
        return f"<velo store at {store.home.root}, {store.timezone.key}, {state}>"

    def status(self) -> "Status":
        """Return the state of the store: log end, position of the tables, Redis, model, next race, dead letters."""
        from velo.streams.status import status
        from velo.training.bundle import current, described, refuse_misfit

        with self._at_work() as store:
            try:
                model = described(store.home, current(store.home))
                refuse_misfit(store.home, model["version"])
                named = f"{model['version']}, gate: {model['gate']}, {model['mode']}"
            except UserError as none:
                named = str(none)
            return replace(status(store, self.clock()), model=named)

    @overload
    def ingest(
        self, source: Source, *, kind: Results = "runners", late: bool = False, progress: Progress | None = None
    ) -> "IngestReport": ...

    @overload
    def ingest(
        self, source: Source, *, kind: str, late: bool = False, progress: Progress | None = None
    ) -> "Report": ...

    def ingest(
        self, source: Source, *, kind: str = "runners", late: bool = False, progress: Progress | None = None
    ) -> "Report":
        """Append results to the log; returns the counts of rows, races, duplicates and refusals.

        `source` is a frame in the form of docs/runner-table.md, one row per declared runner, or one or more files. `kind`
        is an importer, as in `velo ingest KIND`; a frame is of kind "runners". Refused races go to the dead letters.
        Messages older than the log's end need `late`: then they are known from now. A frame's column of mixed types is
        read as text, value by value.
        """
        return self.load(kind, source, late=late, progress=progress)

    def declare(
        self, source: Source, *, kind: str = "runners", late: bool = False, progress: Progress | None = None
    ) -> "DeclareReport":
        """Append racecards to the log; returns the races declared.

        `source` is a frame as for `ingest`, without outcomes, or one or more files. `kind` is an importer, as in
        `velo cards KIND`. A card without `known_at` is known from now.
        """
        return cast("DeclareReport", self.load(f"{kind}-cards", source, late=late, progress=progress))

    def load(self, name: str, source: Source, *, late: bool = False, progress: Progress | None = None) -> "Report":
        """Append what a source holds to the log, by the name of an importer in the registry."""
        from velo.api.frames import tables
        from velo.streams.importers.registry import TOML, importer

        step = progress or silent
        with self._at_work() as store:
            sources = tables(source) if name in OF_FRAMES else files(source)
            report = importer(name).load(
                store, sources, late=late, clock=self.clock, progress=lambda done, total: step("append", done, total)
            )
            if name.endswith(TOML):
                _keep_mapping(store.home, Path(name))
            return report

    def check(self, name: str, source: Source) -> "CheckReport":
        """Read what a source holds, by the name of an importer or the path of a mapping, and load nothing.

        The report accounts for every row, and has twenty values beside the texts that they were read from.
        """
        from velo.api.frames import tables
        from velo.streams.importers.check import check

        with self._at_work() as store:
            return check(name, tables(source) if name in OF_FRAMES else files(source), store)

    def inspect(self, source: Source) -> "InspectReport":
        """Return what some files are: their source, rows, columns, and what a load of them would refuse. Nothing is loaded."""
        from velo.streams.importers.inspect_file import inspect

        with self._at_work() as store:
            return inspect(files(source), store)

    def build(
        self,
        *,
        whole: bool = False,
        compact: bool = False,
        engine: str = "duckdb",
        progress: Progress | None = None,
    ) -> "BuildReport":
        """Bring all feature tables up to the end of the log and publish them in one step; returns the rows of each view.

        `whole` computes everything again, `compact` merges the files of each view, `engine` is "duckdb" or "spark".
        """
        from velo.api.lineage import LOG, lineage
        from velo.streams.batch.build import build
        from velo.streams.batch.build import compact as merge
        from velo.streams.batch.warehouse import make_warehouse

        step = progress or silent
        with self._at_work() as store, _spark(engine) as spark, lineage(store, "build", self.clock, [LOG]) as run:
            report = build(store, self.clock(), whole=whole, progress=step, spark=spark)
            run.wrote_views(report.rows)
            if compact:
                merge(store, progress=step)
            make_warehouse(store)
            return report

    def features(self, entities: Frame) -> Frame:
        """Return the rows of a frame with the features that were known at each row's `event_timestamp`.

        The frame has entity columns (`horse_id`, `trainer_id`, …, as text) and `event_timestamp` (UTC where it has no
        offset). Every view whose keys it has is joined, as columns `view__feature`. Rows keep their order, and none is lost.
        """
        from velo.api.frames import like, to_arrow

        joined: Frame = like(self.features_of(to_arrow(entities), "the frame").table, entities)
        return joined

    def features_of(self, entities: "pa.Table", source: str) -> "JoinedFeatures":
        """Return Arrow rows with their features and the views joined, as `features`; errors name `source`."""
        from velo.feature_repo.historical import features_at

        with self._at_work() as store:
            return features_at(store, entities, source)

    def race(self, race_id: str, *, as_of: str | datetime | None = None) -> Any:
        """Return the runners and non-runners of a race as known at an instant (default: now).

        `status`, `position` and `sp_decimal` are null until its result is known. One row per runner, as `RACE` in
        `velo.api.frames` lists the columns.
        """
        from velo.api.frames import in_library, race_table
        from velo.racing.clock import to_text
        from velo.serving.api.days import card_of
        from velo.serving.scoring.race_messages import messages_of_race
        from velo.streams.unbuilt_log import UnbuiltLog

        with self._at_work() as store:
            at = self._not_later(as_of)
            card = card_of(messages_of_race(store.home, race_id, log=UnbuiltLog(store.home)).messages, at)
            if card is None:
                raise UserError(f"race {race_id!r} had no declared runner by {to_text(at)}: give a later as_of")
            return in_library(race_table(card, at), self.frames)

    def score(self, race_id: str, *, as_of: str | datetime | None = None) -> Any:
        """Return the runners of a race with their winning probabilities, the most likely first; as `scored`."""
        from velo.api.frames import in_library, score_table

        return in_library(score_table(self.scored(race_id, as_of=as_of)), self.frames)

    def scored(self, race_id: str, *, as_of: str | datetime | None = None) -> "ScoredRace":
        """Score a race with the serving model: as of now from Redis, or as of an instant from the offline tables.

        A race whose result is in the log is scored as of its decision time; an instant past the result is refused.
        """
        from velo.api.lineage import LOG, lineage
        from velo.serving.scoring.scorer import score
        from velo.streams.unbuilt_log import UnbuiltLog

        with self._at_work() as store, lineage(store, "score", self.clock, [LOG]) as run:
            race = score(
                store, race_id, log=UnbuiltLog(store.home), as_of=instant(as_of), now=self.clock(), clock=self.clock
            )
            run.used_model(store.home, race.model, f"scores/{race_id}")
            return race

    def sql(self, query: str) -> "pa.Table":
        """Return the answer of the warehouse to one SELECT, as Arrow: the feature tables, the messages, the daily tables."""
        from velo.streams.batch.warehouse import reading

        with self._at_work() as store, reading(store, query) as connection:
            return connection.sql(query).to_arrow_table()

    def explain(
        self, race_id: str, horse_id: str, *, as_of: str | datetime | None = None, lead: timedelta = LEAD
    ) -> "Explained":
        """Trace each feature of a runner to its formula and the starts behind it, recomputed and compared with the tables.

        The instant is `as_of`, else the race's decision time, `lead` before its off. `horse_id` may be the horse's name.
        """
        from velo.racing.cards import decision_time, declared_at
        from velo.racing.clock import to_text
        from velo.racing.names import name_key
        from velo.serving.scoring.race_messages import messages_of_race
        from velo.streams.explain import explain
        from velo.streams.unbuilt_log import UnbuiltLog

        with self._at_work() as store:
            at = self._not_later(as_of)
            messages = messages_of_race(store.home, race_id, log=UnbuiltLog(store.home)).messages
            then = at if as_of is not None else min(decision_time(messages, lead) or at, at)
            race = declared_at(messages, then)
            if race is None:
                raise UserError(f"race {race_id!r} had no declared runner by {to_text(then)}: give a later --as-of")
            keys = [runner.horse_id for runner in (*race.runners, *race.withdrawn)]
            named = [runner.horse_id for runner in race.runners if name_key(runner.horse) == name_key(horse_id)]
            return explain(store, race, named[0] if horse_id not in keys and len(named) == 1 else horse_id)


def _keep_mapping(home: Home, path: Path) -> None:
    """Keep a user's own mapping with the store, so that dead letters of its files can be replayed."""
    from velo.storage.atomic_files import make_folder, write_atomically
    from velo.streams.importers.mapping import read_mapping

    kept = home.mappings / f"{read_mapping(path).name}.toml"
    make_folder(kept.parent)
    write_atomically(kept, path.read_bytes())


def _spark(engine: str) -> Any:
    if engine == "spark":
        from velo.streams.spark.engine import spark_engine

        return spark_engine()
    if engine != "duckdb":
        raise UserError(f"engine is {engine!r}, but tables are computed by 'duckdb' or 'spark': name one of these")
    return nullcontext()
