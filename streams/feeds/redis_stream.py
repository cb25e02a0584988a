"""Read a Redis Stream as a feed, and add messages to one: an entry's field `message` is the JSON.

The offset is kept in the store's home, so XREAD without a consumer group suffices. Entries up to the offset that
`velo ingest --follow` reports as settled may be trimmed.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from velo.errors import UserError
from velo.feature_repo.stores.redis_client import redis_errors
from velo.streams.feeds.source import Delivery, FeedAway

if TYPE_CHECKING:
    from redis import Redis
    from redis.cluster import RedisCluster

    Client = Redis | RedisCluster

FIELD: Final = b"message"
_PIPELINE: Final = 500


class RedisFeed:
    """The entries of one stream, oldest first."""

    def __init__(self, client: "Client", key: str) -> None:
        self._client = client
        self._key = key
        self._after = "0-0"

    @property
    def name(self) -> str:
        """`redis:` and the stream's key."""
        return f"redis:{self._key}"

    def begin(self, after: str | None) -> None:
        """Continue after an entry id. Redis never reuses an id, so a trimmed stream continues safely."""
        self._after = after or "0-0"
        with self._errors_converted():
            kind: Any = self._client.type(self._key)
        if kind not in (b"stream", b"none"):
            raise UserError(f"{self._key!r} in Redis holds a {kind.decode()}, not a stream: name a stream's key")

    def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Return the next entries."""
        with self._errors_converted():
            answer: Any = self._client.xread({self._key: self._after}, count=limit, block=max(1, int(wait_s * 1000)))
        if not answer:
            return []
        ((_, entries),) = answer.items() if isinstance(answer, dict) else answer
        taken = [Delivery(at.decode(), (fields or {}).get(FIELD)) for at, fields in entries]
        self._after = taken[-1].at
        return taken

    def settle(self, at: str) -> None:
        """Do nothing: the offset is in the store's home."""

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextmanager
    def _errors_converted(self) -> Iterator[None]:
        from redis import exceptions

        try:
            yield
        except exceptions.AuthenticationError as refused:
            raise UserError(f"Redis refuses the password ({refused}): correct it in the URL") from None
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as failed:
            raise FeedAway(str(failed)) from failed
        except exceptions.ResponseError as wrong:
            raise UserError(f"Redis will not read {self._key!r} as a stream ({wrong}): name a stream's key") from None


def put(client: "Client", url: str, key: str, bodies: Iterable[bytes]) -> int:
    """Add messages to the end of a stream, in order; returns their number."""
    count = 0
    with redis_errors(url):
        pipeline: Any = client.pipeline(transaction=False)
        for body in bodies:
            pipeline.xadd(key, {FIELD: body})
            count += 1
            if count % _PIPELINE == 0:
                pipeline.execute()
        pipeline.execute()
    return count
