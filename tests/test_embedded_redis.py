"""The store's own Redis: one a home, private, kept on disk, started by whoever comes first."""

import concurrent.futures
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from feature_repo.stores import embedded_redis
from feature_repo.stores.embedded_redis import down, ensure
from feature_repo.stores.redis_client import connect, connect_url
from velo.errors import UserError
from velo.store import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "a home of its own")
    yield home
    down(home)


def port_of(url: str) -> int:
    found = re.search(r":(\d+)/", url)
    assert found
    return int(found[1])


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


def test_nobody_without_its_password_gets_in_and_only_the_owner_can_read_it(home: Home) -> None:
    port = port_of(ensure(home))
    with pytest.raises(AuthenticationError):
        Redis(host="127.0.0.1", port=port, retry=Retry(NoBackoff(), 0)).ping()
    assert stat.S_IMODE(home.redis.stat().st_mode) == 0o700
    for secret in ("password", "address", "redis.conf"):
        assert stat.S_IMODE((home.redis / secret).stat().st_mode) == 0o600, secret


def test_it_listens_on_the_loopback_alone(home: Home) -> None:
    bound = Redis.from_url(ensure(home)).config_get("bind")
    assert bound == {"bind": "127.0.0.1"}


def test_many_starters_at_once_start_one_server(home: Home) -> None:
    program = (
        "import sys; from pathlib import Path; from velo.store import Home; "
        "from feature_repo.stores.embedded_redis import ensure; print(ensure(Home(Path(sys.argv[1]))))"
    )

    def start(_: int) -> str:
        command = [sys.executable, "-c", program, str(home.root)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        urls = set(pool.map(start, range(4)))
    assert len(urls) == 1
    assert (home.redis / "redis.log").read_text().count("Ready to accept connections") == 1


def test_a_killed_server_is_started_anew_with_what_it_had_written(home: Home) -> None:
    url = ensure(home)
    Redis.from_url(url).set("kept", "yes")
    Redis.from_url(url).bgrewriteaof()  # type: ignore[no-untyped-call]
    wait = Redis.from_url(url)
    while wait.info("persistence")["aof_rewrite_in_progress"]:  # type: ignore[index]
        pass
    os.kill(server_pid(url), 9)
    assert Redis.from_url(ensure(home)).get("kept") == b"yes"


def test_a_port_taken_by_another_program_meanwhile_is_not_mistaken_for_ours(home: Home) -> None:
    url = ensure(home)
    down(home)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port_of(url)))
        other.listen()
        again = ensure(home)
        assert port_of(again) != port_of(url)
        assert Redis.from_url(again).ping()


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
    with pytest.raises(UserError, match="install redis-server or valkey-server"):
        embedded_redis.executable()


def test_without_an_address_given_the_homes_own_is_used(home: Home) -> None:
    connect(home).set("here", "1")
    assert Redis.from_url(ensure(home)).get("here") == b"1"


def test_a_server_that_is_down_is_told_in_one_line_within_a_second() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UserError, match=rf"cannot use Redis at redis://127.0.0.1:{port}.*start it") as told:
        connect_url(f"redis://:secret@127.0.0.1:{port}/0")
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_server_that_never_answers_is_told_too() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match="cannot use Redis"):
            connect_url(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")


def test_a_wrong_password_is_told_as_one(home: Home) -> None:
    with pytest.raises(UserError, match="refuses the password") as told:
        connect_url(f"redis://:guess@127.0.0.1:{port_of(ensure(home))}/0")
    assert "guess" not in str(told.value)


UNUSABLE = (
    "http://localhost", "localhost:6379", "redis://localhost:port/0", "redis://localhost:99999", "redis://[::1",
    "redis://localhost/0?socket_timeout=abc", "redis://localhost/0?socket_timeout=-1", "redis://localhost/0?told=1",
    "rediss://localhost/0?ssl_cert_reqs=maybe", "unix:///nowhere?db=one", "redis://localhost?protocol=7",
)  # fmt: skip


@pytest.mark.parametrize("url", UNUSABLE)
def test_what_is_no_redis_url_is_told_as_such(url: str) -> None:
    with pytest.raises(UserError, match="REDIS_URL"):
        connect_url(url)
