"""The online store made anew: what an empty Redis, or one of another log, is given.

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
from velo.feature_repo.stores.race_cards import CardsPosition, RaceCards
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_writer import RowWriter
from velo.feature_repo.stores.whole import (
    begin,
    fill_remembered,
    finish,
    forget,
    forget_head,
    head_remembered,
    new_fill,
    new_mark,
    read,
    refuse_other_store,
    remember_head,
)
from velo.storage import table_versions
from velo.storage.log.reader import end
from velo.storage.store import Home, Store
from velo.streams.audit import brought_to
from velo.streams.batch.build import fingerprint
from velo.streams.dataflow.cards_sink import fill as fill_cards
from velo.streams.dataflow.metrics import is_streaming
from velo.streams.dataflow.redis_view import fill_view, one_at_a_time

ABREAST: Final = 3
"""Views under way at once: while the server takes one lot of rows the next is packed."""


@dataclass(frozen=True, slots=True)
class OnlineRebuildReport:
    """What Redis was given: keys by view, messages of open races, in how many seconds, of which instant; and whether it
    was cleared first, and a stream ran meanwhile."""

    keys: dict[str, int]
    race_messages: int
    seconds: float
    known_at: str
    cleared: bool
    streaming: bool


def _fill_whole(home: Home, redis: RowWriter, layout: Layout, manifest: table_versions.Manifest, *, clear: bool) -> int:
    """Have Redis hold the newest row of every key of a view, and know it as whole; returns how many keys there are.

    A view that is whole stays readable meanwhile, and keeps the mark of the stream that wrote it last.
    """
    client, number, epoch = redis.client, manifest.log_generation, manifest.epoch
    [held] = read(client, [layout])
    # of a log since rebuilt: its rows may claim instants that this one never reaches
    clear = clear or (held.fill is not None and held.fill.split(":")[1] != str(number))
    expected = fill_remembered(home, layout.view)
    if not clear and not held.lost and held.fill is not None and held.fill == expected:
        return fill_view(home, layout, redis, epoch)
    mark = new_mark(home, number, epoch, manifest.next_seq - 1)
    if clear:
        # where this ends half-way the view is of nobody, and is cleared again
        forget(home, layout.view)
    begin(client, layout, mark)
    if clear:
        redis.delete_rows(layout)
    keys = fill_view(home, layout, redis, epoch)
    if not finish(home, client, layout, mark, mark, new_fill(layout, home, number)):
        raise UserError(f"{layout.view} was emptied, or filled by another, while it was filled: repeat the command")
    return keys


def _say_position(home: Home, cards: RaceCards, manifest: table_versions.Manifest, now: datetime) -> None:
    """Have a Redis that lost how far a stream had brought it say how far the tables are, which it now holds."""
    head, remembered = cards.head(), head_remembered(home)
    if remembered is None or (head is not None and (head.generation, head.seq) >= remembered):
        return
    next_seq, known_at = brought_to(home, manifest)
    told = CardsPosition(manifest.log_generation, next_seq - 1, known_at, live=next_seq >= end(home).next_seq)
    cards.offer(manifest.log_generation, [], now, told)
    remember_head(home, manifest.log_generation, next_seq - 1)


def rebuild(
    store: Store,
    client: Any,
    now: datetime,
    *,
    clear: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> OnlineRebuildReport:
    """Offer the newest row of every key of every view of the current tables, each where it is newer than what is there.

    After them the races that are open at `now` (UTC), as the log tells them.

    It may be repeated, stopped half-way, and run beside a stream or a materialisation. `clear` first removes what the
    project's views and races have in Redis, for one that was filled from another log or by another store, which is
    refused otherwise; then no stream may run. `progress` is told
    what was written, and how many of the views are done. Raises `UserError` where there are no tables, or they are of
    other formulas, or Redis fails; `seconds` is of the wall.
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
        refuse_other_store(store.home, "Redis", {view: one.owner for view, one in held.items()})
    else:
        # one that was given another log's position, or has none any more, is brought to this log's by the next stream
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
        _say_position(store.home, cards, manifest, now)
    keys = {family.view: done[family.view] for family in FAMILIES}
    return OnlineRebuildReport(
        keys, races, time.perf_counter() - began, manifest.known_at.isoformat(), clear, streaming
    )
