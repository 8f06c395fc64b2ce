"""A request whose head was seen before is read like the first one, however it arrives."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from msgspec.structs import replace

from rhizome.clock import SystemClock
from rhizome.settings.tree import HttpSettings
from router.http.server.connection import ClientConnection, Shared
from router.http.server.exchange import Exchange, Head
from router.relay.deadlines import Deadlines

HEAD = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\ncontent-length: %d\r\nX-A: b\r\n\r\n%b"
Seen = list[tuple[Head, bytes]]


class Kept:
    """Keeps a request, and answers it at its end."""

    started = False

    def __init__(self, connection: ClientConnection, head: Head, seen: Seen) -> None:
        self._connection = connection
        self._head = head
        head.read = "what it says"
        self._seen = seen
        self._data = b""

    def begin(self) -> None: ...

    def body(self, data: bytes) -> None:
        self._data += data

    def body_ended(self) -> None:
        others = [one for one in self._head.headers if one[0] != b"content-length"]
        self._seen.append((replace(self._head, headers=others), self._data))
        self._connection.answered(self, self._head.keep_alive)

    def left(self) -> None: ...

    def writable(self, is_writable: bool) -> None: ...


def connected(seen: Seen) -> tuple[ClientConnection, Mock]:
    def take(connection: ClientConnection, head: Head) -> Exchange:
        return Kept(connection, head, seen)

    connection = ClientConnection(Shared(HttpSettings(), Deadlines(SystemClock()), take))
    transport = Mock()
    transport.is_closing.return_value = False
    connection.connection_made(transport)
    return connection, transport


def read_anew(request: bytes) -> Seen:
    seen: Seen = []
    connected(seen)[0].data_received(request)
    return seen


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD % (5, b"hello")],
        [HEAD % (0, b"")],
        [HEAD % (12, b"a longer one")],
        [HEAD % (12, b"a long"), b"er one"],
        [HEAD[:30], HEAD[30:] % (5, b"hello")],
        [HEAD.replace(b"%d", b"0005") % b"hello"],
        [HEAD.replace(b"X-A: b", b"X-A: c") % (3, b"abc")],
        [HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") % (3, b"abc")],
    ],
)
def test_the_next_request_is_read_like_the_first(pieces: list[bytes]) -> None:
    seen: Seen = []
    connection, _ = connected(seen)
    for request in (HEAD % (2, b"{}"), HEAD % (3, b"{ }")):
        connection.data_received(request)
        assert seen.pop() == read_anew(request)[0]
    for piece in pieces:
        connection.data_received(piece)
    assert seen == read_anew(b"".join(pieces))


def test_requests_that_come_together_are_read_one_after_the_other() -> None:
    seen: Seen = []
    connection, _ = connected(seen)
    connection.data_received(HEAD % (2, b"{}"))
    connection.data_received(HEAD % (3, b"one") + HEAD % (3, b"two") + HEAD[:9])
    connection.data_received(HEAD[9:] % (5, b"three"))
    assert [data for _, data in seen] == [b"{}", b"one", b"two", b"three"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD.replace(b"%d", b"-5") % b"hello",
        HEAD.replace(b"%d", b"+5") % b"hello",
        HEAD.replace(b"%d", b"5 5") % b"hello",
        HEAD.replace(b"%d", b"5\r\nContent-Length: 5") % b"hello",
        HEAD.replace(b"%d", b"5\r\nTransfer-Encoding: chunked") % b"hello",
        HEAD.replace(b"%d", b"\xb2") % b"hello",
    ],
)
def test_what_was_refused_is_refused_after_a_head_like_it(request_bytes: bytes) -> None:
    seen: Seen = []
    connection, transport = connected(seen)
    connection.data_received(HEAD % (2, b"{}"))
    connection.data_received(request_bytes)
    assert len(seen) == 1
    assert transport.write.call_args[0][0].startswith(b"HTTP/1.1 400 ")
