from __future__ import annotations

import asyncio

import httpx
import pytest

from workers.engine.guard import Guard, Message, Receive, Send

KEY = "rzk-test-key"


class Engine:
    """An app that says which paths reached it, and waits while told to."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.both_came = asyncio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        if len(self.paths) == 2:
            self.both_came.set()
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def engine() -> Engine:
    return Engine()


def client(guard: Guard, key: str | None = KEY) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"} if key is not None else {}
    transport = httpx.ASGITransport(app=guard)
    return httpx.AsyncClient(transport=transport, base_url="http://worker", headers=headers)


async def test_health_needs_no_key(engine: Engine) -> None:
    async with client(Guard(engine, KEY), key=None) as http:
        assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/version", "/collective_rpc"])
@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x", KEY[:-1], "ключ".encode().hex()])
async def test_without_the_key_nothing_else_is_reached(
    engine: Engine, path: str, key: str | None
) -> None:
    async with client(Guard(engine, KEY), key=key) as http:
        answer = await http.get(path)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert engine.paths == []


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/tokenize", "/metrics", "/load", "/ping", "/kv_event_sources"],
)
async def test_published_paths_are_reached_with_the_key(engine: Engine, path: str) -> None:
    async with client(Guard(engine, KEY)) as http:
        assert (await http.post(path)).status_code == 200
    assert engine.paths == [path]


@pytest.mark.parametrize(
    "path",
    [
        "/collective_rpc",
        "/reset_prefix_cache",
        "/pause",
        "/sleep",
        "/docs",
        "/openapi.json",
        "/",
        "/v1",
        "/invocations",
        "/start_profile",
        "/server_info",
        "/scale_elastic_ep",
        "/healthx",
    ],
)
async def test_other_paths_are_not_reached_even_with_the_key(engine: Engine, path: str) -> None:
    async with client(Guard(engine, KEY)) as http:
        answer = await http.post(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_route"
    assert engine.paths == []


async def test_a_guard_without_a_key_still_publishes_only_its_list(engine: Engine) -> None:
    async with client(Guard(engine, None), key=None) as http:
        assert (await http.get("/v1/models")).status_code == 200
        assert (await http.get("/pause")).status_code == 404


async def test_requests_that_do_work_are_counted_until_they_end(engine: Engine) -> None:
    guard = Guard(engine, KEY)
    engine.go_on.clear()
    async with client(guard) as http:
        waiting = asyncio.ensure_future(http.post("/v1/completions"))
        looking = asyncio.ensure_future(http.get("/metrics"))
        await engine.both_came.wait()
        assert guard.in_flight == 1
        engine.go_on.set()
        await asyncio.gather(waiting, looking)
    assert guard.in_flight == 0


async def test_a_websocket_without_the_key_is_closed(engine: Engine) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    await Guard(engine, KEY)(
        {"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send
    )
    assert sent[0]["type"] == "websocket.close"
    assert engine.paths == []
