"""A store and its log for tests, made in a temporary folder."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from velo.racing.messages import Message, Race, Result, Runner
from velo.settings import Settings, zone_named
from velo.storage.log import reader
from velo.storage.log.format import segments
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home, Store

NOON = datetime(2024, 5, 1, 11, 0, tzinfo=UTC)
"""Noon in London in summer."""


def a_store(home: Path, timezone: str = "Europe/London") -> Store:
    """The store of a home that is made where missing."""
    return Store.open(Settings(home=home, timezone=zone_named(timezone))).save()


def fixed(instant: datetime = NOON) -> Callable[[], datetime]:
    """A clock that stands still."""
    return lambda: instant


def told(
    race_id: str = "R1",
    known_at: datetime | None = NOON,
    version: int = 1,
    runners: Sequence[Runner] = (Runner("arkle", status="FINISHED", position=1), Runner("mill house", status="PU")),
) -> Result:
    """A small result."""
    race = Race(race_id, date(2024, 5, 1), NOON - timedelta(minutes=15), "Ascot")
    return Result(race, tuple(runners), version, known_at)


def logged(store: Store, *messages: Message, clock: Callable[[], datetime] | None = None) -> None:
    """Append messages as one bulk load, without any rule of lateness."""
    with LogWriter.open(store, clock=clock or fixed()) as writer:
        writer.load(messages, late=True)


def held(store: Store) -> list[Message]:
    """All messages of the log."""
    return [message for _, message in reader.messages(store.home)]


def bytes_of(home: Home) -> dict[str, bytes]:
    """The segments of a log by name."""
    return {segment.path.name: segment.path.read_bytes() for segment in segments(home)}
