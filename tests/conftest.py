"""Where the shared data is found, and the closing line that says what was not tested without it."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
NO_SHARED = "no shared data"


def shared_folder() -> Path:
    """Where the shared data is expected, present or not: VELO_SHARED, else ../shared beside the repository."""
    return Path(os.environ.get("VELO_SHARED") or REPO.parent / "shared")


def must_have_shared() -> bool:
    """Whether the absence of the shared data is a failure: in CI, where VELO_REQUIRE_SHARED=1 asks for it."""
    return os.environ.get("CI") == "true" and os.environ.get("VELO_REQUIRE_SHARED") == "1"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data, read in place and never written; the test is skipped loudly without it."""
    folder = shared_folder()
    if folder.is_dir():
        return folder.resolve()
    absent = f"{NO_SHARED} at {folder}: put it there, or name its folder in VELO_SHARED"
    if must_have_shared():
        pytest.fail(f"{absent} (VELO_REQUIRE_SHARED=1 makes this a failure)", pytrace=False)
    pytest.skip(absent)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that counts the tests skipped for want of shared data."""
    skipped = sum(
        1
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and NO_SHARED in report.longrepr[2]
    )
    if skipped:
        terminalreporter.write_line(
            f"NOT TESTED: {skipped} promises on real data were skipped, the shared data is absent (see VELO_SHARED)",
            yellow=True,
            bold=True,
        )
