"""Connect to the online store, or raise a one-line error. Does not import Feast."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis
from velo.storage.store import Home

if TYPE_CHECKING:
    from redis import Redis
    from redis.cluster import RedisCluster

CONNECT_SECONDS = 0.8
ANSWER_SECONDS = 30.0
SCHEMES = ("redis://", "rediss://", "unix://")


def connect(home: Home, redis_url: str | None = None) -> "Redis | RedisCluster":
    """Connect to the Redis at `redis_url`, by default the home's own; detects a Redis Cluster.

    Raises `UserError` within a second if the server is down or refuses the password.
    """
    return connect_url(redis_url or embedded_redis.ensure(home))


def connect_url(url: str) -> "Redis | RedisCluster":
    """Connect to the Redis at a redis://, rediss:// or unix:// URL; returns after it has answered."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.cluster import RedisCluster
    from redis.exceptions import NoPermissionError
    from redis.retry import Retry

    refuse_unusable(url)
    with redis_errors(url):
        quick: dict[str, Any] = {"socket_timeout": CONNECT_SECONDS, "retry": Retry(NoBackoff(), 0)}
        if not url.startswith("unix://"):
            quick["socket_connect_timeout"] = CONNECT_SECONDS
        probe = Redis.from_url(url, **quick)
        try:
            info: Any = probe.info("cluster")
            clustered = bool(info.get("cluster_enabled"))
        except NoPermissionError:
            clustered = not probe.ping()
        finally:
            probe.close()
        if clustered:
            return RedisCluster.from_url(url, socket_timeout=ANSWER_SECONDS)
        return Redis.from_url(url, **(quick | {"socket_timeout": ANSWER_SECONDS}))


def refuse_unusable(url: str) -> None:
    """Raise `UserError` for a URL that no client can use: a retry would not help."""
    from redis import ConnectionPool
    from redis.exceptions import RedisError

    if not url.startswith(SCHEMES):
        raise UserError(f"REDIS_URL is {shown(url)!r}, but must begin with one of {', '.join(SCHEMES)}")
    timeouts: list[float | None] = []
    try:
        _ = urlsplit(url).port
        pool: Any = ConnectionPool.from_url(url)
        # redis-py checks the options when it makes a connection, before it connects
        connection = pool.make_connection()
        timeouts = [getattr(connection, name, None) for name in ("socket_timeout", "socket_connect_timeout")]
    except (ValueError, TypeError, RedisError) as bad:
        raise UserError(
            f"REDIS_URL is not a Redis URL ({bad}): write redis://[:password@]host[:port][/database]"
        ) from None
    if any(seconds is not None and not seconds > 0 for seconds in timeouts):
        raise UserError(f"REDIS_URL has a timeout of {timeouts} s, but it must be > 0: correct its socket_timeout")


@contextmanager
def redis_errors(url: str) -> Iterator[None]:
    """Convert the connection errors of a Redis client to `UserError`."""
    from redis.exceptions import AuthenticationError, RedisClusterException, RedisError

    try:
        yield
    except AuthenticationError as refused:
        raise UserError(
            f"Redis at {shown(url)} refuses the password ({refused}): correct it in REDIS_URL, or unset REDIS_URL "
            "to use the store's own Redis"
        ) from None
    except (RedisError, RedisClusterException, OSError) as failed:
        raise UserError(
            f"cannot use Redis at {shown(url)} ({failed}): start it, correct REDIS_URL, or unset REDIS_URL to use the "
            "store's own Redis"
        ) from None


def is_cluster(client: Any) -> bool:
    """Whether a client, synchronous or asynchronous, is of a Redis Cluster."""
    return hasattr(client, "get_node_from_key")


def shown(url: str) -> str:
    """Return a URL without its password and options."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
