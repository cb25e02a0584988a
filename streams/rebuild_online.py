"""`velo online rebuild`: fill an empty Redis, or one of another log.

Rows of features come from the offline tables, races to come from the log.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.feature_repo.stores.fills import fill_remembered, forget, new_fill
from velo.feature_repo.stores.race_cards import CardsPosition, RaceCards
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_writer import RowWriter
from velo.feature_repo.stores.whole import (
    begin,
    finish,
    forget_head,
    head_remembered,
    new_mark,
    read,
    refuse_other_store,
    remember_head,
)
from velo.storage import table_versions
from velo.storage.log.reader import end
from velo.storage.store import Home, Store
from velo.streams.audit import brought_to
from velo.streams.batch.formulas import fingerprint
from velo.streams.dataflow.cards_sink import fill as fill_cards
from velo.streams.dataflow.metrics import is_streaming
from velo.streams.dataflow.redis_view import fill_view, one_at_a_time

ABREAST: Final = 3
"""Views filled at once: while the server takes the rows of one, those of the next are packed."""


@dataclass(frozen=True, slots=True)
class OnlineRebuildReport:
    """The report of a rebuild: keys by view, messages of open races; up to which `known_at`, in how many seconds; whether
    Redis was cleared first, and whether a stream ran meanwhile."""

    keys: dict[str, int]
    race_messages: int
    seconds: float
    known_at: str
    cleared: bool
    streaming: bool


def _fill_whole(home: Home, redis: RowWriter, layout: Layout, manifest: table_versions.Manifest, *, clear: bool) -> int:
    """Write the newest row of every key of a view and mark the view as complete; returns the number of keys.

    A complete view stays readable meanwhile, and keeps the mark of the stream that wrote it last.
    """
    client, number, epoch = redis.client, manifest.log_generation, manifest.epoch_of(layout.view)
    [held] = read(client, [layout])
    # filled from a log that was rebuilt since: its rows may have instants that this log never reaches
    clear = clear or (held.fill is not None and held.fill.split(":")[1] != str(number))
    complete = not held.lost and held.fill is not None and held.fill == fill_remembered(home, layout.view)
    if not clear and complete and held.epoch == epoch:
        return fill_view(home, layout, redis, epoch)
    mark = new_mark(home, number, epoch, manifest.next_seq - 1)
    if clear:
        # an interrupted run leaves the view without an owner, so the next one clears it again
        forget(home, layout.view)
    begin(client, layout, mark)
    if clear:
        redis.delete_rows(layout)
    keys = fill_view(home, layout, redis, epoch)
    if not finish(home, client, layout, mark, mark, new_fill(layout, home, number, epoch)):
        raise UserError(f"{layout.view} was emptied, or filled by another, while it was filled: repeat the command")
    return keys


def _write_position(home: Home, cards: RaceCards, manifest: table_versions.Manifest, now: datetime) -> None:
    """Write the tables' position to a Redis that lost the stream's: it now has their rows."""
    head, remembered = cards.head(), head_remembered(home)
    if remembered is None or (head is not None and (head.generation, head.seq) >= remembered):
        return
    next_seq, known_at = brought_to(home, manifest)
    reached = CardsPosition(manifest.log_generation, next_seq - 1, known_at, live=next_seq >= end(home).next_seq)
    cards.offer(manifest.log_generation, [], now, reached)
    remember_head(home, manifest.log_generation, next_seq - 1)


def rebuild(
    store: Store,
    client: Any,
    now: datetime,
    *,
    clear: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> OnlineRebuildReport:
    """Write the newest row of every key of every view in the current tables, each only over an older row; then the races that
    are open at `now` (UTC), from the log.

    It can be repeated, interrupted, and run beside a stream or a materialisation. `clear` first removes the project's views
    and races from a Redis that was filled from another log or by another store, which is refused otherwise; no stream may run
    then. `progress` gets the keys written, the views done and their total. Raises `UserError` where there are no tables, or
    they have other formulas, or Redis fails. `seconds` is wall time.
    """
    generation = table_versions.current(store.home)
    if generation is None:
        raise UserError(f"there are no tables at {store.home.offline}: run `velo build` first")
    manifest = table_versions.manifest_of(generation)
    if manifest.fingerprint != fingerprint():
        raise UserError(f"the tables at {store.home.offline} are of other formulas: run `velo build` first")
    streaming = is_streaming(store.home)
    if clear and streaming:
        raise UserError("a stream runs and would lose what it wrote: stop it, or leave out --clear")
    began, done, lock = time.perf_counter(), dict[str, int](), threading.Lock()
    redis = RowWriter(client, store.redis_url or "the store's own")

    layouts = {family.view: Layout.of(family) for family in FAMILIES}
    held = dict(zip(layouts, read(client, [*layouts.values()]), strict=True))
    if not clear:
        refuse_other_store(store.home, "Redis", {view: contents.owner for view, contents in held.items()})
    else:
        # the next stream then writes this log's position
        forget_head(store.home)

    def fill(family: Family) -> None:
        layout = layouts[family.view]
        with one_at_a_time(store.home, family.view):
            keys = _fill_whole(store.home, redis, layout, manifest, clear=clear)
        with lock:
            done[family.view] = keys
            if progress:
                progress(f"{sum(done.values()):,} keys", len(done), len(FAMILIES))

    # the longest first, so that none is left to run alone at the end
    largest = sorted(FAMILIES, key=lambda family: -manifest.rows.get(family.view, 0))
    with ThreadPoolExecutor(ABREAST) as pool:
        for _ in pool.map(fill, largest):
            pass
    cards = RaceCards(client, redis.url)
    if clear:
        cards.clear()
    races = fill_cards(store.home, cards, now)
    if not streaming:
        _write_position(store.home, cards, manifest, now)
    keys = {family.view: done[family.view] for family in FAMILIES}
    return OnlineRebuildReport(
        keys, races, time.perf_counter() - began, manifest.known_at.isoformat(), clear, streaming
    )
