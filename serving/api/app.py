"""The application: routes over a `Service`, and the memory settings of its process."""

import ctypes
import gc
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any, Final

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from velo.serving.api.access import LOOPBACK, HostGuard
from velo.serving.api.events import QUEUE as LISTENERS_QUEUE
from velo.serving.api.events import Hub
from velo.serving.api.limits import CLIENT_SHARE, BoundedBody
from velo.serving.api.problems import Problem, install
from velo.serving.api.routes import curves, operations, races
from velo.serving.api.service import Service
from velo.serving.ui.pages import pages

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 256 * 2**20
_AT_ONCE_BYTES: Final = 32 * 2**20
VERSION: Final = "1.0.0"
"""Of the interface: a change that breaks a client begins another /v."""


def app_of(
    service: Service,
    token: str | None = None,
    *,
    warm_past: bool = False,
    hosts: Iterable[str] = LOOPBACK,
    client_share: float = CLIENT_SHARE,
) -> FastAPI:
    """The application of a service; without a token nothing can be written, and it answers to the names in `hosts`.

    `warm_past` loads, beside its first answers, what the first about a race that was run would wait seconds for. One
    address holds at most `client_share` (0 to 1) of the waiting requests and of the listeners.
    """
    hub = Hub(
        lambda after: service.insisted(service.scorer.online.events_after, after),
        lambda: service.insisted(service.newest_event),
        client_share,
        lambda: service.metrics.displaced(LISTENERS_QUEUE),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.scorer.warm)
        freeze()
        if warm_past:
            Thread(target=_warm_past, args=(service,), daemon=True).start()
        yield
        await hub.stop()
        thaw()

    app = FastAPI(
        title="VÉLØ",
        version=VERSION,
        description="Each runner's probability, from features that are seconds old, as of now or of any instant.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service, app.state.token, app.state.hub = service, token, hub
    app.state.client_share = client_share
    install(app, service.metrics.refusal)
    app.add_middleware(BoundedBody)
    app.add_middleware(HostGuard, names=hosts)
    app.include_router(races)
    app.include_router(operations)
    app.include_router(curves)
    app.include_router(pages)
    _tell_problems(app)
    return app


def _tell_problems(app: FastAPI) -> None:
    """The shape of a refusal belongs to the document though no route returns it by itself."""
    made = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = made().setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema()
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # how FastAPI has its document extended


def _warm_past(service: Service) -> None:
    service.scorer.warm_past(service.clock())
    freeze()


def keep_freed() -> bool:
    """Have the C library keep memory that is freed, instead of giving it back and asking for it again at the next request.

    Every page asked for again is a fault and cleared first: a third of the time of a score. Returns whether it was done,
    which only glibc can; elsewhere nothing changes. `mallopt(3)`.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    asked = ((_MMAP_THRESHOLD, _KEPT_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES), (_TOP_PAD, _AT_ONCE_BYTES))
    return all(bool(mallopt(option, value)) for option, value in asked)


def freeze() -> None:
    """Leave what was loaded so far out of every later search for garbage: one that walks all of it takes tens of ms."""
    gc.collect()
    gc.freeze()


def thaw() -> None:
    """Look through all of it again: a process that ends frozen leaves what it loaded to be complained of."""
    gc.unfreeze()
