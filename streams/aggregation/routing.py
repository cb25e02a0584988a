"""Where a race's change goes: to the shards of each family, key by key."""

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

from feature_repo.catalogue.families import Family
from streams.aggregation.layout import HORSE, Key, Layout, StartDelta, key_of
from streams.aggregation.result_delta import ResultDelta
from velo.racing.starts import Start

KeyUpdate = tuple[Key, tuple[StartDelta, ...], tuple[StartDelta, ...]]
"""(a key, what is taken back of it, what is added to it) by one message."""


def shard_name(view: str, number: int) -> str:
    """What the dataflow keys a shard by: `view/NN`."""
    return f"{view}/{number:02d}"


def view_of(shard: str) -> str:
    """The view that a shard is of."""
    return shard.rpartition("/")[0]


@lru_cache(maxsize=65536)
def shard_of(first: str, shards: int) -> int:
    """The shard of all keys that begin with this join key, the same in every process and forever."""
    return zlib.crc32(first.encode()) % shards


class Router:
    """Sends changes to shards; families that take the same of a start share the work."""

    def __init__(self, families: Sequence[Family], shards: int) -> None:
        self.shards = [[shard_name(family.view, number) for number in range(shards)] for family in families]
        self._count = shards
        by_shape: dict[Layout, list[tuple[int, Callable[[Start], tuple[str | None, ...]]]]] = {}
        for place, family in enumerate(families):
            by_shape.setdefault(Layout.of(family), []).append((place, key_of(family.keys)))
        self._shapes = [(shape.contribution(), members) for shape, members in by_shape.items()]
        horses = {place for place, family in enumerate(families) if family.keys[0] == HORSE}
        self._split = [
            (
                contribution,
                [one for one in members if one[0] in horses],
                [one for one in members if one[0] not in horses],
            )
            for contribution, members in self._shapes
        ]

    def route(self, change: ResultDelta) -> list[tuple[str, list[KeyUpdate]]]:
        """The touches of a change, by shard: of every key that either version has a start of, though it be the same in both.

        So whoever knows the runners of a result knows which rows are to come of it.
        """
        if not change.retracted:
            return self._route_added(change)
        touched: list[dict[Key, KeyUpdate]] = [{} for _ in self.shards]
        for start in change.retracted:
            for contribution, members in self._shapes:
                taken = (contribution(start, change.retracted_off_us, change.race_id),)
                for place, key_from in members:
                    key = cast("Key", key_from(start))
                    if None not in key:
                        of_family = touched[place]
                        before = of_family.get(key)
                        of_family[key] = (key, taken, ()) if before is None else (key, before[1] + taken, ())
        for start in change.added:
            for contribution, members in self._shapes:
                given = (contribution(start, change.added_off_us, change.race_id),)
                for place, key_from in members:
                    key = cast("Key", key_from(start))
                    if None not in key:
                        of_family = touched[place]
                        before = of_family.get(key)
                        of_family[key] = (key, (), given) if before is None else (key, before[1], before[2] + given)
        return self._by_shard(touched)

    def _route_added(self, change: ResultDelta) -> list[tuple[str, list[KeyUpdate]]]:
        """What nearly all changes are: nothing is taken back, and a horse runs in its race once, so no two of its starts
        are of one key."""
        off_us, race_id = change.added_off_us, change.race_id
        by_horse: list[dict[int, list[KeyUpdate]]] = [{} for _ in self.shards]
        touched: list[dict[Key, KeyUpdate]] = [{} for _ in self.shards]
        for start in change.added:
            number = shard_of(start.horse_id, self._count)
            for contribution, of_horse, others in self._split:
                given = (contribution(start, off_us, race_id),)
                for place, key_from in of_horse:
                    key = cast("Key", key_from(start))
                    if None not in key:
                        of_shard = by_horse[place].get(number)
                        if of_shard is None:
                            by_horse[place][number] = [(key, (), given)]
                        else:
                            of_shard.append((key, (), given))
                for place, key_from in others:
                    key = cast("Key", key_from(start))
                    if None not in key:
                        of_family = touched[place]
                        before = of_family.get(key)
                        of_family[key] = (key, (), given if before is None else before[2] + given)
        routed = self._by_shard(touched)
        for shards, found in zip(self.shards, by_horse, strict=True):
            routed += [(shards[number], touches) for number, touches in found.items()]
        return routed

    def _by_shard(self, touched: list[dict[Key, KeyUpdate]]) -> list[tuple[str, list[KeyUpdate]]]:
        routed: list[tuple[str, list[KeyUpdate]]] = []
        for shards, touches in zip(self.shards, touched, strict=True):
            of_family: dict[int, list[KeyUpdate]] = {}
            for touch in touches.values():
                of_family.setdefault(shard_of(touch[0][0], self._count), []).append(touch)
            routed += [(shards[number], found) for number, found in of_family.items()]
        return routed
