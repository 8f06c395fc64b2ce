from __future__ import annotations

import asyncio
import json

import pytest

from loadtest.overhead.mock import CHARS_PER_TOKEN, Pace, Worker

CHAT = {"messages": [{"role": "user", "content": "river " * 100}], "stream": True}


class Written(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += bytes(data)


def answered(path: str, fields: object) -> Written:
    written = Written()
    worker = Worker({b"": b"nothing"}, Pace)
    worker.connection_made(written)
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: m\r\nContent-Length: {len(body)}\r\n\r\n"
    worker.data_received(head.encode() + body)
    return written


@pytest.mark.parametrize("path", ["/v1/chat/completions/render", "/v1/completions/render"])
def test_a_prompt_is_rendered_to_as_many_tokens_as_such_text_has(path: str) -> None:
    head, _, body = answered(path, CHAT).data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    count = len(json.dumps(CHAT)) // CHARS_PER_TOKEN
    assert len(json.loads(body)["token_ids"]) == pytest.approx(count, abs=1)


def test_a_chat_that_is_not_streamed_is_answered_at_once() -> None:
    data = answered("/v1/chat/completions", CHAT | {"stream": False}).data
    assert json.loads(data.partition(b"\r\n\r\n")[2])["object"] == "chat.completion"
