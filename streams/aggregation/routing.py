"""Routes the delta of a result to the shards of each family, as one update a key."""

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, cast

from velo.feature_repo.catalogue.families import Family
from velo.racing.starts import Start
from velo.streams.aggregation.layout import HORSE, DeltaLayout, Key, StartDelta, key_of
from velo.streams.aggregation.result_delta import ResultDelta

KeyUpdate = tuple[Key, tuple[StartDelta, ...], tuple[StartDelta, ...]]
"""(key, deltas to subtract, deltas to add) by one message."""
SHARDS: Final = 16
"""Shards of a family: enough to spread over processes, few enough that sending a tick to all of them costs little."""


def shard_name(view: str, number: int) -> str:
    """The key of a shard in the dataflow: `view/NN`."""
    return f"{view}/{number:02d}"


def view_of(shard: str) -> str:
    """The view of a shard."""
    return shard.rpartition("/")[0]


@lru_cache(maxsize=65536)
def shard_of(first: str, shards: int) -> int:
    """The shard of all keys that begin with this join key: the same in every process and release."""
    return zlib.crc32(first.encode()) % shards


class Router:
    """Routes deltas to shards; the delta of a start is computed once for all families of equal layout."""

    def __init__(self, families: Sequence[Family], shards: int) -> None:
        self.shards = [[shard_name(family.view, number) for number in range(shards)] for family in families]
        self._count = shards
        by_layout: dict[DeltaLayout, list[tuple[int, Callable[[Start], tuple[str | None, ...]]]]] = {}
        for place, family in enumerate(families):
            by_layout.setdefault(DeltaLayout.of(family), []).append((place, key_of(family.keys)))
        self._layouts = [(layout.delta_of(), members) for layout, members in by_layout.items()]
        horses = {place for place, family in enumerate(families) if family.keys[0] == HORSE}
        self._split = [
            (
                delta_of,
                [member for member in members if member[0] in horses],
                [member for member in members if member[0] not in horses],
            )
            for delta_of, members in self._layouts
        ]

    def route(self, delta: ResultDelta) -> list[tuple[str, list[KeyUpdate]]]:
        """The updates of a delta by shard: one for every key with a start in either version, even where both are equal.

        So the runners of a result say which rows it makes.
        """
        if not delta.retracted:
            return self._route_added(delta)
        by_key: list[dict[Key, KeyUpdate]] = [{} for _ in self.shards]
        for start in delta.retracted:
            for delta_of, members in self._layouts:
                subtract = (delta_of(start, delta.retracted_off_us, delta.race_id),)
                for place, key_from in members:
                    key = cast("Key", key_from(start))
                    if None not in key:
                        of_family = by_key[place]
                        before = of_family.get(key)
                        of_family[key] = (key, subtract, ()) if before is None else (key, before[1] + subtract, ())
        for start in delta.added:
            for delta_of, members in self._layouts:
                add = (delta_of(start, delta.added_off_us, delta.race_id),)
                for place, key_from in members:
                    key = cast("Key", key_from(start))
                    if None not in key:
                        of_family = by_key[place]
                        before = of_family.get(key)
                        of_family[key] = (key, (), add) if before is None else (key, before[1], before[2] + add)
        return self._by_shard(by_key)

    def _route_added(self, delta: ResultDelta) -> list[tuple[str, list[KeyUpdate]]]:
        """`route` for the common case, where nothing is retracted.

        A horse runs in a race once, so a family keyed by horse first has one start a key: its updates need no merging, and
        all of a start's are in one shard.
        """
        off_us, race_id = delta.added_off_us, delta.race_id
        by_horse: list[dict[int, list[KeyUpdate]]] = [{} for _ in self.shards]
        by_key: list[dict[Key, KeyUpdate]] = [{} for _ in self.shards]
        for start in delta.added:
            number = shard_of(start.horse_id, self._count)
            for delta_of, of_horse, others in self._split:
                add = (delta_of(start, off_us, race_id),)
                for place, key_from in of_horse:
                    key = cast("Key", key_from(start))
                    if None not in key:
                        of_shard = by_horse[place].get(number)
                        if of_shard is None:
                            by_horse[place][number] = [(key, (), add)]
                        else:
                            of_shard.append((key, (), add))
                for place, key_from in others:
                    key = cast("Key", key_from(start))
                    if None not in key:
                        of_family = by_key[place]
                        before = of_family.get(key)
                        of_family[key] = (key, (), add if before is None else before[2] + add)
        routed = self._by_shard(by_key)
        for shards, by_shard in zip(self.shards, by_horse, strict=True):
            routed += [(shards[number], updates) for number, updates in by_shard.items()]
        return routed

    def _by_shard(self, by_key: list[dict[Key, KeyUpdate]]) -> list[tuple[str, list[KeyUpdate]]]:
        routed: list[tuple[str, list[KeyUpdate]]] = []
        for shards, updates in zip(self.shards, by_key, strict=True):
            of_family: dict[int, list[KeyUpdate]] = {}
            for update in updates.values():
                of_family.setdefault(shard_of(update[0][0], self._count), []).append(update)
            routed += [(shards[number], of_shard) for number, of_shard in of_family.items()]
        return routed
