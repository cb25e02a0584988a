"""Check that Redis holds everything the store wrote to it, by records in Redis and beside the log.

Each view has one hash in Redis, its index: a fingerprint of every key that has a row (so a lost row differs from one that
never existed), the number of rows, the log position they reach, and the name of the fill that wrote them. A fill's name
begins with the store's identity and ends with the epoch of its formulas. The store records the name of the last complete
fill (`$VELO_HOME/online`): a Redis that was emptied, restored from older data or filled by another store has a different
name, or none; one whose rows are of formulas since replaced has another epoch than the published tables.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any, Final

from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores.fills import fill_epoch, fill_remembered, remember
from velo.feature_repo.stores.redis_client import is_cluster, redis_errors
from velo.feature_repo.stores.redis_layout import Layout, index_key_of
from velo.storage import table_versions
from velo.storage.atomic_files import make_folder
from velo.storage.store import Home, given_id, store_id

FILL: Final = "fill"
MARK: Final = "mark"
ROWS: Final = "rows"
LOST: Final = "lost"
HEAD_FILE: Final = ".head"
FINISH: Final = """
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'mark', ARGV[2], 'fill', ARGV[3])
return 1
"""
REMEDY: Final = "a running stream fills it again by itself; without one run `velo online rebuild`"


class NotWhole(UserError):
    """The online store lacks rows that the store wrote; it may have them again in a moment."""


class OtherStore(UserError):
    """The online store holds the rows of another store."""


@dataclass(frozen=True, slots=True)
class RedisContents:
    """The index of one view in Redis: the name of its last fill, the stream's mark, its rows, and whether a row was lost.

    `fill` is None while the view is being filled, `mark` before the first write.
    """

    fill: str | None
    mark: bytes | None
    rows: int
    lost: bool

    @property
    def owner(self) -> str | None:
        """The store that filled or fills the view; None where an earlier version filled it."""
        if self.fill is not None:
            return self.fill.partition(":")[0]
        owner, dash, _ = (self.mark or b"").decode().rpartition(":")[2].partition("-")
        return owner if dash else None

    @property
    def epoch(self) -> int:
        """The epoch of the rows of the last writer; −1 while the view is being filled, and where nobody wrote a mark."""
        return int(self.mark.split(b":")[1]) if self.mark else -1


@dataclass(frozen=True, slots=True)
class Vitals:
    """A server's, or a whole cluster's, number of keys, keys evicted since its start, eviction policy, and memory in bytes."""

    keys: int
    evicted: int
    policy: str
    memory: int = 0


def read(client: Any, layouts: Sequence[Layout]) -> list[RedisContents]:
    """Read the indices of some views in one round trip."""
    with redis_errors("the online store"), client.pipeline(transaction=False) as pipe:
        for layout in layouts:
            pipe.hmget(layout.index_key, FILL, MARK, ROWS, LOST)
        answers = pipe.execute()
    return [
        RedisContents(fill.decode() if fill else None, mark, int(rows or 0), bool(lost))
        for fill, mark, rows, lost in answers
    ]


def new_mark(home: Home, generation: int, epoch: int, seq: int) -> bytes:
    """A new mark for one write to a view: the log position it reaches, the store, and a random name."""
    return f"{generation}:{epoch}:{seq}:{given_id(home)}-{token_hex(8)}".encode()


def begin(client: Any, layout: Layout, mark: bytes) -> None:
    """Mark a view as being filled, with an empty index: reads of it are refused until `finish`."""
    with redis_errors("the online store"), client.pipeline(transaction=not is_cluster(client)) as pipe:
        pipe.delete(layout.index_key)
        pipe.hset(layout.index_key, MARK, mark)
        pipe.execute()


def finish(home: Home, client: Any, layout: Layout, filling: bytes, mark: bytes, fill: str) -> bool:
    """Mark a view as complete if its mark is still that of `begin`; the store records the fill first."""
    remember(home, layout.view, fill)
    with redis_errors("the online store"):
        return bool(client.execute_command("EVAL", FINISH, 1, layout.index_key, filling, mark, fill))


def mark_lost(client: Any, views: Iterable[str]) -> None:
    """Mark views in Redis that lost a row, so that the stream fills them again."""
    with redis_errors("the online store"), client.pipeline(transaction=False) as pipe:
        for view in views:
            pipe.hset(index_key_of(view), LOST, 1)
        pipe.execute()


def remember_head(home: Home, generation: int, seq: int) -> None:
    """Record the log position that Redis reached: a Redis with a lower one later holds older data.

    A power cut may lose the record.
    """
    path = make_folder(home.online) / HEAD_FILE
    aside = path.with_name(f"{HEAD_FILE}.{os.getpid()}.tmp")
    aside.write_text(json.dumps([generation, seq]))
    aside.replace(path)


def forget_head(home: Home) -> None:
    """Expect no log position of Redis until a stream has reached one."""
    (home.online / HEAD_FILE).unlink(missing_ok=True)


def head_remembered(home: Home) -> tuple[int, int] | None:
    """The log generation and seq that Redis certainly reached; None where no stream wrote to it."""
    try:
        generation, seq = json.loads((home.online / HEAD_FILE).read_bytes())
        return int(generation), int(seq)
    except (OSError, ValueError, TypeError):
        return None


def vitals(client: Any) -> Vitals:
    """Read the state of a server, or of every primary of a cluster; raises `UserError` where it does not answer."""
    with redis_errors("the online store"):
        if is_cluster(client):
            nodes = [client.get_redis_connection(node) for node in client.get_primaries()]
        else:
            nodes = [client]
        by_node = [_vitals(node) for node in nodes]
    policies = sorted({node.policy for node in by_node}, key=lambda policy: policy == "noeviction")
    memory = sum(node.memory for node in by_node)
    return Vitals(sum(node.keys for node in by_node), sum(node.evicted for node in by_node), policies[0], memory)


def _vitals(node: Any) -> Vitals:
    with node.pipeline(transaction=False) as pipe:
        pipe.dbsize()
        pipe.info("stats")
        pipe.info("memory")
        keys, stats, memory = pipe.execute()
    policy = memory.get("maxmemory_policy", "noeviction")
    return Vitals(keys, stats.get("evicted_keys", 0), policy, memory.get("used_memory", 0))


def may_evict(server: Vitals) -> str | None:
    """A one-line warning where a server may evict rows; None where it never does."""
    if server.policy == "noeviction":
        return None
    return (
        f"Redis may drop rows when it is full (maxmemory-policy {server.policy}): set maxmemory-policy noeviction, with "
        "which it refuses what it has no room for"
    )


def fewest_keys(rows: Mapping[str, int]) -> int:
    """The lowest possible number of Redis keys for these rows per view: views of one entity share a key."""
    of_entity: dict[tuple[str, ...], int] = {}
    for family in FAMILIES:
        of_entity[family.keys] = max(of_entity.get(family.keys, 0), rows.get(family.view, 0))
    return sum(of_entity.values())


def refuse_other_store(home: Home, where: str, owners: Mapping[str, str | None]) -> None:
    """Raise `OtherStore` where a view was filled, or is being filled, by another store; `owners` are by view."""
    mine = store_id(home)
    for view, owner in owners.items():
        if owner not in (None, mine):
            raise OtherStore(
                f"{where} holds rows of another store ({view} is of store {owner}, this one is "
                f"{mine or 'without an identity yet'}): give each store a Redis or database of its own, or run "
                "`velo online rebuild --clear` to replace what is there"
            )


def problem(expected: str | None, found: str | None, view: str) -> str | None:
    """Why a view's fill is not the expected one, in one line; None where it is."""
    if found == expected:
        return None
    if found is None:
        return f"the online store is being filled, or lost its rows ({view} is not whole): {REMEDY}"
    return f"the online store holds older or other rows than it was given ({view}): {REMEDY}"


@dataclass(frozen=True, slots=True)
class FurthestHead:
    """The furthest position of the log (generation, seq) that Redis is known to have reached; None where no stream
    brought it to one. `resets` counts how often a rebuild put it back or the store forgot it."""

    position: tuple[int, int] | None = None
    resets: int = 0


@dataclass(slots=True)
class Expected:
    """The state of Redis that readers of one store expect. Safe for threads. The store's files are read again when they change.

    A reader calls `before_read`, reads Redis, and passes both to `refuse`: a position that Redis reached while a read was
    under way is not expected of that read.
    """

    home: Home
    layouts: tuple[Layout, ...] = field(default_factory=lambda: tuple(Layout.of(family) for family in FAMILIES))
    _seen: tuple[int, ...] = (-2,)
    _fills: dict[str, str | None] = field(default_factory=dict)
    _replaced: frozenset[str] = frozenset()
    _remembered: tuple[int, int] | None = None
    _furthest: FurthestHead = FurthestHead()
    _lock: Lock = field(default_factory=Lock)

    def before_read(self) -> FurthestHead:
        """The furthest head that a read of Redis which begins now must find, or a later one."""
        self._look()
        return self._furthest

    def refuse(
        self,
        before: FurthestHead,
        views: Sequence[str],
        fills: Sequence[str | None],
        head: tuple[int, int] | None,
    ) -> None:
        """Raise `NotWhole`, or `OtherStore`, where views that were read have other fillings than expected, or the log
        was brought less far (`head`: generation, seq) than `before` the read."""
        differ = any(self._fills.get(view) != fill for view, fill in zip(views, fills, strict=True))
        if differ or not self._replaced.isdisjoint(views):
            self._look(again=True)
            self._refuse_fills(dict(zip(views, fills, strict=True)))
        self._refuse_older(before, head)

    def refuse_server(
        self, before: FurthestHead, views: Sequence[RedisContents], server: Vitals, head: tuple[int, int] | None
    ) -> None:
        """Raise `NotWhole`, or `OtherStore`, where any view is not whole, or keys are gone, by what Redis says of itself:
        `views` are those of `layouts`."""
        held = {layout.view: view for layout, view in zip(self.layouts, views, strict=True)}
        self.refuse(before, [*held], [view.fill for view in views], head)
        missed = [name for name, view in held.items() if view.lost]
        if missed:
            raise NotWhole(f"the online store lost rows ({', '.join(missed)}): {REMEDY}")
        fewest = fewest_keys({name: view.rows for name, view in held.items()})
        if server.keys < fewest:
            raise NotWhole(
                f"the online store lost rows ({server.keys:,} keys are there, {fewest:,} were written): {REMEDY}"
            )

    def _refuse_fills(self, found: Mapping[str, str | None]) -> None:
        owners = {view: fill and fill.partition(":")[0] for view, fill in found.items()}
        refuse_other_store(self.home, "the online store", owners)
        layouts = {layout.view: layout for layout in self.layouts}
        for view, fill in found.items():
            expected = self._fills.get(view)
            if expected is None and fill is not None:
                # filled by a process that keeps another copy of this store's home
                expected = fill
            reason = problem(expected, fill, view)
            if reason is not None:
                raise NotWhole(reason)
            other_columns = (
                view in layouts and fill is not None and fill.split(":")[2] != f"{layouts[view].fingerprint:08x}"
            )
            if other_columns or view in self._replaced:
                raise NotWhole(f"the online store holds rows of other formulas ({view}): {REMEDY}")

    def _refuse_older(self, before: FurthestHead, head: tuple[int, int] | None) -> None:
        if _is_older(head, before.position):
            # a rebuild meanwhile may have put the head back
            self._look()
            if self._furthest.resets == before.resets or _is_older(head, self._furthest.position):
                raise NotWhole(f"the online store holds less of the log than it did before: {REMEDY}")
        elif before.position is not None:
            self._note(before.resets, head)

    def _note(self, resets: int, head: tuple[int, int] | None) -> None:
        """Expect a head that was read of every later read, unless the furthest was put back since that read began."""
        if _is_older(self._furthest.position, head):
            with self._lock:
                known = self._furthest
                if known.resets == resets and _is_older(known.position, head):
                    self._furthest = FurthestHead(head, resets)

    def _look(self, *, again: bool = False) -> None:
        """Read what the store remembers where that changed, or `again`; a new file is known by its inode too."""
        if not again and self._changed() == self._seen:
            return
        with self._lock:
            # the stamp is read before the files: what is written in between is read by the next look
            changed = self._changed()
            self._fills = {layout.view: fill_remembered(self.home, layout.view) for layout in self.layouts}
            self._replaced = frozenset(_replaced(self.home, self._fills))
            before, self._remembered = self._remembered, head_remembered(self.home)
            known = self._furthest
            if _is_older(self._remembered, before):
                # a rebuild from the tables may reach less far than the stream did
                self._furthest = FurthestHead(self._remembered, known.resets + 1)
            elif _is_older(known.position, self._remembered):
                self._furthest = FurthestHead(self._remembered, known.resets)
            self._seen = changed

    def _changed(self) -> tuple[int, ...]:
        return *_stamp(self.home.online / HEAD_FILE), *_stamp(self.home.offline / table_versions.MANIFEST)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        at = path.stat()
    except OSError:
        return -1, -1
    return at.st_ino, at.st_mtime_ns


def _replaced(home: Home, fills: Mapping[str, str | None]) -> Iterator[str]:
    """The views whose fill is of other formulas than the published tables."""
    folder = table_versions.current(home)
    if folder is None:
        return
    manifest = table_versions.manifest_of(folder)
    for view, fill in fills.items():
        epoch = None if fill is None else fill_epoch(fill)
        if epoch is not None and epoch != manifest.epoch_of(view):
            yield view


def _is_older(head: tuple[int, int] | None, than: tuple[int, int] | None) -> bool:
    """Whether a head is before another; None is before all."""
    return than is not None and (head is None or head < than)
