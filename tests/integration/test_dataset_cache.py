"""A training set is kept by what it was made from: read again bit for bit, made again where that changed or the file did."""

from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tests.support.made_once import Seasons
from tests.support.seasons import a_season, a_store
from velo.errors import UserError
from velo.storage.store import Home, Store
from velo.training.dataset.entity_rows import Period
from velo.training.dataset.training_set import KEPT, TrainingSet, kept_training_set

pytestmark = pytest.mark.slow

READ = "read the training set"


@pytest.fixture(scope="module")
def store(seasons: Seasons) -> Store:
    return seasons.store(60)


def asked(
    store: Store, lead: timedelta = timedelta(minutes=5), period: Period | None = None
) -> tuple[TrainingSet, bool]:
    """The set, and whether it was read."""
    steps: list[str] = []
    rows = kept_training_set(
        store, lead=lead, period=period or Period(), progress=lambda step, done, of: steps.append(step)
    )
    return rows, READ in steps and "join what was known" not in steps


def files(store: Store) -> list[Path]:
    return sorted(store.home.datasets.glob("*.parquet"))


def test_the_second_asking_reads_what_the_first_made_bit_for_bit(store: Store) -> None:
    made, was_read = asked(store)
    assert not was_read
    found, was_read = asked(store)
    assert was_read
    assert found.features.tobytes() == made.features.tobytes()
    assert found.identity.equals(made.identity)
    assert found.labels.equals(made.labels)
    np.testing.assert_array_equal(found.races, made.races)
    assert found.provenance == made.provenance


def test_another_lead_or_period_is_another_set_and_only_the_last_used_are_kept(store: Store) -> None:
    for minutes in range(1, KEPT + 2):
        assert not asked(store, timedelta(minutes=60 + minutes))[1]
    until = Period(until=date(2023, 3, 20))
    early, was_read = asked(store, period=until)
    assert not was_read
    assert asked(store, period=until)[1]
    assert early.days().max() <= np.datetime64("2023-03-20")
    assert len(files(store)) == KEPT


@pytest.mark.parametrize("at", [0.2, 0.5, 0.999])
def test_a_damaged_file_is_made_again(store: Store, at: float) -> None:
    made, _ = asked(store)
    path = max(files(store), key=lambda file: file.stat().st_mtime)
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 0xFF
    path.write_bytes(content)
    again, _ = asked(store)
    assert again.features.tobytes() == made.features.tobytes()
    assert asked(store)[1]


def test_tables_built_again_from_more_messages_are_another_set(tmp_path: Path) -> None:
    messages = a_season(60)
    store = a_store(tmp_path / "home", messages[: len(messages) // 2])
    fewer, _ = asked(store)
    more, was_read = asked(a_store(tmp_path / "home", messages[len(messages) // 2 :]))
    assert not was_read
    assert more.rows > fewer.rows


def test_without_tables_the_remedy_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="velo build"):
        kept_training_set(Store(Home(tmp_path / "none"), ZoneInfo("Europe/London")))
