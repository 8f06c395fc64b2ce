"""Media come from listed hosts and public addresses, within bounds; no other is connected to."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from rhizome.errors import MediaRefused, MediaUnavailable
from rhizome.settings.tree import MediaSettings
from router.http.bodies import ChatBody, read_chat
from router.media.addresses import is_outside
from router.media.fetching import MediaFetcher

INSIDE = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.0.1.:80/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://0/",
    "http://0.0.0.0/",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd12:3456::1]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://192.0.0.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
    "http://127\u30020\u30020\u30021/",
]
ODD = [
    "file:///etc/passwd",
    "ftp://example.com/x",
    "gopher://127.0.0.1/",
    "unix:/run/x",
    "dict://localhost/",
    "//localhost/",
    "http:///x",
    "http:",
    "localhost",
    "http://user@example.com/",
    "http://user:pass@127.0.0.1/",
    "http://example.com\\@127.0.0.1/",
    "http://127.0.0.1\\@example.com/",
    "http://[::1/",
    "javascript:alert(1)",
    "HTTP:127.0.0.1",
    "http://127.0.0.1:99999/",
    "http://exa mple.com/",
]


@dataclass
class Origin:
    """A host of media on loopback, and what it was asked for."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    content: bytes = b"\x89PNG"
    content_type: str = "image/png"


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    found = Origin()

    async def answer(request: web.Request) -> web.StreamResponse:
        found.asked.append(request.path)
        if request.path == "/away":
            raise web.HTTPFound(found.url + "/cat.png")
        if request.path == "/endless":
            response = web.StreamResponse(headers={"content-type": "image/png"})
            await response.prepare(request)
            for _ in range(10_000):
                await response.write(b"x" * 4096)
            return response
        return web.Response(body=found.content, content_type=found.content_type)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        await runner.cleanup()


def body(*urls: str) -> ChatBody:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    fields = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    return read_chat(json.dumps(fields).encode())


def fetcher(**settings: Any) -> MediaFetcher:
    """One that takes loopback for a public address."""
    limits = {"hosts": ("*",), "bytes_max": 4096, **settings}
    return MediaFetcher(MediaSettings(**limits), may_connect=lambda one: one == "127.0.0.1")


async def test_media_by_url_are_off_unless_hosts_are_listed(origin: Origin) -> None:
    async with MediaFetcher(MediaSettings()) as media:
        with pytest.raises(MediaRefused) as caught:
            await media.inlined(body(origin.url + "/cat.png"))
        plain = body("data:image/png;base64,AAAA")
        assert await media.inlined(plain) is plain
    assert caught.value.param == "messages"
    assert origin.asked == []


async def test_an_engine_gets_the_data_in_place_of_the_url(origin: Origin) -> None:
    async with fetcher() as media:
        changed = await media.inlined(body(origin.url + "/cat.png", "data:image/gif;base64,AA"))
    parts = json.loads(changed.for_engine)["messages"][0]["content"]
    data = base64.b64encode(origin.content).decode()
    assert parts[0]["image_url"]["url"] == f"data:image/png;base64,{data}"
    assert parts[1]["image_url"]["url"] == "data:image/gif;base64,AA"
    assert origin.url.encode() not in changed.for_engine


@pytest.mark.parametrize("url", INSIDE)
async def test_no_spelling_of_an_inner_address_is_connected_to(url: str) -> None:
    async with MediaFetcher(MediaSettings(hosts=("*",), timeout_s=5)) as media:
        with pytest.raises((MediaRefused, MediaUnavailable)):
            await media.inlined(body(url))


async def test_no_inner_address_with_a_port_is_connected_to(origin: Origin) -> None:
    port = origin.url.rpartition(":")[2]
    names = ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "127.1", "0")
    async with MediaFetcher(MediaSettings(hosts=("*",), timeout_s=5)) as media:
        for name in names:
            with pytest.raises((MediaRefused, MediaUnavailable)):
                await media.inlined(body(f"http://{name}:{port}/cat.png"))
    assert origin.asked == []


@pytest.mark.parametrize("url", ODD)
async def test_odd_urls_are_refused(url: str, origin: Origin) -> None:
    async with fetcher(hosts=("example.com",)) as media:
        with pytest.raises(MediaRefused):
            await media.inlined(body(url))
    assert origin.asked == []


async def test_a_redirect_is_not_followed(origin: Origin) -> None:
    async with fetcher() as media:
        with pytest.raises(MediaUnavailable):
            await media.inlined(body(origin.url + "/away"))
    assert origin.asked == ["/away"]


async def test_hosts_that_are_not_listed_are_refused(origin: Origin) -> None:
    async with fetcher(hosts=("media.example.com",)) as media:
        with pytest.raises(MediaRefused):
            await media.inlined(body(origin.url + "/cat.png"))
    assert origin.asked == []


async def test_size_and_type_are_bounded(origin: Origin) -> None:
    async with fetcher() as media:
        with pytest.raises(MediaUnavailable, match="4096"):
            await media.inlined(body(origin.url + "/endless"))
        origin.content_type = "text/html"
        with pytest.raises(MediaUnavailable, match="no media"):
            await media.inlined(body(origin.url + "/page"))


async def test_the_number_of_references_is_bounded(origin: Origin) -> None:
    async with fetcher(references_max=2) as media:
        with pytest.raises(MediaRefused):
            await media.inlined(body(*(f"{origin.url}/{number}" for number in range(3))))
    assert origin.asked == []


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_outside(address: str) -> None:
    assert is_outside(address)


@pytest.mark.parametrize("address", ["", "x", "1.2.3", "8.8.8.8.", "fe80::1%eth0", "::8.8.8.8"])
def test_what_is_no_public_address_is_not_outside(address: str) -> None:
    assert not is_outside(address)
