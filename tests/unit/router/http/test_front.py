"""The front towards real sockets: long waits, slow readers, large bodies, TLS, and the end."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from pathlib import Path

import httpx
import pytest

from rhizome.errors import SettingsError
from rhizome.settings.tree import HttpSettings
from rhizome.tasks import Tasks
from router.app import running_router
from router.http.server.listener import Listener
from router.process import tls_context
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import running_api, settings_with
from tests.support.waiting import eventually

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello there"}]}
PATH = "/v1/chat/completions"


async def test_a_stream_that_waits_for_its_first_token_is_kept_alive_by_comments() -> None:
    settings = settings_with(router__relay__comment_interval_s=0.2)
    engine = FakeEngine(hold=asyncio.Event())
    async with (
        running_api(settings) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30) as http,
    ):
        async with running_engine(engine):
            api.join(engine)
            async with http.stream("POST", PATH, json={**CHAT, "stream": True}) as answer:
                assert answer.status_code == 200
                assert answer.headers["content-type"].startswith("text/event-stream")
                lines = answer.aiter_lines()
                assert [await anext(lines) for _ in range(3)] == [
                    ": keep-alive",
                    "",
                    ": keep-alive",
                ]
                assert engine.hold is not None
                engine.hold.set()
                rest = [line async for line in lines]
            assert rest[-2:] == ["data: [DONE]", ""]
            whole = asyncio.ensure_future(http.post(PATH, json=CHAT))
            assert b"keep-alive" not in (await whole).content


async def test_no_comments_come_where_they_are_turned_off() -> None:
    settings = settings_with(router__relay__comment_interval_s=0)
    engine = FakeEngine(hold=asyncio.Event())
    async with (
        running_api(settings) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30) as http,
    ):
        async with running_engine(engine):
            api.join(engine)
            asked = asyncio.ensure_future(http.post(PATH, json={**CHAT, "stream": True}))
            await asyncio.sleep(0.5)
            assert engine.hold is not None
            engine.hold.set()
            assert (await asked).text.startswith("data: ")


async def test_what_fails_after_comments_is_told_as_an_event() -> None:
    settings = settings_with(
        router__relay__comment_interval_s=0.2, router__relay__first_byte_timeout_s=0.6
    )
    engine = FakeEngine(hold=asyncio.Event())
    async with (
        running_api(settings) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30) as http,
    ):
        async with running_engine(engine):
            api.join(engine)
            answer = await http.post(PATH, json={**CHAT, "stream": True})
    assert answer.status_code == 200
    event = answer.text.strip().split("\n\n")[-1]
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "worker_timeout"
    assert "[DONE]" not in answer.text


async def test_a_reader_that_stops_holds_the_engine_back_and_gets_all_in_the_end() -> None:
    words = ["x" * 1000] * 3000
    async with running_api() as api, running_engine(FakeEngine(words=words)) as engine:
        api.join(engine)
        host, port = httpx.URL(api.url).host, httpx.URL(api.url).port
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (host, port))
            reader, writer = await asyncio.open_connection(sock=client, limit=4096)
            body = json.dumps({**CHAT, "stream": True}).encode()
            writer.write(
                b"POST %b HTTP/1.1\r\nhost: r\r\ncontent-type: application/json\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
                % (PATH.encode(), len(body), body)
            )
            await reader.readexactly(1000)
            await asyncio.sleep(0.5)
            assert all(
                connection.transport.get_write_buffer_size() < 2**20
                for connection in api.router.front.connections
            )
            rest = await reader.read(-1)
            assert rest.count(b"x" * 1000) > 2990
            assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            writer.close()
            await writer.wait_closed()


async def test_a_body_of_8_mib_works_with_defaults() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "word " * (8 * 2**20 // 5)}]}
    async with running_api() as api, httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        async with running_engine(FakeEngine()) as engine:
            api.join(engine)
            assert (await http.post(PATH, json=body)).status_code == 200
            assert engine.requests == [body]


async def test_a_stop_answers_what_runs_and_refuses_what_comes() -> None:
    engine = FakeEngine(hold=asyncio.Event())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with (
            running_router(settings_with()) as router,
            running_engine(engine),
            httpx.AsyncClient(base_url=url, timeout=30) as http,
            Tasks("test") as tasks,
        ):
            router.fleet.upsert(engine.record(), 0.0)
            listener = Listener(router.front)
            await listener.open(listening)
            idle = await http.get("/health/live")
            assert idle.status_code == 200
            asked = asyncio.ensure_future(http.post(PATH, json=CHAT))
            await eventually(lambda: len(engine.requests) == 1)
            stopping = tasks.start("stop", listener.close(5.0))
            await asyncio.sleep(0.1)
            with pytest.raises(httpx.TransportError):
                await http.get("/health/live")
            assert engine.hold is not None
            engine.hold.set()
            answer = await asked
            assert answer.status_code == 200
            await stopping
            assert not router.front.connections


async def test_the_metrics_count_one_end_for_each_pipelined_request() -> None:
    async with running_api() as api, running_engine(FakeEngine()) as engine:
        api.join(engine)
        url = httpx.URL(api.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        body = json.dumps(CHAT).encode()
        one = b"POST %b HTTP/1.1\r\nhost: r\r\ncontent-type: application/json\r\n" % PATH.encode()
        one += b"content-length: %d\r\n\r\n%b" % (len(body), body)
        writer.write(one * 5)
        for _ in range(5):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
        writer.close()
        await eventually(
            lambda: (
                api.counted("router_requests_total", route=PATH, model="m", outcome="completed")
                == 5
            )
        )


def test_tls_needs_a_certificate_that_can_be_read(tmp_path: Path) -> None:
    assert tls_context(HttpSettings()) is None
    with pytest.raises(SettingsError, match="without a certificate"):
        tls_context(HttpSettings(tls_key=tmp_path / "key.pem"))
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(SettingsError, match="cannot use"):
        tls_context(HttpSettings(tls_certificate=broken))


async def test_https_serves_streams(tmp_path: Path) -> None:
    certificate = tmp_path / "own.pem"
    key = tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = await asyncio.create_subprocess_exec(
        *command, "-keyout", str(key), "-out", str(certificate), stderr=asyncio.subprocess.DEVNULL
    )
    assert await made.wait() == 0
    settings = settings_with(
        router__http__tls_certificate=str(certificate), router__http__tls_key=str(key)
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with (
            running_router(settings) as router,
            running_engine(FakeEngine()) as engine,
            httpx.AsyncClient(base_url=url, verify=trusted, timeout=30) as http,
        ):
            router.fleet.upsert(engine.record(), 0.0)
            listener = Listener(router.front, tls_context(settings.router.http))
            await listener.open(listening)
            answer = await http.post(PATH, json={**CHAT, "stream": True})
            assert answer.text.endswith("data: [DONE]\n\n")
            assert (await http.get("/v1/models")).status_code == 200
            await http.aclose()
            await listener.close(1.0)
