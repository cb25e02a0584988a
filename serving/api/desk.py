"""The desk's files, and the curves that its pages draw."""

from hashlib import blake2b
from importlib.resources import files
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Header, Path, Query, Request, Response

from velo.serving.api.problems import Refusal, documented
from velo.serving.api.reference import page as reference_page
from velo.serving.api.routes import JSON, Asked, Turns
from velo.serving.api.schemas import Curve, Instant
from velo.serving.curves import Kind, curves_of

pages = APIRouter(include_in_schema=False)
curves = APIRouter(prefix="/v1", tags=["curves"])

PAGES: Final = ("/", "/race", "/horse", "/trainer", "/jockey")
"""One page: its script reads the address."""
TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Nothing of another origin, nothing inline: a name that is markup stays a name. Kept only if still the same."""
POINTS: Final = 400
MOST_POINTS: Final = 2000

Id = Annotated[str, Path(min_length=1, max_length=200, description="The key, as a card has it.")]


AsOf = Annotated[Instant | None, Query(description="What was known then (ISO 8601 with an offset); now without.")]
Since = Annotated[Instant | None, Query(description="Leave out what no longer held then.")]
Points = Annotated[int, Query(ge=2, le=MOST_POINTS, description="At most so many changes, evenly chosen.")]


def _read() -> dict[str, tuple[bytes, str, str]]:
    """Each file with its type and its tag."""
    found = {}
    for one in files("velo.serving.desk").iterdir():
        kind = TYPES.get(one.name.rpartition(".")[2])
        if kind is not None:
            body = one.read_bytes()
            found[one.name] = (body, kind, f'"{blake2b(body, digest_size=8).hexdigest()}"')
    return found


FILES: Final = _read()


def _sent(name: str, known: str | None) -> Response:
    body, kind, tag = FILES[name]
    headers = HEADERS | {"ETag": tag}
    if known == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, kind)


async def page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The page."""
    return _sent("index.html", if_none_match)


for path in PAGES:
    pages.add_api_route(path, page, methods=["GET", "HEAD"], response_class=Response)


@pages.api_route("/desk/{name}", methods=["GET", "HEAD"], response_class=Response)
async def part(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """A file of the page."""
    if name not in FILES:
        raise Refusal(404, f"the desk has no file {name!r}: its page is at /")
    return _sent(name, if_none_match)


@pages.api_route("/docs", methods=["GET", "HEAD"], response_class=Response)
async def reference(request: Request) -> Response:
    """The reference of the interface."""
    return Response(reference_page(request.app.openapi()), 200, HEADERS, TYPES["html"])


ANSWERS: Final[dict[int | str, dict[str, Any]]] = {200: {"model": Curve}, **documented(404, 422, 503)}


@curves.get("/horses/{horse_id:path}/history", responses=ANSWERS, response_class=Response)
async def horse_history(
    service: Asked, turns: Turns, horse_id: Id, as_of: AsOf = None, since: Since = None, points: Points = POINTS
) -> Response:
    """A horse's record and form as they changed."""
    return await turns.slow.run(_told, service, "horse", horse_id, as_of, since, points)


@curves.get("/trainers/{trainer_id:path}/history", responses=ANSWERS, response_class=Response)
async def trainer_history(
    service: Asked, turns: Turns, trainer_id: Id, as_of: AsOf = None, since: Since = None, points: Points = POINTS
) -> Response:
    """A trainer's rolling windows as they changed."""
    return await turns.slow.run(_told, service, "trainer", trainer_id, as_of, since, points)


@curves.get("/jockeys/{jockey_id:path}/history", responses=ANSWERS, response_class=Response)
async def jockey_history(
    service: Asked, turns: Turns, jockey_id: Id, as_of: AsOf = None, since: Since = None, points: Points = POINTS
) -> Response:
    """A jockey's rolling windows as they changed."""
    return await turns.slow.run(_told, service, "jockey", jockey_id, as_of, since, points)


def _told(service: Asked, kind: Kind, key: str, as_of: AsOf, since: Since, points: int) -> Response:
    found = curves_of(service.store.home, kind, key, as_of or service.clock(), since, points)
    return Response(orjson.dumps(found, option=orjson.OPT_UTC_Z), media_type=JSON)
