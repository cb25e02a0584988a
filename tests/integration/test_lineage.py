"""The OpenLineage events of runs, as their client writes them to a file."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_model import a_bundle
from tests.support.logs import a_store, logged
from tests.support.stores import NOW, a_season
from velo.api import lineage as module
from velo.api.lineage import LOG, lineage
from velo.api.race_store import RaceStore
from velo.errors import UserError
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
