"""Routes the delta of a result to the shards of each family, as one update a key."""

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, cast

from velo.feature_repo.catalogue.families import Family
from velo.racing.starts import Start
from velo.streams.aggregation.layout import DeltaLayout, Key, StartDelta, key_of
from velo.streams.aggregation.result_delta import ResultDelta

KeyUpdate = tuple[Key, tuple[StartDelta, ...], tuple[StartDelta, ...]]
"""(key, deltas to subtract, deltas to add) by one message."""
SHARDS: Final = 16
"""Shards of a family in the plain twin."""


def shard_name(view: str, number: int) -> str:
    """The name of a shard: `view/NN`."""
    return f"{view}/{number:02d}"


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

    def route(self, delta: ResultDelta) -> list[tuple[str, list[KeyUpdate]]]:
        """The updates of a delta by shard: one for every key with a start in either version, even where both are equal.

        So the runners of a result say which rows it makes.
        """
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

    def _by_shard(self, by_key: list[dict[Key, KeyUpdate]]) -> list[tuple[str, list[KeyUpdate]]]:
        routed: list[tuple[str, list[KeyUpdate]]] = []
        for shards, updates in zip(self.shards, by_key, strict=True):
            of_family: dict[int, list[KeyUpdate]] = {}
            for update in updates.values():
                of_family.setdefault(shard_of(update[0][0], self._count), []).append(update)
            routed += [(shards[number], of_shard) for number, of_shard in of_family.items()]
        return routed
