"""Aliases: keys of one horse, jockey or trainer, and records under the keys in force (contract 11).

A record under other keys than its source gave has them in `alias_given`, a list of [place, column, key as given]: the place
is the runner's index, null for the message itself, and in the prices of a market the key in force.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from velo.errors import Refused
from velo.racing.messages import Alias

COLUMNS: Final = {"horse": "horse_id", "jockey": "jockey_id", "trainer": "trainer_id"}
"""What an alias can be of, and the column of its keys."""
GIVEN: Final = "alias_given"
SOURCE_VERSION: Final = "alias_source_version"
"""The source's number of a result version, where the log's number is higher because of repeated results."""
REPEATS: Final = "alias_repeats"
"""True in a record that repeats earlier messages under the keys of the alias before it."""
FIELDS: Final = frozenset({GIVEN, SOURCE_VERSION, REPEATS})
"""Fields of a record that only the log's writer sets."""
_PRICES: Final = "prices"
_AMOUNTS: Final = (_PRICES, "volumes")


@dataclass(frozen=True, slots=True)
class Aliases:
    """The aliases in force: by column and key, the key that means the same."""

    same_as: Mapping[tuple[str, str], str]

    def after(self, alias: Alias) -> "Aliases":
        """Return the aliases after a message. Raises `Refused` for one that cannot be."""
        column = COLUMNS[alias.of]
        held = (column, alias.key)
        if alias.same_as is None:
            if held not in self.same_as:
                raise Refused(
                    "no such alias",
                    f"{alias.of} {alias.key!r} has no alias to undo: see `velo names list` for those in force",
                )
            return Aliases({key: same for key, same in self.same_as.items() if key != held})
        if self.key_of(column, alias.same_as) == alias.key:
            raise Refused(
                "circular alias",
                f"{alias.of} {alias.same_as!r} already means {alias.key!r}: undo that alias first, or leave this one out",
            )
        return Aliases({**self.same_as, held: alias.same_as})

    def key_of(self, column: str, key: str) -> str:
        """Return the key in force of a key as given."""
        while (same := self.same_as.get((column, key))) is not None:
            key = same
        return key

    def through(self, column: str, key: str) -> set[str]:
        """Return the keys as given that a change of a key's alias concerns: the key, and those that mean it."""
        of_column = [given for of, given in self.same_as if of == column]
        return {key} | {given for given in of_column if key in self._chain(column, given)}

    def _chain(self, column: str, key: str) -> Iterator[str]:
        while (same := self.same_as.get((column, key))) is not None:
            yield same
            key = same

    def renamed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record under the keys in force, whichever keys it has now.

        Raises `Refused` where two of its runners are then one horse.
        """
        record = as_given(record)
        given: list[list[Any]] = []
        if "runners" in record:
            record["runners"] = [
                self._under_keys(place, runner, given) for place, runner in enumerate(record["runners"])
            ]
            _refuse_one_horse_twice(record, given)
        elif _PRICES in record:
            self._under_keys_of_market(record, given)
        else:
            record = self._under_keys(None, record, given)
        return record | {GIVEN: given} if given else record

    def _under_keys(self, place: int | None, row: Mapping[str, Any], given: list[list[Any]]) -> dict[str, Any]:
        row = dict(row)
        for column in COLUMNS.values():
            key = row.get(column)
            if key is not None and (now := self.key_of(column, key)) != key:
                given.append([place, column, key])
                row[column] = now
        return row

    def _under_keys_of_market(self, record: dict[str, Any], given: list[list[Any]]) -> None:
        """Set prices and stakes under the keys in force; those under the key itself go before those of an alias."""
        amounts = {column: record[column] for column in _AMOUNTS if isinstance(record.get(column), Mapping)}
        keys = dict.fromkeys(key for of_horse in amounts.values() for key in of_horse)
        names: dict[str, str] = {}
        for key in keys:
            name = self.key_of("horse_id", key)
            if name != key and (name in keys or name in names.values()):
                continue
            names[key] = name
            if name != key:
                given.append([name, _PRICES, key])
        for column, of_horse in amounts.items():
            record[column] = {names[key]: amount for key, amount in of_horse.items() if key in names}


NONE: Final = Aliases({})


def as_given(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a record under the keys that its source gave."""
    given = record.get(GIVEN)
    if not given:
        return dict(record)
    record = {name: value for name, value in record.items() if name != GIVEN}
    if "runners" in record:
        record["runners"] = [dict(runner) for runner in record["runners"]]
    for place, column, key in given:
        if column == _PRICES:
            for amounts in _AMOUNTS:
                if isinstance(record.get(amounts), Mapping):
                    record[amounts] = {key if name == place else name: value for name, value in record[amounts].items()}
        else:
            (record if place is None else record["runners"][place])[column] = key
    return record


def _refuse_one_horse_twice(record: Mapping[str, Any], given: list[list[Any]]) -> None:
    if not given:
        return
    seen: dict[str, int] = {}
    names = {place: key for place, column, key in given if column == "horse_id"}
    for place, runner in enumerate(record["runners"]):
        horse = runner["horse_id"]
        if horse in seen:
            both = sorted({names.get(seen[horse], horse), names.get(place, horse)})
            raise Refused(
                "one horse twice",
                f"{' and '.join(map(repr, both))} run in race {record['race_id']!r}, so they are two horses: leave that "
                "alias out, or undo it with `velo names apply --undo FILE`",
            )
        seen[horse] = place
