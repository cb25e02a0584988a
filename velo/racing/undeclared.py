"""Find messages about a race or horse that no card has declared.

They are kept, and take effect if a card declares it before the off (contract 10; `velo.racing.cards`). Most often the
name is misspelt, so the report names the most similar declared name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from typing import Final

from velo.racing.messages import (
    GoingChange,
    JockeyChange,
    Market,
    Message,
    NonRunner,
    Racecard,
    Reinstated,
    Result,
    instant_of,
    type_name,
)
from velo.racing.names import name_key

ALIKE: Final = 0.5
"""A name is nearest only if it is more similar than this (`difflib`'s ratio)."""


@dataclass(frozen=True, slots=True)
class Undeclared:
    """A message about a race, or horses of it, that no card had declared by then.

    `horses` are the undeclared horses; empty if the race is undeclared. `nearest` is the declared horse or race with the
    most similar name; None if none is similar. `declared_at` is when later cards had declared all of them; None until
    then.
    """

    type: str
    race_id: str
    horses: tuple[str, ...]
    nearest: str | None
    known_at: datetime | None = None
    declared_at: datetime | None = None

    @property
    def says(self) -> str:
        """One line: the undeclared names, and the nearest declared one."""
        who = (
            f"{', '.join(map(repr, self.horses))} in race {self.race_id!r}" if self.horses else f"race {self.race_id!r}"
        )
        nearest = "" if self.nearest is None else f"; the nearest declared name is {self.nearest!r}"
        after = " until a card came later" if self.declared_at is not None else ""
        return f"{self.type} about {who}, which nobody declared{after}{nearest}"


def horses_of(message: Message) -> tuple[str, ...] | None:
    """Return the horses a message is about, () for a whole race; None for a message that needs no declaration."""
    if isinstance(message, NonRunner | Reinstated | JockeyChange):
        return (message.horse_id,)
    if isinstance(message, Market):
        return tuple(message.prices)
    return () if isinstance(message, GoingChange) else None


def nearest(name: str, declared: Iterable[str]) -> str | None:
    """Return the declared name most similar to a name; None if none is similar enough."""
    matcher, most_similar, best = SequenceMatcher(autojunk=False), None, ALIKE
    matcher.set_seq2(name_key(name) or name)
    for candidate in declared:
        matcher.set_seq1(name_key(candidate) or candidate)
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and (ratio := matcher.ratio()) > best:
            most_similar, best = candidate, ratio
    return most_similar


def undeclared(messages: Sequence[Message], races: Iterable[str] = ()) -> list[Undeclared]:
    """Return the messages of one race that were undeclared on arrival, from all its messages in any order.

    `races` are the declared races, among which the nearest is found. Messages after the first result are not examined.
    """
    declared: dict[str, datetime] = {}
    waiting: list[tuple[Message, tuple[str, ...]]] = []
    first_card: datetime | None = None
    for message in sorted(messages, key=instant_of):
        if isinstance(message, Result):
            break
        if isinstance(message, Racecard):
            first_card = first_card or instant_of(message)
            for runner in message.runners:
                declared.setdefault(runner.horse_id, instant_of(message))
            continue
        named = horses_of(message)
        if named is None:
            continue
        strangers = tuple(horse for horse in named if horse not in declared)
        if first_card is None or strangers:
            waiting.append((message, strangers))
    return [_described(message, strangers, declared, first_card, races) for message, strangers in waiting]


def _described(
    message: Message,
    strangers: tuple[str, ...],
    declared: Mapping[str, datetime],
    first_card: datetime | None,
    races: Iterable[str],
) -> Undeclared:
    """Describe an undeclared message, given the cards before and after it."""
    kind, race_id = type_name(message), message.race_id or ""
    if first_card is None:
        return Undeclared(kind, race_id, (), nearest(race_id, races), message.known_at)
    still = tuple(horse for horse in strangers if horse not in declared)
    if still:
        return Undeclared(kind, race_id, still, nearest(still[0], declared), message.known_at)
    since = max([first_card, *(declared[horse] for horse in strangers)])
    return Undeclared(kind, race_id, strangers, None, message.known_at, since)
