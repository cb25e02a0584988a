"""Bounds on what a request may be: the size of its body, whatever its headers claim, and how long it takes to come."""

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.problems import answer

BODY_BYTES: Final = 256 * 1024
BODY_S: Final = 10.0
RUNNERS: Final = 40
"""No race we know of has more."""


class BoundedBody:
    """ASGI middleware: a body longer than `most` bytes is refused with 413 as soon as that shows, a slow one with 408."""

    def __init__(self, app: ASGIApp, most: int = BODY_BYTES, seconds: float = BODY_S) -> None:
        self.app = app
        self.most = most
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of a request, up to the bound, before anything is done with it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.seconds):
                whole = await self._whole(receive)
        except TimeoutError:
            refusal = answer(408, f"the body took more than {self.seconds:g} s to come: send it at once")
            await refusal(scope, receive, send)
            return
        except _TooLong:
            refusal = answer(413, f"the body is longer than {self.most:,} bytes: send one race a request")
            refusal.headers["Connection"] = "close"  # or the server would take the rest of it from the wire
            await refusal(scope, receive, send)
            return
        if whole is None:
            return
        told = False

        async def once() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": whole, "more_body": False}

        await self.app(scope, once, send)

    async def _whole(self, receive: Receive) -> bytes | None:
        """The body; None where whoever sent it is gone."""
        parts: list[bytes] = []
        taken, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            taken += len(parts[-1])
            more = message.get("more_body", False)
            if taken > self.most:
                raise _TooLong
        return b"".join(parts)


class _TooLong(Exception):
    """A body longer than it may be."""
