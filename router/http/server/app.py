"""Requests for the ASGI app, which has everything that is not answered by an engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from rhizome.errors import InternalFault
from rhizome.tasks import Tasks
from router.http.server.connection import ClientConnection
from router.http.server.exchange import CONTINUE, STATUS_LINES, Head, refusal_bytes
from router.relay.deadlines import Deadlines

_log = logging.getLogger(__name__)
_UNREAD_BYTES_MAX = 256 * 1024
_FRAMING = frozenset({b"connection", b"transfer-encoding", b"date"})

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


class AppExchange:
    """One request for the app, by the ASGI specification (HTTP, version 2.3)."""

    def __init__(
        self, connection: ClientConnection, head: Head, app: App, tasks: Tasks, deadlines: Deadlines
    ) -> None:
        self._connection = connection
        self._head = head
        self._app = app
        self._tasks = tasks
        self._deadlines = deadlines
        self._data = bytearray()
        self._is_whole = False
        self._is_told = False
        """The app knows that the request has come whole."""
        self._has_left = False
        self._changed = asyncio.Event()
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._expects_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in head.headers
        )
        self._is_chunked = False
        self._keep_alive = head.keep_alive
        self._has_ended = False
        self.started = False

    def begin(self) -> None:
        self._tasks.start("app", self._run())

    def body(self, data: bytes) -> None:
        self._data += data
        self._connection.body_progress()
        if len(self._data) > _UNREAD_BYTES_MAX:
            self._connection.read(False)
        self._changed.set()

    def body_ended(self) -> None:
        self._is_whole = True
        self._changed.set()

    def left(self) -> None:
        self._has_left = True
        self._changed.set()
        self._can_write.set()

    def writable(self, is_writable: bool) -> None:
        if is_writable:
            self._can_write.set()
        else:
            self._can_write.clear()

    async def _run(self) -> None:
        try:
            await self._app(self._scope(), self._receive, self._send)
        except Exception:
            if not self._has_left:
                _log.exception("the app failed at %r", self._head.target)
        if self._has_left or self._has_ended:
            return
        if self.started:
            self._connection.transport.abort()
            return
        fault = InternalFault("an internal error; the router's log has the details")
        self._connection.write(refusal_bytes(fault, self._deadlines.date))
        self._connection.answered(self, keep_alive=False)

    def _scope(self) -> Message:
        head, transport = self._head, self._connection.transport
        path, _, query = head.target.partition(b"?")
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        is_tls = transport.get_extra_info("sslcontext") is not None
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.method.decode("ascii"),
            "scheme": "https" if is_tls else "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": head.headers,
            "client": peer[:2] if isinstance(peer, tuple) else None,
            "server": own[:2] if isinstance(own, tuple) else None,
            "state": {},
        }

    async def _receive(self) -> Message:
        if self._expects_continue and not self._data and not self._has_left and not self.started:
            self._connection.write(CONTINUE)
        self._expects_continue = False
        while not (self._data or self._has_left or self._has_ended):
            if self._is_whole and not self._is_told:
                break
            self._changed.clear()
            await self._changed.wait()
        if self._has_left or self._has_ended:
            return {"type": "http.disconnect"}
        data, self._data = bytes(self._data), bytearray()
        self._connection.read(True)
        self._is_told = self._is_whole
        return {"type": "http.request", "body": data, "more_body": not self._is_whole}

    async def _send(self, message: Message) -> None:
        await self._can_write.wait()
        if self._has_left or self._has_ended:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self._write(message.get("body", b""), message.get("more_body", False))

    def _start(self, status: int, headers: Any) -> None:
        self.started = True
        lines = [STATUS_LINES[status].encode(), b"date: ", self._deadlines.date, b"\r\n"]
        has_length = False
        for name, value in headers:
            lowered = name.lower()
            if lowered in _FRAMING:
                continue
            has_length = has_length or lowered == b"content-length"
            lines += [lowered, b": ", value, b"\r\n"]
        has_body = self._head.method != b"HEAD" and status not in (204, 304)
        if has_body and not has_length:
            self._is_chunked = self._head.version == "1.1"
            self._keep_alive = self._keep_alive and self._is_chunked
            if self._is_chunked:
                lines.append(b"transfer-encoding: chunked\r\n")
        if self._connection.is_last or not self._keep_alive:
            self._keep_alive = False
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self._connection.write(b"".join(lines))

    def _write(self, data: bytes, more: bool) -> None:
        if self._head.method == b"HEAD":
            data = b""
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if not more:
                data += b"0\r\n\r\n"
        if data:
            self._connection.write(data)
        if not more:
            self._has_ended = True
            self._changed.set()
            self._connection.answered(self, self._keep_alive)
