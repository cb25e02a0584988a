"""The files of the desk, the page about what is served, and the reference page of the interface, over HTTP."""

from functools import cache
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Header, Request, Response

from velo.serving.api.problems import Refusal
from velo.serving.monitoring.report import last_report

if TYPE_CHECKING:
    from jinja2 import Template

pages = APIRouter(include_in_schema=False)

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
FOREVER: Final = {"Cache-Control": "max-age=31536000, immutable"}
"""Of a file whose address has its version: a browser does not ask for it again."""


def _read() -> tuple[str, dict[str, tuple[bytes, str, str]]]:
    """The version of the page's files, and each file with its type and its tag; the page names the others by their version."""
    every = files("velo.serving.ui").iterdir()
    bodies = {file.name: file.read_bytes() for file in every if file.name.rpartition(".")[2] in TYPES}
    version = blake2b(b"".join(bodies[name] for name in sorted(bodies)), digest_size=8).hexdigest()
    bodies["index.html"] = bodies["index.html"].replace(b'"/desk/', b'"/desk/%s/' % version.encode())
    return version, {
        name: (body, TYPES[name.rpartition(".")[2]], f'"{blake2b(body, digest_size=8).hexdigest()}"')
        for name, body in bodies.items()
    }


VERSION, FILES = _read()


def _sent(name: str, known: str | None, version: str | None = None) -> Response:
    body, kind, tag = FILES[name]
    headers = HEADERS | {"ETag": tag} | (FOREVER if version == VERSION else {})
    if known == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, kind)


@cache
def template(name: str) -> "Template":
    """A page with values, from `NAME.jinja` beside this file; every value is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(f"{name}.jinja")


async def page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The page."""
    return _sent("index.html", if_none_match)


for path in PAGES:
    pages.add_api_route(path, page, methods=["GET", "HEAD"], response_class=Response)


@pages.api_route("/desk/{name}", methods=["GET", "HEAD"], response_class=Response)
@pages.api_route("/desk/{version}/{name}", methods=["GET", "HEAD"], response_class=Response)
async def part(
    name: str, version: str | None = None, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """A file of the page; the present one, whatever the version."""
    if name not in FILES:
        raise Refusal(404, f"the desk has no file {name!r}: its page is at /")
    return _sent(name, if_none_match, version)


@pages.api_route("/monitor", methods=["GET", "HEAD"], response_class=Response)
async def monitor(request: Request) -> Response:
    """The last report on what is served."""
    report = last_report(request.app.state.service.store.home)
    return Response(template("monitor").render(report=report), 200, HEADERS, TYPES["html"])


@pages.api_route("/docs", methods=["GET", "HEAD"], response_class=Response)
async def reference(request: Request) -> Response:
    """The reference of the interface."""
    return Response(template("reference").render(document=request.app.openapi()), 200, HEADERS, TYPES["html"])
