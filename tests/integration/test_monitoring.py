"""What was served is compared with the training set, race by race and value by value, from a recorded score log."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.seasons import BUILT_AT, opened
from tests.support.services import NOW, a_client, a_service
from velo.api import monitoring
from velo.feature_repo.catalogue import columns
from velo.serving.monitoring.report import OTHERWISE, last_report
from velo.serving.scoring.score_log import ScoreLog
from velo.serving.scoring.scored import RaceSnapshot, scored_race
from velo.serving.scoring.scorer import scorer_of
from velo.storage.store import Store
from velo.streams.metrics_server import StoreWatch
from velo.streams.unbuilt_log import UnbuiltLog
from velo.training import bundle
from velo.training.dataset.training_set import LEAD
from velo.training.evaluation.sentinel import UNLIKE_SERVED

pytestmark = pytest.mark.slow
SERVED = ("2023-05-21-1", "2023-05-21-2", "2023-05-24-1", "2023-05-24-2", "2023-05-24-3")
SHIFTED = "horse_form__prb_last"


@pytest.fixture(scope="module")
def store(streamed_store: Store) -> Store:
    """The store after some races of its last days were scored over HTTP, each as of its decision time."""
    client = a_client(a_service(streamed_store))
    for race_id in SERVED:
        assert client.get(f"/v1/races/{race_id}/score").status_code == 200
    return streamed_store


def test_scores_that_were_served_as_the_tables_have_them_raise_no_alarm(store: Store) -> None:
    report = monitoring.monitor(store, BUILT_AT)
    assert (report.races, report.race_days, report.lost, report.damaged) == (len(SERVED), 2, 0, 0)
    assert report.alarms == ()
    assert report.profile == monitoring.STORED
    version = bundle.current(store.home)
    assert [feature.feature for feature in report.features] == bundle.described(store.home, version)["features"]
    weight = next(feature for feature in report.features if feature.feature == "weight_lbs")
    assert (weight.null_share, weight.stale) == (0.0, None)
    assert weight.least_trained is not None
    assert weight.least is not None
    assert weight.least_trained <= weight.least
    fundamental = next(score for score in report.scores if score.of == "fundamental")
    assert fundamental.races == len(SERVED)
    assert fundamental.market_log_loss.n == len(SERVED)
    assert "drift alarms need 150" in " ".join(report.notes)
    assert last_report(store.home) is not None


def test_the_report_is_on_the_desk_and_among_the_metrics(store: Store) -> None:
    client = a_client(a_service(store))
    monitoring.monitor(store, BUILT_AT)
    page = client.get("/monitor")
    assert page.status_code == 200
    assert "No alarm lasts." in page.text
    assert "<script" not in page.text
    assert SHIFTED in page.text
    watch = StoreWatch(store.home, lambda: BUILT_AT + timedelta(hours=1))
    samples = {
        (sample.name, *sample.labels.values()): sample.value for family in watch.collect() for sample in family.samples
    }
    assert samples["velo_monitor_age_seconds",] == 3600
    assert samples["velo_monitor_alarms", OTHERWISE] == 0
    assert samples["velo_monitor_feature_null_share", "weight_lbs"] == 0.0


def test_a_store_without_a_report_says_what_to_run(store: Store) -> None:
    store.home.monitor_report.unlink(missing_ok=True)
    assert "run `velo monitor`" in a_client(a_service(store)).get("/monitor").text


def test_a_column_that_was_served_with_other_values_is_named_by_the_monitor_and_by_the_sentinel(store: Store) -> None:
    scorer = scorer_of(store, UnbuiltLog(store.home))
    race_id = "2023-05-24-4"
    messages = scorer.history.messages(race_id).messages
    honest = scorer.score(race_id, NOW)
    snapshot = scorer.history.snapshot(messages, honest.as_of)
    assert scored_race(scorer.bundles.current(), snapshot, NOW).column_digests == honest.column_digests
    matrix = snapshot.matrix.matrix.copy()
    matrix[:, columns.COLUMNS.index(SHIFTED)] += 0.25
    other = RaceSnapshot(snapshot.race, replace(snapshot.matrix, matrix=matrix), snapshot.as_of, snapshot.origin)
    before = {path: path.read_bytes() for path in store.home.scores.iterdir()}
    ScoreLog(store.home)(scored_race(scorer.bundles.current(), other, NOW))
    try:
        report = monitoring.monitor(store, BUILT_AT)
        tried = monitoring.sentinel(store, lead=LEAD)
    finally:
        for path in store.home.scores.iterdir():
            path.unlink()
        for path, content in before.items():
            path.write_bytes(content)
    [alarm] = report.active
    assert (alarm.kind, alarm.subject, str(alarm.reported)) == (OTHERWISE, SHIFTED, "2023-05-24")
    assert race_id in alarm.says
    [column] = [column for column in tried if column.leak == UNLIKE_SERVED]
    assert (column.column, column.unlike, column.served) == (SHIFTED, (race_id,), len(SERVED) + 1)


def test_a_model_stored_without_a_profile_says_so_and_one_is_made_of_the_training_set(store: Store) -> None:
    version = bundle.current(store.home)
    profile = bundle.stored_profile(store.home, version)
    assert profile is not None
    folder = store.home.models / version
    sums, stored = (folder / bundle.CHECKSUMS).read_text(), (folder / bundle.PROFILE).read_bytes()
    kept = "".join(line for line in sums.splitlines(keepends=True) if bundle.PROFILE not in line)
    (folder / bundle.CHECKSUMS).write_text(kept)
    (folder / bundle.PROFILE).unlink()
    try:
        [note] = monitoring.monitor(store, BUILT_AT).notes
        assert "--make-profile" in note
        report = monitoring.monitor(store, BUILT_AT, make_profile=True)
        assert report.profile == monitoring.MADE
        assert monitoring.monitor(store, BUILT_AT).profile == monitoring.MADE
        made = (store.home.monitor / f"{version}.npz").read_bytes()
    finally:
        (folder / bundle.PROFILE).write_bytes(stored)
        (folder / bundle.CHECKSUMS).write_text(sums)
    assert made == stored


def test_a_line_of_an_earlier_release_is_read_and_its_columns_are_unknown(store: Store) -> None:
    from velo.serving.scoring.score_log import served
    from velo.storage import jsonl

    [path, *_] = sorted(store.home.scores.iterdir())
    before = path.read_bytes()
    line = json.loads(before.splitlines()[0]) | {"fingerprint": "0" * 32}
    del line["column_digests"], line["crc"]
    path.write_bytes(jsonl.frame(json.dumps(line).encode()[1:]))
    try:
        [(_, score)] = [*served(opened(store.home.root).home)][:1]
        assert score is not None
        assert score.column_digests is None
        assert [alarm.subject for alarm in monitoring.monitor(store, BUILT_AT).active] == ["(unknown)"]
    finally:
        path.write_bytes(before)
