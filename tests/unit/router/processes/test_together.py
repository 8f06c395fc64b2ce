"""Several processes' admin APIs as one: who is asked, and whose answer it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from starlette.responses import JSONResponse, Response

from router.processes.process import Process
from router.processes.together import Steering, one_answer, session


@dataclass
class OneProcess:
    """As the steering sees a process."""

    admin_port: int | None
    is_leaving: bool = False


@asynccontextmanager
async def steering(*answers: dict[str, tuple[int, Any]]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of processes that answer `METHOD PATH` with status and JSON."""
    async with AsyncExitStack() as stack:
        processes = [OneProcess(await stack.enter_async_context(_api(one))) for one in answers]
        asking = await stack.enter_async_context(session())
        app = Steering(lambda: cast("Sequence[Process]", processes), asking, 1000)
        transport = httpx.ASGITransport(app)
        yield await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        )


@asynccontextmanager
async def _api(answers: dict[str, tuple[int, Any]]) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        status, body = answers.get(f"{request.method} {request.path_qs}", (404, {"error": {}}))
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        assert server.port is not None
        yield server.port


async def test_a_question_is_answered_by_whoever_knows() -> None:
    async with steering({}, {"GET /d/1": (200, {"router": "b", "id": "1"})}) as http:
        assert (await http.get("/d/1")).json()["router"] == "b"
        assert (await http.get("/d/2")).status_code == 404


async def test_lists_are_told_for_each_process() -> None:
    first, second = ({"router": name, "workers": [name]} for name in "ab")
    lists = [{"GET /workers?x=1": (200, one)} for one in (first, second)]
    async with steering(*lists) as http:
        answer = await http.get("/workers", params={"x": "1"})
    assert answer.json() == {"routers": [first, second]}


async def test_an_order_goes_to_all_and_the_least_content_answers() -> None:
    async with steering(
        {"POST /workers": (201, {"done": "yes"})}, {"POST /workers": (409, {"error": "twice"})}
    ) as http:
        assert (await http.post("/workers", json={})).status_code == 409


async def test_without_processes_nobody_answers_and_long_bodies_are_refused() -> None:
    async with steering() as http:
        nobody = await http.get("/workers")
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (503, "no_healthy_worker")
        assert (await http.post("/workers", content=b"x" * 1001)).status_code == 413


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(401, {}), (401, {})], (401, {})),
        ([(503, {}), (404, {"a": 1})], (404, {"a": 1})),
        ([(200, {"level": "info"}), (200, {"level": "debug"})], (200, {"level": "info"})),
        ([(200, {"router": "a", "l": []}), (503, {})], (200, {"router": "a", "l": []})),
        ([(200, [1]), (200, [2])], (200, [1])),
    ],
)
def test_one_answer_of_several(answers: list[tuple[int, Any]], expected: tuple[int, Any]) -> None:
    given: list[Response] = [JSONResponse(body, status) for status, body in answers]
    found = one_answer(given)
    assert (found.status_code, json.loads(bytes(found.body))) == expected
