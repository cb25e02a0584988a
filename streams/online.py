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

from feature_repo.catalogue.families import FAMILIES, Family
from feature_repo.stores.race_cards import RaceCards
from feature_repo.stores.redis_layout import Layout
from feature_repo.stores.redis_writer import RowWriter
from streams import generations
from streams.batch.build import fingerprint
from streams.dataflow.cards_sink import fill as fill_cards
from streams.dataflow.handover import fill_view
from streams.dataflow.telemetry import is_streaming
from velo.errors import UserError
from velo.store import Store

ABREAST: Final = 3
"""Views under way at once: while the server takes one lot of rows the next is packed."""


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What Redis was given: keys by view, messages of open races, in how many seconds, of which instant; and whether it
    was cleared first, and a stream ran meanwhile."""

    keys: dict[str, int]
    race_messages: int
    seconds: float
    known_at: str
    cleared: bool
    streaming: bool


def rebuild(
    store: Store,
    client: Any,
    now: datetime,
    *,
    clear: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> RebuildReport:
    """Offer the newest row of every key of every view of the current tables, each where it is newer than what is there.

    After them the races that are open at `now` (UTC), as the log tells them.

    It may be repeated, stopped half-way, and run beside a stream or a materialisation. `clear` first removes what the
    project's views and races have in Redis, for one that was filled from another log; then no stream may run. `progress` is told
    what was written, and how many of the views are done. Raises `UserError` where there are no tables, or they are of
    other formulas, or Redis fails; `seconds` is of the wall.
    """
    generation = generations.current(store.home)
    if generation is None:
        raise UserError(f"there are no tables at {store.home.offline}: run `velo build` first")
    manifest = generations.manifest_of(generation)
    if manifest.fingerprint != fingerprint():
        raise UserError(f"the tables at {store.home.offline} are of other formulas: run `velo build` first")
    streaming = is_streaming(store.home)
    if clear and streaming:
        raise UserError("a stream runs and would lose what it wrote: stop it, or leave out --clear")
    began, done, lock = time.perf_counter(), dict[str, int](), threading.Lock()
    redis = RowWriter(client, store.redis_url or "the store's own")

    def fill(family: Family) -> None:
        layout = Layout.of(family)
        if clear:
            redis.delete_view(layout)
        keys = fill_view(store.home, layout, redis, manifest.epoch)
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
    keys = {family.view: done[family.view] for family in FAMILIES}
    return RebuildReport(keys, races, time.perf_counter() - began, manifest.known_at.isoformat(), clear, streaming)
