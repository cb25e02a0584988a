"""Who may write: whoever shows the token. Without one set, nobody."""

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from velo.serving.api.problems import Refusal

bearer = HTTPBearer(auto_error=False, description="The token of VELO_TOKEN; needed by whatever writes.")


async def may_write(request: Request, shown: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
    """Refuse a request that does not show the token; compared in constant time."""
    token: str | None = request.app.state.token
    if not token:
        raise Refusal(403, "no token is set, so nothing may be written: start `velo serve` with VELO_TOKEN set")
    given = shown.credentials if shown is not None else ""
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise Refusal(401, "the token is missing or wrong: send `Authorization: Bearer …` with the one of VELO_TOKEN")
