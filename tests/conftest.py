"""The shared data, the stores built of it, a Redis and a browser as fixtures, and the closing line that says what was not tested."""

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.shared import ABSENT, shared_folder
from velo.feature_repo.feast_store import prepare_feast

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.support.made_once import Seasons
    from tests.support.stores import Conformance
    from velo.storage.store import Store
    from velo.streams.batch.build import BuildReport
    from velo.streams.importers.ingest import IngestReport


# A thread of OpenMP that has nothing to do sleeps: spinning, it takes the core that another worker's test needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Test modules import Feast themselves, before the code that they test does.
prepare_feast()

# Tests start hundreds of processes: without bytecode each compiles the packages again, and pytest every test.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

TESTS = Path(__file__).parent

LONGEST_FIRST = (
    "test_faults", "test_docs", "test_whole", "test_stream_faults", "test_bench_commands", "test_batch_build", "test_placebos",
    "test_desk", "test_own_models", "test_replay", "test_notebooks", "test_agreement_everywhere", "test_change", "test_generations",
    "test_race_that_was_run", "test_own_features", "test_stream", "test_race_day", "test_desk_live", "test_desk_read",
    "test_conformance", "test_fold", "test_gigabyte", "test_feast_cli", "test_full_disk", "test_bench_together", "test_audit",
    "test_service_fuzz", "test_feed_follow", "test_backtest", "test_dataset", "test_change_live", "test_stream_feeds",
)  # fmt: skip
"""Files in the order in which they begin, those that take a minute before those that take ten seconds; the others follow.

No worker is left with a long file when the rest is done.
"""

MEMORY = Path("/dev/shm")
ROOM_BYTES = 8 * 2**30
"""Free memory below which temporary files stay on disk; those of a run take about 3 GB."""


def _in_memory() -> bool:
    """Whether temporary files have room in memory. Each store syncs its files hundreds of times; in memory that takes no time."""
    try:
        shared, lines = os.statvfs(MEMORY), Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return False
    free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    return (
        os.access(MEMORY, os.W_OK)
        and not shared.f_flag & os.ST_NOEXEC
        and min(shared.f_bavail * shared.f_frsize, free) >= ROOM_BYTES
    )


if "TMPDIR" not in os.environ and _in_memory():
    # the processes that tests start read it too
    os.environ["TMPDIR"] = str(MEMORY)
    tempfile.tempdir = None

# pytest-xdist gives its workers a terminal of 80 columns; a command that writes into a pipe has none.
for _size in ("COLUMNS", "LINES"):
    os.environ.pop(_size, None)

# A machine that is busy is no fault of what is tested.
settings.register_profile("velo", deadline=None)
settings.load_profile("velo")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data, read in place and never written; the test is skipped loudly without it."""
    return shared_folder()


@pytest.fixture(scope="session")
def conformance(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Conformance]":
    """The conformance files' stores by name, each loaded and built once a run, when first asked for; never written to."""
    from tests.support.logs import a_store
    from tests.support.made_once import copied, made_once
    from tests.support.stores import CASES, Built, load_and_build
    from velo.feature_repo.stores import embedded_redis

    made: dict[str, Built] = {}

    def load(name: str, home: Path) -> "tuple[IngestReport, BuildReport]":
        first = load_and_build(CASES[name], home)
        return first.ingested, first.report

    def built(name: str) -> "Built":
        if name not in made:
            folder, reports = made_once(tmp_path_factory, f"conformance-{name}", partial(load, name))
            home = copied(folder, tmp_path_factory.mktemp("conformance") / name)
            made[name] = Built(CASES[name], a_store(home, CASES[name].timezone), *reports)
        return made[name]

    yield built
    for each in made.values():
        embedded_redis.down(each.store.home)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of the module's own."""
    from velo.feature_repo.stores import embedded_redis
    from velo.storage.store import Home

    home = Home(tmp_path_factory.mktemp("redis"))
    yield embedded_redis.ensure(home)
    embedded_redis.down(home)


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    """The address of a broker that speaks Kafka's protocol."""
    from tests.support.feeds import a_broker

    with a_broker() as address:
        yield address


@pytest.fixture
def store(tmp_path: Path) -> "Store":
    """A store with nothing in its log, under a name with a space; a module that needs another has its own."""
    from tests.support.logs import a_store

    return a_store(tmp_path / "a home")


@pytest.fixture(scope="session")
def seasons(tmp_path_factory: pytest.TempPathFactory) -> "Seasons":
    """Made-up seasons, each built once a run."""
    from tests.support.made_once import Seasons

    return Seasons(tmp_path_factory)


@pytest.fixture(scope="session")
def paper_store(tmp_path_factory: pytest.TempPathFactory) -> "Store":
    """A season to trade on paper; never written to."""
    from tests.support.made_once import made_once
    from tests.support.paper_days import SEASON_DAYS
    from tests.support.seasons import a_season, a_store, opened

    folder, _ = made_once(tmp_path_factory, "paper", lambda home: a_store(home, a_season(SEASON_DAYS)).home.root)
    return opened(folder)


@pytest.fixture(scope="session")
def traded_store(paper_store: "Store", tmp_path_factory: pytest.TempPathFactory) -> "Store":
    """A copy of the paper store whose last race days were traded without interruption; never written to."""
    from tests.support.made_once import made_once
    from tests.support.paper_days import a_copy, traded
    from tests.support.seasons import opened

    folder, _ = made_once(tmp_path_factory, "traded", lambda home: traded(a_copy(paper_store, home)))
    return opened(folder)


@pytest.fixture(scope="session")
def streamed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a store for the service, its Redis stopped, made once a run; copy it to use it."""
    from tests.support.made_once import made_once
    from tests.support.services import a_streamed_store

    return made_once(tmp_path_factory, "streamed", a_streamed_store)[0]


@pytest.fixture(scope="module")
def streamed_store(streamed_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Store]":
    """A store for the service, with a Redis of the module's own."""
    from tests.support.made_once import copied
    from tests.support.services import a_service, registered
    from velo.feature_repo.stores import embedded_redis

    made = registered(copied(streamed_folder, tmp_path_factory.mktemp("streamed") / "home"))
    # the first score of a process imports LightGBM: `velo serve` does that before it answers
    a_service(made).scorer.warm()
    yield made
    embedded_redis.down(made.home)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A browser; see `chromium` for where there is none. Ask for it first, so that nothing is computed in vain."""
    from tests.support.browser import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def fresh_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `fresh_batches` keeps what it built."""
    return tmp_path_factory.mktemp("fresh")


@pytest.fixture
def fresh_batches(fresh_tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Audits in this process build the batch of a log once, whichever store holds that log."""
    from tests.support.audits import kept_by_log
    from velo.streams import audit

    monkeypatch.setattr(audit, "_fresh", kept_by_log(audit._fresh, fresh_tables))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its folder: unit, integration or e2e. Leave out `prove` unless `-m` names it. Long files come first."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        if item.path.parent.parent == TESTS:
            item.add_marker(item.path.parent.name)
    if "prove" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("prove")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that counts the tests skipped for want of shared data."""
    skipped = sum(
        isinstance(report.longrepr, tuple) and ABSENT in report.longrepr[2]
        for report in terminalreporter.stats.get("skipped", [])
    )
    if skipped:
        terminalreporter.write_line(
            f"NOT TESTED: {skipped} promises on real data were skipped, the shared data is absent (see VELO_SHARED)",
            yellow=True,
            bold=True,
        )
