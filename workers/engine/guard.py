"""The door in front of an engine's HTTP app.

Every path but `/health` demands the worker's key, and only published paths reach the engine: an
engine serves development and administration routes that nobody may reach through it. Counts the
requests that do work, so that a drain knows when it is done.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from rhizome.errors import AuthenticationFailed, RequestError, UnknownRoute

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_OPEN_PATH = "/health"
_PATHS = frozenset(
    {
        "/classify",
        "/detokenize",
        "/health",
        "/inference/v1/generate",
        "/kv_event_sources",
        "/load",
        "/metrics",
        "/metrics/",
        "/ping",
        "/pooling",
        "/rerank",
        "/score",
        "/tokenize",
        "/version",
    }
)
_PREFIXES = ("/v1/", "/v2/rerank")


class Guard:
    """An ASGI app in front of another one."""

    def __init__(self, app: Application, api_key: str | None) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode() if api_key is not None else None
        self.in_flight = 0
        """POST requests begun and not ended."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope["path"], scope["headers"])
        if refusal is not None:
            await _refuse(scope["type"], refusal, send)
            return
        if scope["type"] == "http" and scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self.in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.in_flight -= 1

    def _refusal(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> RequestError | None:
        if path == _OPEN_PATH:
            return None
        if self._expected is not None:
            offered = next((value for name, value in headers if name == b"authorization"), b"")
            if not hmac.compare_digest(offered, self._expected):
                return AuthenticationFailed("This worker wants its own key as a bearer token.")
        if path in _PATHS or path.startswith(_PREFIXES):
            return None
        return UnknownRoute(f"A worker does not publish {path}.")


async def _refuse(kind: str, refusal: RequestError, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.code})
        return
    body = json.dumps(refusal.body()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
