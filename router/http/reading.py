"""Reading requests: bounded bodies, keys and priorities; what a client's bytes meet first."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from rhizome.errors import (
    BodyTooLarge,
    ClientLeft,
    InvalidRequest,
    UnsupportedMediaType,
)
from router.admission.classes import Priority
from router.keys import KeyRing

BODY_TIMEOUT_S = 60.0
_TRACE_HEADERS = ("traceparent", "tracestate")


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body; raises `BodyTooLarge` at the first byte over the limit."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > bytes_max:
        raise _too_large(bytes_max)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > bytes_max:
                    raise _too_large(bytes_max)
                parts.append(chunk)
    except TimeoutError as error:
        raise InvalidRequest(
            f"the request's body did not arrive within {BODY_TIMEOUT_S:.0f} s"
        ) from error
    except ClientDisconnect as error:
        raise ClientLeft("the client left while it was sending") from error
    return b"".join(parts)


def require_media_type(request: Request, wanted: str) -> None:
    """Raises `UnsupportedMediaType` unless the body is said to be what is wanted."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != wanted:
        raise UnsupportedMediaType(
            f"send the body as 'Content-Type: {wanted}', not {kind or 'without a type'!r}"
        )


def priority_of(request: Request) -> Priority:
    """The class asked for in `x-rhizome-priority`; interactive without the header."""
    asked = request.headers.get("x-rhizome-priority", Priority.INTERACTIVE.value)
    try:
        return Priority(asked)
    except ValueError as error:
        known = ", ".join(priority.value for priority in Priority)
        raise InvalidRequest(
            f"x-rhizome-priority must be one of {known}", param="x-rhizome-priority"
        ) from error


def trace_headers(request: Request) -> dict[str, str]:
    """The W3C trace context to pass on."""
    return {name: request.headers[name] for name in _TRACE_HEADERS if name in request.headers}


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


def _too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body is longer than {bytes_max} bytes, the limit of this server "
        "(router.relay.body_bytes_max)"
    )
