"""Future and recent races in Redis: the messages of each, an index by off, and a stream of changes.

A race is a hash of the messages that define its state: its latest card, the market snapshots that its odds and their drift
need, every other message about it, and the horses of earlier cards, which decide whether a horse was declared when a message
named it. Of the snapshots of a source the hash keeps the last of each minute, for as far back as a drift reaches. Each message is written by its
seq in the log, in one atomic step, so a repeated or late write changes nothing. `{velo}:waiting` holds the undeclared
races with recent messages, `{velo}:events` is a Redis Stream of changes (id seq + 1), and `{velo}:head` is the log's
position in Redis. The braces keep all of them on one server of a cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from velo.feature_repo.stores.race_script import ADVANCE, OFFER, sha_of
from velo.feature_repo.stores.redis_client import is_cluster, redis_errors
from velo.racing.cards import DRIFT_MINUTES
from velo.racing.clock import from_us, to_us
from velo.racing.messages import Message, from_record

INDEX: Final = "{velo}:races"
EVENTS: Final = "{velo}:events"
HEAD: Final = "{velo}:head"
WAITING: Final = "{velo}:waiting"
KEEP: Final = timedelta(hours=48)
"""How long a race is kept after its off."""
DECLARED_AHEAD: Final = timedelta(days=400)
"""How long a message about an undeclared race waits for its card: no race is declared earlier."""
FORM: Final = 3
"""Version of the layout; a Redis with an earlier one gets the open races again."""
_EXPIRING: Final = timedelta(minutes=1)
"""A race this close to its expiry may be gone already."""
_MINUTE_US: Final = 60_000_000
_MINUTES_KEPT: Final = max(DRIFT_MINUTES) + 1
"""For this many minutes before a source's last snapshot, the last one of each minute is kept; of the older ones, only the latest."""
_LOADED: Final = {sha_of(script): script for script in (OFFER, ADVANCE)}


@dataclass(frozen=True, slots=True)
class RaceUpdate:
    """A message of the log, for the race's hash.

    `record` is its JSON in the current schema. `off_time` is that of a card or result. `kept`: the race's hash stores it.
    `waits`: it waits there for a card. `announced`: it becomes an event. `named` is the reduced card that stays after a
    later one: its horses and their marks. `source` is that of a market's odds.
    """

    seq: int
    kind: str
    race_id: str
    known_at: datetime
    record: bytes
    off_time: datetime | None = None
    kept: bool = True
    announced: bool = True
    waits: bool = False
    named: bytes = b""
    source: str | None = None


@dataclass(frozen=True, slots=True)
class CardsPosition:
    """The log's position in Redis: everything up to `seq`, known at `known_at`; `live` at the log's end."""

    generation: int
    seq: int
    known_at: datetime
    live: bool


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a race; `id` is its position in the stream of events."""

    id: str
    kind: str
    race_id: str
    known_at: str
    record: bytes


@dataclass(frozen=True, slots=True)
class StoredRace:
    """A race in Redis: its messages, and its version (generation, seq), which each change raises."""

    version: tuple[int, int]
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class RaceCards:
    """Reads and writes races through one client; `url` names the server in errors."""

    client: Any
    url: str = "redis"

    def offer(
        self, generation: int, offers: Sequence[RaceUpdate], now: datetime, head: CardsPosition | None = None
    ) -> int:
        """Write messages, then the head, in one round trip; returns how many messages were new.

        Drops races whose off is more than `KEEP` before `now`.
        """
        horizon_us = to_us(now - KEEP)
        commands: list[tuple[Any, ...]] = [_offered(generation, update, now, horizon_us) for update in offers]
        if head is not None:
            keys = (4, INDEX, EVENTS, HEAD, WAITING)
            position = (head.generation, head.seq, to_us(head.known_at), int(head.live))
            commands.append(("EVALSHA", sha_of(ADVANCE), *keys, *position))
        answers = self._run(commands)
        return sum(answers[: len(offers)])

    def race(self, race_id: str) -> StoredRace | None:
        """Return a race; None if Redis has no message of it."""
        with redis_errors(self.url):
            held: Mapping[bytes, bytes] = self.client.hgetall(race_key(race_id))
        return kept_of(held)

    def races(self, begin: datetime, end: datetime) -> list[str]:
        """Return the races with an off in [begin, end), ordered by off."""
        with redis_errors(self.url):
            found = self.client.zrangebyscore(INDEX, to_us(begin), f"({to_us(end)}")
        return [race_id.decode() for race_id in found]

    def waiting(self, most: int = 50) -> list[str]:
        """Return the latest undeclared races with a message within `KEEP`."""
        with redis_errors(self.url):
            found = self.client.zrange(WAITING, -most, -1)
        return [race_id.decode() for race_id in found]

    def declared(self) -> list[str]:
        """Return every race, ordered by off."""
        with redis_errors(self.url):
            found = self.client.zrange(INDEX, 0, -1)
        return [race_id.decode() for race_id in found]

    def many(self, race_ids: Sequence[str]) -> list[StoredRace | None]:
        """Return races, in the order of `race_ids`, in one round trip; None for a race without messages."""
        with redis_errors(self.url), self.client.pipeline(transaction=False) as pipe:
            for race_id in race_ids:
                pipe.hgetall(race_key(race_id))
            answers = pipe.execute() if race_ids else []
        return [kept_of(held) for held in answers]

    def head(self) -> CardsPosition | None:
        """Return the log's position in Redis; None if no stream has written here."""
        with redis_errors(self.url):
            return head_of(self.client.hmget(HEAD, "generation", "seq", "known_us", "live"))

    def form(self) -> int:
        """Return the version of the layout in Redis; 0 if none is recorded."""
        with redis_errors(self.url):
            return int(self.client.hget(HEAD, "form") or 0)

    def has_form(self) -> None:
        """Record that all open races have the current layout."""
        with redis_errors(self.url):
            self.client.hset(HEAD, "form", FORM)

    def events(self, after: str, most: int = 512) -> list[Event]:
        """Return the events after an id, oldest first; `0-0` precedes all."""
        with redis_errors(self.url):
            entries = self.client.xrange(EVENTS, min=f"({after}", count=most)
        return [event_of(at, fields) for at, fields in entries]

    def lost(self, now: datetime, before: int) -> tuple[bool, int]:
        """Whether races of the index are missing, and how many it holds; `before` is the count of the last call."""
        begin = to_us(now - KEEP + _EXPIRING)
        with redis_errors(self.url):
            listed = self.client.zrangebyscore(INDEX, begin, "+inf")
            there = self.client.exists(*(race_key(race_id.decode()) for race_id in listed)) if listed else 0
        return there < len(listed) or (before > 0 and not listed), len(listed)

    def lists(self, race_id: str) -> bool:
        """Whether a race is in the index."""
        with redis_errors(self.url):
            return self.client.zscore(INDEX, race_id) is not None

    def clear(self) -> None:
        """Delete all races and events; the next stream, or `velo cards rebuild`, writes them again."""
        with redis_errors(self.url):
            keys = [*self.client.scan_iter(match="{velo}:race:*", count=1000), INDEX, EVENTS, HEAD, WAITING]
            self.client.delete(*keys)

    def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[int]:
        from redis.exceptions import NoScriptError

        if not commands:
            return []
        client = self.client
        with redis_errors(self.url):
            if is_cluster(client):
                client = client.get_redis_connection(client.get_node_from_key(HEAD))
            for _ in range(2):
                try:
                    with client.pipeline(transaction=False) as pipe:
                        for command in commands:
                            pipe.execute_command(*command)
                        answers: list[int] = pipe.execute()
                    return answers
                except NoScriptError:
                    # a restarted server has lost the scripts; a repeated write is safe
                    for script in _LOADED.values():
                        client.script_load(script)
            raise RuntimeError("Redis drops scripts as soon as they are loaded")


def race_key(race_id: str) -> str:
    """Return the Redis key of a race."""
    return "{velo}:race:" + race_id


def head_of(values: Sequence[bytes | None]) -> CardsPosition | None:
    """Parse the head from its fields; None if it is incomplete."""
    generation, seq, known_us, live = values
    if generation is None or seq is None or known_us is None:
        return None
    return CardsPosition(int(generation), int(seq), from_us(int(known_us)), live == b"1")


def kept_of(held: Mapping[bytes, bytes]) -> StoredRace | None:
    """Parse a race from its hash; None if it holds no message."""
    records = [value for name, value in held.items() if name + b"@" in held]
    if not records:
        return None
    latest = b"c:" + held.get(b"card@", b"")
    records += [value for name, value in held.items() if name.startswith(b"c:") and name != latest]
    # an earlier layout had the latest market under a field of its own too
    messages = tuple(from_record(orjson.loads(record)) for record in dict.fromkeys(records))
    return StoredRace((int(held[b"generation"]), int(held[b"seq"])), messages)


def event_of(at: bytes, fields: Mapping[bytes, bytes]) -> Event:
    """Parse an event from its entry in the stream."""
    return Event(
        at.decode(),
        fields[b"type"].decode(),
        fields[b"race_id"].decode(),
        fields[b"known_at"].decode(),
        fields[b"record"],
    )


def _offered(generation: int, update: RaceUpdate, now: datetime, horizon_us: int) -> tuple[Any, ...]:
    snapshots = f"p:{update.source}:" if update.kind == "market" else ""
    field = "card" if update.kind == "racecard" else f"m:{update.seq}"
    if snapshots:
        # a snapshot counts from the next whole minute on
        field = f"{snapshots}{-(-to_us(update.known_at) // _MINUTE_US)}"
    ends = (update.off_time or update.known_at) + (DECLARED_AHEAD if update.waits else KEEP) - now
    ttl_ms = max(1, ends // timedelta(milliseconds=1)) if update.kept else ""
    return (
        "EVALSHA",
        sha_of(OFFER),
        5,
        race_key(update.race_id),
        INDEX,
        EVENTS,
        HEAD,
        WAITING,
        generation,
        update.seq,
        field,
        update.record,
        update.race_id,
        "" if update.off_time is None else to_us(update.off_time),
        ttl_ms,
        horizon_us,
        update.kind,
        update.known_at.isoformat(),
        int(update.announced),
        update.named,
        to_us(update.known_at) if update.waits else "",
        snapshots,
        _MINUTES_KEPT,
    )
