"""The shared data as a fixture, and the closing line that says what was not tested without it."""

from pathlib import Path

import pytest

from tests.shared import ABSENT, shared_folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data, read in place and never written; the test is skipped loudly without it."""
    return shared_folder()


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
