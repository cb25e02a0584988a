"""The stream's figures end with it: no request outlives the server, and none holds the end up."""

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from velo.errors import UserError
from velo.streams.metrics_server import SLOWEST_SECONDS, served


class Slow(Collector):
    """A figure that is only reported once it is released."""

    def __init__(self) -> None:
        self.asked, self.let_go = threading.Event(), threading.Event()

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        self.asked.set()
        assert self.let_go.wait(30)
        yield GaugeMetricFamily("slow", "Told late.", value=7)


def test_an_answer_under_way_is_given_whole_before_the_end() -> None:
    """Whatever thread answers is gone when the stream's process goes on to its end."""
    registry, slow, said = CollectorRegistry(), Slow(), list[bytes]()
    registry.register(slow)
    before = set(threading.enumerate())
    with served(registry, "127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        client = threading.Thread(target=lambda: said.append(urllib.request.urlopen(url).read()))
        client.start()
        assert slow.asked.wait(30)
        threading.Timer(0.2, slow.let_go.set).start()
    client.join(30)
    assert b"slow 7.0" in said[0]
    assert set(threading.enumerate()) <= before


@pytest.mark.slow
def test_a_client_that_says_nothing_holds_nothing_up() -> None:
    """Neither the figures of others nor the end, for longer than it may take to speak."""
    with served(CollectorRegistry(), "127.0.0.1", 0) as port:
        silent = socket.create_connection(("127.0.0.1", port))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            assert answer.status == 200
        again = socket.create_connection(("127.0.0.1", port))
        begun = time.monotonic()
    assert time.monotonic() - begun < SLOWEST_SECONDS + 10
    silent.close()
    again.close()


def test_a_port_that_is_taken_is_reported_with_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(UserError, match="name another --metrics-port"),
            served(CollectorRegistry(), "127.0.0.1", taken.getsockname()[1]),
        ):
            pass
