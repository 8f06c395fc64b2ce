"""Reading requests to the app: bounded bodies, and keys."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from rhizome.errors import (
    ClientLeft,
    RequestTimeout,
)
from router.http.asked import too_large
from router.keys import KeyRing

BODY_TIMEOUT_S = 60.0


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body; raises `BodyTooLarge` at the first byte over the limit."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > bytes_max:
        raise too_large(bytes_max)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > bytes_max:
                    raise too_large(bytes_max)
                parts.append(chunk)
    except TimeoutError as error:
        raise RequestTimeout(
            f"the request's body did not arrive within {BODY_TIMEOUT_S:.0f} s"
        ) from error
    except ClientDisconnect as error:
        raise ClientLeft("the client left while it was sending") from error
    return b"".join(parts)


class KeyCheck:
    """Lets those in whose key is on the ring, and notes who they are."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def __call__(self, request: Request) -> None:
        """A FastAPI dependency; sets `request.state.principal`, raises `AuthenticationFailed`."""
        request.state.principal = self._ring.check(_authorization(request))


def _authorization(request: Request) -> str | None:
    """The header as OpenAI's clients send it, or what Anthropic's send in its place."""
    key = request.headers.get("x-api-key")
    return request.headers.get("authorization") or (f"Bearer {key}" if key else None)
