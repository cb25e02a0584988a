"""`velo up` as an operator runs it: a feed, odds posted beside it, a killed stream, and a clean stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import velo
from tests.support.feeds import encoded, said, sent, sent_result
from tests.support.logs import a_store
from tests.support.shared import REPO
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect_url
from velo.storage.store import Home
from velo.streams.feeds.redis_stream import put
from velo.supervisor import state_of

PATIENCE_S = 120.0
TOKEN = "a token"


def wait_for(what: Callable[[], Any]) -> Any:
    """The first true answer; fails where none comes."""
    until = time.monotonic() + PATIENCE_S
    while not (answer := what()):
        assert time.monotonic() < until, f"waited {PATIENCE_S:.0f} s"
        time.sleep(0.05)
    return answer


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def running(tmp_path: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """`velo up` on an empty store, with a feed in the store's own Redis."""
    environ = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "VELO_TIMEZONE")}
    environ |= {"VELO_HOME": str(tmp_path / "home"), "VELO_TOKEN": TOKEN}
    command = [sys.executable, "-m", "velo.cli", "up", "--port", str(port), "--redis", "racing", "--night", "off"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=REPO, env=environ, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE_S)
        embedded_redis.down(Home(tmp_path / "home"))


def ask(port: int, path: str, body: Any = None) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()
    except OSError:
        return 0, None


def test_a_race_day_in_one_command(tmp_path: Path, port: int, running: "subprocess.Popen[bytes]") -> None:
    home = Home(tmp_path / "home")
    wait_for(lambda: ask(port, "/healthz")[0] == 200)
    feed = connect_url(wait_for(lambda: embedded_redis.running(home)))
    off = datetime.now(UTC) + timedelta(hours=2)
    card = sent(
        "racecard", "to come", race_date=off.date().isoformat(), off_time=off.isoformat(), course="Ascot",
        runners=[{"horse": "Arkle", "trainer": "T Dreaper"}, {"horse": "Mill House", "trainer": "F Walwyn"}],
    )  # fmt: skip
    put(feed, "redis://", "racing", encoded(sent_result("R1"), card))

    def kinds() -> list[str]:
        return [record["type"] for record in said(a_store(home.root))]

    wait_for(lambda: {"result", "racecard"} <= {*kinds()})
    # the stream, which follows the feed, is killed: it is started again
    state = wait_for(lambda: state_of(home))
    pids = {program["name"]: program["pid"] for program in state["programs"]}
    os.kill(pids["stream"], signal.SIGKILL)
    restarted = wait_for(lambda: (state_of(home) or {"programs": [{"restarts": 0}]})["programs"][0]["restarts"])
    assert restarted == 1
    # odds find the log's writer though the feed is followed
    odds = {"prices": {"arkle": 2.5}, "source": "tote"}
    wait_for(lambda: ask(port, "/v1/races/to%20come/odds", odds)[0] == 202)
    put(feed, "redis://", "racing", encoded(sent_result("R2")))
    wait_for(lambda: kinds().count("result") == 2)
    assert kinds().count("market") == 1
    shown = velo("status", home=home.root).out
    assert "stream runs, 1 restarts; service runs" in shown
    assert f"http://127.0.0.1:{port}/" in shown
    # a second one changes nothing
    velo("up", home=home.root).told("already runs", str(running.pid))
    # a clean stop
    running.terminate()
    assert running.wait(PATIENCE_S) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[-1]["event"] == "up.ends"
    assert lines[-1]["codes"]["stream"] == 0
    assert embedded_redis.running(home) is None
    assert {line["program"] for line in lines} >= {"up", "stream"}


def test_a_wrong_setting_ends_it_with_one_line(tmp_path: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        done = subprocess.run(
            [sys.executable, "-m", "velo.cli", "up", "--port", str(port), "--night", "off"],
            cwd=REPO, env=os.environ | {"VELO_HOME": str(tmp_path / "home")}, capture_output=True, check=False, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"velo: cannot listen on 127.0.0.1:{port}: give another")
    assert embedded_redis.running(Home(tmp_path / "home")) is None
    velo("up", "--night", "25:00", home=tmp_path / "other").told(
        "--night is '25:00', but must be a time such as 04:30, or off"
    )
