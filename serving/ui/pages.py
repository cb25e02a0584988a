"""The pages of the desk with the answers that they show first, their files, the page about what is served, and the reference page."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import date
from functools import cache
from graphlib import TopologicalSorter
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter, ValidationError

from velo.errors import UserError
from velo.serving.api.days import RUN
from velo.serving.api.limits import Lane
from velo.serving.api.problems import Refusal
from velo.serving.api.routes import Asked, Client, Turns
from velo.serving.api.schemas import RACE_ID, RaceDay
from velo.serving.api.service import Service
from velo.serving.monitoring.report import last_report

if TYPE_CHECKING:
    from jinja2 import Template

pages = APIRouter(include_in_schema=False)

RACE: Final = "/race"
PAGES: Final = ("/", RACE, "/horse", "/trainer", "/jockey")
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
NEVER_KEPT: Final = {"Cache-Control": "no-store"}
"""Of a page: it has the answers of the moment in it."""
FOREVER: Final = {"Cache-Control": "max-age=31536000, immutable"}
"""Of a file whose address has its version: a browser does not ask for it again."""


SCRIPT: Final = "desk.js"
"""The first of the modules, and the name under which a browser gets all of them as one file."""
_IMPORT: Final = re.compile(r'^import (?:(\{[^}]*\})|\* as (\w+)) from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.MULTILINE)


def _one_script(modules: dict[str, str]) -> str:
    """Modules by name (without `.js`) as one script, each a function with names of its own, after those that it imports.

    One file loads sooner than a dozen. A module imports names in braces, or all of another as one name, each on a line of its
    own, and exports what it declares.
    """
    imports = {name: [found[3] for found in _IMPORT.finditer(text)] for name, text in modules.items()}

    def function(name: str) -> str:
        text = _IMPORT.sub(lambda found: f"const {found[1] or found[2]} = ${found[3]};", modules[name])
        exported = ", ".join(found[2] for found in _EXPORT.finditer(text))
        declared = _EXPORT.sub(r"\1", text)
        return f"const ${name} = (() => {{\n{declared}\nreturn {{ {exported} }};\n}})();\n"

    return '"use strict";\n' + "".join(map(function, TopologicalSorter(imports).static_order()))


def _read() -> tuple[str, dict[str, tuple[bytes, str, str]]]:
    """The version of the page's files, and each file with its type and its tag; the page names the others by their version."""
    every = files("velo.serving.ui").iterdir()
    texts = {file.name: file.read_text() for file in every if file.name.rpartition(".")[2] in TYPES}
    texts[SCRIPT] = _one_script({name[:-3]: texts.pop(name) for name in sorted(texts) if name.endswith(".js")})
    texts["desk.css"] += f"@media print {{\n{texts.pop('print.css')}}}\n"
    version = blake2b("".join(texts[name] for name in sorted(texts)).encode(), digest_size=8).hexdigest()
    texts["index.html"] = texts["index.html"].replace('"/desk/', f'"/desk/{version}/')
    bodies = {name: text.encode() for name, text in texts.items()}
    return version, {
        name: (body, TYPES[name.rpartition(".")[2]], f'"{blake2b(body, digest_size=8).hexdigest()}"')
        for name, body in bodies.items()
    }


VERSION, FILES = _read()
ANSWERS: Final = b"{}"
"""What the page has in place of its answers."""
PROMPT_S: Final = 0.4
"""The longest that a page waits for its answers; its script asks for the others, and shows the race meanwhile."""
_DAY: Final[TypeAdapter[date]] = TypeAdapter(RaceDay)


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


async def page(request: Request, service: Asked, turns: Turns, client: Client) -> Response:
    """The page, and in it the answers that it shows first.

    The head is sent before they are known, so that a browser loads the files meanwhile.
    """
    headers = HEADERS | NEVER_KEPT
    body, kind, _ = FILES["index.html"]
    if request.method == "HEAD":
        return Response(body, 200, headers, kind)
    before, after = body.split(ANSWERS)
    path, query = request.url.path, request.query_params
    answers = _answers(service, turns, client, query.get("id") if path == RACE else None, query.get("date"))

    async def parts() -> AsyncIterator[bytes]:
        yield before
        # as a part of markup, the text of an answer could end its element
        yield orjson.dumps(await answers, option=orjson.OPT_UTC_Z).replace(b"<", rb"\u003c")
        yield after

    return StreamingResponse(parts(), 200, headers, kind)


async def _answers(service: Service, turns: Turns, client: str, race_id: str | None, day: str | None) -> dict[str, Any]:
    """The answers of the interface that a page shows first: `day`, of a race also `card`, `form` and `score`; and `event`.

    `event` is the newest event's id, read before all else: a listener from there on gets every message that an answer lacks. An
    answer that is refused, late, or scored from the history is left out: the script asks for it, and shows why.
    """
    answers: dict[str, Any] = {}

    async def add(name: str, lane: Lane, work: Callable[..., Any], *given: Any, **named: Any) -> None:
        with suppress(UserError, Refusal):
            answers[name] = await lane.run(client, service.insisted, work, *given, **named)

    async def add_day() -> None:
        with suppress(ValidationError):
            asked = _DAY.validate_python(day) if day and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", day) else None
            await add("day", turns.quick, service.day, asked)

    async def add_race(race_id: str) -> None:
        await add("card", turns.quick, service.card, race_id)
        if "card" in answers:
            parts = [add("form", turns.slow, service.form, race_id)]
            if answers["card"]["status"] != RUN:
                parts.append(add("score", turns.quick, service.score, race_id, None, with_drivers=True))
            await asyncio.gather(*parts)

    async def add_all() -> None:
        await add("event", turns.quick, service.newest_event)
        if "event" in answers:
            parts = [add_day()]
            if race_id is not None and len(race_id) <= 200 and re.search(RACE_ID, race_id):
                parts.append(add_race(race_id))
            await asyncio.gather(*parts)

    await asyncio.wait([asyncio.ensure_future(add_all())], timeout=PROMPT_S)
    return dict(answers)


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
