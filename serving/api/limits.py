"""Bounds on what a request may be: the size of its body, whatever its headers claim."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.problems import answer

BODY_BYTES: Final = 256 * 1024
RUNNERS: Final = 40
"""No race we know of has more."""


class BoundedBody:
    """ASGI middleware: a body longer than `BODY_BYTES` is refused with 413, as soon as that shows."""

    def __init__(self, app: ASGIApp, most: int = BODY_BYTES) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of a request, up to the bound, before anything is done with it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        parts: list[bytes] = []
        taken, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            taken += len(parts[-1])
            more = message.get("more_body", False)
            if taken > self.most:
                refusal = answer(413, f"the body is longer than {self.most:,} bytes: send one race a request")
                refusal.headers["Connection"] = "close"  # or the server would take the rest of it from the wire
                await refusal(scope, receive, send)
                return
        whole = b"".join(parts)
        told = False

        async def once() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": whole, "more_body": False}

        await self.app(scope, once, send)
