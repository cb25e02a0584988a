"""Every command of `velo bench` runs, at its smallest size, and prints figures of all that it was asked for.

The one that makes faults is run by `test_faults.py`, and the whole of it by `test_bench_together.py`.
"""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest

from benchmarks import joins, monitor, poll, serve, stream, whole
from benchmarks.baseline_views import CONTRACT
from benchmarks.change import EDITS
from tests.support.cli import velo
from tests.support.forked import forked_benchmarks
from tests.support.logs import a_store, fixed
from velo import change_detection, drift
from velo.commands.bench import bench_app
from velo.feature_repo.catalogue.families import FAMILIES
from velo.simulator import SeasonSpec, simulate
from velo.streams.batch.build import build
from velo.streams.importers.ingest import ingest
from velo.streams.importers.sources.runners import read_runner_tables
from velo.training.model.trees import ModelOptions
from velo.training.train import train

NOW = datetime(2024, 3, 1, tzinfo=UTC)
FEW = ModelOptions(rounds=20, patience=5, leaves=6, threads=1, seeds=1)


@pytest.fixture(scope="module", autouse=True)
def forked() -> Iterator[None]:
    with forked_benchmarks():
        yield


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runner table of a few race days."""
    table = tmp_path_factory.mktemp("season") / "season.parquet"
    duckdb.from_arrow(simulate(SeasonSpec(start=date(2024, 1, 1), days=12, races_per_year=400))).write_parquet(
        str(table)
    )
    return table


def bench(home: Path, command: str, *options: object) -> Any:
    """What the command printed; its exit code is 0 and it printed nothing else."""
    done = velo("bench", command, *options, "--json", home=home)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_stream_measures_replays_and_live_rates(season: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract's eight views and all of them; freshness at a rate. Of the ways to replay, those that
    `test_bench_together` does not run."""
    ways = {(views, sinks) for views in (len(CONTRACT), len(FAMILIES)) for sinks in stream.SINKS}
    assert set(stream.WAYS) == {*ways, (len(FAMILIES), stream.BY_BATCH)}
    monkeypatch.setattr(stream, "WAYS", [(len(CONTRACT), "none"), (len(FAMILIES), "Parquet")])
    options = ("--starts", 60, "--rate", 40, "--seconds", 1)
    replays, live = bench(tmp_path, "stream", "--runners", season, *options)["parts"]
    assert [(row[0], row[1]) for row in replays["rows"]] == [(str(views), sinks) for views, sinks in stream.WAYS]
    assert {row[2] for row in replays["rows"]} == {"60"}
    [rate] = live["rows"]
    assert (rate[0], rate[2]) == ("40", "40")
    p50, p99 = (float(cell.split()[0]) for cell in rate[3:5])
    assert 0 < p50 <= p99


def test_stream_measures_a_hand_over(season: Path, tmp_path: Path) -> None:
    store = a_store(tmp_path / "home")
    ingest(store, read_runner_tables([season], store), late=False, clock=fixed(NOW))
    build(store, NOW)
    figures = bench(tmp_path, "stream", "--handover", store.home.root)
    assert figures["live"] > 0
    assert figures["online_rows"] > 0


def test_stream_measures_a_year(tmp_path: Path) -> None:
    """Of which only two weeks are run here, without one new horse."""
    months = bench(tmp_path, "stream", "--year", 300, "--days", 14, "--same-horses")
    assert months[-1]["starts"] > 0
    assert months[-1]["keys"] > 0
    assert months[-1]["rss_mb"] > 0


def test_build_measures_each_size(season: Path, tmp_path: Path) -> None:
    [part] = bench(tmp_path, "build", "--starts", 30, "--starts", 60, "--runners", season)["parts"]
    assert len(part["rows"]) == 2
    assert part["command"].startswith("velo bench build --starts 30 --starts 60 --runners ")


def test_point_in_time_asks_every_contender_of_the_whole_bench_and_all_answer_alike(
    season: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "JOIN_STARTS", 500)
    [part] = bench(tmp_path, "point-in-time", "--rows", 20, "--stock-rows", 10, "--runners", season)["parts"]
    contender, rows, answer = (part["columns"].index(name) for name in ("contender", "entity rows", "answer"))
    nowhere = Path("none")
    assert [row[contender] for row in part["rows"]] == [*joins.contenders(nowhere, nowhere, 1, nowhere, stock=False)]
    assert {(row[rows], row[answer]) for row in part["rows"]} == {("20", "the same")}


def test_replay_audits_what_it_replayed(season: Path, tmp_path: Path) -> None:
    assert bench(tmp_path, "replay", season)["differences"] == 0


def test_serve_measures_reads_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In process and over HTTP, the stream idle and at work; the model has few trees, for what it says is not asked."""
    monkeypatch.setattr(serve, "train", partial(train, model=FEW))
    monkeypatch.setattr(serve, "WARM_UP", 1)
    options = ("--starts", 3_000, "--size", 8, "--requests", 3, "--rate", 200)
    measured = bench(tmp_path, "serve", *options)["measured"]
    assert {each["loaded"] for each in measured} == {False, True}
    assert all(each["requests"] == 3 or each["what"].startswith(("get_", "feast")) for each in measured)


def test_load_counts_answers_and_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few seconds with few clients: scores are answered, none with a 500, and no listener is lost.

    Its exit code also judges memory, which says nothing after so short a run.
    """
    monkeypatch.setattr(serve, "train", partial(train, model=FEW))
    options = ("--minutes", 0.05, "--connections", 2, "--listeners", 2, "--workers", 1, "--starts", 3_000)
    done = velo("bench", "load", *options, "--results", 5, "--json", home=tmp_path)
    assert done.code in (0, 1), done.err
    figures = json.loads(done.out)
    assert figures["answers"]["events 200"] == 2
    assert figures["answers"]["score 200"] > 0
    assert not [name for name in figures["answers"] if name.endswith((" 500", " none"))]
    assert figures["listeners_lost"] == 0


def test_poll_finds_no_score_that_knows_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two races, in half of the least time that the command takes."""
    measure = poll.measure
    monkeypatch.setattr(poll, "measure", lambda minutes, *given, **named: measure(minutes / 2, *given, **named))
    monkeypatch.setattr(poll, "RACES_PER_YEAR", 600)
    monkeypatch.setattr(poll, "SETTLING_S", 5.0)
    monkeypatch.setattr(poll, "AROUND_S", 3.0)
    figures = bench(tmp_path, "poll", "--minutes", 0.4, "--races", 2, "--rate", 50)
    assert figures["leaks"] == 0
    assert figures["before"] > 0
    assert figures["after"] > 0


def test_gate_holds_made_up_worlds_to_what_it_predicts(tmp_path: Path) -> None:
    """Two worlds are too few to judge: it says what it found, by either exit code."""
    done = velo("bench", "gate", "--worlds", 1, "--races-a-day", 5, "--json", home=tmp_path)
    assert done.code in (0, 1), done.err
    assert '"rates"' in done.out


def test_monitor_counts_false_alarms_and_delays_of_planted_drifts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A season too small to judge, held to fewer race days than alarms need: it says what it found, by either exit code."""
    for module in (monitor, drift, change_detection):
        monkeypatch.setattr(module, "LEAST_DAYS", 10)
    done = velo(
        "bench", "monitor", "--worlds", 1, "--races-a-year", 500, "--days", 480, "--json", home=tmp_path / "home"
    )
    assert done.code in (0, 1), done.err
    [world] = json.loads(done.out)["worlds"]
    assert world["features"] > 100
    assert len(world["delays"]) > world["missed"]


@pytest.mark.prove
def test_change_finds_no_wrong_row_beside_a_stream_and_a_reader(tmp_path: Path) -> None:
    figures = bench(tmp_path, "change", "--starts", 400, "--kills", 1)
    assert [change["name"] for change in figures["changes"]] == [edit.name for edit in EDITS]
    for change in figures["changes"]:
        assert change["differ"] == change["happened"]
        assert change["audit_found"] == 0
    assert (figures["wrong"], figures["audit_after_kills"]) == ([], 0)
    assert figures["rows_read"] > 1000


def test_no_command_is_left_out() -> None:
    names = {
        command.name or (command.callback.__name__ if command.callback else "")
        for command in bench_app.registered_commands
    }
    here = Path(__file__)
    printed = "".join(
        each.read_text(encoding="utf-8")
        for each in (here, here.with_name("test_faults.py"), here.with_name("test_sizing.py"))
    )
    assert {name for name in names if f'"{name}"' not in printed} == set()
