"""The OpenLineage events of runs, as their client writes them to a file; those of the service's scores, as a collector takes them."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.integration.test_model import a_bundle
from tests.support.logs import a_store, logged
from tests.support.score_races import SCORED_AT, a_score
from tests.support.stores import NOW, a_season
from velo.api import lineage as module
from velo.api.lineage import LOG, lineage
from velo.api.race_store import RaceStore
from velo.api.score_lineage import ScoreEvents, follow_scores
from velo.commands import serve
from velo.errors import UserError
from velo.serving.scoring.score_log import ScoreLog, served
from velo.settings import Settings, lineage_configured
from velo.storage.store import Store, store_id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = a_store(tmp_path / "home")
    logged(store, *a_season(8))
    return store


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that OpenLineage is configured to append events to."""
    pytest.importorskip("openlineage.client")
    config = tmp_path / "openlineage.yml"
    path = tmp_path / "events.ndjson"
    config.write_text(f"transport:\n  type: file\n  log_file_path: {path}\n  append: true\n")
    monkeypatch.setenv("OPENLINEAGE_CONFIG", str(config))
    return path


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_build_says_which_measures_of_the_starts_each_feature_is_made_of(store: Store, events: Path) -> None:
    race_store = RaceStore(Settings(home=store.home.root), clock=lambda: NOW)
    race_store.build()
    began, ended = written(events)
    assert [began["eventType"], ended["eventType"]] == ["START", "COMPLETE"]
    assert began["run"]["runId"] == ended["run"]["runId"]
    assert datetime.fromisoformat(ended["eventTime"]) == NOW
    assert ended["job"] == began["job"] | {"namespace": f"velo://{store_id(store.home) or 'new'}", "name": "build"}
    assert [each["name"] for each in ended["inputs"]] == ["log"]
    outputs = {each["name"]: each for each in ended["outputs"]}
    fields = outputs["features/trainer_velocity"]["facets"]["columnLineage"]["fields"]
    assert {(read["name"], read["field"]) for read in fields["sr_14d"]["inputFields"]} == {
        ("starts", "win"),
        ("starts", "one"),
    }
    assert {read["field"] for read in fields["runs_90d"]["inputFields"]} == {"one"}
    last = outputs["features/horse_form"]["facets"]["columnLineage"]["fields"]["prb_last"]["inputFields"]
    assert [read["field"] for read in last] == ["prb_e9"]


def test_a_score_leads_through_its_model_to_the_features_that_it_reads(store: Store, events: Path) -> None:
    read = ("trainer_velocity__sr_14d_rank", "since_last_run__rating_change", "weight_lbs")
    version = a_bundle(store.home, features=read)
    with lineage(store, "score", lambda: NOW, [LOG]) as run:
        run.used_model(store.home, version, "scores/R1")
    ended = written(events)[-1]
    views = ["features/horse_form", "features/trainer_velocity"]
    assert [each["name"] for each in ended["inputs"]] == ["log", *views, f"models/{version}"]
    [output] = ended["outputs"]
    made_of = output["facets"]["columnLineage"]["fields"]["probability"]["inputFields"]
    assert [(each["name"], each["field"]) for each in made_of] == [(views[0], "last_rating"), (views[1], "sr_14d")]


def test_a_run_that_fails_says_why_and_one_that_is_stopped_ends(store: Store, events: Path) -> None:
    with pytest.raises(UserError), lineage(store, "train", lambda: NOW):
        raise UserError("too few races")
    with pytest.raises(KeyboardInterrupt), lineage(store, "stream", lambda: NOW):
        raise KeyboardInterrupt
    states = [(event["job"]["name"], event["eventType"]) for event in written(events)]
    assert states == [("train", "START"), ("train", "FAIL"), ("stream", "START"), ("stream", "ABORT")]
    assert written(events)[1]["run"]["facets"]["errorMessage"]["message"] == "too few races"


def test_an_event_that_cannot_be_sent_stops_no_work(
    store: Store, events: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events.mkdir()
    with lineage(store, "build", lambda: NOW) as run:
        run.wrote_views(["horse_form"])
    assert sum("lineage.not_sent job=build" in record.getMessage() for record in caplog.records) == 2


def test_without_a_configuration_nothing_is_sent_and_nothing_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENLINEAGE_CONFIG", "OPENLINEAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_sender", lambda *_: pytest.fail("an event was made"))
    with lineage(store, "build", lambda: datetime.now(UTC), [LOG]) as run:
        run.wrote_views(["horse_form"])
    assert run.outputs == []


def test_openlineage_is_configured_as_its_client_reads_it(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "user")}
    assert not lineage_configured(home, tmp_path)
    assert lineage_configured(home | {"OPENLINEAGE_URL": "http://localhost:5000"}, tmp_path)
    assert lineage_configured(home | {"OPENLINEAGE__TRANSPORT__TYPE": "file"}, tmp_path)
    assert not lineage_configured(home | {"OPENLINEAGE_URL": "http://x", "OPENLINEAGE_DISABLED": "true"}, tmp_path)
    (tmp_path / "openlineage.yml").touch()
    assert lineage_configured(home, tmp_path)


def test_a_missing_client_is_named_and_stops_no_work(
    store: Store, events: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    with lineage(store, "build", lambda: NOW):
        pass
    assert "pip install 'velo-features[lineage]'" in caplog.text


# The service's scores


class Collector(ThreadingHTTPServer):
    """Keeps the events that are posted to it, and answers each with the next of `answers`, then with 201, once it `may_answer`."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Endpoint)
        self.taken: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.asked, self.may_answer = Event(), Event()
        self.may_answer.set()

    def runs(self) -> list[tuple[str, str]]:
        return [(event["eventType"], event["run"]["runId"]) for event in self.taken]


class _Endpoint(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.set()
        assert self.server.may_answer.wait(60)
        answer = self.server.answers.pop(0) if self.server.answers else 201
        if answer == 201 and self.path == "/api/v1/lineage":
            self.server.taken.append(event)
        self.send_response(answer)
        self.end_headers()

    def log_request(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    with Collector(port) as collector:
        thread = Thread(target=collector.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


@pytest.fixture
def collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that OpenLineage is configured to send to, once for each event."""
    pytest.importorskip("openlineage.client")
    with collecting() as collector:
        config = tmp_path / "openlineage.yml"
        url = f"http://127.0.0.1:{collector.server_port}"
        config.write_text(f"transport:\n  type: http\n  url: {url}\n  timeout: 60\n  retry: {{total: 0}}\n")
        monkeypatch.setenv("OPENLINEAGE_CONFIG", str(config))
        yield collector


def score_events(store: Store) -> ScoreEvents:
    """The sender of a process of the service that starts now."""
    events = module.events_of(store)
    assert events is not None
    return ScoreEvents(store, events)


def test_a_served_score_leads_from_its_race_through_the_model_to_the_features(
    store: Store, collector: Collector
) -> None:
    version = a_bundle(store.home, features=("trainer_velocity__sr_14d_rank", "weight_lbs"))
    sender, log = score_events(store), ScoreLog(store.home)
    log(a_score("before", model=version))
    sender.begin()
    polled = [SCORED_AT + timedelta(seconds=n) for n in range(4)]
    for at in polled:
        log(a_score("R1", scored_at=at, as_of=at, model=version))
    log(a_score("R2", model="a model since removed"))
    assert (sender.send_new(), sender.send_new()) == (2, 0)
    began, ended, *other = collector.taken
    assert [began["eventType"], ended["eventType"]] == ["START", "COMPLETE"]
    assert began["run"] == ended["run"]
    assert began["outputs"] == []
    assert ended["job"]["namespace"] == f"velo://{store_id(store.home) or 'new'}"
    assert datetime.fromisoformat(ended["eventTime"]) == polled[0]
    assert datetime.fromisoformat(ended["run"]["facets"]["nominalTime"]["nominalStartTime"]) == polled[0]
    assert [each["name"] for each in ended["inputs"]] == ["log", "features/trainer_velocity", f"models/{version}"]
    [output] = ended["outputs"]
    assert output["name"] == "scores/R1"
    made_of = output["facets"]["columnLineage"]["fields"]["probability"]["inputFields"]
    assert [(each["name"], each["field"]) for each in made_of] == [("features/trainer_velocity", "sr_14d")]
    assert [each["name"] for each in other[1]["outputs"]] == ["scores/R2"]
    assert [each["name"] for each in other[1]["inputs"]] == ["log", "models/a model since removed"]
    log(a_score("R1", fingerprint="other values", model=version))
    assert sender.send_new() == 1


def test_a_collector_that_was_down_gets_every_score_once_it_is_back(store: Store, collector: Collector) -> None:
    sender, log = score_events(store), ScoreLog(store.home)
    sender.begin()
    for race in ("R1", "R2"):
        log(a_score(race))
    collector.answers = [201, 503]
    with pytest.raises(OSError, match="503"):
        sender.send_new()
    assert [state for state, _ in collector.runs()] == ["START"]
    collector.shutdown()
    collector.server_close()
    log(a_score("R3"))
    with pytest.raises(OSError, match="refused"):
        sender.send_new()
    with collecting(collector.server_port) as again:
        assert score_events(store).send_new() == 3
        assert again.runs()[0] == collector.runs()[0]
        assert [output["name"] for event in again.taken for output in event["outputs"]] == [
            "scores/R1", "scores/R2", "scores/R3",
        ]  # fmt: skip
        assert len(set(again.runs())) == 6
    assert score_events(store).send_new() == 0


def test_an_event_that_a_collector_refuses_holds_up_no_other(
    store: Store, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    sender, log = score_events(store), ScoreLog(store.home)
    sender.begin()
    log(a_score("R1"))
    log(a_score("R2"))
    collector.answers = [422]
    assert sender.send_new() == 2
    assert [output["name"] for event in collector.taken for output in event["outputs"]] == ["scores/R2"]
    assert "lineage.refused job=score race_id=R1" in caplog.text


def test_scores_go_on_while_a_collector_does_not_answer(
    store: Store, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("velo.api.score_lineage.EVERY_S", 0.01)
    log = ScoreLog(store.home)
    collector.may_answer.clear()
    end = follow_scores(store)
    other = follow_scores(store)
    log(a_score("R1"))
    assert collector.asked.wait(60)
    log(a_score("R2"))
    assert [score.race_id for _, score in served(store.home) if score] == ["R1", "R2"]
    assert collector.taken == []
    other()
    collector.may_answer.set()
    end()
    score_events(store).send_new()
    assert [output["name"] for event in collector.taken for output in event["outputs"]] == ["scores/R1", "scores/R2"]


def test_the_service_follows_its_score_log(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = list[Store]()
    monkeypatch.setattr("velo.api.score_lineage.follow_scores", followed.append)
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    monkeypatch.setenv(serve.SERVING, json.dumps({"host": "127.0.0.1", "feed": None}))
    monkeypatch.setenv("VELO_HOME", str(store.home.root))
    serve.application()
    assert [each.home.root for each in followed] == [store.home.root]
