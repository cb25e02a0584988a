"""A connection to the online store, or one line that says why there is none. Knows nothing of Feast."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from feature_repo.stores import embedded_redis
from velo.errors import UserError
from velo.storage.store import Home

if TYPE_CHECKING:
    from redis import Redis
    from redis.cluster import RedisCluster

CONNECT_SECONDS = 0.8
ANSWER_SECONDS = 30.0
SCHEMES = ("redis://", "rediss://", "unix://")


def connect(home: Home, redis_url: str | None = None) -> "Redis | RedisCluster":
    """A client of the Redis at `redis_url`, or of the home's own; a Redis Cluster is recognised as one.

    Raises `UserError` within a second where it is down or refuses the password.
    """
    return connect_url(redis_url or embedded_redis.ensure(home))


def connect_url(url: str) -> "Redis | RedisCluster":
    """A client of the Redis at a redis://, rediss:// or unix:// URL, which has answered."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.cluster import RedisCluster
    from redis.exceptions import NoPermissionError
    from redis.retry import Retry

    refuse_unusable(url)
    with errors_told(url):
        quick: dict[str, Any] = {"socket_timeout": CONNECT_SECONDS, "retry": Retry(NoBackoff(), 0)}
        if not url.startswith("unix://"):
            quick["socket_connect_timeout"] = CONNECT_SECONDS
        probe = Redis.from_url(url, **quick)
        try:
            told_of: Any = probe.info("cluster")
            clustered = bool(told_of.get("cluster_enabled"))
        except NoPermissionError:
            clustered = not probe.ping()
        finally:
            probe.close()
        if clustered:
            return RedisCluster.from_url(url, socket_timeout=ANSWER_SECONDS)
        return Redis.from_url(url, **(quick | {"socket_timeout": ANSWER_SECONDS}))


def refuse_unusable(url: str) -> None:
    """Raise `UserError` for a URL that no client can use, whatever server is there: waiting would not mend it."""
    from redis import ConnectionPool
    from redis.exceptions import RedisError

    if not url.startswith(SCHEMES):
        raise UserError(f"REDIS_URL is {shown(url)!r}, but must begin with one of {', '.join(SCHEMES)}")
    timeouts: list[float | None] = []
    try:
        _ = urlsplit(url).port
        pool: Any = ConnectionPool.from_url(url)
        # made, and not connected: a client looks at its options here
        made = pool.make_connection()
        timeouts = [getattr(made, name, None) for name in ("socket_timeout", "socket_connect_timeout")]
    except (ValueError, TypeError, RedisError) as bad:
        raise UserError(
            f"REDIS_URL is no URL of a Redis ({bad}): write redis://[:password@]host[:port][/database]"
        ) from None
    if any(one is not None and not one > 0 for one in timeouts):
        raise UserError(f"REDIS_URL has a timeout of {timeouts} s, but one is more than 0: mend its socket_timeout")


@contextmanager
def errors_told(url: str) -> Iterator[None]:
    """Turn what a Redis client raises when it cannot talk to its server into a `UserError`."""
    from redis.exceptions import AuthenticationError, RedisClusterException, RedisError

    try:
        yield
    except AuthenticationError as refused:
        raise UserError(
            f"Redis at {shown(url)} refuses the password ({refused}): mend the one in REDIS_URL, or unset REDIS_URL "
            "to use the store's own Redis"
        ) from None
    except (RedisError, RedisClusterException, OSError) as failed:
        raise UserError(
            f"cannot use Redis at {shown(url)} ({failed}): start it, mend REDIS_URL, or unset REDIS_URL to use the "
            "store's own Redis"
        ) from None


def is_cluster(client: Any) -> bool:
    """Whether a client speaks to a Redis Cluster, of redis-py's own kind or its asynchronous one."""
    return hasattr(client, "get_node_from_key")


def shown(url: str) -> str:
    """A URL without its password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
