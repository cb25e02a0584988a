"""`velo bench replay`: whole files through the real stream, every value held to account."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.replay import replayed
from tests.support.cli import velo
from tests.support.forked import forked_benchmarks
from tests.support.logs import a_store
from tests.support.shared import shared_file
from tests.support.stores import Conformance
from tests.support.streaming import all_rows, assert_online, assert_same, wrong_probes
from velo.feature_repo.stores import embedded_redis


@pytest.mark.parametrize("name", ["london", "hk_amended"])
def test_a_replay_leaves_what_the_probes_and_a_fresh_batch_say(
    name: str, conformance: Conformance, tmp_path: Path
) -> None:
    """Through both sinks: the audit is clean, and all probes agree.

    London's tables are also held against the batch's here, without the audit: every row, and Redis by the last rows.
    """
    case = conformance(name).case
    with forked_benchmarks():
        figures = replayed(tmp_path / "home", shared_file(case.runners), case.timezone, case.probes)
    assert (figures.differences, figures.probes_wrong) == (0, 0)
    assert figures.probes >= 6400
    assert min(figures.values_compared.values()) > 1_800
    if name != "london":
        return
    store = a_store(tmp_path / "home", case.timezone)
    tables, batch = all_rows(store), all_rows(conformance(name).store)
    assert wrong_probes(tables, pq.read_table(case.probes).to_pylist()) == []
    assert_same(tables, batch)
    try:
        assert_online(store, batch)
    finally:
        embedded_redis.down(store.home)


def test_a_file_that_is_no_probes_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no parquet")
    velo("bench", "replay", tmp_path / "x", "--probes", tmp_path / "x", home=tmp_path / "home").told(
        str(tmp_path / "x")
    )
