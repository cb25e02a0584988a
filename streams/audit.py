"""`velo audit`: compare both stores, value by value, with a fresh batch of the log.

Tables are compared as functions of time: at every instant at which either has a row, up to the position that both stores have
reached. A row that repeats the previous one is not a difference. In Redis each key's row is compared at that position, or at
its own instant where that is later, and Feast's own fields with the packed row beside them.
"""

# ruff: noqa: S608  names are the catalogue's own, values are bound
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.feature_repo.catalogue.recent_aggregates import Ewma, Slope, Variance
from velo.feature_repo.stores.changelog import scan
from velo.feature_repo.stores.redis_layout import VALID_UNTIL, Layout
from velo.feature_repo.stores.whole import read, refuse_other_store
from velo.racing.clock import from_text
from velo.storage import part_sums, table_versions
from velo.storage.atomic_files import make_folder
from velo.storage.log import reader
from velo.storage.log.format import generation as log_generation
from velo.storage.store import Home, Store
from velo.streams import online_rows
from velo.streams.batch import staging
from velo.streams.batch.build import MEMORY_LIMIT, build
from velo.streams.dataflow.metrics import sealed_into
from velo.streams.online_rows import OnlineRows

if TYPE_CHECKING:
    import duckdb

SHOWN: Final = 20
"""Differences reported in full; the rest is counted."""
HISTORY: Final = 4
TOLERANCE: Final = 1e-12
CURVES_TOLERANCE: Final = 1e-9
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """One value that differs: at instant `at`; `history` has the feature's last true changes before."""

    store: str
    view: str
    key: tuple[str, ...]
    at: datetime | None
    feature: str
    expected: Any
    found: Any
    history: tuple[tuple[datetime, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of an audit up to message `next_seq`: instants compared by store, and `found` differences, the first in full."""

    next_seq: int
    known_at: datetime
    compared: dict[str, int]
    found: int
    differences: tuple[ValueDifference, ...]


def audit(
    store: Store,
    now: datetime,
    *,
    client: Any | None,
    sample: int | None = None,
    progress: Progress = lambda step, done, steps: None,
) -> AuditReport:
    """Compare the offline tables, and the Redis behind `client` if one is given, with a fresh batch of the whole log.

    `sample` checks only that many keys of each view, always the same ones. Raises `UserError` where there are no tables, or
    they are of another log or damaged, or Redis has the rows of another store.
    """
    home = store.home
    folder = table_versions.current(home)
    if folder is None:
        raise UserError(f"there are no tables at {home.offline}: run `velo build` or `velo stream` first")
    manifest = table_versions.manifest_of(folder)
    part_sums.refuse_damaged(folder)
    if manifest.log_generation != log_generation(home):
        raise UserError(f"the tables at {home.offline} are of a log since replaced: run `velo build` first")
    if client is not None:
        held_of = zip(FAMILIES, read(client, [Layout.of(family) for family in FAMILIES]), strict=True)
        refuse_other_store(home, "Redis", {family.view: contents.owner for family, contents in held_of})
    next_seq, until = brought_to(home, manifest)
    with staging.scratch_connection(home, MEMORY_LIMIT) as connection:
        parts = {family.view: sorted((folder / family.view).glob("*.parquet")) for family in FAMILIES}
        # Redis is read before the log's end, so it is never ahead of the batch
        held = online_rows.read_all(client) if client is not None else {}
        with _fresh(store, now) as fresh:
            found: list[ValueDifference] = []
            compared = {"offline": 0, "online": 0}
            count = 0
            for done, family in enumerate(FAMILIES):
                progress(family.view, done, len(FAMILIES))
                view = _View(connection, family, until, sample)
                view.load(fresh, parts[family.view])
                checks = [("offline", view.offline())]
                if family.view in held:
                    checks.append(("online", view.online(held[family.view])))
                for where, (rows, differences) in checks:
                    compared[where] += rows
                    count += len(differences)
                    found += differences[: max(0, SHOWN - len(found))]
            return AuditReport(next_seq, until, compared, count, tuple(found))


def brought_to(home: Home, manifest: table_versions.Manifest) -> tuple[int, datetime]:
    """Return the seq before which both stores certainly have every record, and the `known_at` of the last of them."""
    sealed = sealed_into(home, manifest)
    if sealed <= manifest.next_seq:
        return manifest.next_seq, manifest.known_at
    last = next(reader.records(home, sealed - 1))
    return sealed, from_text(last["known_at"])


@contextmanager
def _fresh(store: Store, now: datetime) -> Iterator[Path]:
    """Yield the folder of tables built from the log in a temporary home."""
    with TemporaryDirectory(dir=make_folder(store.home.batch), prefix="audit-") as scratch:
        home = Home(Path(scratch) / "home")
        home.root.mkdir()
        home.log.symlink_to(store.home.log.resolve(), target_is_directory=True)
        yield build(replace(store, home=home), now, whole=True).generation


@dataclass(frozen=True, slots=True)
class _View:
    """The comparison of one view, in the temporary tables `fresh`, `stored` and, of a sample, `asked` (its keys)."""

    connection: "duckdb.DuckDBPyConnection"
    family: Family
    until: datetime
    sample: int | None

    @property
    def names(self) -> tuple[str, ...]:
        """The compared columns."""
        return (VALID_UNTIL, *(feature.name for feature in self.family.features))

    @property
    def keys(self) -> str:
        """The key columns."""
        return ", ".join(self.family.keys)

    def load(self, fresh: Path, parts: Sequence[Path]) -> None:
        """Make the tables of both sides, for the keys to compare."""
        true = sorted((fresh / self.family.view).glob("*.parquet"))
        for table, files in (("fresh", true), ("stored", parts)):
            rows = scan(files) if files else f"(SELECT * FROM {scan(true)} WHERE false)"
            self.connection.execute(f"CREATE OR REPLACE TEMP VIEW {table}_all AS SELECT * FROM {rows}")
        of_asked = ""
        if self.sample is not None:
            of_asked = f"SEMI JOIN asked USING ({self.keys})"
            self.connection.execute(
                f"CREATE OR REPLACE TEMP TABLE asked AS SELECT DISTINCT {self.keys} "
                f"FROM (SELECT {self.keys} FROM fresh_all UNION SELECT {self.keys} FROM stored_all) "
                f"ORDER BY hash({self.keys}) LIMIT {self.sample}"
            )
        for table in ("fresh", "stored"):
            self.connection.execute(
                f"CREATE OR REPLACE TEMP TABLE {table} AS "
                f"SELECT {self.keys}, event_timestamp, {', '.join(self.names)} FROM {table}_all {of_asked}"
            )

    def offline(self) -> tuple[int, list[ValueDifference]]:
        """Return the number of instants compared, and the differences."""
        bound = {"until": self.until}
        points = (
            f"SELECT {self.keys}, event_timestamp AS at FROM fresh WHERE event_timestamp <= $until "
            f"UNION SELECT {self.keys}, event_timestamp FROM stored WHERE event_timestamp <= $until"
        )
        differences = self._differences("offline", points, "stored", bound)
        twice = self.connection.execute(
            f"SELECT {self.keys}, event_timestamp, count(*) FROM stored GROUP BY ALL HAVING count(*) > 1"
        ).fetchall()
        width = len(self.family.keys)
        for row in twice:
            differences.append(
                ValueDifference("offline", self.family.view, row[:width], row[width], "(rows)", 1, row[width + 1])
            )
        [[rows]] = self.connection.execute(f"SELECT count(*) FROM ({points})", bound).fetchall()
        return rows, differences

    def online(self, held: OnlineRows) -> tuple[int, list[ValueDifference]]:
        """Return the number of keys compared, and the differences, those of Feast's fields last."""
        self.connection.register("held", held.table)
        self.connection.execute(
            f"CREATE OR REPLACE TEMP TABLE online AS SELECT * FROM held {'SEMI JOIN asked USING (' + self.keys + ')' if self.sample else ''}"
        )
        self.connection.unregister("held")
        points = (
            f"SELECT {self.keys}, greatest($until, coalesce(max(event_timestamp), $until)) AS at FROM "
            f"(SELECT {self.keys}, event_timestamp FROM online UNION ALL "
            f"SELECT {self.keys}, NULL FROM fresh WHERE event_timestamp <= $until) GROUP BY {self.keys}"
        )
        bound = {"until": self.until}
        differences = self._differences("online", points, "online", bound)
        [[rows]] = self.connection.execute(f"SELECT count(*) FROM ({points})", bound).fetchall()
        wanted = set(self.connection.execute("FROM asked").fetchall()) if self.sample else None
        for key, *field in held.apart:
            if wanted is None or key in wanted:
                differences.append(ValueDifference("online (Feast's fields)", self.family.view, key, None, *field))
        return rows, differences

    def _differences(self, where: str, points: str, table: str, bound: Mapping[str, Any]) -> list[ValueDifference]:
        sides = ", ".join(f"f.{name}, s.{name}" for name in self.names)
        unequal = ", ".join(
            [
                "f.event_timestamp IS NULL <> (s.event_timestamp IS NULL)",
                *(self._unequal(name) for name in self.names),
            ]
        )
        on = {side: " AND ".join(f"p.{key} = {side}.{key}" for key in self.family.keys) for side in "fs"}
        beside = (
            f"FROM ({points}) p ASOF LEFT JOIN fresh f ON {on['f']} AND p.at >= f.event_timestamp "
            f"ASOF LEFT JOIN {table} s ON {on['s']} AND p.at >= s.event_timestamp "
        )
        fresh, stored = (", ".join(f"{side}.{name}" for name in self.names) for side in "fs")
        # one cheap comparison of whole rows comes first: usually all are equal
        same = f"f.event_timestamp IS NULL = (s.event_timestamp IS NULL) AND row({fresh}) IS NOT DISTINCT FROM row({stored})"
        if not self.connection.execute(f"SELECT 1 {beside} WHERE NOT ({same}) LIMIT 1", dict(bound)).fetchall():
            return []
        rows = self.connection.execute(
            f"SELECT {', '.join(f'p.{key}' for key in self.family.keys)}, p.at, [{unequal}] AS unequal, {sides} "
            f"{beside} WHERE list_bool_or(unequal) ORDER BY p.at, {', '.join(f'p.{key}' for key in self.family.keys)}",
            dict(bound),
        ).fetchall()
        return [difference for row in rows for difference in self._of_row(where, row)]

    def _of_row(self, where: str, row: tuple[Any, ...]) -> Iterator[ValueDifference]:
        width = len(self.family.keys)
        key, at, unequal, sides = row[:width], row[width], row[width + 1], row[width + 2 :]
        if unequal[0]:
            there = any(value is not None for value in sides[0::2])
            yield ValueDifference(
                where, self.family.view, key, at, "(row)", *(("one", "none") if there else ("none", "one"))
            )
            return
        for place, name in enumerate(self.names):
            if unequal[place + 1]:
                expected, found = sides[2 * place : 2 * place + 2]
                history = self._history(key, name, at)
                yield ValueDifference(where, self.family.view, key, at, name, expected, found, history)

    def _history(self, key: tuple[str, ...], name: str, at: datetime) -> tuple[tuple[datetime, Any], ...]:
        same = " AND ".join(f"{column} = ${column}" for column in self.family.keys)
        rows = self.connection.execute(
            f"SELECT event_timestamp, {name} FROM fresh WHERE {same} AND event_timestamp <= $at "
            f"QUALIFY {name} IS DISTINCT FROM lag({name}) OVER (ORDER BY event_timestamp) "
            f"ORDER BY event_timestamp DESC LIMIT {HISTORY}",
            dict(zip(self.family.keys, key, strict=True)) | {"at": at},
        ).fetchall()
        return tuple((row[0], row[1]) for row in reversed(rows))

    def _unequal(self, name: str) -> str:
        kinds = {feature.name: feature.kind for feature in self.family.features}
        mine, theirs = f"s.{name}", f"f.{name}"
        if kinds.get(name) != "float":
            return f"{mine} IS DISTINCT FROM {theirs}"
        curves = {recent.name for recent in self.family.recent if isinstance(recent, Ewma | Slope | Variance)}
        allowed = CURVES_TOLERANCE if name in curves else TOLERANCE
        near = f"abs({mine} - {theirs}) <= {allowed} * greatest(1, abs({mine}), abs({theirs}))"
        return f"({mine} IS DISTINCT FROM {theirs} AND NOT coalesce({near}, false))"
