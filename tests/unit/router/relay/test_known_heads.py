"""An answer whose head was seen before is read like the first one, however it arrives."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest

from rhizome.clock import SystemClock
from rhizome.errors import WorkerUnreachable
from rhizome.settings.tree import RelaySettings
from router.relay.connection import WorkerConnection
from router.relay.deadlines import Deadlines

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-length: %d\r\nserver: x\r\n\r\n%b"
CHUNKS = b"1\r\na\r\n0\r\n\r\n"
Answer = tuple[int, dict[bytes, bytes], bytes]


class Kept:
    """Keeps an answer."""

    def __init__(self) -> None:
        self.answer: Answer = (0, {}, b"")
        self.has_ended = False

    def answered(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.answer = (status, headers, b"")

    def received(self, data: bytes) -> None:
        if data == b"too long":
            raise WorkerUnreachable("too long")
        self.answer = (*self.answer[:2], self.answer[2] + data)

    def ended(self) -> None:
        self.has_ended = True


def connected() -> tuple[WorkerConnection, Mock]:
    pool, transport = Mock(), Mock()
    transport.is_closing.return_value = False
    connection = WorkerConnection(pool, RelaySettings(), Deadlines(SystemClock()))
    connection.connection_made(transport)
    return connection, pool


async def asked(connection: WorkerConnection, *pieces: bytes) -> Kept:
    kept = Kept()
    exchange = asyncio.ensure_future(connection.exchange((b"", b""), kept))
    await asyncio.sleep(0)
    for piece in pieces:
        connection.data_received(piece)
    await exchange
    assert kept.has_ended
    return kept


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD % (5, b"hello")],
        [HEAD % (0, b"")],
        [HEAD % (12, b"a long"), b"er one"],
        [HEAD[:30], HEAD[30:] % (5, b"hello")],
        [HEAD.replace(b"a/b", b"b/c") % (5, b"hello")],
        [HEAD.replace(b"200 OK", b"404 Not Found") % (5, b"hello")],
        [b"HTTP/1.1 103 Early Hints\r\ncontent-length: 5\r\n\r\n", HEAD % (5, b"hello")],
        [HEAD.replace(b"content-length: %d", b"transfer-encoding: chunked") % CHUNKS],
    ],
)
async def test_the_next_answer_is_read_like_the_first(pieces: list[bytes]) -> None:
    connection, pool = connected()
    for body in (b"{}", b"{ }"):
        kept = await asked(connection, HEAD % (len(body), body))
        assert kept.answer == (200, {b"content-type": b"a/b"}, body)
    kept = await asked(connection, *pieces)
    assert kept.answer == (await asked(connected()[0], *pieces)).answer
    assert pool.give_back.call_count == 3
    assert (await asked(connection, HEAD % (2, b"{}"))).answer[2] == b"{}"


async def test_what_the_receiver_raises_ends_the_exchange() -> None:
    connection, pool = connected()
    await asked(connection, HEAD % (2, b"{}"))
    with pytest.raises(WorkerUnreachable, match="too long"):
        await asked(connection, HEAD % (8, b"too long"))
    assert not connection.is_open
    assert pool.give_back.call_count == 1
