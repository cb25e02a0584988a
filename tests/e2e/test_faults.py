"""What `velo bench faults` makes, each fault once: one line that says the remedy, nothing acknowledged lost, all values right.

The same scenarios as the command's, on the same small store; docs/reliability.md holds the command's own table.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import fault_harness, fault_scenarios, faults, kill_scenarios, race_day_scenario, write_kills
from benchmarks.fault_harness import Sandbox
from benchmarks.fault_scenarios import FAULTS, Fault
from benchmarks.faults import FaultOutcome
from tests.support.cli import velo
from tests.support.forked import forked_benchmarks
from tests.support.made_once import made_once
from tests.support.shared import REPO
from velo.errors import UserError
from velo.settings import Settings
from velo.storage import part_sums, table_versions
from velo.storage.log.format import segments
from velo.storage.store import Home, Store
from velo.streams import integrity_check

pytestmark = pytest.mark.usefixtures("fresh_batches")

PAGE = REPO / "docs" / "reliability.md"
KILLED_AT_RANDOM = ("load-killed", "build-killed", "race-day")
"""What a sample of the same command's writes shows sooner, and a day that takes a minute."""
BESIDE_THE_VALUES = (
    "bundle", "registry", "identity", "model-writes", "backtest-writes", "paper-writes", "letters-writes",
    "service-worker", "service-redis", "service-crowd", "torn-tail",
)  # fmt: skip
"""Faults after which no table, no row in Redis and no whole record of the log was ever another: one store takes them all."""
KILLED_AT_WRITES = [fault for fault in FAULTS if fault.name.endswith("-writes")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """The store that every fault is injected into a copy of; never written to."""

    def make(folder: Path) -> None:
        folder.mkdir()
        fault_harness.prepared(folder)

    folder, _ = made_once(tmp_path_factory, "faults", make)
    store = Store.open(Settings(folder / "home"))
    return Sandbox(store, Home(folder), folder / "first.parquet", folder / "later.parquet", random.Random(0))


@pytest.fixture
def sandbox(base: Sandbox, tmp_path: Path) -> Iterator[Sandbox]:
    with fault_harness.sandbox(base, tmp_path / "sandbox", random.Random(1)) as made:
        yield made


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[pytest.mark.prove] if fault.name in KILLED_AT_RANDOM else [], id=fault.name)
        for fault in FAULTS
        if fault.name not in BESIDE_THE_VALUES
    ],
)
def test_a_store_comes_back_from_a_fault_with_all_that_was_acknowledged(
    fault: Fault, base: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scenario raises where a command does anything but refuse in one line, or a remedy does not work."""
    monkeypatch.setattr(kill_scenarios, "AT", write_kills.few)
    recovered(fault, base, tmp_path, monkeypatch)


def test_a_store_comes_back_from_faults_beside_its_values_one_after_another(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is seen and has its remedy; after the last, nothing acknowledged is lost and all values are right."""
    monkeypatch.setattr(kill_scenarios, "AT", write_kills.few)
    by_name = {fault.name: fault for fault in FAULTS}
    with forked_benchmarks():
        recovered_from = [(by_name[name], by_name[name].inject(sandbox)) for name in BESIDE_THE_VALUES]
    assert [fault.name for fault, recovery in recovered_from if not (recovery.seen and recovery.back)] == []
    judge(faults.audited(sandbox, *recovered_from[-1]))


@pytest.mark.prove
@pytest.mark.parametrize("fault", KILLED_AT_WRITES, ids=lambda fault: fault.name)
def test_a_store_comes_back_from_a_kill_at_each_visible_write(
    fault: Fault, base: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill_scenarios, "AT", write_kills.visible_writes)
    recovered(fault, base, tmp_path, monkeypatch)


def recovered(fault: Fault, base: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inject a fault into a copy of the store and check that nothing is lost and every value is right."""
    monkeypatch.setattr(fault_scenarios, "AWAY_S", 4.0)
    monkeypatch.setattr(fault_scenarios, "ANSWER_S", 3.0)
    monkeypatch.setattr(race_day_scenario, "SIZE", race_day_scenario.DaySize(6, 5, 45.0))
    outcome = faults.outcome(fault, base, folder / fault.name, random.Random(1))
    if outcome.seen.startswith(faults.NOT_RUN):
        pytest.skip(f"NOT TESTED: {outcome.seen}")
    judge(outcome)


def judge(outcome: FaultOutcome) -> None:
    """Nothing acknowledged is lost, and every value is right."""
    assert (outcome.differences, outcome.missing) == (0, 0), outcome
    assert outcome.compared > 5_000
    assert outcome.seen
    assert outcome.back


def test_a_sample_of_the_writes_has_the_first_and_the_last() -> None:
    writes = [f"rename at line {number}" for number in range(30)]
    assert write_kills.visible_writes(writes) == list(range(30))
    assert write_kills.few(writes) == [0, 10, 19, 29]
    assert write_kills.few(writes[:1]) == [0]


def test_a_kill_after_a_sync_is_the_kill_at_the_sync() -> None:
    """SIGKILL loses nothing that was written, synced or not."""
    assert write_kills.every(["open", "write", "fsync at a", "fsync at b", "rename", "fsync", "mkdir"]) == [0, 1, 2, 5]


def test_whatever_broke_a_command_a_damaged_file_is_reported_with_its_remedy(sandbox: Sandbox) -> None:
    """A table that no reader can open is no bug of ours to show a traceback of."""
    assert integrity_check.found(sandbox.home) is None
    part = next((sandbox.home.offline / "horse_form").glob("batch-*.parquet"))
    fault_harness.cut(part, 200)
    asked = sandbox.backup.root / "asked.csv"
    asked.write_text("horse_id,event_timestamp\nnobody,2024-02-01T12:00:00Z\n")
    velo("features", "--entities", asked, "--out", asked.with_suffix(".parquet"), home=sandbox.home.root).told(
        part.name, "`velo build --whole`"
    )
    velo("online", "rebuild", home=sandbox.home.root).told(part.name, "`velo build --whole`")


def test_a_build_takes_no_record_that_was_changed_whatever_it_keeps_of_it(sandbox: Sandbox) -> None:
    """Also where a copy of the segment, or its measured starts, are there and whole."""
    path = segments(sandbox.home)[0].path
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"position":2', b'"position":3', 1))
    velo("build", "--whole", home=sandbox.home.root).told("is damaged at byte 0", "restore")
    path.write_bytes(content)
    assert velo("build", "--whole", home=sandbox.home.root).code == 0


def test_a_whole_build_trusts_nothing_that_was_kept(sandbox: Sandbox) -> None:
    """It measures the log again, over whatever stands in the cache."""
    for part in sandbox.home.batch.glob("*.parquet"):
        part.unlink()
        part.write_bytes(b"no table")
    assert velo("build", "--whole", home=sandbox.home.root).code == 0
    assert integrity_check.found(sandbox.home) is None


def test_a_part_that_was_changed_is_named(sandbox: Sandbox) -> None:
    folder = table_versions.current(sandbox.home)
    assert folder is not None
    part_sums.refuse_damaged(folder)
    part = next((folder / "draw_bias").glob("batch-*.parquet"))
    fault_harness.change(part, 0.5, 1)
    with pytest.raises(UserError, match=re.escape(str(part))):
        part_sums.refuse_damaged(folder)
    part.unlink()
    with pytest.raises(UserError, match="is missing"):
        part_sums.refuse_damaged(folder)


def test_a_name_that_is_no_fault_is_reported(tmp_path: Path) -> None:
    velo("bench", "faults", "--only", "nonsense", home=tmp_path).told("nonsense is not a fault", "torn-tail")


def test_a_run_of_some_faults_writes_their_rows_and_leaves_the_others(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    again = faults.FaultOutcome("part-cut", "a Parquet part cut short", "seen anew", "nothing", "so", 1.0, 7, 0, 0)
    faults.write_into(page, faults.FaultFigures((again,), None, 1.0, "another machine"))
    before, after = (each.read_text(encoding="utf-8").splitlines() for each in (PAGE, page))
    assert [line for line in after if line not in before] == [
        "| a Parquet part cut short | seen anew | nothing | so | 1.0 | 7 | 0 |"
    ]
    assert len([line for line in before if line not in after]) == 1


def test_the_page_has_the_commands_own_table_of_every_fault() -> None:
    """One row a fault, in the command's words, and none with a difference."""
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    found = {row[0].removeprefix("| "): row for row in rows if len(row) == len(faults.COLUMNS)}
    for fault in FAULTS:
        assert fault.harm in found, f"{fault.harm}: run `velo bench faults --into docs/reliability.md`"
        assert found[fault.harm][-1].rstrip(" |") == "0"
    with pytest.raises(UserError, match="no `<!-- velo bench faults -->`"):
        faults.write_into(REPO / "README.md", faults.FaultFigures((), None, 0.0, ""))
