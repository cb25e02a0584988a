"""Replace the log by a new one: built beside it, swapped in atomically; the old log is kept."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from velo.errors import UserError
from velo.racing.aliases import REPEATS, SOURCE_VERSION, as_given
from velo.racing.clock import to_us
from velo.racing.messages import Market, Message, Result, from_record, kept_of
from velo.storage.atomic_files import exchange, make_folder, sync_folder, write_atomically
from velo.storage.log import reader
from velo.storage.log.appender import lock
from velo.storage.log.format import ENVELOPE, GENERATION, generation, generation_of, next_log, segments_in
from velo.storage.log.writer import Clock, LoadReport, LogWriter, Progress, Recorded
from velo.storage.store import STORE_ID, Home, Store, given_id


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The outcome of a rebuild: `kept` messages come from the old log; `superseded` ones of it are among the new messages.

    `replaced` is the old log, None where there was none.
    """

    load: LoadReport
    kept: int
    superseded: int
    replaced: Path | None


def rebuild(
    store: Store,
    messages: Iterable[Message],
    *,
    fresh: bool = False,
    clock: Clock,
    progress: Progress | None = None,
) -> Rebuilt:
    """Replace a store's log by one of these messages and, unless `fresh`, of the other messages in the old log.

    All are sorted by when they became known, as in one bulk load; the old log's aliases are applied to them in that order.
    A result in `messages` replaces that of the same race and version in the old log, a market snapshot that of the same race, source
    and millisecond. Readers see either log whole; the old one stays as `log.replaced-N`. Raises `UserError`, and
    changes nothing, where the log is being written to, or is damaged and not `fresh`.
    """
    home = store.home
    make_folder(home.log)
    held = lock(home.log)
    try:
        _clear(home)
        new = list(messages)
        kept, superseded = ([], 0) if fresh else _kept(home, new)
        number = generation(home) + 1
        aside = _building(home)
        with LogWriter.open(store, clock=clock, folder=aside) as writer:
            report = writer.load([*new, *kept], progress=progress)
        write_atomically(aside / GENERATION, b"%d\n" % number)
        write_atomically(aside / STORE_ID, given_id(home).encode() + b"\n")
        replaced = _swap_in(home, aside, number - 1)
    finally:
        os.close(held)
    return Rebuilt(report, len(kept), superseded, replaced)


def _kept(home: Home, new: list[Message]) -> tuple[list[Recorded], int]:
    replaced = {_identity(message) for message in new} - {None}
    kept: list[Recorded] = []
    superseded = 0
    try:
        for found in reader.records(home):
            if REPEATS in found:
                continue
            record = as_given(found)
            if SOURCE_VERSION in record:
                record["result_version"] = record.pop(SOURCE_VERSION)
            message = from_record(record)
            if _identity(message) in replaced:
                superseded += 1
            else:
                besides = {name: value for name, value in kept_of(record).items() if name not in ENVELOPE}
                kept.append(Recorded(message, besides, record.get("origin")))
    except UserError as damaged:
        raise UserError(f"{damaged}; or add --fresh to rebuild from the files alone") from None
    return kept, superseded


def _identity(message: Message) -> tuple[Any, ...] | None:
    """What of a message a new message replaces: a result by its version, a market by its source and instant; None for others.

    The log's clock moves simultaneous messages apart by microseconds, so that an instant is compared to the millisecond.
    """
    if isinstance(message, Result):
        return message.race_id, message.result_version
    if isinstance(message, Market) and message.known_at is not None:
        return message.race_id, message.source, to_us(message.known_at) // 1000
    return None


def _building(home: Home) -> Path:
    return home.root / "log.building"


def _clear(home: Home) -> None:
    """Undo or finish an earlier rebuild that was killed. Nothing that was ever the log is removed."""
    shutil.rmtree(_building(home), ignore_errors=True)
    left = next_log(home)
    if left.is_dir():
        number = generation_of(left)
        if number < generation(home):
            left.rename(home.root / f"log.replaced-{number}")
        else:
            shutil.rmtree(left)


def _swap_in(home: Home, built: Path, old_number: int) -> Path | None:
    """Put a built log in place of the log; returns the path of the old one, None if it was empty."""
    new, old = next_log(home), home.root / f"log.replaced-{old_number}"
    built.rename(new)
    sync_folder(home.root)
    if exchange(home.log, new):
        new.rename(old)
    else:
        home.log.rename(old)
        new.rename(home.log)
    sync_folder(home.root)
    return old if segments_in(old) else None
