"""What can go wrong with a request, each with the answer that docs/errors.md promises.

Raw bytes over sockets, against a router process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from cluster.local.ports import free_port
from rhizome.settings.load import environment_copy
from tests.support.bare_http import (
    CHAT,
    ObedientWorker,
    chat,
    exchange,
    obedient,
    post,
    read_response,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

HOST = "127.0.0.1"
BODY_MAX = 4096
HEAD_MAX = 2048
SETTINGS = {
    "router": {
        "api_keys": ["k-one"],
        "relay": {
            "idle_timeout_s": 1.5,
            "body_bytes_max": BODY_MAX,
            "attempts_max": 2,
        },
        "http": {"header_timeout_s": 1.5, "body_timeout_s": 1.5, "header_bytes_max": HEAD_MAX},
        "admission": {"in_flight_max_per_worker": 2, "queue_length_max": 1, "queue_wait_s_max": 30},
        "discovery": {"probe_interval_s": 0.2},
    }
}


@contextlib.asynccontextmanager
async def router_before(
    directory: Path, *workers: ObedientWorker, first_byte_timeout_s: float = 1.5
) -> AsyncIterator[int]:
    """A router process; gives its port once it serves all models."""
    port = free_port(HOST, frozenset())
    metrics_port = free_port(HOST, frozenset({port}))
    config = directory / "config.json"
    config.write_text(json.dumps(SETTINGS))
    command = [sys.executable, "-m", "rhizome.cli.main", "router", "--config", str(config)]
    command += ["--port", str(port), "--metrics-port", str(metrics_port)]
    patience = {"RHIZOME_ROUTER__RELAY__FIRST_BYTE_TIMEOUT_S": str(first_byte_timeout_s)}
    for worker in workers:
        command += ["--worker", f"http://127.0.0.1:{worker.port}"]
    with (directory / "log").open("wb") as log:
        process = start(command, log, patience)
    try:
        await serves(port, {worker.model for worker in workers})
        yield port
    finally:
        process.terminate()
        assert await asyncio.to_thread(process.wait, 20) == 0
    assert b"Traceback" not in (directory / "log").read_bytes()


def start(command: list[str], log: IO[bytes], settings: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = environment_copy() | settings
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


async def serves(port: int, models: set[str]) -> None:
    asks = b"GET /v1/models HTTP/1.1\r\nhost: r\r\nauthorization: Bearer k-one\r\n\r\n"
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError):
                [answer] = await exchange(port, asks)
                if {one["id"] for one in json.loads(answer.body)["data"]} >= models:
                    return
            await asyncio.sleep(0.1)


async def is_ready(port: int) -> None:
    """Waits for the probe after which a worker that broke off gets requests again."""
    asks = b"GET /health/ready HTTP/1.1\r\nhost: r\r\n\r\n"
    async with asyncio.timeout(30):
        while (await exchange(port, asks))[0].status != 200:  # noqa: ASYNC110 - it is elsewhere
            await asyncio.sleep(0.05)


LONG = b"x" * (BODY_MAX + 1)


def chunked(body: bytes) -> bytes:
    return post(body, content_length="", transfer_encoding="chunked")


@dataclass(frozen=True)
class Row:
    """One thing that can go wrong."""

    name: str
    request: bytes
    status: int
    code: object
    """Of the error; what a worker says of itself comes through as it is."""
    retry_after: bool = False
    ends: bool = False
    """The connection ends with the answer."""


ROWS = [
    Row("first byte does not come", post(chat("silence")), 504, "worker_timeout"),
    Row("answer stalls", post(chat("part stall")), 504, "worker_timeout"),
    Row("answer breaks off", post(chat("part drop")), 502, "worker_unreachable"),
    Row(
        "deadline passes",
        post(chat("silence"), x_request_timeout="0.2"),
        504,
        "deadline_passed",
    ),
    Row("unknown model", post(chat(model="none")), 404, "model_not_found"),
    Row("unknown route", post(chat(), path="/v1/nothing"), 404, "unknown_route"),
    Row("wrong method", post(b"", path=CHAT).replace(b"POST", b"GET"), 405, "method_not_allowed"),
    Row("no key", post(chat(), authorization=""), 401, "invalid_api_key"),
    Row("wrong key", post(chat(), authorization="Bearer k-two"), 401, "invalid_api_key"),
    Row("body announced too long", post(LONG), 413, "body_too_large", ends=True),
    Row(
        "body too long in chunks",
        chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(LONG), LONG)),
        413,
        "body_too_large",
        ends=True,
    ),
    Row("no JSON", post(b'{"model": '), 400, "malformed_body"),
    Row("no UTF-8", post(b'{"model": "\xff\xfe"}'), 400, "malformed_body"),
    Row("no object", post(b"[1]"), 400, "malformed_body"),
    Row("nested too deep", post(b"[" * 2000 + b"]" * 2000), 400, "malformed_body"),
    Row("wrong type of a field", post(chat(stream="yes")), 400, "invalid_request"),
    Row(
        "wrong content type", post(chat(), content_type="text/plain"), 415, "unsupported_media_type"
    ),
    Row("compressed", post(gzip.compress(chat())), 415, "unsupported_media_type"),
    Row("unknown priority", post(chat(), x_rhizome_priority="vip"), 400, "invalid_request"),
    Row(
        "two lengths",
        post(chat()).replace(b"content-type", b"content-length: 7\r\ncontent-type"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "length and chunks",
        post(b"0\r\n\r\n", transfer_encoding="chunked"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "bare line feeds",
        post(chat()).replace(b"\r\n", b"\n"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "space before a colon",
        post(chat()).replace(b"content-length:", b"content-length :"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "header folded over two lines",
        post(chat()).replace(b"host: router", b"host: router\r\n  folded"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "no number as length",
        post(chat(), content_length="+10"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "chunks under another coding",
        post(b"0\r\n\r\n", content_length="", transfer_encoding="xchunked"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "chunks in another coding",
        post(b"0\r\n\r\n", content_length="", transfer_encoding="gzip, chunked"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "chunks in HTTP/1.0",
        chunked(b"2\r\n{}\r\n0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "no host", post(chat()).replace(b"host: router\r\n", b""), 400, "malformed_http", ends=True
    ),
    Row(
        "two hosts",
        post(chat()).replace(b"host:", b"host: other\r\nhost:"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "no number as size of a chunk",
        chunked(b"zz\r\n{}\r\n0\r\n\r\n"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row(
        "chunk longer than its size",
        chunked(b"2\r\n{}more\r\n0\r\n\r\n"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, "malformed_http", ends=True),
    Row(
        "upgrade",
        post(chat(), connection="Upgrade", upgrade="h2c"),
        400,
        "malformed_http",
        ends=True,
    ),
    Row("a header too long", post(chat(), x_long="x" * HEAD_MAX), 431, "head_too_long", ends=True),
    Row(
        "a header without an end",
        f"POST {CHAT} HTTP/1.1\r\nx-long: {'x' * 400_000}".encode(),
        431,
        "head_too_long",
        ends=True,
    ),
    Row(
        "too many headers",
        post(chat()).replace(b"host:", b"a: b\r\n" * 200 + b"host:"),
        431,
        "head_too_long",
        ends=True,
    ),
    Row("head does not come", post(chat())[:40], 408, "request_timeout", ends=True),
    Row("body does not come", post(chat(), length=4000), 408, "request_timeout", ends=True),
]


async def test_each_failure_has_its_answer(tmp_path: Path) -> None:
    worker = ObedientWorker()
    async with obedient(worker), router_before(tmp_path, worker) as port:
        for row in ROWS:
            await is_ready(port)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(row.request)
            async with asyncio.timeout(20):
                answer = await read_response(reader)
            assert (answer.status, answer.error_code) == (row.status, row.code), row.name
            assert answer.headers["content-type"] == "application/json", row.name
            assert ("retry-after" in answer.headers) == row.retry_after, row.name
            assert (answer.headers.get("connection") == "close") == row.ends, row.name
            if row.ends:
                async with asyncio.timeout(20):
                    assert await reader.read() == b"", row.name
            writer.close()
        for status in (400, 413, 422, 429, 500, 503):
            [answer] = await exchange(port, post(chat(f"refuse {status}")))
            assert answer.status == status
            assert json.loads(answer.body)["error"]["message"] == "the engine's own words"
            assert answer.headers["retry-after"] == "7"
        [answer] = await exchange(port, post(chat("answer")))
        assert answer.status == 200, "the router serves on"


async def test_a_stream_that_fails_ends_with_an_error_event(tmp_path: Path) -> None:
    worker = ObedientWorker()
    async with obedient(worker), router_before(tmp_path, worker) as port:
        for fault in ("stall", "drop"):
            await is_ready(port)
            [answer] = await exchange(port, post(chat(f"stream {fault}", stream=True)))
            assert answer.status == 200
            *_, last, rest = answer.body.split(b"\n\n")
            assert rest == b""
            assert json.loads(last[6:])["error"]["code"] == "worker_died_mid_stream"
            assert b"[DONE]" not in answer.body


async def test_workers_that_are_full_or_gone_say_when_to_come_back(tmp_path: Path) -> None:
    worker, other = ObedientWorker(), ObedientWorker("gone")
    async with obedient(worker):
        async with obedient(other) as going:
            async with router_before(tmp_path, worker, other, first_byte_timeout_s=60) as port:
                asked = [
                    asyncio.ensure_future(exchange(port, post(chat("hold")))) for _ in range(4)
                ]
                [first], held = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                [full] = first.result()
                assert (full.status, full.error_code) == (429, "queue_full")
                assert int(full.headers["retry-after"]) >= 1
                worker.held.set()
                assert [answers[0].status for answers in await asyncio.gather(*held)] == [200] * 3

                going.close()
                [refused] = await exchange(port, post(chat(model="gone")))
                [away] = await exchange(port, post(chat(model="gone")))
                codes = {refused.error_code, away.error_code}
                assert codes <= {"worker_unreachable", "no_healthy_worker"}
                assert (away.status, away.error_code) == (503, "no_healthy_worker")
                assert int(away.headers["retry-after"]) >= 1


async def test_what_is_unusual_and_right_is_served(tmp_path: Path) -> None:
    worker = ObedientWorker()
    async with obedient(worker), router_before(tmp_path, worker) as port:
        twice = b'{"model": "none", "messages": [{"role": "user", "content": "a"}], "model": "m"}'
        [answer] = await exchange(port, post(twice))
        assert answer.status == 200, "of two equal keys the last one counts, as in engines"

        several = post(chat()) + b"\r\n" + post(chat("refuse 400")) + post(b"{") + post(chat())
        answers = await exchange(port, several, answers=4)
        assert [one.status for one in answers] == [200, 400, 400, 200]

        body = chat()
        pieces = b"".join(b"%x;ext=1\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
        in_pieces = chunked(pieces + b"0\r\ntrailer: x\r\n\r\n")
        assert (await exchange(port, in_pieces))[0].status == 200

        slow = post(chat())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for place in range(0, len(slow), 60):
            writer.write(slow[place : place + 60])
            await asyncio.sleep(0.02)
        assert (await read_response(reader)).status == 200
        writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head, _, rest = post(chat(), expect="100-continue").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(rest)
        assert (await read_response(reader)).status == 200
        writer.close()

        old = post(chat("stream end", stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(old)
        answered = await reader.read()
        assert answered.endswith(b'data: {"choices":[{"delta":{}}]}\n\ndata: [DONE]\n\n')
        assert b"transfer-encoding" not in answered
        writer.close()
