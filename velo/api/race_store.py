"""`velo.open`: a store as an object. The commands call these methods too, so both give the same values, checks and errors."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast, overload

from velo.api.mistakes import line_of
from velo.api.private_files import PRIVATE
from velo.api.values import Library, day, files, instant, refuse_library
from velo.errors import UserError
from velo.settings import FEATURE_CONFIG, KeyPolicy, Settings, config_file
from velo.storage.store import Home, Store

if TYPE_CHECKING:
    import pyarrow as pa

    from velo.api.backtests import BacktestResult
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
    from velo.training.gate.controls import PlaceboReport
    from velo.training.gate.windows import JudgeReport
    from velo.training.train import TrainReport

Frame = TypeVar("Frame")
"""A data frame of pandas or polars, an Arrow table, or any object with the Arrow stream interface."""
File = str | os.PathLike[str]
Source = Any
"""A frame, a file, or a list of files."""
Progress = Callable[[str, int, int], None]
"""Called with the step, the number done and the total."""
Results = Literal["runners", "raceform"]
OF_FRAMES: Final = ("runners", "runners-cards")
"""The importers that read a frame as well as files."""
LEAD: Final = timedelta(minutes=5)


def utc_now() -> datetime:
    """The wall clock, UTC."""
    return datetime.now(UTC)


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


def _extra_columns() -> frozenset[str]:
    """The columns of the user's own files that declared features read; the declarations are read when first needed."""
    from velo.feature_repo.catalogue.families import OWN_MEASURES
    from velo.racing.measures import extra_columns

    return frozenset(column.name for column in extra_columns(OWN_MEASURES))


class RaceStore:
    """One store of races. Every method reads the store as it is then; instants are aware and in UTC, dates are local.

    Every method raises `UserError`, with one line that says the value, the rule and the remedy, for a mistake, an
    empty store and a damaged file. Files that a method writes are private to their owner.
    """

    def __init__(
        self, settings: Settings, *, frames: Library = "pandas", clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.settings = settings
        self.frames = frames
        self.clock = clock
        # a caller may change the working folder, and with it what lies above it
        self._folder = Path.cwd()

    @property
    def home(self) -> Home:
        """The paths of the store's files."""
        return Home(self.settings.home)

    def opened(self) -> Store:
        """Return the store as it is now; raises `UserError` for settings, or declared features, that contradict its own."""
        FEATURE_CONFIG.choose(config_file(self.settings.home, self._folder), self.settings.home)
        return replace(Store.open(self.settings), extra_columns=_extra_columns)

    def __repr__(self) -> str:
        with self._at_work() as store:
            from velo.storage.log.reader import end

            messages = end(store.home).next_seq
        state = f"{messages:,} messages" if messages else "empty: load results with ingest(frame_or_file)"
        return f"<velo store at {store.home.root}, {store.timezone.key}, {state}>"

    def status(self) -> "Status":
        """Return the state of the store: log end, position of the tables, Redis, dead letters."""
        from velo.streams.status import status

        with self._at_work() as store:
            return status(store)

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

        step = progress or _silent
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
        from velo.streams.batch.build import build
        from velo.streams.batch.build import compact as merge
        from velo.streams.batch.warehouse import make_warehouse

        step = progress or _silent
        with self._at_work() as store, _spark(engine) as spark:
            report = build(store, self.clock(), whole=whole, progress=step, spark=spark)
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

    def training_set(
        self,
        *,
        since: str | date | None = None,
        until: str | date | None = None,
        lead: timedelta = LEAD,
        progress: Progress | None = None,
    ) -> Any:
        """Return every declared runner of races with a result, with what was known `lead` before its off and its outcome.

        The race dates are local, `since` and `until` included. Columns: the race and runner, `feature__…` (doubles),
        `label__…` (by the first version of the result, null for a non-starter).
        """
        from velo.api.frames import in_library
        from velo.training.dataset.entity_rows import BEGINNING, END, Period
        from velo.training.dataset.training_set import kept_training_set

        period = Period(day(since) or BEGINNING, day(until) or END)
        with self._at_work() as store:
            rows = kept_training_set(store, lead=lead, period=period, progress=progress or _silent)
            return in_library(rows.to_arrow(), self.frames)

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
        from velo.serving.scoring.scorer import score
        from velo.streams.unbuilt_log import UnbuiltLog

        with self._at_work() as store:
            return score(
                store, race_id, log=UnbuiltLog(store.home), as_of=instant(as_of), now=self.clock(), clock=self.clock
            )

    def sql(self, query: str) -> "pa.Table":
        """Return the answer of the warehouse to one SELECT, as Arrow: the feature tables, the messages, the daily tables."""
        from velo.streams.batch.warehouse import reading

        with self._at_work() as store, reading(store, query) as connection:
            return connection.sql(query).to_arrow_table()

    def train(
        self,
        model: object = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        lead: timedelta = LEAD,
        seed: int | None = None,
        search: bool = False,
        until: str | date | None = None,
        progress: Progress | None = None,
    ) -> "TrainReport":
        """Train a model and its blend with the market, store it as the one that serves, and return its measures.

        `model` is `module:factory` with its `parameters`, or an object (docs/own-models.md); None is VÉLØ's own with `seed`.
        `until` is the last local race date to train on. `search` chooses the options of VÉLØ's own by cross-validation first.
        """
        from velo.training.dataset.entity_rows import END, Period
        from velo.training.registry.models import own_model
        from velo.training.train import train

        period = Period(until=day(until) or END)
        with self._at_work() as store:
            return train(
                store,
                model=own_model(model, parameters, seed),
                parameters=parameters,
                lead=lead,
                period=period,
                choose=search,
                now=self.clock(),
                progress=progress or _silent,
            )

    def backtest(
        self,
        model: object = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        days: int | None = None,
        refit_months: int | None = None,
        past: int | None = None,
        lead: timedelta | None = None,
        seed: int | None = None,
        again: bool = False,
        page: File | None = None,
        progress: Progress | None = None,
    ) -> "BacktestResult":
        """Test a model's recipe on days it has not seen: walk-forward refits, blended and calibrated on earlier days only.

        `model` is `module:factory` with its `parameters`, an object (docs/own-models.md), or the version of a stored model, whose
        recipe is tested; None is VÉLØ's own with `seed`. The days are the last
        `days` up to `until`, or `since` to `until`, local race dates. `refit_months` lie between refits, `past` refits before
        the period fit the blend. `again` looks at a locked window again, and counts. The HTML report goes to `page`.
        """
        from velo.api.backtests import BacktestResult
        from velo.training.evaluation.backtest import backtest
        from velo.training.registry.models import model_to_test
        from velo.training.reports.html import write_report

        with self._at_work() as store:
            tested, given, before = model_to_test(store.home, model, parameters, lead, seed)
            report = backtest(
                store,
                now=self.clock(),
                since=day(since),
                until=day(until),
                days=days,
                refit_months=refit_months,
                past=past,
                lead=before,
                model=tested,
                parameters=given,
                again=again,
                progress=progress or _silent,
            )
            path = write_report(report, Path(page) if page else store.home.reports / f"{report.backtest}.html")
            return BacktestResult(report, path, store.home, self.frames)

    def placebos(
        self,
        model: object = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        days: int | None = None,
        refit_months: int | None = None,
        past: int | None = None,
        lead: timedelta | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> "PlaceboReport":
        """Test a model on shuffled winners and on a planted leak; `.passed` if it finds nothing in the first and the second.

        The arguments are those of `backtest`. No figure of the real days is shown, so this is no trial.
        """
        from velo.training.gate.controls import placebos
        from velo.training.registry.models import model_to_test

        with self._at_work() as store:
            tested, given, before = model_to_test(store.home, model, parameters, lead, seed)
            return placebos(
                store,
                since=day(since),
                until=day(until),
                days=days,
                refit_months=refit_months,
                past=past,
                lead=before,
                model=tested,
                parameters=given,
                progress=progress or _silent,
            )

    def gate(
        self,
        *,
        subject: str = "fundamental",
        strategy: str = "TOP20 by edge",
        final: bool = False,
        again: bool = False,
    ) -> "JudgeReport":
        """Judge the last backtest over its last 90 days and 12 months; `.verdict` is PASS, FAIL or NOT ENOUGH DATA.

        `subject` is fundamental (what serves), calibrated, logit or blend. `final` locks those 12 months, so that they are
        looked at once; `again` counts another look.
        """
        from velo.training.gate.windows import judge_last

        with self._at_work() as store:
            return judge_last(store.home, now=self.clock(), subject=subject, by=strategy, final=final, again=again)

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

        with self._at_work() as store:
            at = self._not_later(as_of)
            messages = messages_of_race(store.home, race_id).messages
            then = at if as_of is not None else min(decision_time(messages, lead) or at, at)
            race = declared_at(messages, then)
            if race is None:
                raise UserError(f"race {race_id!r} had no declared runner by {to_text(then)}: give a later --as-of")
            keys = [runner.horse_id for runner in (*race.runners, *race.withdrawn)]
            named = [runner.horse_id for runner in race.runners if name_key(runner.horse) == name_key(horse_id)]
            return explain(store, race, named[0] if horse_id not in keys and len(named) == 1 else horse_id)

    def _not_later(self, as_of: str | datetime | None) -> datetime:
        """Return an instant, or now for None; raises `UserError` for one in the future."""
        from velo.racing.clock import to_text

        now, asked = self.clock(), instant(as_of)
        if asked is not None and asked > now:
            raise UserError(f"--as-of {to_text(asked)} is in the future: leave it out to see what is known now")
        return asked or now

    @contextmanager
    def _at_work(self) -> Iterator[Store]:
        """Open the store for one call: files are private to their owner, and damage is reported as a `UserError`."""
        with PRIVATE:
            try:
                yield self.opened()
            except UserError:
                raise
            except BaseException as broke:
                line = line_of(broke, self.home)
                if line is None:
                    raise
                raise UserError(line) from broke


def _keep_mapping(home: Home, path: Path) -> None:
    """Keep a user's own mapping with the store, so that dead letters of its files can be replayed."""
    from velo.storage.atomic_files import make_folder, write_atomically
    from velo.streams.importers.mapping import read_mapping

    kept = home.mapping(read_mapping(path).name)
    make_folder(kept.parent)
    write_atomically(kept, path.read_bytes())


def _silent(step: str, done: int, total: int) -> None:
    """Report no progress."""


def _spark(engine: str) -> Any:
    if engine == "spark":
        from velo.streams.spark.engine import spark_engine

        return spark_engine()
    if engine != "duckdb":
        raise UserError(f"engine is {engine!r}, but tables are computed by 'duckdb' or 'spark': name one of these")
    return nullcontext()
