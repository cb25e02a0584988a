"""On a Redis Cluster the same promises hold: one key an entity, so one step of one server replaces a row.

What the stream and a rebuild from the tables write there is audited, value by value, against a batch made afresh: the
same figures as of one Redis.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.support.changelogs import START
from tests.support.logs import a_store, logged
from tests.support.redis_writer import table
from tests.support.seasons import a_season
from tests.support.streaming import NOW, streamed
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.embedded_redis import executable
from velo.feature_repo.stores.race_cards import CardsPosition, RaceCards, RaceUpdate
from velo.feature_repo.stores.redis_client import connect_url
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_rows import RedisRows
from velo.feature_repo.stores.redis_writer import RowWriter, WriteCounts
from velo.racing.messages import Race, Racecard, Runner, to_record
from velo.serving.scoring.scorer import scorer_of
from velo.settings import Settings
from velo.storage.store import Home, Store
from velo.streams.audit import audit
from velo.streams.batch.build import build
from velo.streams.rebuild_online import rebuild
from velo.streams.unbuilt_log import UnbuiltLog

pytestmark = pytest.mark.slow

FORM, PAIR = BY_VIEW["horse_form"], BY_VIEW["partnership_velocity"]
PORTS = range(21_379, 22_379, 7)
SLOTS = 16_384
NODES = 3
HORSES = 3_000


def answers(client: Any, server: "subprocess.Popen[bytes]", **wanted: str) -> bool:
    """Whether a server comes to say `wanted` of its cluster; False where it ended, as it does on a port in use."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return False
        try:
            if all(found.get(name) == value for found in [client.cluster("INFO")] for name, value in wanted.items()):
                return True
        except RedisError:
            pass
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three servers that share the slots."""
    nodes: list[tuple[int, Any, subprocess.Popen[bytes]]] = []
    with ExitStack() as stack:
        for port in PORTS:
            server = start(tmp_path_factory.mktemp("node"), port)
            stack.callback(stop, server)
            client = Redis(host="127.0.0.1", port=port, retry=Retry(NoBackoff(), 0))
            if answers(client, server):
                nodes.append((port, client, server))
            if len(nodes) == NODES:
                break
        for at, (_, client, _) in enumerate(nodes):
            client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS * at // NODES, SLOTS * (at + 1) // NODES))
        for port, _, _ in nodes[1:]:
            nodes[0][1].execute_command("CLUSTER", "MEET", "127.0.0.1", port)
        for _, client, server in nodes:
            assert answers(client, server, cluster_slots_ok=str(SLOTS), cluster_state="ok")
        yield f"redis://127.0.0.1:{nodes[0][0]}/0"


def start(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    options = {"port": port, "bind": "127.0.0.1", "cluster-enabled": "yes", "save": "", "dir": folder}
    command = [executable(), *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stop(server: "subprocess.Popen[bytes]") -> None:
    server.kill()
    server.wait()


def test_rows_are_written_replaced_read_and_removed_over_all_servers(url: str) -> None:
    client: Any = connect_url(url)
    writer, rows = RowWriter(client, url), RedisRows(client, url)
    horses = [f"h{at}" for at in range(HORSES)]
    offered = [((horse,), START + timedelta(days=2), float(at)) for at, horse in enumerate(horses)]
    layout = Layout.of(FORM)
    assert writer.write_rows(layout, table(FORM, offered), 1) == WriteCounts(HORSES, 0)
    assert writer.write_rows(Layout.of(PAIR), table(PAIR, [(("t", "j"), START, 4.0)]), 1) == WriteCounts(1, 0)
    older = [((horse,), START, -1.0) for horse in horses]
    assert writer.write_rows(layout, table(FORM, older), 1) == WriteCounts(0, HORSES)
    read, pair, nobody = rows.read_packed(
        [(layout, horses), (Layout.of(PAIR), [("t", "j")]), (layout, ["nobody", None])]
    )
    assert read.values[:, 0].tolist() == [float(at) for at in range(HORSES)]
    assert pair.values[0, 0] == 4.0
    assert not nobody.present.any()
    held = [Redis.from_url(f"redis://{node.name}").dbsize() for node in client.get_primaries()]
    # every entity, and an index of each of the two views
    assert sum(held) == HORSES + 1 + 2  # type: ignore[arg-type]
    assert min(held) > HORSES / (NODES + 1)  # type: ignore[type-var, operator]
    assert writer.delete_view(layout) == HORSES
    left = [Redis.from_url(f"redis://{node.name}").dbsize() for node in client.get_primaries()]
    # the pair, and its view's index
    assert sum(left) == 2  # type: ignore[arg-type]


def test_a_race_is_read_from_all_servers_as_from_one(url: str, tmp_path: Path) -> None:
    """The head and the race first, then the rows: the scorer's reading is the one of a single server."""
    off = START + timedelta(days=3)
    race = Race("r", off.date(), off, "Ascot", surface="Turf", going="Good", distance_m=1600.0)
    entered = tuple(Runner(f"h{n}", trainer_id="u", jockey_id="v", draw=n) for n in range(1, 21))
    card = Racecard(race, entered, START)
    offered = [((runner.horse_id,), START, float(n)) for n, runner in enumerate(entered) if n != 4]
    found = RaceUpdate(1, "racecard", "r", START, orjson.dumps(to_record(card)), off)
    embedded = embedded_redis.ensure(Home(tmp_path / "one"))
    answers = []
    try:
        for at in (url, embedded):
            client = connect_url(at)
            assert RowWriter(client, at).write_rows(Layout.of(FORM), table(FORM, offered), 1) == WriteCounts(19, 0)
            RaceCards(client, at).offer(1, [found], START, CardsPosition(1, 1, START + timedelta(hours=1), live=True))
            store = Store.open(Settings(tmp_path / "home", redis_url=at))
            scorer = scorer_of(store, UnbuiltLog(store.home), deadline_s=5.0)
            reading, read, stands = scorer.online.features("r", START + timedelta(hours=2))
            assert stands == START + timedelta(hours=1)
            answers.append((reading.keys, read.stored.tobytes(), read.present.tolist(), read.event_us.tolist()))
            assert scorer.online.stored("r") is not None
            assert [each.race_id for each in scorer.online.events_after("0-0")] == ["r"]
    finally:
        embedded_redis.down(Home(tmp_path / "one"))
    assert answers[0] == answers[1]
    form = list(BY_VIEW).index(FORM.view)
    assert [row[form] for row in answers[0][2]] == [n != 4 for n in range(20)]


@pytest.mark.parametrize("way", ["the stream", "a rebuild from the tables"])
def test_every_value_on_three_nodes_is_that_of_a_batch_on_one_machine(url: str, tmp_path: Path, way: str) -> None:
    """By configuration alone: the address of any node. Feast's own fields are compared beside the packed rows."""
    client: Any = connect_url(url)
    for node in client.get_primaries():
        Redis.from_url(f"redis://{node.name}").flushall()
    store = Store.open(Settings(a_store(tmp_path / "home").home.root, redis_url=url))
    logged(store, *a_season(12))
    if way == "the stream":
        streamed(store, online=True)
    else:
        build(store, NOW)
        rebuild(store, client, NOW)
    report = audit(store, NOW, client=client)
    assert report.found == 0
    assert report.compared["online"] > 400
    assert all(Redis.from_url(f"redis://{node.name}").dbsize() for node in client.get_primaries())
