"""What a store holds and how far its tables are behind its log."""

from dataclasses import dataclass
from datetime import datetime

from streams import generations
from streams.importers import dead_letters
from streams.log.reader import end
from velo.store import Store


@dataclass(frozen=True, slots=True)
class Status:
    """One store at a glance; instants are UTC, None where there is nothing yet."""

    home: str
    timezone: str
    keys: str | None
    messages: int
    log_end: datetime | None
    tables_at: int | None
    tables_end: datetime | None
    rows: int
    epoch: int
    dead_letters: int

    def lines(self) -> list[tuple[str, object]]:
        """As shown to a person."""
        behind = None if self.tables_at is None else self.messages - self.tables_at
        tables = (
            "not built: run `velo build`"
            if behind is None
            else "up to date"
            if behind == 0
            else f"{behind:,} messages behind"
        )
        return [
            ("time zone", self.timezone),
            ("keys by", self.keys or "set by the first load"),
            ("log", f"{self.messages:,} messages, to {self.log_end or 'nothing yet'}"),
            ("tables", f"{tables}; {self.rows:,} rows, epoch {self.epoch}"),
            ("dead letters", self.dead_letters),
        ]


def status(store: Store) -> Status:
    """Look at a store; nothing is changed."""
    log_end = end(store.home)
    folder = generations.current(store.home)
    built = generations.manifest_of(folder) if folder else None
    return Status(
        home=str(store.home.root),
        timezone=store.timezone.key,
        keys=store.keys,
        messages=log_end.next_seq,
        log_end=log_end.known_at,
        tables_at=built.next_seq if built else None,
        tables_end=built.known_at if built else None,
        rows=sum(built.rows.values()) if built else 0,
        epoch=built.epoch if built else 0,
        dead_letters=len(dead_letters.read(store.home)),
    )
