"""Feast is imported without run-time type checks, and our metrics stay in their registry."""

import os
import subprocess
import sys

from tests.support.shared import REPO

CODE = """
from velo.feature_repo.feast_store import prepare_feast
prepare_feast()
import feast
from prometheus_client import CollectorRegistry, Counter
counted = []
for _ in range(2):
    registry = CollectorRegistry()
    Counter("seen", "", registry=registry).inc()
    counted.append(registry.get_sample_value("seen_total"))
print(counted, "typeguard" in feast.Entity.__init__.__code__.co_names)
"""


def test_a_registry_counts_alone_and_no_call_of_feast_is_type_checked() -> None:
    """Feast alone would switch prometheus_client to files that all registries of a process share."""
    # another test may have left it in the environment of this process
    environ = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=REPO, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[1.0, 1.0] False\n"
