"""Read a race's version and all feature rows of its runners from the online store in one round trip, as of one moment there.

Encoding the command takes half of the time of a read through a client, so it is encoded once per card, as bytes. A Redis Cluster,
whose rows are on several servers, takes two trips: the head and the race first, then all rows; and a third for missing rows, to
know whether they ever existed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from hiredis import pack_command

from velo.errors import UserError
from velo.feature_repo.stores.race_cards import EVENTS, HEAD, race_key
from velo.feature_repo.stores.race_script import READ, sha_of
from velo.feature_repo.stores.redis_client import shown
from velo.feature_repo.stores.redis_layout import PACKED, index_key_of
from velo.feature_repo.stores.redis_script import has, place_of
from velo.feature_repo.stores.whole import FILL
from velo.serving.scoring.request_deadline import DEADLINE_S, ClientFinder, DeadlineExceeded, RequestDeadline, client_of

if TYPE_CHECKING:
    from redis import Redis

HEADERS: Final = 8
"""Answers before the rows: the head's generation, seq, instant (µs) and live; the race's generation and seq; the fills of the
views, separated by spaces; and the numbers, from 1, of the views that lost a row."""
_HEAD_FIELDS: Final = ("generation", "seq", "known_us", "live")
_RACE_FIELDS: Final = ("generation", "seq")

STORE_SHARE: Final = 0.5
"""A timeout counts as the online store's if waiting for it took at least this share of the deadline, else as this process's."""
SILENT_S: Final = 1.0
"""Seconds without an answer after which the server's address is looked up again: it may have moved."""
Answers = list[bytes | None]


class OnlineStoreUnavailable(UserError):
    """The online store did not answer in time; a later request may succeed."""


class Busy(UserError):
    """This process was too busy to read the answer in time; the online store was not the cause."""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """The read of one race: a field of each key, grouped by field; `written` is the command in Redis protocol."""

    race_id: str
    keys: tuple[bytes, ...]
    fields: tuple[str, ...]
    views: tuple[str, ...]
    written: bytes

    @classmethod
    def of(cls, race_id: str, keys: Sequence[bytes], fields: Sequence[str]) -> "ReadRequest":
        """Encode a read."""
        counts = [(name, len(list(group))) for name, group in groupby(fields)]
        views = tuple(name.removeprefix(PACKED) for name, _ in counts)
        indices = [index_key_of(view) for view in views]
        count = 3 + len(indices) + len(keys)
        parts: list[Any] = [b"EVALSHA", sha_of(READ), count, race_key(race_id), EVENTS, HEAD, *indices, *keys]
        parts += [part for field_count in counts for part in field_count]
        written = pack_command(tuple(parts))
        return cls(race_id, tuple(keys), tuple(fields), views, written)


@dataclass(slots=True)
class _Link:
    """A server's client and its own connections for reads; `cluster` is set if there are several servers.

    A request has a connection to itself until its answer is read. A request that fails closes its own connection only.
    """

    client: Any
    url: str
    cluster: Any = None
    answered_s: float = float("-inf")
    retired: bool = False
    free: "deque[Any]" = field(default_factory=deque)

    def ask(self, written: bytes) -> Answers:
        """Return the answers; replaces a connection that the server has closed meanwhile."""
        from redis.exceptions import ConnectionError as Broken
        from redis.exceptions import ResponseError
        from redis.exceptions import TimeoutError as Late

        pool = self.client.connection_pool
        while True:
            try:
                connection, held = self.free.pop(), True
            except IndexError:
                connection, held = pool.get_connection(), False
            try:
                connection.send_packed_command([written], check_health=False)
                answers: Answers = connection.read_response()
            except ResponseError:
                self._give_back(connection)
                raise
            except BaseException as failed:
                connection.disconnect()
                pool.release(connection)
                if held and isinstance(failed, Broken) and not isinstance(failed, Late):
                    continue
                raise
            self._give_back(connection)
            return answers

    def retire(self) -> None:
        """Close idle connections; a connection in use closes when its request ends."""
        self.retired = True
        while self.free:
            self._give_back(self.free.pop())
        self.client.connection_pool.disconnect(inuse_connections=False)

    def _give_back(self, connection: Any) -> None:
        if self.retired:
            connection.disconnect()
            self.client.connection_pool.release(connection)
        else:
            self.free.append(connection)

    def ask_cluster(self, request: ReadRequest) -> Answers:
        """Read from all servers of a cluster: the head first, so that a row later than the head is detected."""
        with self.cluster.pipeline() as pipe:
            pipe.hmget(HEAD, _HEAD_FIELDS)
            pipe.hmget(race_key(request.race_id), _RACE_FIELDS)
            for view in request.views:
                pipe.hget(index_key_of(view), FILL)
            head, race, *fills = pipe.execute()
        with self.cluster.pipeline() as pipe:
            for key, name in zip(request.keys, request.fields, strict=True):
                pipe.hget(key, name)
            rows = pipe.execute()
        lost = self._lost(request, [at for at, row in enumerate(rows) if row is None])
        numbers = [str(at).encode() for at, view in enumerate(request.views, 1) if view in lost]
        return [*head, *race, b" ".join(fill or b"" for fill in fills), b" ".join(numbers), *rows]

    def _lost(self, request: ReadRequest, missing: Sequence[int]) -> set[str]:
        """Views of a cluster that once had a row of one of these keys; indices are read after the rows, and written before them."""
        if not missing:
            return set()
        views = [request.fields[at].removeprefix(PACKED) for at in missing]
        places = [place_of(request.keys[at]) for at in missing]
        with self.cluster.pipeline() as pipe:
            for view, (bucket, _) in zip(views, places, strict=True):
                pipe.hget(index_key_of(view), bucket)
            held = pipe.execute()
        found = zip(views, places, held, strict=True)
        return {view for view, (_, fingerprint), bucket in found if has(bucket or b"", fingerprint)}


@dataclass(slots=True)
class RedisReader:
    """Connections to Redis with a deadline. `address` gives its URL, and is called again once Redis stops answering.

    A request waits at most `deadline_s` seconds in total.
    """

    address: Callable[[], str]
    deadline_s: float = DEADLINE_S
    deadline: RequestDeadline = field(init=False)
    _finder: ClientFinder = field(init=False)
    _link: _Link | None = None
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        """Make the deadline and the finder of the server's address."""
        self.deadline = RequestDeadline(self.deadline_s)
        self._finder = ClientFinder(self.address)

    @property
    def client(self) -> "Redis":
        """The Redis client, for all servers of a cluster; the caller handles its errors."""
        link = self._linked()
        client: Redis = link.cluster or link.client
        return client

    def ask(self, request: ReadRequest) -> Answers:
        """The answers to a request; raises `OnlineStoreUnavailable` or `Busy` if there are none by the deadline."""
        from redis.exceptions import NoScriptError

        def asked(link: _Link) -> Answers:
            if link.cluster is not None:
                return link.ask_cluster(request)
            try:
                return link.ask(request.written)
            except NoScriptError:
                link.client.script_load(READ)
                return link.ask(request.written)

        answers: Answers = self._answer(asked)
        return answers

    def call(self, what: "Callable[[Redis], Any]") -> Any:
        """Call a function with the client; raises `OnlineStoreUnavailable` or `Busy` if Redis does not answer in time."""
        return self._answer(lambda link: what(link.cluster or link.client))

    def answered_since(self, monotonic_s: float) -> bool:
        """Whether any request was answered since an instant of the deadline's clock: the online store works, if slowly."""
        link = self._link
        return link is not None and link.answered_s > monotonic_s

    def _answer(self, asked: Callable[[_Link], Any]) -> Any:
        from redis.exceptions import RedisClusterException, RedisError

        link: _Link | None = None
        with self.deadline.shared():
            try:
                link = self._linked()
                answer = asked(link)
            except (UserError, RedisError, RedisClusterException, OSError, DeadlineExceeded) as failed:
                raise self._failure(link, failed) from None
        link.answered_s = self.deadline.monotonic()
        return answer

    def _linked(self) -> _Link:
        link = self._link
        if link is not None:
            return link
        # one request connects; concurrent ones wait for it
        if not self._lock.acquire(timeout=self.deadline.left()):
            raise DeadlineExceeded("another request is connecting")
        try:
            if self._link is None:
                url = self._finder.find(self.deadline)
                client = client_of(url, self.deadline)
                try:
                    cluster = _cluster_of(client, url, self.deadline)
                except BaseException:
                    client.close()
                    raise
                self._link = _Link(client, url, cluster)
            return self._link
        finally:
            self._lock.release()

    def _failure(self, link: _Link | None, failed: Exception) -> UserError:
        """The error of a failed request. The address of a server that is gone is looked up again; a slow one keeps its connections."""
        late = _is_late(failed)
        waited, allowed = self.deadline.waited(), self.deadline.seconds
        if late and link is not None and waited < STORE_SHARE * allowed:
            return Busy(
                f"the service is busy: {1000 * allowed:.0f} ms passed, of which the online store took "
                f"{1000 * waited:.0f}: ask again, or run more workers with `velo serve --workers`"
            )
        if link is not None and (not late or self.deadline.monotonic() - link.answered_s > SILENT_S):
            with self._lock:
                if self._link is link:
                    self._link = None
            link.retire()
        where = "" if link is None else f" at {shown(link.url)}"
        remedy = "ask again; if this continues, check that it runs and what keeps it busy"
        return OnlineStoreUnavailable(
            f"the online store{where} does not answer ({_cause_of(failed)}): {remedy if late else 'start it, or correct REDIS_URL'}"
        )


def _is_late(failed: BaseException) -> bool:
    """Whether the deadline passed, also if the client raised its own time-out error."""
    from redis.exceptions import TimeoutError as RedisTimeoutError

    return isinstance(_cause_of(failed), TimeoutError | RedisTimeoutError | DeadlineExceeded)


def _cause_of(failed: BaseException) -> BaseException:
    """The client's own error, if a `UserError` was made of it."""
    about = failed.__context__ if isinstance(failed, UserError) else None
    return failed if about is None else about


def _cluster_of(client: Any, url: str, deadline: RequestDeadline) -> Any:
    """A client of all servers if this one is part of a cluster; else None."""
    from redis.cluster import RedisCluster
    from redis.exceptions import NoPermissionError

    try:
        if not client.info("cluster").get("cluster_enabled"):
            return None
    except NoPermissionError:
        return None
    return RedisCluster.from_url(
        url, socket_timeout=deadline.left(), socket_connect_timeout=deadline.left(), cluster_error_retry_attempts=1
    )
