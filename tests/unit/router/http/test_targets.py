"""What stands in a request's first line: a path, or the whole URL that clients of proxies send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tests.support.bare_http import CHAT, KEY, Response, chat, exchange, post, read_response
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api, settings_with


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with running_engine(FakeEngine()) as engine:
        yield engine


@pytest.fixture
async def api(engine: FakeEngine) -> AsyncIterator[Api]:
    async with running_api(settings_with(router__api_keys=[KEY])) as api:
        api.join(engine)
        yield api


def port_of(api: Api) -> int:
    port = urlsplit(api.url).port
    assert port is not None
    return port


async def answered(api: Api, request: bytes) -> Response:
    [answer] = await exchange(port_of(api), request)
    return answer


@pytest.mark.parametrize(
    "before",
    ["http://router", "https://router", "HTTP://router:8000", "http://[::1]:80", "http://10.0.0.1"],
)
async def test_a_whole_url_is_taken_by_its_path(api: Api, engine: FakeEngine, before: str) -> None:
    asked = post(chat(), path=before + CHAT)
    assert [one.status for one in await exchange(port_of(api), asked * 3, answers=3)] == [200] * 3
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(api))
    for _ in range(3):
        writer.write(asked)
        assert (await read_response(reader)).status == 200
    writer.close()
    assert len(engine.requests) == 6
    assert (await answered(api, post(chat(), path=f"{before}{CHAT}?x=http://y"))).status == 200
    models = post(b"", path=f"{before}/v1/models").replace(b"POST", b"GET")
    assert json.loads((await answered(api, models)).body)["data"][0]["id"] == "m"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"http://router:8000/http://router{CHAT}", 404),
        ("http://router", 404),
        ("http://router?x=1", 404),
        (f"//router{CHAT}", 404),
        (f"http://router/{CHAT}", 404),
        (f"http:/{CHAT}", 404),
        (f"http://user@router{CHAT}", 400),
        (f"http://user:word@router{CHAT}", 400),
        (f"http://{CHAT}", 400),
        (f"http:{CHAT}", 400),
        (f"ftp://router{CHAT}", 400),
        (f"ws://router{CHAT}", 400),
        (f"http://router{CHAT}#part", 400),
        (f"http://router\\@other{CHAT}", 400),
        (CHAT[1:], 400),
        ("*", 400),
        ("router:8000", 400),
    ],
)
async def test_what_is_no_path_or_url_reaches_no_engine(
    api: Api, engine: FakeEngine, target: str, status: int
) -> None:
    answer = await answered(api, post(chat(), path=target))
    assert (answer.status, answer.error_code) == (
        status,
        {400: "malformed_http", 404: "unknown_route"}[status],
    )
    assert engine.requests == []


async def test_a_whole_url_spares_no_check(api: Api, engine: FakeEngine) -> None:
    url = f"http://router{CHAT}"
    assert (await answered(api, post(chat(), path=url, authorization=""))).status == 401
    two_hosts = post(chat(), path=url).replace(b"host:", b"host: other\r\nhost:")
    for request in (
        two_hosts,
        post(chat(), path=url, host=""),
        post(chat(), path=url, transfer_encoding="chunked"),
        post(chat(), path=url, transfer_encoding="gzip", content_length=""),
        post(chat(), path=url).replace(b"content-length", b"content-length: 5\r\ncontent-length"),
        post(chat(), path=url, connection="Upgrade", upgrade="h2c"),
    ):
        answer = await answered(api, request)
        assert (answer.status, answer.error_code) == (400, "malformed_http"), request
    assert engine.requests == []


async def test_what_follows_a_whole_url_is_a_request_of_its_own(
    api: Api, engine: FakeEngine
) -> None:
    inside = post(chat("hidden"), path="/v1/completions")
    outer = post(inside, path=f"http://router{CHAT}")
    refused, taken = await exchange(port_of(api), outer + post(chat()), answers=2)
    assert (refused.status, taken.status) == (400, 200), "the body is a body, whatever it says"
    assert len(engine.requests) == 1
