"""Who is declared, withdrawn and riding, by hearing a race's messages one after another: the twin of `velo.racing.cards`.

It keeps what stands now and a list of what waits for a card, where the code looks at all messages at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from velo.racing.messages import (
    STARTED,
    GoingChange,
    JockeyChange,
    Message,
    NonRunner,
    Racecard,
    Reinstated,
    Result,
    instant_of,
)

Standing = tuple[dict[str, str | None], dict[str, datetime], str | None]
"""The riders of those who run, since when the others are withdrawn, and the going."""


@dataclass
class Hearer:
    """A race as heard so far; it is of no use before the first card."""

    card: Racecard | None = None
    met: set[str] = field(default_factory=set)
    out: dict[str, datetime] = field(default_factory=dict)
    riders: dict[str, tuple[datetime, str | None]] = field(default_factory=dict)
    going: tuple[datetime, str] | None = None
    waiting: list[Message] = field(default_factory=list)
    version: int = 0

    def hear(self, message: Message) -> None:
        at = instant_of(message)
        if isinstance(message, Racecard):
            self._card(message, at)
        elif isinstance(message, Result):
            if message.result_version > self.version:
                self.version = message.result_version
                for runner in message.runners:
                    if runner.status in STARTED:
                        self.out.pop(runner.horse_id, None)
        elif isinstance(message, NonRunner | Reinstated | JockeyChange | GoingChange):
            if self._is_declared(message):
                self._apply(message, at)
            else:
                self.waiting.append(message)

    def standing(self) -> Standing | None:
        if self.card is None:
            return None
        at, race = instant_of(self.card), self.card.race
        riders, out = dict[str, str | None](), dict[str, datetime]()
        for runner in self.card.runners:
            said = self.riders.get(runner.horse_id)
            # a card that names no rider, or no going, leaves the change that was known before it
            changed = said is not None and (said[0] >= at or runner.jockey_id is None)
            if runner.horse_id in self.out:
                out[runner.horse_id] = self.out[runner.horse_id]
            else:
                riders[runner.horse_id] = said[1] if said is not None and changed else runner.jockey_id
        if self.going is not None and (self.going[0] >= at or race.going is None):
            return riders, out, self.going[1]
        return riders, out, race.going

    def _card(self, card: Racecard, at: datetime) -> None:
        self.card = card
        for runner in card.runners:
            self.met.add(runner.horse_id)
            if runner.status == "NR":
                self.out.setdefault(runner.horse_id, at)
            else:
                self.out.pop(runner.horse_id, None)
        found = [each for each in self.waiting if self._is_declared(each)]
        self.waiting = [each for each in self.waiting if each not in found]
        for message in found if at < card.race.off_time else ():
            self._apply(message, at)

    def _is_declared(self, message: Message) -> bool:
        if isinstance(message, GoingChange):
            return self.card is not None
        assert isinstance(message, NonRunner | Reinstated | JockeyChange)
        return message.horse_id in self.met

    def _apply(self, message: Message, at: datetime) -> None:
        if isinstance(message, NonRunner):
            self.out.setdefault(message.horse_id, at)
        elif isinstance(message, Reinstated):
            self.out.pop(message.horse_id, None)
        elif isinstance(message, JockeyChange):
            self.riders[message.horse_id] = (at, message.jockey_id)
        elif isinstance(message, GoingChange):
            self.going = (at, message.going)


def standing_of(messages: Sequence[Message], instant: datetime) -> Standing | None:
    """How a race stands at an instant by its cards; None before the first."""
    hearer = Hearer()
    for message in sorted(messages, key=instant_of):
        if instant_of(message) <= instant:
            hearer.hear(message)
    return hearer.standing()
