"""Racecards in the neutral form: the runner table without outcomes, one row a declared runner (SPEC 3 and 10)."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streams.importers import dead_letters
from streams.importers.dead_letters import DeadLetter
from streams.importers.results import Maker, Row, letter
from streams.importers.runners import typed_rows
from streams.log.writer import Clock, LogWriter
from velo.errors import Refused, UserError
from velo.racing.messages import Racecard
from velo.settings import KeyPolicy
from velo.store import Store

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


@dataclass(frozen=True, slots=True)
class DeclareReport:
    """The races declared, in order of their off; `identical` cards were told already."""

    races: tuple[str, ...]
    rows: int
    appended: int
    identical: int
    refused: Mapping[str, int]


def read_cards(paths: Sequence[Path], store: Store) -> ParsedCards:
    """The racecards in some files. Outcome columns are left out, and so are rows whose status is NR.

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
    """Append cards to the log; they are on the disk when this returns.

    A card that brings no `known_at` is live: known when it arrives. Those that do are a bulk load, and keep it.
    """
    ordered = sorted(cards.messages, key=lambda card: (card.race.off_time, card.race_id))
    with LogWriter.open(store, clock=clock) as writer:
        if ordered:
            store.with_keys(cards.keys)
        loaded = writer.load([card for card in ordered if card.known_at is not None], late=late)
        live = [writer.append(card) for card in ordered if card.known_at is None]
        writer.sync()
    dead_letters.write(store.home, cards.refused, clock())
    return DeclareReport(
        races=tuple(card.race_id for card in ordered),
        rows=cards.rows,
        appended=loaded.appended + sum(one.seq is not None for one in live),
        identical=loaded.identical + sum(one.seq is None for one in live),
        refused=dict(Counter(one.reason for one in cards.refused)),
    )
