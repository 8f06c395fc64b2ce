"""Only what the router publishes reaches an engine, of all that vLLM serves and however spelled.

vLLM's key guards some of its paths only; weights, sleep, profiling and remote calls lie beside
them. Its routes are read from its own source, so that new ones are tried as well.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from router.http.surface import ENDPOINT_OF
from tests.support.fake_engine import FakeEngine
from tests.support.serving import running_api

REACHED = "an engine was reached"
OWN = frozenset({"/health", "/docs", "/openapi.json", "/v1/models", "/docs/oauth2-redirect"})
"""Paths that the router answers itself."""
_VERBS = frozenset({"get", "post", "put", "delete", "patch", "websocket", "add_api_route", "mount"})


def engine_routes() -> list[str]:
    """Every path that some vLLM server can have, parameters filled in."""
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "entrypoints"
    paths = {
        path
        for file in folder.rglob("*.py")
        for path in _paths(ast.parse(file.read_text(encoding="utf-8")))
    }
    return sorted(path.replace("{response_id}", "resp_1") for path in paths)


def _paths(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _VERBS
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
            and node.args[0].value.startswith("/")
        ):
            yield node.args[0].value


def spellings(path: str) -> list[str]:
    """Other ways to write a path, which some servers take for the same."""
    first = path[1]
    return [
        path.upper(),
        path + "/",
        "/" + path,
        "/." + path,
        "/v1/.." + path,
        "/v1/chat/completions/.." + path,
        path.replace("/", "%2f"),
        f"/%{ord(first):02x}{path[2:]}",
        path + "%00",
        path + ";x=1",
    ]


@asynccontextmanager
async def telltale_engine() -> AsyncIterator[FakeEngine]:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"reached": REACHED})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield FakeEngine(url=f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with telltale_engine() as engine, running_api() as api:
        api.join(engine)
        async with httpx.AsyncClient(base_url=api.url, timeout=30) as http:
            yield http


async def test_published_endpoints_reach_an_engine(http: httpx.AsyncClient) -> None:
    """The rest of this file could not fail if nothing reached it."""
    for endpoint in ENDPOINT_OF.values():
        if endpoint.media_type == "application/json":
            answer = await http.post(endpoint.path, json=dict(endpoint.example))
            assert REACHED in answer.text, endpoint.path


async def test_nothing_else_that_vllm_serves_is_reached(http: httpx.AsyncClient) -> None:
    routes = engine_routes()
    assert len(routes) > 60
    assert {"/invocations", "/pause", "/collective_rpc", "/v1/load_lora_adapter"} <= set(routes)
    body = {"model": "m", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    hidden = [path for path in routes if path not in ENDPOINT_OF and path not in OWN]
    for path in hidden:
        for method in ("GET", "POST", "DELETE"):
            answer = await http.request(method, path, json=body)
            assert answer.status_code in (404, 405, 503), (method, path, answer.status_code)
            assert answer.json()["error"]["message"]
            assert REACHED not in answer.text, (method, path)


async def test_no_other_spelling_of_a_path_is_let_through(http: httpx.AsyncClient) -> None:
    for path in engine_routes():
        for spelling in spellings(path):
            answer = await posted(http.base_url, spelling)
            assert answer.startswith(b"HTTP/1.1 "), spelling
            assert int(answer[9:12]) >= 400, (spelling, answer)
            assert REACHED.encode() not in answer, spelling


async def posted(url: httpx.URL, path: str) -> bytes:
    """The answer to a POST with the path exactly as written."""
    body = b'{"model": "m", "prompt": "x"}'
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head.encode() + body)
        answer = await reader.read()
        writer.close()
        return answer


async def test_other_methods_of_published_paths_reach_nobody(http: httpx.AsyncClient) -> None:
    for path in ENDPOINT_OF:
        for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            answer = await http.request(method, path)
            assert answer.status_code == 405, (method, path)
            assert REACHED not in answer.text


async def test_a_host_or_method_header_changes_nothing(http: httpx.AsyncClient) -> None:
    headers = {
        "host": "127.0.0.1:1",
        "x-original-url": "/pause",
        "x-rewrite-url": "/pause",
        "x-http-method-override": "POST",
    }
    answer = await http.get("/invocations", headers=headers)
    assert answer.status_code == 404
