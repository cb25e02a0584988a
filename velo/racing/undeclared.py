"""Messages about nobody: a withdrawal, a reinstatement, a rider, a going or a price of a race or a horse not declared yet.

They are kept, and take effect when a card that declares it comes before the off (SPEC 12; `velo.racing.cards`). Most
often the name is misspelt, so each is told with the declared name that is most like it.
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
"""Names no more alike than this (`difflib`'s ratio) are not told as the nearest."""


@dataclass(frozen=True, slots=True)
class Undeclared:
    """A message that named a race, or horses of it, that nobody had declared by then.

    `horses` are those not declared; empty where the race was not. `nearest` is the declared horse, or race, whose name
    is most like the first; None where none is like it. `declared_at` is when cards had named all of it after all, None
    while it waits.
    """

    type: str
    race_id: str
    horses: tuple[str, ...]
    nearest: str | None
    known_at: datetime | None = None
    declared_at: datetime | None = None

    @property
    def says(self) -> str:
        """In one line: what was named, and what is nearest to it."""
        who = (
            f"{', '.join(map(repr, self.horses))} in race {self.race_id!r}" if self.horses else f"race {self.race_id!r}"
        )
        nearest = "" if self.nearest is None else f"; the nearest declared name is {self.nearest!r}"
        after = " until a card came later" if self.declared_at is not None else ""
        return f"{self.type} about {who}, which nobody declared{after}{nearest}"


def horses_of(message: Message) -> tuple[str, ...] | None:
    """The horses a message is about, none for that of a whole race; None for a message that is about no declared race."""
    if isinstance(message, NonRunner | Reinstated | JockeyChange):
        return (message.horse_id,)
    if isinstance(message, Market):
        return tuple(message.prices)
    return () if isinstance(message, GoingChange) else None


def nearest(name: str, declared: Iterable[str]) -> str | None:
    """The declared name that is most like a name; None where none is much like it."""
    asked = name_key(name) or name
    matcher, found, best = SequenceMatcher(autojunk=False), None, ALIKE
    matcher.set_seq2(asked)
    for one in declared:
        matcher.set_seq1(name_key(one) or one)
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and (ratio := matcher.ratio()) > best:
            found, best = one, ratio
    return found


def undeclared(messages: Sequence[Message], races: Iterable[str] = ()) -> list[Undeclared]:
    """The messages of one race that were about nobody when they came, from all messages of that race in any order.

    `races` are declared races, to name the nearest. Once a result is known nothing of its race is about nobody.
    """
    declared: dict[str, datetime] = {}
    waiting: list[tuple[Message, tuple[str, ...]]] = []
    first_card: datetime | None = None
    for one in sorted(messages, key=instant_of):
        if isinstance(one, Result):
            break
        if isinstance(one, Racecard):
            first_card = first_card or instant_of(one)
            for runner in one.runners:
                declared.setdefault(runner.horse_id, instant_of(one))
            continue
        named = horses_of(one)
        if named is None:
            continue
        strangers = tuple(horse for horse in named if horse not in declared)
        if first_card is None or strangers:
            waiting.append((one, strangers))
    return [_told(one, strangers, declared, first_card, races) for one, strangers in waiting]


def _told(
    message: Message,
    strangers: tuple[str, ...],
    declared: Mapping[str, datetime],
    first_card: datetime | None,
    races: Iterable[str],
) -> Undeclared:
    """What to tell of a message, by the cards that came before and after it."""
    kind, race_id = type_name(message), message.race_id or ""
    if first_card is None:
        return Undeclared(kind, race_id, (), nearest(race_id, races), message.known_at)
    still = tuple(horse for horse in strangers if horse not in declared)
    if still:
        return Undeclared(kind, race_id, still, nearest(still[0], declared), message.known_at)
    since = max([first_card, *(declared[horse] for horse in strangers)])
    return Undeclared(kind, race_id, strangers, None, message.known_at, since)
