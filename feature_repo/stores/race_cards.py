"""Races to come, and those just run, as Redis holds them: what was told of each, an index by off, and what changed.

A race is a hash of the messages that say how it stands: its latest card and market, and every other message about it;
of earlier cards the horses, for a message about a horse tells by them whether it was declared by then. Each takes its place by its seq in the log, in one atomic step: told again, late or by two writers it changes nothing.
`{velo}:waiting` has the races of which something was told lately and that no card declares. `{velo}:events` is a Redis Stream of what changed (id seq + 1), `{velo}:head` how far the log was brought here. The
braces keep all of them on one server of a cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from feature_repo.stores.race_script import ADVANCE, OFFER, sha_of
from feature_repo.stores.redis_client import errors_told, is_cluster
from velo.racing.clock import from_us, to_us
from velo.racing.messages import Message, from_record

INDEX: Final = "{velo}:races"
EVENTS: Final = "{velo}:events"
HEAD: Final = "{velo}:head"
WAITING: Final = "{velo}:waiting"
KEEP: Final = timedelta(hours=48)
"""How long after its off a race stays."""
DECLARED_AHEAD: Final = timedelta(days=400)
"""No race is declared so long before its off: what is told of a race that has no card waits for one no longer."""
FORM: Final = 2
"""The form in which races are held; a Redis of an earlier one is given the open races anew."""
_EXPIRING: Final = timedelta(minutes=1)
"""A race that expires so soon may be gone already."""
_LATEST: Final = {"racecard": "card", "market": "market"}
"""Messages of which only the latest says how a race stands, with the field they share."""
_LOADED: Final = {sha_of(script): script for script in (OFFER, ADVANCE)}


@dataclass(frozen=True, slots=True)
class RaceUpdate:
    """A message of the log for the cards.

    `record` is its JSON as the log has it, of today's schema. `off_time` is what a card or result says; `kept` whether
    the race's own hash takes it, `waits` whether it waits there for a card, `announced` whether those who listen are
    told. `named` is of a card what stays once a later one is there: a card that only names and marks its horses.
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


@dataclass(frozen=True, slots=True)
class CardsPosition:
    """How far the log was brought to Redis: everything up to `seq`, known at `known_at`; `live` while at its end."""

    generation: int
    seq: int
    known_at: datetime
    live: bool


@dataclass(frozen=True, slots=True)
class Event:
    """Something told of a race; `id` is its place among the events."""

    id: str
    kind: str
    race_id: str
    known_at: str
    record: bytes


@dataclass(frozen=True, slots=True)
class StoredRace:
    """A race as Redis holds it: its messages, and the version (generation, seq) that tells it from a later reading."""

    version: tuple[int, int]
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class RaceCards:
    """The cards behind one client; `url` only names the server in what is said when it fails."""

    client: Any
    url: str = "redis"

    def offer(
        self, generation: int, offers: Sequence[RaceUpdate], now: datetime, head: CardsPosition | None = None
    ) -> int:
        """Put messages in their places, in one round trip, and the head after them; returns how many were new.

        Races whose off is more than `KEEP` before `now` are dropped.
        """
        horizon_us = to_us(now - KEEP)
        commands: list[tuple[Any, ...]] = [_offered(generation, one, now, horizon_us) for one in offers]
        if head is not None:
            keys = (4, INDEX, EVENTS, HEAD, WAITING)
            told_of = (head.generation, head.seq, to_us(head.known_at), int(head.live))
            commands.append(("EVALSHA", sha_of(ADVANCE), *keys, *told_of))
        answers = self._run(commands)
        return sum(answers[: len(offers)])

    def race(self, race_id: str) -> StoredRace | None:
        """What is held of a race; None where nothing is, or only of a log since replaced."""
        with errors_told(self.url):
            held: Mapping[bytes, bytes] = self.client.hgetall(race_key(race_id))
        return kept_of(held)

    def races(self, begin: datetime, end: datetime) -> list[str]:
        """Races whose off is in [begin, end), in order of it."""
        with errors_told(self.url):
            found = self.client.zrangebyscore(INDEX, to_us(begin), f"({to_us(end)}")
        return [one.decode() for one in found]

    def waiting(self, most: int = 50) -> list[str]:
        """The latest races that no card declares and of which something was told within `KEEP`."""
        with errors_told(self.url):
            found = self.client.zrange(WAITING, -most, -1)
        return [one.decode() for one in found]

    def declared(self) -> list[str]:
        """Every race held, in order of its off."""
        with errors_told(self.url):
            found = self.client.zrange(INDEX, 0, -1)
        return [one.decode() for one in found]

    def many(self, race_ids: Sequence[str]) -> list[StoredRace | None]:
        """What is held of some races, in one round trip."""
        with errors_told(self.url), self.client.pipeline(transaction=False) as pipe:
            for race_id in race_ids:
                pipe.hgetall(race_key(race_id))
            answers = pipe.execute() if race_ids else []
        return [kept_of(held) for held in answers]

    def head(self) -> CardsPosition | None:
        """How far the log was brought; None where no stream ever wrote here."""
        with errors_told(self.url):
            return head_of(self.client.hmget(HEAD, "generation", "seq", "known_us", "live"))

    def form(self) -> int:
        """The form in which races are held here; 0 where none was noted."""
        with errors_told(self.url):
            return int(self.client.hget(HEAD, "form") or 0)

    def has_form(self) -> None:
        """Note that all open races are held in today's form."""
        with errors_told(self.url):
            self.client.hset(HEAD, "form", FORM)

    def events(self, after: str, most: int = 512) -> list[Event]:
        """The events after one, oldest first; `0-0` is before all."""
        with errors_told(self.url):
            entries = self.client.xrange(EVENTS, min=f"({after}", count=most)
        return [event_of(at, fields) for at, fields in entries]

    def lost(self, now: datetime, before: int) -> tuple[bool, int]:
        """Whether races of the index are gone, and how many it has; `before` is how many it had when last asked."""
        begin = to_us(now - KEEP + _EXPIRING)
        with errors_told(self.url):
            listed = self.client.zrangebyscore(INDEX, begin, "+inf")
            there = self.client.exists(*(race_key(one.decode()) for one in listed)) if listed else 0
        return there < len(listed) or (before > 0 and not listed), len(listed)

    def lists(self, race_id: str) -> bool:
        """Whether a race is in the index."""
        with errors_told(self.url):
            return self.client.zscore(INDEX, race_id) is not None

    def clear(self) -> None:
        """Forget every race and what was told of them; the next stream, or `velo cards rebuild`, brings them again."""
        with errors_told(self.url):
            keys = [*self.client.scan_iter(match="{velo}:race:*", count=1000), INDEX, EVENTS, HEAD, WAITING]
            self.client.delete(*keys)

    def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[int]:
        from redis.exceptions import NoScriptError

        if not commands:
            return []
        client = self.client
        with errors_told(self.url):
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
                    # a server that restarted has forgotten; offering again is safe
                    for script in _LOADED.values():
                        client.script_load(script)
            raise RuntimeError("Redis forgets scripts as soon as they are loaded")


def race_key(race_id: str) -> str:
    """The Redis key of a race."""
    return "{velo}:race:" + race_id


def head_of(values: Sequence[bytes | None]) -> CardsPosition | None:
    """The head from its fields."""
    generation, seq, known_us, live = values
    if generation is None or seq is None or known_us is None:
        return None
    return CardsPosition(int(generation), int(seq), from_us(int(known_us)), live == b"1")


def kept_of(held: Mapping[bytes, bytes]) -> StoredRace | None:
    """A race from its hash; None where it holds no message."""
    told_of = [value for name, value in held.items() if name + b"@" in held]
    if not told_of:
        return None
    latest = b"c:" + held.get(b"card@", b"")
    told_of += [value for name, value in held.items() if name.startswith(b"c:") and name != latest]
    messages = tuple(from_record(orjson.loads(one)) for one in told_of)
    return StoredRace((int(held[b"generation"]), int(held[b"seq"])), messages)


def event_of(at: bytes, fields: Mapping[bytes, bytes]) -> Event:
    """An event from its entry in the stream."""
    return Event(
        at.decode(),
        fields[b"type"].decode(),
        fields[b"race_id"].decode(),
        fields[b"known_at"].decode(),
        fields[b"record"],
    )


def _offered(generation: int, one: RaceUpdate, now: datetime, horizon_us: int) -> tuple[Any, ...]:
    ends = (one.off_time or one.known_at) + (DECLARED_AHEAD if one.waits else KEEP) - now
    ttl_ms = max(1, ends // timedelta(milliseconds=1)) if one.kept else ""
    return (
        "EVALSHA",
        sha_of(OFFER),
        5,
        race_key(one.race_id),
        INDEX,
        EVENTS,
        HEAD,
        WAITING,
        generation,
        one.seq,
        _LATEST.get(one.kind, f"m:{one.seq}"),
        one.record,
        one.race_id,
        "" if one.off_time is None else to_us(one.off_time),
        ttl_ms,
        horizon_us,
        one.kind,
        one.known_at.isoformat(),
        int(one.announced),
        one.named,
        to_us(one.known_at) if one.waits else "",
    )
