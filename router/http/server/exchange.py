"""What a connection knows of the requests on it, and how heads of responses are written."""

from __future__ import annotations

import http
import math
from collections.abc import Iterable
from typing import Protocol

import msgspec

from rhizome.errors import RequestError
from router.relay.dialect import OPENAI, Dialect

Header = tuple[bytes, bytes]
JSON = "application/json"


class Head(msgspec.Struct):
    """The head of a request."""

    method: bytes
    target: bytes
    """As sent: path and query."""
    headers: list[Header]
    """Names in lower case, in the order sent."""
    version: str
    keep_alive: bool
    """Whether the client wants, and may have, another request on its connection."""
    read: object = None
    """What was read from it, for those that get it again: once it was, a head that is the same but
    for its length is not made anew on its connection, and says the length of the first."""


class Exchange(Protocol):
    """One request on a connection, and its response. No call raises."""

    started: bool
    """Some of the response is written."""

    def begin(self) -> None:
        """The responses to earlier requests are written: now it may write its own."""
        ...

    def body(self, data: bytes) -> None:
        """Some of the request's body, never empty."""
        ...

    def body_ended(self) -> None:
        """The request has come whole."""
        ...

    def left(self) -> None:
        """The client is gone; nothing that is written will arrive."""
        ...

    def writable(self, is_writable: bool) -> None:
        """The client's socket is full, or has room again."""
        ...


def _status_line(status: int) -> str:
    try:
        return f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
    except ValueError:
        return f"HTTP/1.1 {status} \r\n"


STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def error_headers(error: RequestError, request_id: str | None) -> list[tuple[str, str]]:
    """What a refusal says beside its body."""
    headers = []
    if request_id is not None:
        headers.append(("x-request-id", request_id))
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
    if error.status == 401:
        headers.append(("www-authenticate", "Bearer"))
    return headers


def head_bytes(status: int, date: bytes, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of a response; values must be free of line breaks."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    text = f"{STATUS_LINES[status]}date: {date.decode()}\r\n{lines}\r\n"
    return text.encode("latin-1", "replace")


def refusal_bytes(
    error: RequestError, date: bytes, request_id: str | None = None, dialect: Dialect = OPENAI
) -> bytes:
    """A whole response that says `error`, after which the connection ends."""
    body = dialect.error_body(error)
    headers = [
        ("content-type", JSON),
        ("content-length", str(len(body))),
        ("connection", "close"),
        *error_headers(error, request_id),
    ]
    return head_bytes(error.status, date, headers) + body
