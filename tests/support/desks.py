"""The service under a real browser: a desk that is up, a page of it, and what the page shows."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import uvicorn

from tests.support.services import NOW, a_service
from velo.serving.api.app import app_of
from velo.storage.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCREEN = {"width": 1280, "height": 900}
RACE = "/race?id=to%20come"
ROWS = "main tbody tr:not(.out)"


@dataclass(slots=True)
class Desk:
    """A service that is up, the instant it thinks it is, and what its browser said and asked for."""

    store: Store
    port: int
    began: float
    stop: Callable[[], None]
    heard: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def clock(self) -> datetime:
        return NOW + timedelta(seconds=time.monotonic() - self.began)


@contextmanager
def served(store: Store, port: int = 0, began: float | None = None) -> Iterator[Desk]:
    """The service on a port of its own; its clock goes on from an hour before the off."""
    listening = socket.create_server(("127.0.0.1", port))

    def stop() -> None:
        server.should_exit = True
        thread.join()
        listening.close()

    desk = Desk(store, listening.getsockname()[1], began or time.monotonic(), stop)
    service = a_service(store, desk.clock)
    app = app_of(service, "a token")
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield desk
    finally:
        stop()


@contextmanager
def page_of(
    browser: "Browser", desk: Desk, path: str, size: dict[str, int] = SCREEN, **context: Any
) -> "Iterator[Page]":
    """A page with nothing kept from another; what it says on the console and asks for is noted."""
    opened = browser.new_context(viewport={"width": size["width"], "height": size["height"]}, **context)
    page = opened.new_page()
    page.on("console", lambda said: desk.heard.append(said.text))
    page.on("pageerror", lambda broken: desk.heard.append(str(broken)))
    page.on("request", lambda asked: desk.asked.append(asked.url))
    try:
        page.goto(desk.address + path)
        page.wait_for_selector("main h1")
        yield page
    finally:
        opened.close()


def chances(page: "Page") -> dict[str, float]:
    """The chance of each runner as the page has it, in per cent."""
    # one reading of the whole table: the page sorts its rows
    read = "rows => rows.map(row => [row.dataset.horse, row.querySelector('.chance b').innerText])"
    return {horse: float(text.split()[0]) for horse, text in page.locator(ROWS).evaluate_all(read)}


def settled(page: "Page", horse: str, text: str) -> None:
    page.locator(f'tr[data-horse="{horse}"]').filter(has_text=text).wait_for(timeout=20_000)


def shows_live(page: "Page") -> None:
    page.locator("#live:not(.lost)", has_text=re.compile("^live$")).wait_for(timeout=20_000)
