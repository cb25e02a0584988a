"""One round trip to the online store: a race's version and all feature rows of its runners, as of one moment there.

Half of the time of a read through a client goes into writing the command; here it is written once a card, as bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from feature_repo.stores.race_cards import EVENTS, HEAD, race_key
from feature_repo.stores.race_script import READ, sha_of
from feature_repo.stores.redis_client import shown
from velo.errors import UserError

if TYPE_CHECKING:
    from redis import Redis

PATIENCE_S: Final = 0.1
"""How long to wait for a connection, and for an answer: what asks is told within a quarter of a second."""
HEADERS: Final = 6
"""Answers before the rows: the head's generation, seq, instant (µs) and live; the race's generation and seq."""


class Away(UserError):
    """The online store does not answer in time; it may in a moment."""


@dataclass(slots=True)
class Wire:
    """Impatient connections to a Redis. `address` gives its URL, asked again once it no longer answers."""

    address: Callable[[], str]
    patience_s: float = PATIENCE_S
    _client: "Redis | None" = None
    _url: str = field(default="")

    @property
    def client(self) -> "Redis":
        """The client behind it; what it raises is for the caller to tell."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        if self._client is None:
            self._url = self.address()
            self._client = Redis.from_url(
                self._url,
                socket_timeout=self.patience_s,
                socket_connect_timeout=self.patience_s,
                retry=Retry(NoBackoff(), 0),
            )
        return self._client

    def written(self, race_id: str, keys: Sequence[bytes], fields: Sequence[str]) -> bytes:
        """The command that reads a race's version and a field of each of some keys."""
        parts: list[Any] = [b"EVALSHA", sha_of(READ), 3 + len(keys), race_key(race_id), EVENTS, HEAD, *keys, *fields]
        encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
        return b"".join((b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(one), one) for one in encoded)))

    def ask(self, command: bytes) -> list[bytes | None]:
        """The answers to a written command; raises `Away` within a quarter of a second where there are none."""
        from redis.exceptions import NoScriptError

        try:
            return self._asked(command)
        except NoScriptError:
            self.call(lambda client: client.script_load(READ))
            return self._asked(command)

    def call(self, what: "Callable[[Redis], Any]") -> Any:
        """What a client answers; raises `Away` where it does not in time."""
        from redis.exceptions import NoScriptError, RedisError

        try:
            return what(self.client)
        except NoScriptError:
            raise
        except Away:
            raise
        except (UserError, RedisError, OSError) as failed:
            raise self._away(failed) from None

    def _asked(self, command: bytes) -> list[bytes | None]:
        def ask(client: "Redis") -> list[bytes | None]:
            pool = client.connection_pool
            connection: Any = pool.get_connection()
            try:
                connection.send_packed_command([command])
                answer: list[bytes | None] = connection.read_response()
            except BaseException:
                connection.disconnect()
                raise
            finally:
                pool.release(connection)
            return answer

        answers: list[bytes | None] = self.call(ask)
        return answers

    def _away(self, failed: Exception) -> Away:
        client, self._client = self._client, None
        if client is not None:
            client.close()
        return Away(f"the online store at {shown(self._url)} does not answer ({failed}): start it, or mend REDIS_URL")
