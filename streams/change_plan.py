"""`velo plan`: what publishing the catalogue as it is now would change in a store's tables, found out beside them.

Views and features are compared by the fingerprints of their formulas. The values of a changed view are computed again from
the log that the tables hold, in a temporary folder, and compared with the stored ones at every instant at which either has a
row: of some keys, always the same, or of all. So a count over all keys is exactly what `velo apply` then changes.
"""

# ruff: noqa: S608  names are the catalogue's own, paths are quoted, values are bound
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Literal
from zoneinfo import ZoneInfo

from velo.errors import UserError
from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.families import FAMILIES, Family, own_measures
from velo.racing.jurisdiction import DEFAULT
from velo.storage import part_sums, table_versions
from velo.storage.atomic_files import make_folder
from velo.storage.log.format import generation as log_generation
from velo.storage.store import Home, Store
from velo.storage.table_versions import Manifest
from velo.streams.batch import staging, start_table
from velo.streams.batch.build import BEGINNING, MEMORY_LIMIT, write_family
from velo.streams.batch.formulas import fingerprint, view_formulas
from velo.streams.batch.render import has_key
from velo.streams.explain import recomputed

if TYPE_CHECKING:
    import duckdb

EXAMPLES: Final = 10
"""Changed values shown in full; all are counted."""
SERVICE: Final = "velo_v1"
"""Feast's feature service of the whole catalogue."""
KEYS: Final = 200
"""Keys of each changed view that are computed, unless all are asked for."""
Change = Literal["added", "changed", "dropped", "untouched"]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FeatureChange:
    """One feature of a changed view. `values` counts the values compared, `differ` those that change; both are 0 if none were computed.

    A value is a key's at an instant at which its row changes, before or after. Of an added or dropped feature those that are
    not null differ.
    """

    feature: str
    change: Change
    values: int = 0
    differ: int = 0


@dataclass(frozen=True, slots=True)
class ChangedValue:
    """A value that changes, and the races of the starts behind the new one, newest first."""

    view: str
    feature: str
    key: tuple[str, ...]
    at: datetime
    before: float | int | None
    after: float | int | None
    races: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ViewChange:
    """One view. `keys` of its `of_keys` were computed: `rows_then` rows in place of `rows_now`, in `seconds` and `bytes` of disk.

    The last three are of all keys: measured where all were computed, else in proportion to their starts; the seconds that a
    query takes without any row count once.
    """

    view: str
    change: Change
    features: tuple[FeatureChange, ...] = ()
    keys: int = 0
    of_keys: int = 0
    rows_now: int = 0
    rows_then: int = 0
    seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class TablesPlan:
    """What would change in the tables at their position in the log. `feast` names the objects of the registry that change.

    `whole` says whether all keys were computed. `measuring_seconds` is how long it took to measure starts again, 0 where no
    measure changed. `fingerprint` is that of all formulas, `fingerprint_now` that of the tables;
    they also differ where only request-time formulas do, which no table has.
    """

    next_seq: int
    known_at: datetime
    views: tuple[ViewChange, ...]
    examples: tuple[ChangedValue, ...]
    feast: tuple[str, ...]
    whole: bool
    measuring_seconds: float
    fingerprint: str
    fingerprint_now: str

    @property
    def changes(self) -> bool:
        """Whether anything would change."""
        return self.fingerprint != self.fingerprint_now


def plan(
    store: Store,
    now: datetime,
    *,
    keys: int | None = KEYS,
    families: tuple[Family, ...] = FAMILIES,
    progress: Progress = lambda step, done, steps: None,
) -> TablesPlan:
    """Compare the catalogue with the current tables; changes nothing.

    `keys` of each view whose formulas changed are computed, None for all. `now` is the `created_timestamp` of rows that are
    thrown away. Raises `UserError` where there is no build, or it is of a log since replaced.
    """
    home = store.home
    folder = table_versions.current(home)
    manifest = None if folder is None else table_versions.manifest_of(folder)
    if folder is None or manifest is None or manifest.next_seq == 0:
        raise UserError(f"there is no build at {home.offline} to compare with: run `velo build` first")
    if manifest.log_generation != log_generation(home):
        raise UserError(f"the tables at {home.offline} are of a log since replaced: run `velo build` first")
    part_sums.refuse_damaged(folder)
    changes = view_changes(folder, manifest, families)
    by_view = {family.view: family for family in families}
    due = [change.view for change in changes if change.change in ("added", "changed")]
    with TemporaryDirectory(dir=make_folder(home.batch), prefix="plan-") as scratch:
        aside = _Aside(store, folder, manifest, Path(scratch), keys, now)
        if due:
            progress("measure starts", 0, len(due) + 1)
            aside.measure(families)
        for done, change in enumerate(change for change in changes if change.view in due):
            progress(change.view, done + 1, len(due) + 1)
            changes[changes.index(change)] = aside.compare(by_view[change.view], change)
    return TablesPlan(
        manifest.next_seq,
        manifest.known_at,
        tuple(changes),
        tuple(_spread(aside.examples)),
        tuple(_feast_objects(changes)),
        all(change.keys == change.of_keys for change in changes),
        aside.measuring_seconds,
        fingerprint(families),
        manifest.fingerprint,
    )


def view_changes(folder: Path, manifest: Manifest, families: Sequence[Family]) -> list[ViewChange]:
    """Each view of the catalogue and of the tables, with its features that differ by their formulas.

    Formulas of tables of an earlier version are unknown: every feature of a view that may have changed counts as changed.
    """
    views = view_formulas(families)
    unchanged = manifest.unchanged(fingerprint(tuple(families)), views)
    found = []
    for view in dict.fromkeys((*views, *sorted(manifest.rows))):
        rows = manifest.rows.get(view, 0)
        if view in unchanged:
            found.append(ViewChange(view, "untouched", rows_now=rows, rows_then=rows))
            continue
        new = views[view].features if view in views else {}
        old = _stored_features(folder, manifest, view) if view in manifest.rows else {}
        change: Change = "dropped" if view not in views else "added" if view not in manifest.rows else "changed"
        found.append(ViewChange(view, change, tuple(_feature_changes(old, new)), rows_now=rows))
    return found


def _feature_changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[FeatureChange]:
    for name in dict.fromkeys((*new, *old)):
        if name not in old:
            yield FeatureChange(name, "added")
        elif name not in new:
            yield FeatureChange(name, "dropped")
        else:
            yield FeatureChange(name, "untouched" if old[name] == new[name] else "changed")


def _stored_features(folder: Path, manifest: Manifest, view: str) -> Mapping[str, str]:
    """The fingerprint of each feature that a view's tables have; "" where it is unknown."""
    if view in manifest.views:
        return manifest.views[view].features
    import pyarrow.parquet as pq

    names = pq.read_schema(next(iter(sorted((folder / view).glob("*.parquet"))))).names
    values = names[names.index("valid_until") + 1 :]
    return dict.fromkeys(values, "")


@dataclass(slots=True)
class _Aside:
    """Changed views computed in a scratch folder, and compared with the tables of a generation."""

    store: Store
    folder: Path
    manifest: Manifest
    scratch: Path
    keys: int | None
    now: datetime
    examples: list[ChangedValue] = field(default_factory=list)
    measuring_seconds: float = 0.0
    _results: list[Path] = field(default_factory=list)
    _starts: list[Path] = field(default_factory=list)

    def measure(self, families: tuple[Family, ...]) -> None:
        """Take the starts that the tables were built from, or measure them again where a measure changed."""
        own = own_measures(families)
        found = staging.measured_in(self.store.home, self.folder, DEFAULT, own)
        if found is None:
            begun = time.perf_counter()
            home = Home(self.scratch / "home")
            home.root.mkdir()
            home.log.symlink_to(self.store.home.log.resolve(), target_is_directory=True)
            staging.measure_new(home, MEMORY_LIMIT, own=own)
            found = staging.parts_of(home, "results"), staging.parts_of(home, "starts")
            self.measuring_seconds = time.perf_counter() - begun
        self._results, self._starts = found

    def compare(self, family: Family, change: ViewChange) -> ViewChange:
        """The change of one view with its counts; adds to `examples`."""
        begun = time.perf_counter()
        part = self.scratch / f"{family.view}.parquet"
        bound = {"$after": BEGINNING, "$until": self.manifest.known_at, "$created": self.now}
        with staging.scratch_connection(Home(self.scratch), MEMORY_LIMIT) as connection:
            asked, of_keys, share = self._choose_keys(connection, family)
            parts = self._results, self._starts, self.store.timezone, (family,), self._of_asked(family)
            start_table.lay_out_parts(connection, *parts, before_seq=self.manifest.next_seq)
            laid_out = time.perf_counter() - begun
            rows, written = _timed(connection, family, part, bound)
            fixed = written
            if asked < of_keys:
                _, fixed = _timed(connection, family, self.scratch / "empty.parquet", bound | {"$until": BEGINNING})
            comparison = _Comparison(connection, family, change, self.manifest.known_at, self.store.timezone)
            comparison.load(part, self._stored_parts(family), self._of_asked(family))
            features = comparison.counted()
            self.examples += comparison.examples(features)
        seconds = laid_out + fixed + max(written - fixed, 0.0) * share
        return replace(
            change, features=features, keys=asked, of_keys=of_keys, rows_then=round(rows * share),
            seconds=seconds, bytes=round(part.stat().st_size * share),
        )  # fmt: skip

    def _choose_keys(self, connection: "duckdb.DuckDBPyConnection", family: Family) -> tuple[int, int, float]:
        """Choose the keys to compute, as the table `asked`; returns their number, that of all keys, and all starts for each of theirs."""
        names, limit = ", ".join(family.keys), "" if self.keys is None else f"LIMIT {self.keys}"
        starts = f"{staging.parquet(self._starts)} WHERE {has_key(family)}"
        every = f"SELECT {names}, count(*) AS starts_of_key FROM {starts} GROUP BY {names}"
        counts = "SELECT count(*), coalesce(sum(starts_of_key), 0) FROM"
        [(of_keys, of_starts)] = connection.execute(f"{counts} ({every})").fetchall()
        connection.execute(f"CREATE TEMP TABLE asked AS {every} ORDER BY hash({names}) {limit}")
        [(asked, asked_starts)] = connection.execute(f"{counts} asked").fetchall()
        return asked, of_keys, int(of_starts) / max(int(asked_starts), 1)

    def _of_asked(self, family: Family) -> str:
        return "" if self.keys is None else f"SEMI JOIN asked USING ({', '.join(family.keys)})"

    def _stored_parts(self, family: Family) -> list[Path]:
        return sorted((self.folder / family.view).glob("*.parquet"))


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The values of a view then and now, in the temporary table `compared`: one row for each key and instant of either."""

    connection: "duckdb.DuckDBPyConnection"
    family: Family
    change: ViewChange
    until: datetime
    timezone: ZoneInfo

    def load(self, part: Path, stored: Sequence[Path], of_asked: str) -> None:
        """Make `compared` of the part computed aside and of the stored parts."""
        keys = ", ".join(self.family.keys)
        self.connection.execute(f"CREATE TEMP TABLE then_rows AS SELECT * FROM {staging.parquet([part])}")
        now = f"SELECT {keys}, event_timestamp FROM then_rows WHERE false"
        if stored and self.change.change == "changed":
            now = f"SELECT * FROM {staging.parquet(stored)} AS every {of_asked} WHERE event_timestamp <= $until"
        bound = {"until": self.until} if "$until" in now else {}
        self.connection.execute(f"CREATE TEMP TABLE now_rows AS {now}", bound)
        same = {side: " AND ".join(f"p.{key} = {side}.{key}" for key in self.family.keys) for side in ("now", "new")}
        values = [
            f"now.{feature.feature} AS now_{feature.feature}"
            for feature in self.change.features
            if feature.change != "added"
        ]
        values += [
            f"new.{feature.feature} AS new_{feature.feature}"
            for feature in self.change.features
            if feature.change != "dropped"
        ]
        points = (
            f"SELECT {keys}, event_timestamp AS point FROM then_rows UNION SELECT {keys}, event_timestamp FROM now_rows"
        )
        self.connection.execute(
            f"CREATE TEMP TABLE compared AS SELECT p.*, {', '.join(values)} FROM ({points}) p "
            f"ASOF LEFT JOIN then_rows new ON {same['new']} AND p.point >= new.event_timestamp "
            f"ASOF LEFT JOIN now_rows now ON {same['now']} AND p.point >= now.event_timestamp"
        )

    def counted(self) -> tuple[FeatureChange, ...]:
        """Each feature with its counts; one whose values differ has changed, whatever its own formula."""
        counts = ", ".join(f"count(*) FILTER ({_differs(feature)})" for feature in self.change.features)
        [(values, *differing)] = self.connection.execute(f"SELECT count(*), {counts} FROM compared").fetchall()
        return tuple(
            replace(
                feature,
                change="changed" if feature.change == "untouched" and differ else feature.change,
                values=values,
                differ=differ,
            )
            for feature, differ in zip(self.change.features, differing, strict=True)
        )

    def examples(self, features: Sequence[FeatureChange]) -> Iterator[ChangedValue]:
        """Some changed values of each feature, the newest first."""
        differing = [feature for feature in features if feature.differ]
        each = -(-EXAMPLES // max(len(differing), 1))
        keys = ", ".join(self.family.keys)
        for feature in differing[:EXAMPLES]:
            old = "NULL" if feature.change == "added" else f"now_{feature.feature}"
            new = "NULL" if feature.change == "dropped" else f"new_{feature.feature}"
            rows = self.connection.execute(
                f"SELECT {keys}, point, {old}, {new} FROM compared WHERE {_differs(feature)} ORDER BY point DESC, {keys} LIMIT {each}"
            ).fetchall()
            for *key, at, before, after in rows:
                races = self._races(feature, tuple(key), at)
                yield ChangedValue(self.family.view, feature.feature, tuple(key), at, before, after, races)

    def _races(self, feature: FeatureChange, key: tuple[str, ...], at: datetime) -> tuple[str, ...]:
        """The races of the starts that a key's new value is made of, newest first; none for a dropped feature."""
        if feature.change == "dropped":
            return ()
        named = " AND ".join(f"{name} = ?" for name in self.family.keys)
        answer = self.connection.execute(
            f"SELECT * FROM starts WHERE {named} AND known_at <= ? AND (retracted_at IS NULL OR retracted_at > ?) "
            f"ORDER BY {', '.join(f'{name} DESC' for name in self.family.start_order)}",
            [*key, at, at],
        )
        columns = [column[0] for column in answer.description or ()]
        starts = [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]
        place = [feature.name for feature in self.family.features].index(feature.feature)
        made_of = recomputed(self.family, starts, at, self.timezone).made_of[place]
        return tuple(dict.fromkeys(starts[number]["race_id"] for number in made_of))


def _timed(
    connection: "duckdb.DuckDBPyConnection", family: Family, part: Path, bound: dict[str, datetime]
) -> tuple[int, float]:
    """Write a view's part; returns its rows and the seconds."""
    begun = time.perf_counter()
    return write_family(connection, family, part, bound), time.perf_counter() - begun


def _differs(change: FeatureChange) -> str:
    if change.change == "added":
        return f"new_{change.feature} IS NOT NULL"
    if change.change == "dropped":
        return f"now_{change.feature} IS NOT NULL"
    return f"new_{change.feature} IS DISTINCT FROM now_{change.feature}"


def _spread(examples: Sequence[ChangedValue]) -> Iterator[ChangedValue]:
    """At most `EXAMPLES` of them, one of each feature before a second of any."""
    seen = Counter[tuple[str, str]]()
    ranked = []
    for number, example in enumerate(examples):
        seen[example.view, example.feature] += 1
        ranked.append((seen[example.view, example.feature], number))
    yield from (examples[number] for _, number in sorted(ranked)[:EXAMPLES])


def _feast_objects(changes: Sequence[ViewChange]) -> Iterator[str]:
    """The objects of Feast's registry that change: `feast apply` writes them."""
    columns = {
        change.view
        for change in changes
        if change.change in ("added", "dropped")
        or any(feature.change in ("added", "dropped") for feature in change.features)
    }
    yield from (f"feature view {view}" for view in sorted(columns))
    touched = {change.view for change in changes if change.change != "untouched"}
    yield from (f"on-demand view {view.name}" for view in request_time.VIEWS if touched.intersection(view.views))
    if columns:
        yield f"feature service {SERVICE}"
