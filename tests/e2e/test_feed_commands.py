"""`velo feed` and `velo ingest --follow`: the two ends of a feed, ended by a signal, and wrong words reported in one line."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import orjson

from tests.support import forked
from tests.support.cli import OURS, velo
from tests.support.feeds import Listed, drained, encoded, sent, sent_result
from tests.support.logs import a_store
from tests.support.shared import REPO
from velo.feature_repo.stores.redis_client import connect_url
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.feeds.redis_stream import FIELD
from velo.streams.feeds.redis_stream import put as put_on_stream


def test_velo_feed_and_velo_ingest_follow_are_the_two_ends_of_a_feed(tmp_path: Path, redis_url: str) -> None:
    home = tmp_path / "home"
    day = tmp_path / "day.jsonl"
    day.write_bytes(b"\n".join([*encoded(sent_result("R1"), sent("going_change", "R2", going="Soft")), b"{", b""]))
    options = ("--url", redis_url, "--json")
    assert velo("feed", "redis", day, "--key", "cli", *options, home=home).document == {"sent": 3, "stream": "cli"}
    done = velo("ingest", "--follow", "--redis", "cli", "--once", *options, home=home)
    assert done.code == 0
    report = orjson.loads(done.out)
    assert (report["taken"], report["appended"], report["refused"]) == (3, 2, {"no JSON": 1})
    again = velo("ingest", "--follow", "--redis", "cli", "--once", *options, home=home).document
    assert (again["taken"], again["settled"]) == (0, report["settled"])


def test_a_mistake_is_reported_in_one_line(tmp_path: Path, redis_url: str) -> None:
    velo("ingest", "--follow", home=tmp_path).told("--follow needs one feed", "--redis KEY")
    velo("ingest", "--redis", "x", home=tmp_path).told("velo ingest --follow --redis KEY")
    velo("ingest", "--follow", "--kafka", "x", home=tmp_path).told("--kafka needs brokers", "--brokers")
    velo("feed", "redis", tmp_path / "a.txt", home=tmp_path).told("a.txt is not a kind of file that can be sent")
    velo("feed", "redis", tmp_path / "a.jsonl", home=tmp_path).told("cannot read", "name a file of JSON lines")


def test_sigterm_ends_it_with_its_report_and_everything_settled(tmp_path: Path, redis_url: str) -> None:
    """A process of its own, ended by signal once the log holds what was sent."""
    home = a_store(tmp_path / "home").home
    client = connect_url(redis_url)
    put_on_stream(client, redis_url, "term", encoded(sent_result("R1")))
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    process = forked.Popen(
        [sys.executable, "-m", "velo.cli", "ingest", "--follow", "--redis", "term", "--url", redis_url, "--json"],
        cwd=REPO,
        env={**kept, "PYTHONPATH": str(REPO), "VELO_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        waited = threading.Event()
        for _ in range(600):
            if list(home.feeds.glob("*.json")) if home.feeds.is_dir() else False:
                break
            waited.wait(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, b"")
    report = orjson.loads(out)
    assert (report["appended"], report["settled"]) == (1, client.xinfo_stream("term")["last-generated-id"].decode())  # type: ignore[index]


def test_a_store_keyed_by_name_stays_so_and_a_new_one_is_keyed_by_id(tmp_path: Path) -> None:
    store = a_store(tmp_path / "new")
    drained(store, Listed(encoded(sent_result())))
    assert Store.open(Settings(home=store.home.root)).keys == "id"
    named = Store.open(Settings(home=tmp_path / "named", keys="name")).save()
    drained(named, Listed(encoded(sent_result())))
    assert Store.open(Settings(home=named.home.root)).keys == "name"


def test_entries_are_read_by_the_field_that_the_page_names() -> None:
    assert FIELD == b"message"
    assert "`message`" in (REPO / "docs" / "feeds.md").read_text(encoding="utf-8")
