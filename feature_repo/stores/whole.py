"""Whether Redis holds all that a store gave it: what is kept in Redis, and beside the log, to prove it.

Every view has one hash in Redis, its index: which keys it has a row of (a fingerprint each, so that a missing row is told
from one that never was), how many, how far the log was written there, and by which filling. A filling has a name of its own that
begins with the store's identity. The store remembers the name of the last whole one (`$VELO_HOME/online`): a Redis that
was emptied, restored from older data or filled by another store has another, or none.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final

from feature_repo.catalogue.families import FAMILIES
from feature_repo.stores.redis_client import errors_told, is_cluster
from feature_repo.stores.redis_layout import Layout, index_key_of
from velo.errors import UserError
from velo.storage.atomic_files import make_folder, write_atomically
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
    """The online store does not hold what the store gave it; it may in a moment."""


class OtherStore(UserError):
    """The online store holds the rows of another store."""


@dataclass(frozen=True, slots=True)
class Held:
    """What Redis says of one view: the name of its last filling, the stream's mark, its rows, and whether one was missed.

    `fill` and `mark` are None where there is none, as while it is filled.
    """

    fill: str | None
    mark: bytes | None
    rows: int
    lost: bool

    @property
    def owner(self) -> str | None:
        """The store that filled the view, or fills it; None where that is not said, as by an earlier version."""
        if self.fill is not None:
            return self.fill.partition(":")[0]
        owner, dash, _ = (self.mark or b"").decode().rpartition(":")[2].partition("-")
        return owner if dash else None


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a server, or all of a cluster, says of itself: keys held, keys evicted since it started, what it evicts."""

    keys: int
    evicted: int
    policy: str


def new_fill(layout: Layout, home: Home, generation: int) -> str:
    """The name of a filling of a view; a store without an identity is given one."""
    return f"{given_id(home)}:{generation}:{layout.fingerprint:08x}:{token_hex(8)}"


def read(client: Any, layouts: Sequence[Layout]) -> list[Held]:
    """What Redis says of some views, in one round trip."""
    with errors_told("the online store"), client.pipeline(transaction=False) as pipe:
        for layout in layouts:
            pipe.hmget(layout.index_key, FILL, MARK, ROWS, LOST)
        answers = pipe.execute()
    return [
        Held(fill.decode() if fill else None, mark, int(rows or 0), bool(lost)) for fill, mark, rows, lost in answers
    ]


def new_mark(home: Home, generation: int, epoch: int, seq: int) -> bytes:
    """What one write leaves of a view: how far the log is in Redis with it, of which store, and a name of its own."""
    return f"{generation}:{epoch}:{seq}:{given_id(home)}-{token_hex(8)}".encode()


def begin(client: Any, layout: Layout, mark: bytes) -> None:
    """Have a view known as being filled: whoever reads it is refused until `finish`. Its index begins anew."""
    with errors_told("the online store"), client.pipeline(transaction=not is_cluster(client)) as pipe:
        pipe.delete(layout.index_key)
        pipe.hset(layout.index_key, MARK, mark)
        pipe.execute()


def finish(home: Home, client: Any, layout: Layout, filling: bytes, mark: bytes, fill: str) -> bool:
    """Have a view known as whole, where it is still what `begin` left; the store remembers it first."""
    remember(home, layout.view, fill)
    with errors_told("the online store"):
        return bool(client.execute_command("EVAL", FINISH, 1, layout.index_key, filling, mark, fill))


def tell_lost(client: Any, views: Iterable[str]) -> None:
    """Leave word in Redis that a row which a view had is gone: the stream fills the view again."""
    with errors_told("the online store"), client.pipeline(transaction=False) as pipe:
        for view in views:
            pipe.hset(index_key_of(view), LOST, 1)
        pipe.execute()


def found_again(client: Any, layout: Layout) -> None:
    """Take back that a row of a view is gone."""
    with errors_told("the online store"):
        client.hdel(layout.index_key, LOST)


def remember(home: Home, view: str, fill: str) -> None:
    """Remember the last whole filling of a view."""
    write_atomically(make_folder(home.online) / view, fill.encode() + b"\n", mode=0o600)


def forget(home: Home, view: str) -> None:
    """Expect no filling of a view."""
    (home.online / view).unlink(missing_ok=True)


def remember_head(home: Home, generation: int, seq: int) -> None:
    """Remember how far Redis was brought: one that says less later holds older data. It may be lost by a power cut."""
    path = make_folder(home.online) / HEAD_FILE
    aside = path.with_name(f"{HEAD_FILE}.{os.getpid()}.tmp")
    aside.write_text(json.dumps([generation, seq]))
    aside.replace(path)


def forget_head(home: Home) -> None:
    """Expect no position of Redis until a stream has brought it there."""
    (home.online / HEAD_FILE).unlink(missing_ok=True)


def head_remembered(home: Home) -> tuple[int, int] | None:
    """Log generation and seq that Redis was brought to for certain; None where no stream did."""
    try:
        generation, seq = json.loads((home.online / HEAD_FILE).read_bytes())
        return int(generation), int(seq)
    except (OSError, ValueError, TypeError):
        return None


def fill_remembered(home: Home, view: str) -> str | None:
    """The last whole filling of a view; None where there was none."""
    try:
        return (home.online / view).read_text().strip() or None
    except OSError:
        return None


def vitals(client: Any) -> Vitals:
    """Ask a server, or every primary of a cluster, how it is; raises `UserError` where it does not answer."""
    with errors_told("the online store"):
        if is_cluster(client):
            nodes = [client.get_redis_connection(node) for node in client.get_primaries()]
        else:
            nodes = [client]
        told = [_vitals(node) for node in nodes]
    policies = sorted({one.policy for one in told}, key=lambda policy: policy == "noeviction")
    return Vitals(sum(one.keys for one in told), sum(one.evicted for one in told), policies[0])


def _vitals(node: Any) -> Vitals:
    with node.pipeline(transaction=False) as pipe:
        pipe.dbsize()
        pipe.info("stats")
        pipe.info("memory")
        keys, stats, memory = pipe.execute()
    return Vitals(keys, stats.get("evicted_keys", 0), memory.get("maxmemory_policy", "noeviction"))


def may_evict(told: Vitals) -> str | None:
    """One line where a server may drop rows for want of room; None where it keeps them."""
    if told.policy == "noeviction":
        return None
    return (
        f"Redis may drop rows when it is full (maxmemory-policy {told.policy}): set maxmemory-policy noeviction, with "
        "which it refuses what it has no room for"
    )


def fewest_keys(rows: Mapping[str, int]) -> int:
    """How many Redis keys there are at least where views have so many rows: views of one entity share a key."""
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
    """Why a view's filling is not the one expected, in one line; None where it is."""
    if found == expected:
        return None
    if found is None:
        return f"the online store is being filled, or lost its rows ({view} is not whole): {REMEDY}"
    return f"the online store holds older or other rows than it was given ({view}): {REMEDY}"


@dataclass(slots=True)
class Expected:
    """What readers of one store expect of Redis; the store's files are read again when they change."""

    home: Home
    layouts: tuple[Layout, ...] = field(default_factory=lambda: tuple(Layout.of(family) for family in FAMILIES))
    _seen: tuple[int, int] = (-2, -2)
    _fills: dict[str, str | None] = field(default_factory=dict)
    _head: tuple[int, int] | None = None
    _furthest: tuple[int, int] = (-1, -1)

    def refuse(self, views: Sequence[str], fills: Sequence[str | None], head: tuple[int, int] | None) -> None:
        """Raise `NotWhole`, or `OtherStore`, where views that were read have other fillings than expected, or the log
        was brought less far (`head`: generation, seq) than before."""
        self._look()
        if any(self._fills.get(view) != fill for view, fill in zip(views, fills, strict=True)):
            self._look(anew=True)
            self._refuse_fills(dict(zip(views, fills, strict=True)))
        self._refuse_older(head)

    def refuse_server(self, found: Sequence[Held], told: Vitals, head: tuple[int, int] | None) -> None:
        """Raise `NotWhole`, or `OtherStore`, where any view is not whole, or keys are gone, by what Redis says of itself:
        `found` of each of `layouts`."""
        held = {layout.view: one for layout, one in zip(self.layouts, found, strict=True)}
        self.refuse([*held], [one.fill for one in found], head)
        missed = [view for view, one in held.items() if one.lost]
        if missed:
            raise NotWhole(f"the online store lost rows ({', '.join(missed)}): {REMEDY}")
        fewest = fewest_keys({view: one.rows for view, one in held.items()})
        if told.keys < fewest:
            raise NotWhole(
                f"the online store lost rows ({told.keys:,} keys are there, {fewest:,} were written): {REMEDY}"
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
            said = problem(expected, fill, view)
            if said is not None:
                raise NotWhole(said)
            if fill is not None and view in layouts and fill.split(":")[2] != f"{layouts[view].fingerprint:08x}":
                raise NotWhole(f"the online store holds rows of other formulas ({view}): {REMEDY}")

    def _refuse_older(self, head: tuple[int, int] | None) -> None:
        remembered = self._head
        if remembered is None:
            return
        self._furthest = max(self._furthest, remembered)
        if head is None or head < self._furthest:
            raise NotWhole(f"the online store holds less of the log than it did before: {REMEDY}")
        self._furthest = head

    def _look(self, *, anew: bool = False) -> None:
        """Read what the store remembers where that changed; a file is told from the one before it by its inode too."""
        try:
            at = (self.home.online / HEAD_FILE).stat()
            changed = at.st_ino, at.st_mtime_ns
        except OSError:
            changed = -1, -1
        if changed != self._seen or anew:
            self._fills = {layout.view: fill_remembered(self.home, layout.view) for layout in self.layouts}
            before, self._head = self._head, head_remembered(self.home)
            if self._head is None or (before is not None and self._head < before):
                # a rebuild from the tables may reach less far than the stream did
                self._furthest = self._head or (-1, -1)
            self._seen = changed
