"""Racecards in the neutral form: the runner table without outcomes, one row a declared runner (contract 3 and 10)."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from velo.errors import Refused, UserError
from velo.racing.messages import NON_RUNNER, NonRunner, Racecard
from velo.settings import KeyPolicy
from velo.storage.log.writer import Clock, LogWriter
from velo.storage.store import Store
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import DeadLetter
from velo.streams.importers.results import Maker, Row, letter
from velo.streams.importers.runners import typed_rows

SOURCE: Final = "cards"
REQUIRED: Final = ("race_id", "race_date", "course", "horse")


@dataclass(frozen=True, slots=True)
class ParsedCards:
    """One load of cards, checked; `keys` is the policy by which the keys were made."""

    messages: list[Racecard]
    refused: list[DeadLetter]
    warnings: Mapping[str, int]
    rows: int
    keys: KeyPolicy

    @property
    def notices(self) -> list[NonRunner]:
        """The withdrawals that the cards mark, which are said after them."""
        return [one for card in self.messages for one in _non_runners(card)]


@dataclass(frozen=True, slots=True)
class DeclareReport:
    """The races declared, in order of their off; `identical` cards and withdrawals were told already.

    `rows` are the rows read; of the races declared, `non_runners` are declared and will not run. `warnings` counts
    what was settled on the way.
    """

    races: tuple[str, ...]
    rows: int
    appended: int
    identical: int
    refused: Mapping[str, int]
    non_runners: int = 0
    warnings: Mapping[str, int] = field(default_factory=dict)


def read_cards(paths: Sequence[Path], store: Store) -> ParsedCards:
    """The racecards in some files. Outcome columns are left out; a row whose status is NR marks a non-runner.

    A card that breaks a rule goes to `refused`. Raises `UserError` for a file that is no runner table.
    """
    if not paths:
        raise UserError("no file is named: name one or more files of declared runners")
    policy: KeyPolicy = store.keys or "id"
    warnings: Counter[str] = Counter()
    maker = Maker(store, policy, warnings)
    races: dict[str, list[Row]] = defaultdict(list)
    messages, refused, count = [], [], 0
    for row in typed_rows(paths, REQUIRED):
        count += 1
        if row.get("race_id") is None:
            why = Refused("no race_id", "a row belongs to a race by its race_id: give it one")
            refused.append(letter(SOURCE, None, None, why, (row,)))
        else:
            races[row["race_id"]].append(row)
    for race_id, rows in races.items():
        try:
            messages.append(maker.card(race_id, rows))
        except Refused as why:
            refused.append(letter(SOURCE, race_id, None, why, rows))
    return ParsedCards(messages, refused, warnings, count, policy)


def declare(store: Store, cards: ParsedCards, *, clock: Clock, late: bool = False) -> DeclareReport:
    """Append cards, each followed by its non-runners, to the log; they are on the disk when this returns.

    A card that brings no `known_at` is live: known when it arrives. Those that do are a bulk load, and keep it.
    """
    ordered = sorted(cards.messages, key=lambda card: (card.race.off_time, card.race_id))
    with LogWriter.open(store, clock=clock) as writer:
        if ordered:
            store.with_keys(cards.keys)
        told: list[Racecard | NonRunner] = []  # ties of known_at stay in this order
        for card in ordered:
            told += [card, *_non_runners(card)]
        loaded = writer.load([one for one in told if one.known_at is not None], late=late)
        refused = [letter(SOURCE, one.race_id, None, why, ()) for one, why in loaded.refused]
        live = []
        for one in told:
            try:
                live += [writer.append(one)] if one.known_at is None else []
            except Refused as why:
                refused.append(letter(SOURCE, one.race_id, None, why, ()))
        writer.sync()
    refused += cards.refused
    dead_letters.write(store.home, refused, clock())
    return DeclareReport(
        races=tuple(card.race_id for card in ordered),
        rows=cards.rows,
        appended=loaded.appended + sum(one.seq is not None for one in live),
        identical=loaded.identical + sum(one.seq is None for one in live),
        refused=dict(Counter(one.reason for one in refused)),
        non_runners=len({(one.race_id, one.horse_id) for one in cards.notices}),
        warnings=dict(cards.warnings),
    )


def _non_runners(card: Racecard) -> list[NonRunner]:
    """The withdrawals that a card marks, as messages of their own for those who listen."""
    return [
        NonRunner(card.race_id, one.horse_id, "non-runner on the card", card.known_at)
        for one in card.runners
        if one.status == NON_RUNNER
    ]
