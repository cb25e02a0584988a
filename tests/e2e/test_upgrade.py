"""A small store that an earlier version made, upgraded as docs/releases.md says, beside a store made new.

`tests/support/store-1.0.tar.xz` is a made-up season of twelve days, its tables and a model, kept from the version it is named
after. It is never made again: what it holds must open in every later version.
"""

import tarfile
from pathlib import Path

import pytest

from tests.support.cli import velo
from tests.support.logs import a_store, held, logged
from tests.support.shared import REPO
from tests.support.stores import NOW, a_season, formulas_of, tables_of, twin_of
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.training import bundle

KEPT = REPO / "tests" / "support" / "store-1.0.tar.xz"
MESSAGES = 33


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The kept store, unpacked."""
    with tarfile.open(KEPT) as archive:
        archive.extractall(tmp_path, filter="data")
    return a_store(tmp_path / "home")


@pytest.mark.slow
def test_a_store_of_version_1_0_is_upgraded_and_has_the_values_of_a_store_made_new(
    store: Store, tmp_path: Path
) -> None:
    home = store.home.root
    assert len(held(store)) == MESSAGES
    planned = velo("plan", "--json", home=home).document
    applied = velo("apply", "--json", home=home).document
    assert (applied["build"] is None) == (planned["tables"]["fingerprint"] == planned["tables"]["fingerprint_now"])
    # the season goes on
    end = held(store)[-1].known_at
    assert end is not None
    later = [message for message in a_season(24) if message.known_at and message.known_at > end]
    logged(store, *later)
    assert len(held(store)) == MESSAGES + len(later) > MESSAGES
    assert velo("build", home=home).code == 0
    twin = twin_of(store, tmp_path / "twin")
    build(twin, NOW)
    assert tables_of(store) == tables_of(twin)
    assert velo("plan", "--check", home=home).code == 0
    [model] = planned["models"]
    stored = bundle.described(store.home, model["version"])
    assert (bundle.misfit(stored, formulas_of(store.home)) is None) == model["fits_then"]
    if applied["build"] is not None:
        # the way back, by the version before, is one step; this version's formulas refuse it in one line
        velo("rollback", home=home).told("edit the catalogue back to those")
