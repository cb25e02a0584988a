"""Whoever means the service ill takes a bounded part of it: real sockets, a head without end, a body that trickles, crowds."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.support.live_services import Up, everything, until, up
from tests.support.services import NOW, ODDS, WRITES, a_client, a_service, refused, tell
from velo.racing.messages import Market, NonRunner
from velo.serving.api import events
from velo.serving.api.connections import HEAD_BYTES, BoundedConnection
from velo.serving.api.limits import BoundedBody
from velo.storage.log import reader
from velo.storage.store import Store

pytestmark = pytest.mark.slow


class Hasty(BoundedConnection):
    """As the service's own, with less time and fewer places."""

    most = 60
    head_s = 0.5
    read_s = 0.5


class Crowded(BoundedConnection):
    """Few places, and all the time of the service's own."""

    most = 60


@pytest.fixture(scope="module")
def store(streamed_store: Store) -> Store:
    return streamed_store


@pytest.fixture(scope="module")
def served(store: Store) -> Iterator[Up]:
    with up(a_service(store), http=Hasty) as each:
        yield each


def lives(served: Up) -> None:
    """It answers another client, at once."""
    begun = time.monotonic()
    with closing(served.asks("/healthz", Connection="close")) as other:
        assert b'{"status":"ok"}' in everything(other)
    assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize("what", ["one header", "many headers", "address"])
def test_a_head_without_end_is_refused_at_its_bound(served: Up, what: str) -> None:
    """However it is made; no more of it is taken than a bound and what the system had on its way."""
    begin = {"one header": b"GET / HTTP/1.1\r\nX: ", "many headers": b"GET / HTTP/1.1\r\n", "address": b"GET /"}[what]
    more = b"A: b\r\n" * 1000 if what == "many headers" else b"a" * 6000
    taken = 0
    with closing(served.connect()) as attacker:
        attacker.sendall(begin)
        with suppress(ConnectionError):
            for _ in range(10_000):
                attacker.sendall(more)
                taken += len(more)
        found = everything(attacker)
    assert taken < 30_000_000, "it would have taken all"
    if found:
        assert found.startswith(b"HTTP/1.1 431 ")
        assert b"longer than 32,768 bytes" in found
    lives(served)


def test_a_head_as_long_as_it_may_be_is_answered(served: Up) -> None:
    with closing(served.asks("/healthz", Connection="close", X="a" * (HEAD_BYTES - 1000))) as each:
        assert b'{"status":"ok"}' in everything(each)


def test_who_says_nothing_or_begins_and_trickles_is_let_go(served: Up) -> None:
    """Half a second here: from being connected, from the first byte, and after an answer."""
    with closing(served.connect()) as silent, closing(served.connect()) as slow, closing(served.connect()) as second:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        second.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b'"ok"' in until(second, b'"ok"}')
        second.sendall(b"GET /hea")
        begun = time.monotonic()
        ended: set[str] = set()
        trickling = {"slow": slow, "second": second}
        while len(ended) < 2:
            assert time.monotonic() - begun < 10.0, f"still there: {trickling.keys() - ended}"
            for name, each in trickling.items():
                if name in ended:
                    continue
                try:
                    each.sendall(b"A")
                    each.settimeout(0.05)
                    if each.recv(1000) == b"":
                        ended.add(name)
                except TimeoutError:
                    pass
                except ConnectionError:
                    ended.add(name)
        assert everything(silent) == b""
    lives(served)


def test_a_body_that_does_not_come_is_refused_in_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = BoundedBody.__init__.__defaults__
    assert defaults is not None
    monkeypatch.setattr(BoundedBody.__init__, "__defaults__", (*defaults[:-1], 0.3))
    with up(a_service(store)) as served, closing(served.connect()) as slow:
        slow.sendall(b"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        received = until(slow, b"}")
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b"took more than 0.3 s to come" in received
        lives(served)


def test_a_crowd_finds_no_more_places_than_there_are(served: Up) -> None:
    """Four hundred that connect and wait: most are let go as they come, and when those that stay are, there is room again."""
    crowd = [served.connect() for _ in range(400)]
    try:
        stayed = 0
        for client in crowd:
            client.settimeout(0.01)
            with suppress(ConnectionError, TimeoutError):
                if client.recv(1) == b"":
                    continue
                raise AssertionError("nothing was asked")
            stayed += 1
        assert len(served.server.server_state.connections) <= Hasty.most
        until_s = time.monotonic() + 10.0
        while served.server.server_state.connections:
            assert time.monotonic() < until_s
            time.sleep(0.02)
        lives(served)
    finally:
        for client in crowd:
            client.close()


SLOW = {
    "head": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    "body": b"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
}


@pytest.mark.parametrize("what", SLOW)
def test_slow_requests_that_take_all_places_give_way_to_whoever_asks(store: Store, what: str) -> None:
    """Seven hundred that begin a request and never end it: each other client is answered at once, before they are late."""
    with up(a_service(store), http=Crowded) as served:
        crowd = []
        try:
            for _ in range(700):
                slow = served.connect()
                slow.sendall(SLOW[what])
                crowd.append(slow)
            for _ in range(20):
                lives(served)
            assert len(served.server.server_state.connections) <= Crowded.most
            assert crowd[-1].fileno() >= 0
        finally:
            for client in crowd:
                client.close()


def test_who_waits_for_an_answer_never_gives_way(store: Store) -> None:
    with up(a_service(store), http=Crowded) as served, closing(served.asks("/v1/events")) as listener:
        until(listener, b"from here on")
        crowd = [served.connect() for _ in range(200)]
        tell(store, Market("to come", {"horse 1": 12.0}, "show"), at=NOW)
        assert b"event: market" in until(listener, b"event: market")
        for client in crowd:
            client.close()


def test_requests_sent_ahead_of_their_answers_are_bounded(served: Up) -> None:
    """Many that pipeline without end and never read: each is let go, memory stays, and others are answered."""
    before = resident_mb()
    crowd = [served.connect() for _ in range(40)]
    many = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20_000
    for client in crowd:
        client.settimeout(0.2)
        with suppress(ConnectionError, TimeoutError):
            client.sendall(many)
    lives(served)
    assert resident_mb() - before < 100.0
    for client in crowd:
        client.settimeout(10.0)
        everything(client)
        client.close()
    lives(served)


def test_as_many_requests_ahead_as_a_client_may_send_are_answered_in_turn(served: Up) -> None:
    with closing(served.connect()) as each:
        each.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 32)
        received = b""
        while received.count(b'"ok"') < 32:
            part = each.recv(65536)
            assert part, received
            received += part


def test_who_does_not_read_what_was_asked_for_is_let_go(served: Up) -> None:
    """Its buffers are full of answers; it has half a second here to begin to read."""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", served.port))
        began = time.monotonic()
        while served.server.server_state.connections or time.monotonic() - began < 0.2:
            with suppress(ConnectionError, BlockingIOError):
                slow.setblocking(False)
                slow.send(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 8)
            assert time.monotonic() - began < 20.0, "it is still held"
            time.sleep(0.02)
    lives(served)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_listeners_beyond_their_bound_are_refused_and_their_places_come_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for all at once, before any had its first line; those who leave early leave no place taken."""
    monkeypatch.setattr(events, "LISTENERS", 20)
    with up(a_service(store)) as served:
        crowd = [served.asks("/v1/events") for _ in range(150)]
        received = [until(client, b"\r\n\r\n") for client in crowd]
        assert sum(each.startswith(b"HTTP/1.1 200 ") for each in received) == 10, "half of the places for one address"
        refused = [each for each in received if each.startswith(b"HTTP/1.1 429 ")]
        assert len(refused) == 140
        assert all(b"retry-after: 1" in refusal.lower() for refusal in refused)
        with closing(served.asks("/metrics", Connection="close")) as each:
            assert b'velo_serve_over_share_total{queue="listeners"} 140.0' in everything(each)
        for each in crowd:
            each.close()
        for _ in range(50):
            served.asks("/v1/events").close()
        until_s = time.monotonic() + 30.0
        while served.app.state.hub.listeners:
            assert time.monotonic() < until_s
            tell(store, Market("to come", {"horse 1": 5.0}, "show"))
            time.sleep(0.2)


def events_of(received: bytes) -> list[dict[str, object]]:
    return [json.loads(line[6:]) for line in received.decode().splitlines() if line.startswith("data: ")]


def test_who_listens_gets_after_the_service_came_back_what_was_sent_while_it_was_gone(store: Store) -> None:
    """By the id of the last event it had: each once, in order, and what follows live."""
    service = a_service(store)
    with up(service) as served, closing(served.asks("/v1/events")) as each:
        until(each, b"from here on")
        tell(store, NonRunner("to come", "horse 6", "lame"), at=NOW)
        received = until(each, b'"seq"')
        assert b"event: non_runner" in received
        last = next(line for line in received.decode().splitlines() if line.startswith("id: "))[4:]
        port = served.port
    for price in (7.0, 8.0, 9.0):
        tell(store, Market("to come", {"horse 1": price}, "show"), at=NOW)
    with up(a_service(store), port=port) as served, closing(served.asks("/v1/events", Last_Event_ID=last)) as each:
        seen: list[dict[str, object]] = []
        buffer = b""
        while len(seen) < 3:
            buffer += each.recv(65536)
            seen = events_of(buffer)
        tell(store, Market("to come", {"horse 1": 10.0}, "show"), at=NOW)
        while len(seen) < 4:
            buffer += each.recv(65536)
            seen = events_of(buffer)
        first = int(last.partition("-")[0])
        assert [event["seq"] for event in seen] == [first + n for n in range(4)]
        assert {event["type"] for event in seen} == {"market"}


def test_a_service_that_stops_waits_for_no_listener(store: Store) -> None:
    """A desk that is open would hold it up until it is killed; the listener connects to the next one."""
    with up(a_service(store)) as served, closing(served.asks("/v1/events")) as each:
        until(each, b"from here on")
        served.server.config.timeout_graceful_shutdown = 60
        served.server.should_exit = True
        everything(each)  # fails where the connection stays open


def test_a_message_that_is_posted_again_with_its_key_is_written_once(store: Store) -> None:
    """By a service that was started again: whether the first answer came or not, nothing is doubled."""
    client = a_client(a_service(store))
    begin = reader.end(store.home).next_seq
    for path, body in (
        (ODDS, {"prices": {"horse 1": 7.5}}),
        (ODDS.replace("odds", "reinstatements"), {"horse_id": "horse 7"}),
        (ODDS.replace("odds", "withdrawals"), {"horse_id": "horse 7"}),
    ):
        headers = WRITES | {"Idempotency-Key": f"key-of-{path.rpartition('/')[2]}"}
        answers = [each.post(path, json=body, headers=headers) for each in (client, client, a_client(a_service(store)))]
        assert [answer.status_code for answer in answers] == [202, 202, 202]
        assert [answer.json()["seq"] is None for answer in answers] == [False, True, True]
    assert reader.end(store.home).next_seq == begin + 3
    refused(
        client.post(ODDS, json={"prices": {"horse 1": 7.5}}, headers=WRITES | {"Idempotency-Key": "a key"}),
        422,
        "dempotency",
    )


def test_an_id_that_is_still_to_come_here_is_of_another_log_and_hides_nothing(store: Store) -> None:
    with up(a_service(store)) as served, closing(served.asks("/v1/events", Last_Event_ID="99999999-0")) as each:
        until(each, b"from here on")
        tell(store, Market("to come", {"horse 1": 11.0}, "show"), at=NOW)
        assert b"event: market" in until(each, b"event: market")


def test_a_request_for_a_socket_of_the_web_is_no_way_in(served: Up) -> None:
    with closing(
        served.asks("/v1/events", Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Key="x" * 22)
    ) as each:
        each.settimeout(5.0)
        received = until(each, b"\r\n\r\n")
        assert not received.startswith(b"HTTP/1.1 101 ")
    lives(served)


def test_no_garbage_ends_it(served: Up) -> None:
    for garbage in (b"\0" * 1000, b"\x16\x03\x01\x02\x00\x01\x00" * 50, b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"):
        with closing(served.connect()) as each:
            each.sendall(garbage)
            with suppress(ConnectionError):
                each.shutdown(socket.SHUT_WR)
            everything(each)
    lives(served)
