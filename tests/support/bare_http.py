"""HTTP by hand: requests as bytes, and a worker that does what a prompt tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CHAT = "/v1/chat/completions"
KEY = "k-one"


@dataclass(frozen=True)
class Response:
    """One response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error_code(self) -> object:
        """Of an error in OpenAI's shape; None if it has not that shape."""
        with suppress(ValueError, TypeError, KeyError):
            error = json.loads(self.body)["error"]
            if set(error) == {"message", "type", "param", "code"} and error["message"]:
                return error["code"]
        return None


def chat(does: str = "answer", **fields: object) -> bytes:
    """A body that tells the worker what to do."""
    message = {"role": "user", "content": does}
    return json.dumps({"model": "m", "messages": [message], **fields}).encode()


def post(body: bytes, path: str = CHAT, length: int | None = None, **headers: str) -> bytes:
    """A request; headers by name with `_` for `-`, an empty one is left out."""
    lines = {
        "host": "router",
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "content-length": str(len(body) if length is None else length),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def exchange(port: int, request: bytes, answers: int = 1) -> list[Response]:
    """Sends bytes on a connection of their own and reads so many responses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return [await read_response(reader) for _ in range(answers)]
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def read_response(reader: asyncio.StreamReader) -> Response:
    """The next response that is not provisional; raises `IncompleteReadError` if none comes."""
    while True:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        pairs = (line.partition(": ") for line in lines if line)
        headers = {name.lower(): value for name, _, value in pairs}
        if status >= 200:
            return Response(status, headers, await _body(reader, headers))


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers["content-length"]))
    body = b""
    while True:
        size = int(await reader.readline(), 16)
        body += (await reader.readexactly(size + 2))[:-2]
        if size == 0:
            return body


@dataclass
class ObedientWorker:
    """Serves model `model` and does with each request what its prompt says."""

    model: str = "m"
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets go those that were told to `hold`."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = head.lower().split(b"content-length: ")
                size = int(fields[1].split(b"\r\n")[0]) if len(fields) > 1 else 0
                body = await reader.readexactly(size)
                if head.startswith(b"GET"):
                    await self._look(head, writer)
                else:
                    self.requests.append(head + body)
                    await self._obey(json.loads(body)["messages"][0]["content"], reader, writer)
        writer.close()

    async def _look(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        models = {"object": "list", "data": [{"id": self.model, "object": "model"}]}
        found = head.startswith((b"GET /v1/models", b"GET /health"))
        body = json.dumps(models if found else {}).encode()
        await _write(writer, _whole(body, 200 if found else 404))

    async def _obey(
        self, order: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        does, _, number = order.partition(" ")
        if does == "refuse":
            await _write(writer, _whole(_refusal(int(number)), int(number), "retry-after: 7\r\n"))
            return
        if does == "silence":
            await reader.read(1)  # until the router gives up
            return
        if does == "hold":
            await self.held.wait()
        if does == "part":
            await _write(writer, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        if does == "stream":
            await _write(writer, _STREAM_HEAD + _chunk(b'data: {"choices":[{"delta":{}}]}\n\n'))
        if does not in ("part", "stream"):
            await _write(writer, _whole(b'{"choices":[]}', 200))
        elif number == "drop":
            writer.transport.abort()
        elif number == "stall":
            await reader.read(1)
        else:
            await _write(writer, _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _refusal(status: int) -> bytes:
    return json.dumps({"error": {"message": "the engine's own words", "code": status}}).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _whole(body: bytes, status: int, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} Words\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


@asynccontextmanager
async def obedient(worker: ObedientWorker) -> AsyncIterator[asyncio.Server]:
    """Serves the worker on a free loopback port."""
    server = await asyncio.start_server(worker.serve, "127.0.0.1", worker.port)
    worker.port = server.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        worker.held.set()
        server.close()
