"""Where a race's change goes: to the shards of each family, key by key."""

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

from feature_repo.catalogue.families import Family
from streams.fold.shapes import Contribution, Key, Shape, key_of
from streams.fold.versions import Change
from velo.racing.measures import Start

Touch = tuple[Key, tuple[Contribution, ...], tuple[Contribution, ...]]
"""(a key, what is taken back of it, what is added to it) by one message."""


def shard_name(view: str, number: int) -> str:
    """What the dataflow keys a shard by: `view/NN`."""
    return f"{view}/{number:02d}"


@lru_cache(maxsize=65536)
def shard_of(first: str, shards: int) -> int:
    """The shard of all keys that begin with this join key, the same in every process and forever."""
    return zlib.crc32(first.encode()) % shards


class Router:
    """Sends changes to shards; families that take the same of a start share the work."""

    def __init__(self, families: Sequence[Family], shards: int) -> None:
        self.shards = [[shard_name(family.view, number) for number in range(shards)] for family in families]
        self._count = shards
        by_shape: dict[Shape, list[tuple[int, Callable[[Start], tuple[str | None, ...]]]]] = {}
        for place, family in enumerate(families):
            by_shape.setdefault(Shape.of(family), []).append((place, key_of(family.keys)))
        self._shapes = [(shape.contribution(), members) for shape, members in by_shape.items()]

    def route(self, change: Change) -> list[tuple[str, list[Touch]]]:
        """The touches of a change, by shard; a key whose starts the change leaves as they were is not touched."""
        touched: list[dict[Key, Touch]] = [{} for _ in self.shards]
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

    def _by_shard(self, touched: list[dict[Key, Touch]]) -> list[tuple[str, list[Touch]]]:
        routed: list[tuple[str, list[Touch]]] = []
        for shards, touches in zip(self.shards, touched, strict=True):
            of_family: dict[int, list[Touch]] = {}
            for touch in touches.values():
                if touch[1] != touch[2]:
                    of_family.setdefault(shard_of(touch[0][0], self._count), []).append(touch)
            routed += [(shards[number], found) for number, found in of_family.items()]
        return routed
