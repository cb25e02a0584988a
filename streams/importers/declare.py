"""Append racecards to the log, each followed by the withdrawals that it marks (contract 3 and 10)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from velo.errors import Refused
from velo.racing.messages import NON_RUNNER, NonRunner, Racecard
from velo.settings import KeyPolicy
from velo.storage.log.writer import Clock, LogWriter
from velo.storage.store import Store
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import DeadLetter, Row, letter
from velo.streams.importers.ingest import counts
from velo.streams.importers.race_maker import RaceMaker

SOURCE: Final = "cards"
"""The source of a dead letter whose card the log refused."""


@dataclass(frozen=True, slots=True)
class ParsedCards:
    """One load of checked cards; `keys` is the policy that made their keys."""

    messages: list[Racecard]
    refused: list[DeadLetter]
    warnings: Counter[str]
    rows: int
    keys: KeyPolicy

    @property
    def notices(self) -> list[NonRunner]:
        """The withdrawals that the cards mark."""
        return [withdrawal for card in self.messages for withdrawal in _non_runners(card)]


@dataclass(frozen=True, slots=True)
class DeclareReport:
    """The outcome of a load of cards. `races` are the races declared, in order of their off.

    `rows` counts the rows read, `identical` the cards and withdrawals that the log has already, `non_runners` the declared
    horses that will not run, `warnings` the corrections.
    """

    races: tuple[str, ...]
    rows: int
    appended: int
    identical: int
    refused: Mapping[str, int]
    non_runners: int = 0
    warnings: Mapping[str, int] = field(default_factory=dict)

    def facts(self) -> list[tuple[str, Any]]:
        """Names and numbers to show."""
        return [
            ("races", len(self.races)),
            ("runners", self.rows),
            ("non-runners", self.non_runners),
            ("appended", self.appended),
            ("duplicates", self.identical),
            ("refused", sum(self.refused.values())),
        ]

    def notes(self) -> list[str]:
        """Refusals and corrections, one line each."""
        return counts(self.refused, self.warnings)


def checked_cards(rows: Iterable[Row], store: Store, source: str, keys: KeyPolicy) -> ParsedCards:
    """Check one load of cards: turn rows, typed by the runner table's columns, into racecards; `keys` holds for a new store.

    A card that breaks a rule goes to `refused`, with `source` as its source.
    """
    policy: KeyPolicy = store.keys or keys
    warnings: Counter[str] = Counter()
    maker = RaceMaker(store, policy, warnings)
    races: dict[str, list[Row]] = defaultdict(list)
    messages, refused, count = [], [], 0
    for row in rows:
        count += 1
        if row.get("race_id") is None:
            why = Refused("no race_id", "a row belongs to a race by its race_id: give it one")
            refused.append(letter(source, None, None, why, (row,)))
        else:
            races[row["race_id"]].append(row)
    for race_id, race_rows in races.items():
        try:
            messages.append(maker.card(race_id, race_rows))
        except Refused as why:
            refused.append(letter(source, race_id, None, why, race_rows))
    return ParsedCards(messages, refused, warnings, count, policy)


def declare(store: Store, cards: ParsedCards, *, clock: Clock, late: bool = False) -> DeclareReport:
    """Append cards, each followed by its non-runners; all are synced to the disk on return.

    A card without `known_at` is live: it is known when it arrives. Cards with one are a bulk load, and keep it.
    """
    ordered = sorted(cards.messages, key=lambda card: (card.race.off_time, card.race_id))
    with LogWriter.open(store, clock=clock) as writer:
        if ordered:
            store.with_keys(cards.keys)
        # the log's sort is stable: a card and its withdrawals, which share a `known_at`, stay in this order
        messages: list[Racecard | NonRunner] = []
        for card in ordered:
            messages += [card, *_non_runners(card)]
        loaded = writer.load([message for message in messages if message.known_at is not None], late=late)
        refused = [letter(SOURCE, message.race_id, None, why, ()) for message, why in loaded.refused]
        live = []
        for message in messages:
            try:
                live += [writer.append(message)] if message.known_at is None else []
            except Refused as why:
                refused.append(letter(SOURCE, message.race_id, None, why, ()))
        writer.sync()
    refused += cards.refused
    dead_letters.write(store.home, refused, clock())
    return DeclareReport(
        races=tuple(card.race_id for card in ordered),
        rows=cards.rows,
        appended=loaded.appended + sum(outcome.seq is not None for outcome in live),
        identical=loaded.identical + sum(outcome.seq is None for outcome in live),
        refused=dict(Counter(each.reason for each in refused)),
        non_runners=len({(withdrawal.race_id, withdrawal.horse_id) for withdrawal in cards.notices}),
        warnings=dict(cards.warnings),
    )


def _non_runners(card: Racecard) -> list[NonRunner]:
    """Return the withdrawals that a card marks, as messages for those that follow events."""
    return [
        NonRunner(card.race_id, runner.horse_id, "non-runner on the card", card.known_at)
        for runner in card.runners
        if runner.status == NON_RUNNER
    ]
