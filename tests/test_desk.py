"""The desk in a real browser: what is told shows without a reload, on a screen, a phone and paper, and in words."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from feature_repo.stores.embedded_redis import down
from tests.browser import chromium, screenshots
from tests.services import NOW, OFF, TOKEN, a_service, a_streamed_store, tell
from velo.racing.messages import JockeyChange, Market, NonRunner

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from velo.store import Store

PHONE, SCREEN = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
RACE = "/race?id=to%20come"
CONTRAST = 4.5


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def store(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Store]":
    """Asks for the browser first, so that nothing is computed where there is none."""
    made = a_streamed_store(tmp_path_factory.mktemp("desk") / "home")
    yield made
    down(made.home)


@pytest.fixture(scope="module")
def served(store: "Store") -> Iterator[str]:
    """The service on a port of its own, its clock an hour before the off."""
    with serving(store) as (address, _):
        yield address
