"""The door to the machine: which Host is answered, what a page may load, and several processes that answer as one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.services import ODDS, SCORE, TOKEN, WRITES, a_client, a_service, refused
from tests.support.shared import REPO
from velo.serving.api.access import allowed, name_of
from velo.serving.api.app import app_of
from velo.storage.store import Store


@pytest.fixture(scope="module")
def store(streamed_store: Store) -> Store:
    return streamed_store


@pytest.fixture
def client(store: Store) -> TestClient:
    return a_client(a_service(store))


OURS = ("127.0.0.1", "127.0.0.1:8000", "localhost", "LocalHost.:8000", "[::1]", "[::1]:8000")
OTHERS = (
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "10.0.0.1",
    "[::2]:80",
)
NONE = ("", "127.0.0.1:x", "[::1", "[::1]x", "a b:1:", ":80")
PATHS = ("/", "/v1/races", SCORE, "/metrics", "/openapi.json", "/docs", "/desk/desk.js", "/v1/events")


@pytest.mark.parametrize("host", OURS)
def test_the_loopbacks_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", OTHERS)
def test_another_name_reads_nothing(client: TestClient, path: str, host: str) -> None:
    """As a page sends it whose own name was made to mean this machine."""
    refused(client.get(path, headers={"Host": host}), 421, "does not answer to", "VELO_HOSTS=")


@pytest.mark.parametrize("host", NONE)
def test_what_is_no_host_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code in (400, 421)


def test_the_address_it_listens_on_and_the_names_of_the_setting_are_answered(store: Store) -> None:
    assert allowed("192.168.1.5", " desk.example, scores.example:443 ,") == {
        "127.0.0.1", "localhost", "::1", "192.168.1.5", "desk.example", "scores.example",
    }  # fmt: skip
    assert allowed("0.0.0.0", None) == {"127.0.0.1", "localhost", "::1"}
    assert name_of("[2001:DB8::1]:8000") == "2001:db8::1"
    named = TestClient(app_of(a_service(store), hosts=allowed("0.0.0.0", "desk.example")))
    assert named.get("/healthz", headers={"Host": "Desk.Example:8000"}).status_code == 200
    refused(named.get("/healthz", headers={"Host": "other.example"}), 421)
    anyone = TestClient(app_of(a_service(store), hosts=allowed("0.0.0.0", "*")))
    assert anyone.get("/healthz", headers={"Host": "other.example"}).status_code == 200


@pytest.mark.parametrize("path", [*PATHS[:-1], "/nowhere", "/v1/races/none"])
def test_every_answer_says_what_may_be_loaded(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_the_reference_is_whole_and_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path.replace('{', '{')}" in page.text
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page.text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert loaded
    assert all(message.startswith("/") and not message.startswith("//") for message in loaded)
    assert "<script" not in page.text
    assert all(client.get(message).status_code == 200 for message in loaded)


@pytest.fixture(scope="module")
def processes(store: Store) -> Iterator[tuple[int, int]]:
    """`velo serve --workers 2` of the store: its port, and the process that started the two."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**os.environ, "VELO_HOME": str(store.home.root), "VELO_TOKEN": TOKEN, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "velo.cli", "serve", "--port", str(port), "--workers", "2"]
    process = subprocess.Popen(command, env=environ, cwd=REPO, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while len(list(store.home.stream.glob("figures-*/counter_*.db"))) < 2:
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.1)
        while ask_or_none(port) != 200:
            assert time.monotonic() < until
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not list(store.home.stream.glob("figures-*"))


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(
            method, path, None if body is None else json.dumps(body), WRITES | {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()


def ask_or_none(port: int) -> int | None:
    try:
        return ask(port, "GET", "/healthz")[0]
    except OSError:
        return None


def test_several_processes_answer_alike_take_odds_and_add_up_their_figures(
    store: Store, processes: tuple[int, int]
) -> None:
    """One log, one score log, one account: whichever process is asked."""
    port, _ = processes
    before = len(scored(store))
    as_of = f"{SCORE}?as_of=2023-06-01T13:00:00Z"
    answers: list[dict[str, Any]] = []
    taken: list[int] = []

    def ask_for_scores() -> None:
        for _ in range(10):
            status, body = ask(port, "GET", as_of)
            assert status == 200, body
            answers.append(json.loads(body))

    def post_odds(begin: int) -> None:
        for number in range(10):
            status, body = ask(port, "POST", ODDS, {"prices": {"horse 1": 2.0 + begin + number}, "source": "test"})
            assert status == 202, body
            taken.append(json.loads(body)["seq"])

    work = [threading.Thread(target=ask_for_scores) for _ in range(4)]
    work += [threading.Thread(target=post_odds, args=(100 * at,)) for at in range(4)]
    for each in work:
        each.start()
    for each in work:
        each.join()
    assert len(answers) == 40
    for answer in answers:
        del answer["scored_at"]
    assert all(answer == answers[0] for answer in answers)
    assert len(set(taken)) == 40
    assert len(scored(store)) > before
    _, found = ask(port, "GET", "/metrics")
    counted = re.search(rb'score_seconds_count\{origin="history"\} (\d+)', found)
    assert counted
    assert int(counted[1]) == 40


def scored(store: Store) -> list[str]:
    return [line for path in store.home.scores.glob("*.ndjson") for line in path.read_text().splitlines()]
