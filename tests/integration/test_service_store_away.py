"""A store that is slow, away, full or catching up is said in time and in one line, and no number is made up."""

import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import NOW, SCORE, a_client, a_hurried_service, in_a_quarter_of_a_second, posted, refused
from velo.serving.scoring.redis_reader import OnlineStoreUnavailable, RedisReader
from velo.serving.scoring.score_log import ScoreLog
from velo.serving.scoring.scorer import Scorer
from velo.storage.atomic_files import make_folder
from velo.storage.store import Home, Store


@pytest.fixture(scope="module")
def store(streamed_store: Store) -> Store:
    return streamed_store


def a_server(listening: socket.socket, ask: str) -> None:
    """A Redis that takes connections and is no good: never answers, or is gone in the middle of an answer."""

    def each(connection: socket.socket) -> None:
        with connection:
            while ask != "silent" and (found := connection.recv(65536)):
                # what a client says of itself is taken, the first question is answered by half
                asked = found.count(b"*")
                if b"HELLO" in found or b"CLIENT" in found or b"INFO" in found:
                    connection.sendall(b"$0\r\n\r\n" if b"INFO" in found else b"+OK\r\n" * asked)
                elif ask == "dies":
                    connection.sendall(b"*6\r\n$3\r\n")
                    return
                else:
                    connection.sendall(b"*6\r\n$3\r\n")
            while connection.recv(65536):
                pass

    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=each, args=(connection,), daemon=True).start()


@pytest.mark.parametrize("how", ["absent", "silent", "dies", "half"])
def test_a_slow_or_absent_redis_is_said_within_a_quarter_of_a_second(store: Store, how: str) -> None:
    """One that is not there, says nothing, dies while it answers, or never ends its answer: never a made-up number."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if how != "absent":
            listening.listen(64)
            threading.Thread(target=a_server, args=(listening, how), daemon=True).start()
        port = listening.getsockname()[1]
        service = a_hurried_service(store)
        service.scorer.online.redis = RedisReader(lambda: f"redis://127.0.0.1:{port}/0")
        client = a_client(service)
        service.scorer.bundles.current()
        client.get("/healthz")
        for path, body in ((SCORE, None), ("/v1/races", None), ("/v1/races/to%20come", None), ("/v1/score", posted())):

            def ask(path: str = path, body: dict[str, Any] | None = body) -> None:
                answer = client.post(path, json=body) if body else client.get(path)
                refused(answer, 503, "does not answer")
                assert answer.headers["retry-after"] == "1"

            in_a_quarter_of_a_second(ask)
        listening.shutdown(socket.SHUT_RDWR) if how != "absent" else None


def test_a_redis_that_is_looked_for_or_started_is_waited_for_no_longer_either(store: Store) -> None:
    """The next who asks goes on waiting for the same search, and is answered as soon as it ends."""
    real = a_hurried_service(store).scorer.online.redis.address
    begin = threading.Event()

    def slowly() -> str:
        begin.wait()
        return real()

    service = a_hurried_service(store)
    service.scorer.online.redis = RedisReader(slowly)
    service.scorer.bundles.current()
    client = a_client(service)
    in_a_quarter_of_a_second(lambda: refused(client.get(SCORE), 503, "does not answer", "looked for, or started"))
    begin.set()
    until = time.monotonic() + 10.0
    while client.get(SCORE).status_code != 200:
        assert time.monotonic() < until


def test_a_request_that_runs_out_of_time_closes_no_connection_of_another(store: Store) -> None:
    """One waits for an answer that comes late, one beside it for an answer that never comes."""
    reader: Any = a_hurried_service(store).scorer.online.redis
    reader.deadline.seconds = 10.0
    assert reader.call(lambda client: client.ping())
    link = reader.client.connection_pool
    answers: list[Any] = []
    patient = threading.Thread(
        target=lambda: answers.append(reader.call(lambda client: client.blpop("answered", timeout=10)))
    )
    patient.start()
    until = time.monotonic() + 10.0
    while not any(each["cmd"] == "blpop" for each in reader.client.client_list()):
        assert time.monotonic() < until
    reader.deadline.seconds = 0.1
    with pytest.raises(OnlineStoreUnavailable, match="does not answer"):
        reader.call(lambda client: client.blpop("never", timeout=10))
    reader.deadline.seconds = 2.0
    reader.call(lambda client: client.rpush("answered", "here"))
    patient.join()
    assert answers == [(b"answered", b"here")]
    assert reader.client.connection_pool is link


def test_a_process_without_time_to_read_blames_itself_and_not_the_store(store: Store) -> None:
    service = a_hurried_service(store)
    reader = service.scorer.online.redis
    assert a_client(service).get(SCORE).status_code == 200
    real, now = reader.deadline.monotonic, time.monotonic()

    def busy() -> float:
        """Of each look at the clock the machine takes a while."""
        nonlocal now
        now += 0.25
        return now

    reader.deadline.monotonic = busy
    answer = a_client(service).get(SCORE)
    reader.deadline.monotonic = real
    refused(answer, 503, "the service is busy", "--workers")
    assert answer.headers["retry-after"] == "1"
    assert a_client(service).get(SCORE).status_code == 200


def test_a_redis_that_came_back_answers_the_next_request(store: Store) -> None:
    """Connections that it closed meanwhile are distinguished from a server that is away."""
    service = a_hurried_service(store)
    client = a_client(service)
    assert client.get(SCORE).status_code == 200
    redis: Any = service.scorer.online.redis.client
    redis.client_kill_filter(_type="normal", skipme=True)
    assert client.get(SCORE).status_code == 200


def test_a_score_that_cannot_be_kept_is_not_served(store: Store, tmp_path: Path) -> None:
    """As on a full disk: what is served can always be made again."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here: a full disk is NOT tried")
    service = a_hurried_service(store)
    log = ScoreLog(Home(tmp_path))
    (make_folder(Home(tmp_path).scores) / f"{NOW:%Y-%m-%d}.ndjson").symlink_to(full)
    client = a_client(replace(service, keep=log))
    refused(client.get(SCORE), 503, "could not be logged in", "make room there")
    log.close()


def test_a_stream_that_catches_up_is_said(store: Store) -> None:
    scorer: Scorer = a_hurried_service(store).scorer
    redis = scorer.online.redis.client
    redis.hset("{velo}:head", "live", "0")
    try:
        refused(a_client(a_hurried_service(store)).get(SCORE), 503, "catching up")
    finally:
        redis.hset("{velo}:head", "live", "1")
