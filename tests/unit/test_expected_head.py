"""Which head of Redis a reader expects, from the reads before."""

from pathlib import Path

import pytest

from velo.feature_repo.stores import whole
from velo.storage.store import Home


def test_a_head_is_refused_where_a_read_before_it_found_a_later_one(tmp_path: Path) -> None:
    """And one that was read before a rebuild put Redis back is not expected of the reads after it."""
    home = Home(tmp_path)
    whole.remember_head(home, 0, 10)
    expected = whole.Expected(home, layouts=())
    began, overtaking = expected.before_read(), expected.before_read()
    expected.refuse(overtaking, [], [], (0, 11))
    expected.refuse(began, [], [], (0, 10))
    for older in ((0, 10), None):
        with pytest.raises(whole.NotWhole, match="less of the log than it did before"):
            expected.refuse(expected.before_read(), [], [], older)
    before_rebuild = expected.before_read()
    whole.remember_head(home, 0, 5)
    after_rebuild = expected.before_read()
    expected.refuse(before_rebuild, [], [], (0, 12))
    expected.refuse(after_rebuild, [], [], (0, 5))
    expected.refuse(before_rebuild, [], [], (0, 5))
    with pytest.raises(whole.NotWhole, match="less of the log than it did before"):
        expected.refuse(after_rebuild, [], [], (0, 4))
