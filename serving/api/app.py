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
"""Version of the interface: a change that breaks clients gets another /v."""


def app_of(
    service: Service,
    token: str | None = None,
    *,
    warm_past: bool = False,
    hosts: Iterable[str] = LOOPBACK,
    client_share: float = CLIENT_SHARE,
) -> FastAPI:
    """The application of a service, which answers to the names in `hosts`; without a token it refuses writes.

    `warm_past` loads in the background what the first request about a race that was run needs, which takes seconds. One address
    holds at most `client_share` (0 to 1) of the waiting requests and of the listeners.
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
    _document_problems(app)
    return app


def _document_problems(app: FastAPI) -> None:
    """Add the schema of a refusal to the OpenAPI document, although no route returns it as its model."""
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
    """Make the C library keep freed memory instead of returning it to the system at each request (`mallopt(3)`).

    A page that is requested again costs a fault and is cleared first: a third of the time of a score. Returns whether it
    worked; only glibc supports it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    asked = ((_MMAP_THRESHOLD, _KEPT_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES), (_TOP_PAD, _AT_ONCE_BYTES))
    return all(bool(mallopt(option, value)) for option, value in asked)


def freeze() -> None:
    """Exclude the objects loaded so far from later garbage collections, which would take tens of ms each."""
    gc.collect()
    gc.freeze()


def thaw() -> None:
    """Undo `freeze`: the interpreter reports frozen objects as leaks when it ends."""
    gc.unfreeze()
