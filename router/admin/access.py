"""Who may call the admin API, how much they may send, and the audit line of each action."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rhizome.addresses import is_loopback
from rhizome.errors import (
    AuthenticationFailed,
    RequestError,
    SettingsError,
    UnsupportedMediaType,
)
from rhizome.settings.tree import AdminSettings
from router.admin.audit import AuditLog
from router.http.border import error_response
from router.keys import KeyRing, Principal, configured_keys

OPEN_PATHS = frozenset({"/admin/v1/health", "/docs", "/openapi.json"})
"""What tells nothing of this cluster, and needs no key."""
_WITH_BODY = ("POST", "PUT", "PATCH")
_READING = ("GET", "HEAD", "OPTIONS")


def admin_keys(settings: AdminSettings) -> KeyRing | None:
    """The keys of the admin API; None where it is off.

    Raises `SettingsError` for bad keys, and for an open API that others could reach.
    """
    raw = () if settings.key is None else (settings.key,)
    hashes = configured_keys(raw, settings.keys, raw_name="admin")
    if not hashes and not settings.allow_anonymous:
        return None
    if not hashes and not is_loopback(settings.host):
        raise SettingsError(
            f"the admin API at {settings.host} has no key, and others can reach it",
            advice="Set router.admin.key, or router.admin.host to 127.0.0.1.",
        )
    return KeyRing(hashes, is_open=not hashes)


class Guard:
    """An ASGI app around the API's own: key first, then the body's bound, then the audit."""

    def __init__(self, app: ASGIApp, ring: KeyRing, audit: AuditLog, body_bytes_max: int) -> None:
        self._app = app
        self._ring = ring
        self._audit = audit
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        what = f"{scope['method']} {scope['path']}"
        client = request.client.host if request.client is not None else ""
        try:
            principal = self._admit(request)
        except RequestError as error:
            self._audit.refused(client=client, what=what, status=error.status)
            await error_response(error)(scope, receive, send)
            return
        if scope["method"] in _READING:
            await self._app(scope, self._bounded(receive), send)
            return
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, self._bounded(receive), noting)
        finally:
            note = getattr(request.state, "audit_note", "")
            self._audit.note(who=principal.name, client=client, what=what, note=note, status=status)

    def _admit(self, request: Request) -> Principal:
        """Raises `AuthenticationFailed` or `UnsupportedMediaType`.

        Bodies must be said to be JSON, and an API without keys must be called by a name of this
        machine: so no web page can make a browser here call it.
        """
        principal = self._ring.check(request.headers.get("authorization"))
        if self._ring.is_open:
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname
            if host is None or not is_loopback(host):
                raise AuthenticationFailed("call the admin API as localhost, or give it a key")
        if request.method in _WITH_BODY:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise UnsupportedMediaType("send the body as 'Content-Type: application/json'")
        return principal

    def _bounded(self, receive: Receive) -> Receive:
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._body_bytes_max:
                raise HTTPException(413, f"the body is longer than {self._body_bytes_max} bytes")
            return message

        return bounded
