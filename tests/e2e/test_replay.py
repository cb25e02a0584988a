"""`velo bench replay`: whole files through the real stream, every value held to account."""

from pathlib import Path

import pytest

from benchmarks.replay import measure
from tests.support.cli import velo
from tests.support.shared import shared_file


@pytest.mark.parametrize(
    ("name", "timezone", "probes"), [("london", "Europe/London", 6400), ("hk_amended", "Asia/Hong_Kong", 6400)]
)
def test_a_replay_leaves_what_the_probes_and_a_fresh_batch_say(name: str, timezone: str, probes: int) -> None:
    """Every probe from the stream's own Parquet; every key of every view in Redis; the audit clean."""
    file = shared_file(f"conformance/{name}.parquet")
    figures = measure(file, timezone, shared_file(f"conformance/{name}_probes.parquet"))
    assert (figures.differences, figures.probes_wrong) == (0, 0)
    assert figures.probes >= probes
    assert min(figures.values_compared.values()) > 1_800


def test_a_file_that_is_no_probes_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no parquet")
    velo("bench", "replay", tmp_path / "x", "--probes", tmp_path / "x", home=tmp_path / "home").told(
        str(tmp_path / "x")
    )
