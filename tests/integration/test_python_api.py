"""`velo.open`: every method gives what its command gives, in the caller's frames, with the same one line for a mistake."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import velo
from tests.support.builders import a_race, a_runner, write_csv, write_runner_table
from tests.support.cli import OURS
from tests.support.cli import velo as command
from tests.support.logs import bytes_of
from tests.support.made_once import Seasons
from tests.support.seasons import BUILT_AT
from tests.support.shared import REPO
from velo.api import doctor
from velo.api import opened as opened_module
from velo.errors import UserError
from velo.feature_repo.catalogue.market_moves import COLUMNS
from velo.feature_repo.stores.embedded_redis import down
from velo.settings import FeatureConfig, config_file
from velo.streams.batch import formulas
from velo.training.bundle import current
from velo.training.model.trees import ModelOptions
from velo.training.train import train

pytestmark = pytest.mark.slow

HEAVY = (
    "bytewax",
    "duckdb",
    "feast",
    "lightgbm",
    "narwhals",
    "numpy",
    "pandas",
    "pyarrow",
    "redis",
    "sklearn",
    "typer",
)
NOW = datetime(2024, 6, 1, tzinfo=UTC)
RACES = [
    *a_race(a_runner("Arkle", 1), a_runner("Mill House", 2), known_at="2024-05-01 14:15"),
    *a_race(a_runner("Mill House", 1), a_runner("Arkle", 2), race_id="R2", race_date="2024-05-03"),
    *a_race(a_runner("Arkle", 1), a_runner("Mill House", status="XX"), race_id="R3", race_date="2024-05-04"),
]


@pytest.fixture(autouse=True)
def nothing_of_the_callers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.delenv(name, raising=False)


def opened(home: Path, **options: Any) -> velo.RaceStore:
    return velo.open(home, clock=lambda: NOW, **options)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> velo.RaceStore:
    """Two races of the same two horses, built."""
    store = opened(tmp_path_factory.mktemp("small") / "home")
    store.ingest(pd.DataFrame(RACES))
    store.build()
    return store


@pytest.fixture(scope="module")
def season(seasons: Seasons) -> Iterator[velo.RaceStore]:
    """A season with a small model, and the clock at its build."""
    made = seasons.store(240)
    few = ModelOptions(rounds=20, leaves=6, threads=1, seeds=1)
    train(made, now=BUILT_AT, model=few, validate_from=date(2023, 7, 1), test_from=date(2023, 9, 1))
    yield velo.open(made.home.root, clock=lambda: BUILT_AT)
    down(made.home)


# Opening


def test_importing_velo_imports_nothing_heavy() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import sys, velo; velo.open('nowhere', frames='pyarrow'); print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = said.stdout.split()
    assert "velo.api.race_store" in modules
    assert not {module.partition(".")[0] for module in modules} & set(HEAVY)


def test_velo_names_what_it_has_and_nothing_else() -> None:
    assert {"open", "RaceStore", "UserError"} <= set(dir(velo))
    assert velo.UserError is UserError
    with pytest.raises(AttributeError, match="module 'velo' has no attribute 'shut'"):
        _ = velo.shut  # type: ignore[attr-defined]


def test_the_home_is_found_as_the_commands_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert velo.open().home.root == tmp_path / "data"
    monkeypatch.setenv("VELO_HOME", str(tmp_path / "elsewhere"))
    assert velo.open().home.root == tmp_path / "elsewhere"
    assert velo.open("here").home.root == tmp_path / "here"
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    assert repr(opened(tmp_path / "s")) == (
        f"<velo store at {tmp_path / 's'}, Europe/London, empty: load results with ingest(frame_or_file)>"
    )


def test_settings_that_contradict_the_store_are_refused_at_once(small: velo.RaceStore) -> None:
    with pytest.raises(UserError, match=r"VELO_TIMEZONE is 'Asia/Tokyo', but the store at .* was made with"):
        velo.open(small.home.root, timezone="Asia/Tokyo")


def test_two_stores_with_features_of_their_own_never_share_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue is one of the process: the first store whose features are used decides, and another is refused."""
    ours, theirs, plain = (tmp_path / name for name in ("ours", "theirs", "plain"))
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "velo.toml").write_text("[features]\nmodules = []\n")
    config = FeatureConfig()
    monkeypatch.setattr(opened_module, "FEATURE_CONFIG", config)
    # nothing is read yet: the store opened last decides
    velo.open(theirs)
    store = velo.open(ours)
    assert config.read() == ours / "velo.toml"
    assert velo.open(ours / "deeper").home.root == ours / "deeper"
    for home, said in ((theirs, theirs / "velo.toml"), (plain, "no velo.toml")):
        # neither the environment nor the working folder changes what was read
        monkeypatch.setenv("VELO_HOME", str(home))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError) as refused:
            velo.open(home)
        assert str(refused.value) == (
            f"the store at {home} takes its features from {said}, but this process has read {ours / 'velo.toml'}: "
            "open it in another Python process"
        )
    assert "messages" in repr(store) or "empty" in repr(store)
    assert not theirs.joinpath("store.json").exists()


def test_the_features_of_a_store_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its home or above it, else where the command runs: plain Feast runs in the package's own folder."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project / "data", elsewhere):
        folder.mkdir(parents=True)
    assert config_file(project / "data", elsewhere) is None
    (elsewhere / "velo.toml").touch()
    assert config_file(project / "data", elsewhere) == elsewhere / "velo.toml"
    (project / "velo.toml").touch()
    assert config_file(project / "data", elsewhere) == project / "velo.toml"
    (project / "data" / "velo.toml").touch()
    assert config_file(project / "data", elsewhere) == project / "data" / "velo.toml"


EMPTY: dict[str, tuple[Callable[[velo.RaceStore], object], tuple[str, ...]]] = {
    "sql": (lambda store: store.sql("select 1"), ("sql", "select 1")),
    "score": (lambda store: store.score("R1"), ("score", "R1")),
    "explain": (lambda store: store.explain("R1", "arkle"), ("explain", "R1", "arkle")),
    "backtest": (lambda store: store.backtest(), ("backtest",)),
    "train": (lambda store: store.train(), ("train",)),
    "gate": (lambda store: store.gate(), ("gate",)),
}


@pytest.mark.parametrize("method", EMPTY)
def test_an_empty_store_gives_the_line_of_the_command(tmp_path: Path, method: str) -> None:
    call, argv = EMPTY[method]
    with pytest.raises(UserError) as refused:
        call(velo.open(tmp_path / "home"))
    said = command(*argv, home=tmp_path / "home")
    assert (said.code, said.err) == (2, f"velo: {' '.join(str(refused.value).split())}\n")


# Loading


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow", "parquet", "csv", "files"])
def test_a_load_gives_the_same_counts_log_and_dead_letters_whatever_it_comes_as(tmp_path: Path, kind: str) -> None:
    table = pq.read_table(write_runner_table(tmp_path / "a.parquet", RACES))
    csv = write_csv(tmp_path / "a.csv", RACES)
    source = {
        "pandas": table.to_pandas(),
        "polars": pl.from_arrow(table),
        "pyarrow": table,
        "parquet": tmp_path / "a.parquet",
        "csv": str(csv),
        "files": [csv],
    }[kind]
    store = opened(tmp_path / "home")
    report = store.ingest(source)
    said = command("ingest", "runners", tmp_path / "a.parquet", "--json", home=tmp_path / "other").document
    assert (report.rows, report.races, report.appended, report.dead_letters) == (6, 3, 2, 1)
    assert report.refused == said["refused"] == {"unknown status XX": 1}
    assert {name: getattr(report, name) for name in said} == said
    assert bytes_of(store.home) == bytes_of(opened(tmp_path / "other").home)
    again = store.ingest(source)
    assert (again.appended, again.identical, again.dead_letters) == (0, 2, 0)


def test_a_column_of_mixed_types_refuses_the_races_of_its_bad_values_alone(tmp_path: Path) -> None:
    frame = pd.DataFrame(RACES[:4])
    frame["draw"] = pd.Series([1, "2", "inside", 4.0], dtype=object)
    report = opened(tmp_path / "home").ingest(frame)
    assert (report.appended, report.refused) == (1, {"bad value": 1})


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame(RACES).drop(columns="horse"), "the frame has no column horse: add it"),
        (pd.DataFrame(RACES).head(0), "the frame has no rows: export it again, or leave it out"),
        (pd.DataFrame(RACES).assign(draw="x"), "the frame: column draw has 'x' in row 1 and no value that is a whole"),
        (7, "a int is not a data frame: give a frame"),
        ("nowhere.csv", "cannot read nowhere.csv"),
        ([], "no file is named: name one or more runner tables"),
    ],
)
def test_what_is_no_runner_table_is_refused_and_nothing_is_written(tmp_path: Path, frame: object, words: str) -> None:
    with pytest.raises(UserError, match=f"^{words}"):
        opened(tmp_path / "home").ingest(frame)
    assert not (tmp_path / "home").exists()


def test_files_are_private_and_the_umask_of_the_caller_is_untouched(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        opened(tmp_path / "home").ingest(pd.DataFrame(RACES))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    written = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert len(written) > 2
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_a_card_from_a_frame_is_a_race_to_come(tmp_path: Path) -> None:
    store = opened(tmp_path / "home")
    store.ingest(pd.DataFrame(RACES))
    store.build()
    card = pl.DataFrame(a_race(a_runner("Arkle"), a_runner("Flyingbolt"), race_id="R9", race_date="2024-06-02"))
    report = store.declare(card.drop("status", "position", "sp_decimal", "beaten_lengths"))
    assert (report.races, report.appended) == (("R9",), 1)
    race = store.race("R9")
    assert race["horse"].tolist() == ["Arkle", "Flyingbolt"]
    assert race["off_time"].tolist() == [pd.Timestamp("2024-06-02T12:00:00Z")] * 2
    assert race["position"].isna().all()


# Reading


ASKED = {"horse_id": ["arkle"] * 4, "event_timestamp": ["2024-05-01T14:14:59.999999Z", "2024-05-01T14:15:00Z",
         "2024-05-03T12:15:00Z", "2024-05-20T00:00:00Z"]}  # fmt: skip
STARTS, WINS = "horse_form__starts", "horse_form__wins"


def test_features_are_those_known_at_each_instant_in_the_frames_own_library(small: velo.RaceStore) -> None:
    """Arkle wins on 1 May, known at 14:15; is second on 3 May, known a quarter of an hour after its off at 12:00 UTC."""
    frames = (pd.DataFrame(ASKED, index=[4, 3, 2, 1]), pl.DataFrame(ASKED), pa.table(ASKED))
    for frame in frames:
        joined = small.features(frame)
        assert type(joined) is type(frame)
        columns = (
            joined.to_pydict()
            if isinstance(joined, pa.Table)
            else {name: list(joined[name]) for name in (STARTS, WINS)}
        )
        starts = [None if value is None or value != value else value for value in columns[STARTS]]
        wins = [None if value is None or value != value else value for value in columns[WINS]]
        assert (starts, wins) == ([None, 1, 2, 2], [None, 1, 1, 1])
    assert small.features(frames[0]).index.tolist() == [4, 3, 2, 1]


@pytest.mark.parametrize(
    "column",
    [
        pd.to_datetime(ASKED["event_timestamp"], format="ISO8601"),
        pd.to_datetime(ASKED["event_timestamp"], format="ISO8601").tz_convert("Asia/Tokyo"),
        pd.to_datetime(ASKED["event_timestamp"], format="ISO8601").tz_localize(None),
    ],
)
def test_instants_of_any_zone_mean_the_same(small: velo.RaceStore, column: object) -> None:
    joined = small.features(pa.Table.from_pandas(pd.DataFrame(ASKED | {"event_timestamp": column})))
    assert joined[STARTS].to_pylist() == [None, 1, 2, 2]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"horse_id": ["arkle"]}, "the frame has no column event_timestamp: add the instant"),
        (
            {"who": ["a"], "event_timestamp": ["2024-05-01T00:00Z"]},
            "the frame has no entity column: name at least one of",
        ),
        ({"horse_id": ["a"], "event_timestamp": ["soon"]}, "the frame: event_timestamp is not a timestamp"),
        ({"horse_id": ["a"], "event_timestamp": [7]}, "the frame: event_timestamp is not a timestamp but int64"),
        (
            {"horse_id": ["a", "b"], "event_timestamp": ["2024-05-01T00:00Z", None]},
            "the frame: row 2 has no event_timestamp",
        ),
    ],
)
def test_rows_that_cannot_be_asked_about_are_refused(small: velo.RaceStore, frame: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"^{words}"):
        small.features(pa.table(frame))


def test_sql_gives_every_row_as_arrow(small: velo.RaceStore) -> None:
    answer = small.sql("select race_id, horse, position from runners where type = 'result' order by race_id, position")
    assert isinstance(answer, pa.Table)
    assert answer["race_id"].to_pylist() == ["R1", "R1", "R2", "R2"]
    assert answer["horse"].to_pylist() == ["Arkle", "Mill House", "Mill House", "Arkle"]
    assert small.sql("select * from range(20000)").num_rows == 20_000
    for query in ("select wrong from runners", "drop view runners", ""):
        with pytest.raises(UserError) as refused:
            small.sql(query)
        said = command("sql", query, home=small.home.root)
        assert said.err == f"velo: {' '.join(str(refused.value).split())}\n"


def test_a_race_is_shown_as_it_was_known(small: velo.RaceStore) -> None:
    race = small.race("R1")
    assert race[["horse", "position", "status"]].values.tolist() == [
        ["Arkle", 1, "FINISHED"],
        ["Mill House", 2, "FINISHED"],
    ]
    before = small.race("R1", as_of="2024-05-01T14:14:59Z")
    assert before["horse"].tolist() == ["Arkle", "Mill House"]
    assert before["position"].isna().all()
    with pytest.raises(UserError, match=r"--as-of 2030-01-01T00:00:00\.000000Z is in the future"):
        small.race("R1", as_of="2030-01-01T00:00:00Z")
    with pytest.raises(UserError, match="race 'R7' was never declared nor run here"):
        small.race("R7")


def test_an_explanation_names_the_starts_behind_a_value(small: velo.RaceStore) -> None:
    explained = small.explain("R2", "Arkle")
    form = next(view for view in explained.views if view.view == "horse_form")
    starts = next(feature for feature in form.features if feature.name == "starts")
    assert (starts.value, starts.agrees, explained.differences) == (1, True, ())
    assert [start.race_id for start in form.starts] == ["R1"]


# Models


def test_a_training_set_has_the_features_known_before_each_off_and_the_outcome_beside(small: velo.RaceStore) -> None:
    rows = small.training_set(since="2024-05-03", until=date(2024, 5, 3))
    priced = small.training_set(since="2024-05-03", until=date(2024, 5, 3), market=True)
    added = [f"market__{name}" for name in COLUMNS]
    assert list(priced.columns) == [*rows.columns, *added]
    assert priced[added].isna().all(axis=None), "the store has no odds before an off"
    assert rows["race_id"].tolist() == ["R2", "R2"]
    by_horse = rows.set_index("horse_id")
    assert by_horse.loc["arkle", "feature__horse_form__wins"] == 1.0
    assert by_horse.loc["mill house", "feature__horse_form__wins"] == 0.0
    assert by_horse["label__win_share"].to_dict() == {"mill house": 1.0, "arkle": 0.0}
    assert by_horse.loc["arkle", "decision_time"] == pd.Timestamp("2024-05-03T11:55:00Z")
    with pytest.raises(UserError, match="holds no result between 2025-01-01 and 9999-12-31"):
        small.training_set(since="2025-01-01")


def test_a_score_is_that_of_the_command(season: velo.RaceStore) -> None:
    race_id = season.sql("select max(race_id) as last from runners")["last"][0].as_py()
    score = season.score(race_id)
    said = command("score", race_id, "--json", home=season.home.root).document
    assert score["probability"].tolist() == [runner["probability"] for runner in said["runners"]]
    assert score["probability"].sum() == pytest.approx(1.0, abs=1e-12)
    assert score["low"].tolist() == [
        runner["interval"][0] if runner["interval"] else None for runner in said["runners"]
    ] or (score["low"].isna().all())
    assert set(score["mode"]) == {said["mode"]}
    assert score["notes"].map(list).tolist() == [said["notes"]] * len(score)
    off = datetime.fromisoformat(said["off_time"])
    with pytest.raises(UserError, match="result"):
        season.score(race_id, as_of=off + timedelta(days=5))


def test_a_backtest_has_its_figures_as_frames_and_its_report(season: velo.RaceStore) -> None:
    steps: list[str] = []
    stored_model = current(season.home)
    result = season.backtest(
        stored_model, since="2023-09-01", refit_months=1, past=2, progress=lambda step, done, total: steps.append(step)
    )
    stored = json.loads((season.home.backtests / result.report.backtest / "backtest.json").read_text())
    figures = result.figures.set_index("name")
    for measured in stored["told"]:
        assert figures.loc[measured["name"], "r2"] == measured["r2"]["value"]
        assert figures.loc[measured["name"], "slope_n"] == measured["slope"]["n"]
    assert result.comparisons["delta_r2"].tolist() == [row["delta_r2"]["value"] for row in stored["beside"]]
    predictions = result.predictions
    assert len(predictions) == stored["runners"]
    assert predictions.groupby("race_id")["fundamental"].sum().to_numpy() == pytest.approx(1.0)
    bets = result.bets.set_index(["name", "strategy"])
    assert bets.loc[("blend", "TOP20 by edge"), "bets"] == next(
        row["n"] for row in stored["bets"]["blend"] if row["strategy"] == "TOP20 by edge"
    )
    assert result.page.read_text().startswith("<!doctype html>")
    assert result.verdict == "NOT ENOUGH DATA"
    assert repr(result).splitlines()[0].startswith(("gate:", "ALARM:"))
    assert "measure" in steps
    with pytest.raises(UserError, match=r"the gate asks for 365: run `velo backtest --days 365` first"):
        season.gate()


def test_a_damaged_file_is_one_line_with_its_remedy(tmp_path: Path) -> None:
    store = opened(tmp_path / "home")
    store.ingest(pd.DataFrame(RACES))
    store.build()
    part = next((store.home.root / "generations").rglob("horse_form/*.parquet"))
    part.write_bytes(b"PAR1" + bytes(200))
    with pytest.raises(UserError, match=r"is damaged .* run `velo build --whole`"):
        store.features(pa.table(ASKED))


# Doctor


def test_the_doctor_finds_nothing_wrong_with_a_new_or_a_sound_store_and_changes_nothing(tmp_path: Path) -> None:
    said = command("doctor", "--json", home=tmp_path / "home")
    assert [finding for finding in said.document if not finding["ok"]] == []
    assert not (tmp_path / "home").exists()
    store = opened(tmp_path / "home")
    store.ingest(pd.DataFrame(RACES))
    store.build()
    findings = {finding["check"]: finding for finding in command("doctor", "--json", home=tmp_path / "home").document}
    assert all(finding["ok"] for finding in findings.values())
    assert findings["log"]["says"] == "2 messages, to 2024-05-03T12:15:00.000000Z"
    assert findings["tables"]["says"] == "epoch 1, 0 messages behind the log"


def test_the_doctor_says_each_fault_with_its_remedy_and_exits_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path / "home")
    store.ingest(pd.DataFrame(RACES))
    store.build()
    next((store.home.root / "generations").rglob("horse_form/*.parquet")).write_bytes(b"PAR1" + bytes(200))
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy<1", "nothing-of-this-name>=2", "rich"])
    monkeypatch.setattr(formulas, "fingerprint", lambda: "other")
    said = command("doctor", home=store.home.root)
    assert said.code == 1
    assert said.out.startswith("3 of 10 checks failed")
    assert "numpy is" in said.out
    assert "nothing-of-this-name is missing: run `pip install --upgrade velo-features`" in said.out
    assert "the tables are of other formulas than the catalogue's: run `velo plan`, then `velo build`" in said.out
    assert "is damaged" in said.out
    before = doctor.doctor(store.opened, datetime(2024, 5, 1, tzinfo=UTC))
    [log] = [finding for finding in before if finding.check == "log"]
    assert log.says.endswith("after now (2024-05-01T00:00:00.000000Z): set this machine's clock")
