"""`velo status`: the contents of a store, and how far its tables are behind its log."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis, whole
from velo.feature_repo.stores.race_cards import DECLARED_AHEAD, RaceCards
from velo.feature_repo.stores.redis_client import connect_url
from velo.racing.cards import declared_at
from velo.storage import table_versions
from velo.storage.log.format import generation
from velo.storage.log.reader import end
from velo.storage.store import Store
from velo.streams.dataflow.metrics import is_streaming, position
from velo.streams.importers import dead_letters
from velo.streams.undeclared import undeclared_of
from velo.supervisor import state_of

UNDECLARED_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a store; instants are UTC, None where there is nothing yet.

    `undeclared` counts the messages about a race or a horse that nobody had declared at the time, `undeclared_waiting` those
    that no card has declared since; `undeclared_last` describes the last of these. `model` names the one that serves, with its
    gate; it is None where the caller did not look.
    """

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
    stream_at: int | None = None
    stream_sealed: int | None = None
    stream_said: str | None = None
    stream_running: bool = False
    stream_catching_up_to: int = 0
    undeclared: int = 0
    undeclared_waiting: int = 0
    undeclared_last: tuple[str, ...] = ()
    online: str = ""
    next_race: str | None = None
    model: str | None = None
    up: Mapping[str, Any] | None = None
    disk_free_gb: float = 0.0

    def lines(self) -> list[tuple[str, object]]:
        """Return the lines to show: ten, and those of the last messages that wait for a card."""
        held = [at for at in (self.tables_at, self.stream_sealed) if at is not None]
        behind = self.messages - max(held, default=0)
        tables = (
            "not built: run `velo build`" if not held else f"{behind:,} messages behind" if behind else "up to date"
        )
        return [
            (
                "store",
                f"{self.timezone}, keys by {self.keys or 'what the first load has'}; {self.disk_free_gb:,.1f} GB free",
            ),
            ("log", f"{self.messages:,} messages, to {self.log_end or 'nothing yet'}"),
            ("tables", f"{tables}; {self.rows:,} rows, epoch {self.epoch}"),
            ("stream", self._stream()),
            ("online", self.online),
            ("model", self.model or "none: run `velo train`"),
            ("next race", self.next_race or "none is declared"),
            *self._up(),
            ("dead letters", f"{self.dead_letters:,}; {self._undeclared()}"),
            *(("", message) for message in self.undeclared_last),
        ]

    def _up(self) -> list[tuple[str, object]]:
        """The address and the programs that `velo up` runs, and the last night's work, the audit among it."""
        if self.up is None:
            return [("programs", "started by hand, if any: `velo up` runs all of a race day")]
        states = [
            f"{program['name']} {'runs' if program['pid'] else 'is down: ' + program['last_line']}"
            + (f", {program['restarts']} restarts" if program["restarts"] else "")
            for program in self.up["programs"]
        ]
        night = self.up["last_night"]
        ended = [f"{name} {'failed' if code else 'ok'}" for name, code in night["codes"].items()] if night else []
        done = f"{', '.join(ended) or 'running'}, begun {night['begun']}" if night else "no build or audit yet"
        return [
            ("programs", "; ".join([self.up["url"], *states])),
            ("night", f"{done}; next {self.up['next_night'] or 'never'}"),
        ]

    def _undeclared(self) -> str:
        """Return the count of messages about races and horses that nobody had declared."""
        since = self.undeclared - self.undeclared_waiting
        later = f", {since:,} of them declared since" if since else ""
        return f"{self.undeclared:,} messages about undeclared races or horses{later}"

    def _stream(self) -> str:
        if self.stream_at is None:
            return "never ran: start it with `velo stream`"
        behind = self.messages - self.stream_at
        where = "at the log's end" if behind == 0 else f"{behind:,} messages behind"
        state = "running" if self.stream_running else "stopped"
        if self.stream_running and self.stream_catching_up_to:
            return f"catching up by batch: {self.stream_at:,} of {self.stream_catching_up_to:,} messages, since {self.stream_said}"
        return f"{state}, {where}; sealed before message {self.stream_sealed:,}, said {self.stream_said}"


def status(store: Store, now: datetime) -> Status:
    """Return the state of a store at `now` (UTC); changes nothing."""
    log_end = end(store.home)
    folder = table_versions.current(store.home)
    streamed = position(store.home)
    if streamed is not None and streamed.log_generation != generation(store.home):
        streamed = None
    built = table_versions.manifest_of(folder) if folder else None
    about_nobody = undeclared_of(store.home)
    waiting = [message for message in about_nobody if message.declared_at is None]
    return Status(
        home=str(store.home.root),
        timezone=store.timezone.key,
        keys=store.keys,
        messages=log_end.next_seq,
        log_end=log_end.known_at,
        tables_at=built.next_seq if built else None,
        tables_end=built.known_at if built else None,
        rows=sum(built.rows.values()) + _streamed_rows(folder) if folder and built else 0,
        epoch=built.epoch if built else 0,
        dead_letters=len(dead_letters.read(store.home)),
        stream_at=streamed.next_seq if streamed else None,
        stream_sealed=streamed.sealed_seq if streamed else None,
        stream_said=streamed.at if streamed else None,
        stream_running=bool(streamed and is_streaming(store.home)),
        stream_catching_up_to=streamed.catching_up_to if streamed else 0,
        undeclared=len(about_nobody),
        undeclared_waiting=len(waiting),
        undeclared_last=tuple(dict.fromkeys(message.says for message in waiting))[-UNDECLARED_SHOWN:],
        online=_online(store),
        next_race=_next_race(store, now),
        up=state_of(store.home),
        disk_free_gb=round(shutil.disk_usage(_existing(store.home.root)).free / 1e9, 1),
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _online(store: Store) -> str:
    """Return the state of Redis in one line; the store's own Redis is not started for it."""
    if store.home.parent_store is not None:
        return "none: an environment is not served"
    url = store.redis_url or embedded_redis.running(store.home)
    if url is None:
        return "the store's own Redis does not run: what reads or fills it starts it"
    try:
        client = connect_url(url)
        expected = whole.Expected(store.home)
        before = expected.before_read()
        head, held, server = RaceCards(client).head(), whole.read(client, expected.layouts), whole.vitals(client)
        expected.refuse_server(before, held, server, None if head is None else (head.generation, head.seq))
    except UserError as trouble:
        return str(trouble)
    filled = all(contents.fill for contents in held)
    rows = (
        f"{sum(contents.rows for contents in held):,} rows{'' if filled else ', not filled by a stream or a rebuild'}"
    )
    size = f"{server.keys:,} keys, {server.memory / 1e6:,.0f} MB"
    return "; ".join(filter(None, (rows, size, whole.may_evict(server))))


def _next_race(store: Store, now: datetime) -> str | None:
    """Return the next declared race in Redis in one line; None without one, or where Redis does not run."""
    try:
        cards = _cards(store)
        coming = cards.races(now, now + DECLARED_AHEAD) if cards else []
        kept = cards.race(coming[0]) if cards and coming else None
    except UserError:
        return None
    race = declared_at(kept.messages, now) if kept is not None else None
    if race is None:
        return None
    off = race.race.off_time.astimezone(store.timezone)
    return f"{off:%Y-%m-%d %H:%M} {race.race.course} ({race.race.race_id}), {len(race.runners)} runners; {len(coming):,} races to come"


def races_to_come(store: Store, now: datetime) -> int | None:
    """The number of declared races in Redis whose off is later than `now`; None where Redis does not run, as in an environment."""
    try:
        cards = _cards(store)
        return len(cards.races(now, now + DECLARED_AHEAD)) if cards else None
    except UserError:
        return None


def _cards(store: Store) -> RaceCards | None:
    """The races of the Redis that runs for a store."""
    url = None if store.home.parent_store else store.redis_url or embedded_redis.running(store.home)
    return None if url is None else RaceCards(connect_url(url))


def _streamed_rows(generation: Path) -> int:
    import pyarrow.parquet as pq

    views = sorted(folder.name for folder in generation.iterdir() if folder.is_dir())
    parts = (part.path for view in views for part in table_versions.stream_parts(generation, view))
    return sum(pq.read_metadata(part).num_rows for part in parts)
