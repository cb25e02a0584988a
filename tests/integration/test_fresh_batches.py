"""The batch that audits share is that of the log: a store with another log is compared with another."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.audits import digest
from tests.support.logs import NOON, a_store, logged, told
from velo.streams.audit import audit
from velo.streams.batch.build import build

pytestmark = pytest.mark.usefixtures("fresh_batches")


@pytest.mark.slow
def test_two_stores_of_one_log_share_a_batch_and_one_record_more_asks_for_another(
    tmp_path: Path, fresh_tables: Path
) -> None:
    first, second = a_store(tmp_path / "first"), a_store(tmp_path / "second")
    compared = []
    for store in (first, second):
        logged(store, told())
        build(store, NOON)
        report = audit(store, NOON, client=None)
        compared.append(report.compared["offline"])
        assert report.found == 0
    assert compared[0] == compared[1] > 0
    assert digest(first) == digest(second)
    assert (fresh_tables / digest(first)).is_dir()
    logged(second, told("R2", NOON + timedelta(hours=1)))
    assert digest(second) != digest(first)
    assert audit(second, NOON, client=None).found == 0
    build(second, NOON)
    assert audit(second, NOON, client=None).compared["offline"] > compared[0]
    assert (fresh_tables / digest(second)).is_dir()
