"""The store's own Redis: one a home, private, kept on disk, started by whoever comes first."""

import concurrent.futures
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ResponseError
from redis.retry import Retry

from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.embedded_redis import down, ensure
from velo.feature_repo.stores.redis_client import connect, connect_url
from velo.storage.store import Home


@pytest.fixture
def home() -> Iterator[Home]:
    """A home of a path short enough for its socket to lie in it, with a space."""
    with TemporaryDirectory(prefix="a home ") as folder:
        home = Home(Path(folder))
        yield home
        down(home)


def socket_of(url: str) -> str:
    path = Redis.from_url(url).connection_pool.connection_kwargs["path"]
    assert isinstance(path, str)
    return path


def server_pid(url: str) -> int:
    return int(Redis.from_url(url).info("server")["process_id"])  # type: ignore[index]


def test_it_answers_in_a_path_with_a_space_and_is_the_same_when_asked_again(home: Home) -> None:
    url = ensure(home)
    assert Redis.from_url(url).ping()
    assert ensure(home) == url


def test_what_it_held_is_there_after_a_stop_and_a_start(home: Home) -> None:
    Redis.from_url(ensure(home)).set("kept", "yes")
    assert down(home) is True
    assert Redis.from_url(ensure(home)).get("kept") == b"yes"


def test_a_stop_says_whether_there_was_anything_to_stop(home: Home) -> None:
    assert down(home) is False
    ensure(home)
    assert down(home) is True
    assert down(home) is False


def test_nobody_without_its_password_gets_in_and_only_the_owner_can_reach_or_read_it(home: Home) -> None:
    with pytest.raises(AuthenticationError):
        Redis(unix_socket_path=socket_of(ensure(home)), retry=Retry(NoBackoff(), 0)).ping()
    Redis.from_url(ensure(home)).set("kept", "yes")
    assert stat.S_IMODE(home.redis.stat().st_mode) == 0o700
    for path in home.redis.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_it_listens_on_its_socket_alone_and_what_it_may_take_is_bounded(home: Home) -> None:
    url = ensure(home)
    client: Any = Redis.from_url(url)
    assert socket_of(url) == str(home.redis / "redis.sock")
    assert client.config_get("port") == {"port": "0"}
    bounds: Any = client.config_get("maxmemory", "maxmemory-policy", "maxmemory-clients", "client-output-buffer-limit")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < int(bounds["maxmemory"]) <= memory / 2
    assert bounds["maxmemory-policy"] == "noeviction"
    assert int(bounds["maxmemory-clients"]) == 2**30
    assert bounds["client-output-buffer-limit"].startswith("normal 536870912 134217728 60")
    for command in (("DEBUG", "SLEEP", "0"), ("MODULE", "LOAD", "/tmp/x.so"), ("CONFIG", "SET", "dir", "/tmp")):
        with pytest.raises(ResponseError):
            client.execute_command(*command)


def test_the_server_is_one_without_known_advisories_as_the_lock_has_it(home: Home) -> None:
    found: Any = Redis.from_url(ensure(home)).info("server")
    assert found["server_name"] == "valkey"
    assert tuple(map(int, found["valkey_version"].split("."))) >= (9, 1, 2)


def test_a_home_whose_path_is_longer_than_a_socket_may_have_is_reached_all_the_same(tmp_path: Path) -> None:
    home = Home(tmp_path / ("deep" * 20) / ("down" * 20))
    url = ensure(home)
    try:
        link = Path(socket_of(url)).parent
        assert link.readlink() == home.redis
        assert stat.S_IMODE(link.parent.stat().st_mode) == 0o700
        Redis.from_url(url).set("here", "1")
        link.unlink()
        assert ensure(home) == url
        assert connect(home).get("here") == b"1"
    finally:
        down(home)
    assert not link.is_symlink()


def test_what_a_server_of_an_earlier_release_kept_is_read(home: Home) -> None:
    """One file of commands, as Redis 6 keeps it."""
    commands = (("SELECT", "0"), ("SET", "kept", "yes"), ("HSET", "row", "a", "1"))
    lines = [
        f"*{len(command)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in command) for command in commands
    ]
    home.redis.mkdir(parents=True)
    (home.redis / "appendonly.aof").write_text("".join(lines), newline="")
    client: Any = Redis.from_url(ensure(home))
    assert client.get("kept") == b"yes"
    assert client.hget("row", "a") == b"1"


def test_damage_in_what_it_kept_is_said_and_no_other_server_begins_with_nothing_instead(home: Home) -> None:
    client: Any = Redis.from_url(ensure(home))
    for number in range(500):
        client.hset(f"key {number}", mapping={"a": "x" * 50})
    down(home)
    path = max(embedded_redis.data_path(home).iterdir(), key=lambda each: each.stat().st_size)
    content = bytearray(path.read_bytes())
    begin = len(content) // 2
    content[begin : begin + 4096] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged.*remove it, then run `velo online rebuild`"):
        ensure(home)
    shutil.rmtree(embedded_redis.data_path(home))
    assert Redis.from_url(ensure(home)).dbsize() == 0


def test_a_server_that_an_earlier_release_started_on_a_port_is_used_until_it_is_stopped(home: Home) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home.redis.mkdir(parents=True)
    (home.redis / "password").write_text("secret\n")
    (home.redis / "address").write_text(f"redis://:secret@127.0.0.1:{port}/0\n")
    command = [embedded_redis.executable(), "--port", str(port), "--requirepass", "secret", "--save", ""]
    with (home.redis / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = subprocess.Popen(
            command, cwd=home.redis, stdout=subprocess.DEVNULL, pass_fds=(lock.fileno(),), start_new_session=True
        )
    assert ensure(home) == f"redis://:secret@127.0.0.1:{port}/0"
    assert down(home) is True
    server.wait()
    assert ensure(home).startswith("unix://")


def test_many_starters_at_once_start_one_server(home: Home) -> None:
    program = (
        "import sys; from pathlib import Path; from velo.storage.store import Home; "
        "from velo.feature_repo.stores.embedded_redis import ensure; print(ensure(Home(Path(sys.argv[1]))))"
    )

    def start(_: int) -> str:
        command = [sys.executable, "-c", program, str(home.root)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        urls = set(pool.map(start, range(4)))
    assert len(urls) == 1
    assert (home.redis / "redis.log").read_text().count("Ready to accept connections") == 1


def test_a_killed_server_is_started_again_with_what_it_had_written(home: Home) -> None:
    url = ensure(home)
    Redis.from_url(url).set("kept", "yes")
    Redis.from_url(url).bgrewriteaof()  # type: ignore[no-untyped-call]
    wait = Redis.from_url(url)
    while wait.info("persistence")["aof_rewrite_in_progress"]:  # type: ignore[index]
        pass
    os.kill(server_pid(url), 9)
    assert Redis.from_url(ensure(home)).get("kept") == b"yes"


def test_a_socket_left_behind_or_taken_by_another_program_is_not_mistaken_for_ours(home: Home) -> None:
    url = ensure(home)
    down(home)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(socket_of(url))
        other.listen()
        assert Redis.from_url(ensure(home)).ping()


def test_a_copied_home_has_a_server_of_its_own(home: Home, tmp_path: Path) -> None:
    """Also one that was copied while its server ran, with the address of that."""
    Redis.from_url(ensure(home)).set("mine", "1")
    other = Home(tmp_path / "copied")
    other.redis.mkdir(parents=True)
    for name in ("password", "address"):
        (other.redis / name).write_text((home.redis / name).read_text())
    try:
        assert connect(other).get("mine") is None
    finally:
        down(other)


def test_two_homes_have_two_servers(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "another")
    try:
        Redis.from_url(ensure(home)).set("mine", "1")
        assert Redis.from_url(ensure(other)).get("mine") is None
    finally:
        down(other)


def test_no_server_anywhere_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="install valkey-server or redis-server"):
        embedded_redis.executable()


def test_without_an_address_given_the_homes_own_is_used(home: Home) -> None:
    connect(home).set("here", "1")
    assert Redis.from_url(ensure(home)).get("here") == b"1"


def test_a_server_that_is_down_is_reported_in_one_line_within_a_second() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UserError, match=rf"cannot use Redis at redis://127.0.0.1:{port}.*start it") as raised:
        connect_url(f"redis://:secret@127.0.0.1:{port}/0")
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_server_that_never_answers_is_reported_too() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match="cannot use Redis"):
            connect_url(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")


def test_a_wrong_password_is_reported_as_one(home: Home) -> None:
    with pytest.raises(UserError, match="refuses the password") as raised:
        connect_url(f"unix://:guess@{quote(socket_of(ensure(home)))}")
    assert "guess" not in str(raised.value)


UNUSABLE = (
    "http://localhost", "localhost:6379", "redis://localhost:port/0", "redis://localhost:99999", "redis://[::1",
    "redis://localhost/0?socket_timeout=abc", "redis://localhost/0?socket_timeout=-1", "redis://localhost/0?told=1",
    "rediss://localhost/0?ssl_cert_reqs=maybe", "unix:///nowhere?db=one", "redis://localhost?protocol=7",
)  # fmt: skip


@pytest.mark.parametrize("url", UNUSABLE)
def test_what_is_no_redis_url_is_reported_as_such(url: str) -> None:
    with pytest.raises(UserError, match="REDIS_URL"):
        connect_url(url)
