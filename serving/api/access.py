"""Access: the host names that the service answers to, its security headers, and the token for writing.

A page of another origin whose name resolves to this machine (DNS rebinding) could read every answer. Its requests have that name
in `Host`, so they are refused.
"""

import hmac
from collections.abc import Iterable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from velo.serving.api.problems import Refusal, answer

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
ANY: Final = "*"
EVERYWHERE: Final = ("0.0.0.0", "::", "")  # noqa: S104 compared with, not bound to
SETTING: Final = "VELO_HOSTS"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Default headers of every answer: it loads nothing, and no page of another origin can embed it."""
_SHOWN: Final = 100


def allowed(bound: str, more: str | None) -> frozenset[str]:
    """The names that a service answers to: the loopback's, its bound address, and those of a comma-separated list."""
    listed = (name.strip() for name in (more or "").split(","))
    return frozenset(name_of(name) or name for name in (*LOOPBACK, bound, *listed) if name not in EVERYWHERE)


def name_of(host: str) -> str | None:
    """The name in a Host header, without its port and in lower case; None if the header is malformed."""
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        port = port.removeprefix(":") if port.startswith(":") else port and "?"
        if not closed:
            return None
    elif host.count(":") > 1:
        name, port = host, ""
    else:
        name, _, port = host.partition(":")
    if not name or (port and not (port.isascii() and port.isdigit())):
        return None
    return name.removesuffix(".").lower()


class HostGuard:
    """ASGI middleware: refuses a request for another host with 421, and gives every answer its security headers."""

    def __init__(self, app: ASGIApp, names: Iterable[str] = LOOPBACK) -> None:
        self.app = app
        self.names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        hosts = Headers(scope=scope).getlist("host")
        name = name_of(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            refusal = answer(400, f"Host is {', '.join(hosts)[:_SHOWN]!r}, but must name this service: send one name")
            await refusal(scope, receive, sent)
        elif ANY not in self.names and name not in self.names:
            refusal = answer(
                421,
                f"Host is {name[:_SHOWN]!r}, a name this service does not answer to: ask for {LOOPBACK[0]}, or start it "
                f"with {SETTING}={name[:_SHOWN]}",
            )
            await refusal(scope, receive, sent)
        else:
            await self.app(scope, receive, sent)


bearer = HTTPBearer(auto_error=False, description="The token of VELO_TOKEN; needed by whatever writes.")


async def may_write(request: Request, shown: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
    """Refuse a request that does not show the token; compared in constant time."""
    token: str | None = request.app.state.token
    if not token:
        raise Refusal(
            403, "no token is set, so nothing may be written: start `velo up` or `velo serve` with VELO_TOKEN set"
        )
    given = shown.credentials if shown is not None else ""
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise Refusal(401, "the token is missing or wrong: send `Authorization: Bearer …` with the one of VELO_TOKEN")
