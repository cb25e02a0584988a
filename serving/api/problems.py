"""Refusals: an HTTP status and a problem document (RFC 9457) whose one-line detail names the value, the rule and the remedy."""

from collections.abc import Callable
from typing import Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from velo.errors import UserError
from velo.feature_repo.stores.whole import NotWhole, OtherStore
from velo.serving.api.curves import NoTables, UnknownKey
from velo.serving.scoring.bundles import NoModel
from velo.serving.scoring.history import NotDeclared, TablesBehind
from velo.serving.scoring.online_race import CatchingUp
from velo.serving.scoring.race_messages import UnknownRace
from velo.serving.scoring.redis_reader import Busy, OnlineStoreUnavailable
from velo.serving.scoring.score_log import NotKept
from velo.serving.scoring.scorer import NoFeatures


class NotTaken(UserError):
    """A message that neither the log nor the feed accepted; a retry may succeed."""


MEDIA_TYPE: Final = "application/problem+json"
STATUS: Final[tuple[tuple[type[UserError], int], ...]] = (
    (UnknownRace, 404),
    (UnknownKey, 404),
    (NotDeclared, 404),
    (OnlineStoreUnavailable, 503),
    (Busy, 503),
    (CatchingUp, 503),
    (TablesBehind, 503),
    (NoFeatures, 503),
    (NotWhole, 503),
    (OtherStore, 503),
    (NotKept, 503),
    (NotTaken, 503),
    (NoModel, 503),
    (NoTables, 503),
)
"""Any other `UserError` is a fault of the request: 422."""
TITLES: Final = {
    400: "Bad request", 401: "No valid token", 403: "Writing is off", 404: "Not found", 405: "Method not allowed",
    408: "Too slow", 413: "Body too large", 421: "Not this service", 422: "Not acceptable as it is", 429: "Too many requests", 431: "Head too large", 503: "Not now",
}  # fmt: skip
RETRY_AFTER_S: Final = "1"


class Problem(BaseModel):
    """The reason of a refusal: `detail` names the value, the rule and the remedy in one line."""

    title: str
    status: int = Field(ge=400, le=599)
    detail: str


class Refusal(Exception):
    """A request refused with a status and a reason; `queue` names the queue in which its address used up its share, if any."""

    def __init__(self, status: int, detail: str, queue: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.queue = queue


def problem(status: int, detail: str) -> tuple[bytes, str]:
    """The body of a problem document and its media type."""
    title = TITLES.get(status, "Refused")
    return orjson.dumps({"title": title, "status": status, "detail": " ".join(detail.split())}), MEDIA_TYPE


def answer(status: int, detail: str) -> Response:
    """The response to a refused request."""
    body, media_type = problem(status, detail)
    headers = {"Retry-After": RETRY_AFTER_S} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(body, status, headers, media_type)


def status_of(mistake: UserError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in STATUS if isinstance(mistake, kind)), 422)


def documented(*statuses: int) -> dict[int | str, dict[str, object]]:
    """The OpenAPI responses of these statuses."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {status: {"description": TITLES[status], "content": {MEDIA_TYPE: schema}} for status in statuses}


def install(app: FastAPI, count: Callable[[int, str | None], None]) -> None:
    """Answer every refusal with a problem document, and count it by status and by the queue whose share its address used up."""

    def refusal(status: int, detail: str, queue: str | None = None) -> Response:
        count(status, queue)
        return answer(status, detail)

    @app.exception_handler(UserError)
    async def mistaken(_: Request, mistake: UserError) -> Response:
        return refusal(status_of(mistake), str(mistake))

    @app.exception_handler(Refusal)
    async def refused(_: Request, raised: Refusal) -> Response:
        return refusal(raised.status, raised.detail, raised.queue)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, wrong: RequestValidationError) -> Response:
        first = wrong.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        more = f" (and {len(wrong.errors()) - 1} more)" if len(wrong.errors()) > 1 else ""
        return refusal(422, f"{where}: {first['msg']}{more}: see /openapi.json")

    @app.exception_handler(HTTPException)
    async def other(_: Request, http: HTTPException) -> Response:
        return refusal(http.status_code, str(http.detail))
