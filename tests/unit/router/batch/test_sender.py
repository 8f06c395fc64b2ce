"""What an answer of the router means for a line."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from rhizome.clock import ManualClock
from rhizome.settings.cluster import BatchSettings
from rhizome.stores.lines import Line, LineResult
from router.batch.sender import LineSender
from tests.support.batches import FakeEndpoint, chat_line, serving

_LINE = Line(
    batch_id="batch-1",
    index=3,
    custom_id="c",
    url="/v1/chat/completions",
    body=json.dumps(chat_line("c")["body"]).encode(),
)


async def _send(
    endpoint: FakeEndpoint, clock: ManualClock, settings: BatchSettings | None = None
) -> LineResult:
    async with serving(endpoint) as url, aiohttp.ClientSession() as session:
        sender = LineSender(session, url, None, settings or BatchSettings(), clock)
        return await sender.send(_LINE)


def _refusing(endpoint: FakeEndpoint, statuses: list[int], **headers: str) -> FakeEndpoint:
    """The endpoint answers with `statuses`, one an ask, and then well."""

    async def behave(request: web.Request, body: dict[str, Any]) -> web.Response | None:
        if not statuses:
            return None
        return web.json_response({"error": {}}, status=statuses.pop(0), headers=headers)

    endpoint.behave = behave
    return endpoint


@pytest.mark.parametrize("status", [401, 403, 429, 503])
async def test_a_router_that_cannot_take_it_now_is_asked_again(status: int) -> None:
    clock, endpoint = ManualClock(), FakeEndpoint()
    result = await _send(_refusing(endpoint, [status] * 20), clock)
    assert not result.failed
    assert endpoint.asked.total() == 21


async def test_retry_after_is_honoured_within_a_bound() -> None:
    for retry_after, waited_s in (("7", 7), ("100000", 30), ("soon", 0.5), ("0", 0.5)):
        clock, endpoint = ManualClock(), FakeEndpoint()
        started_s = clock.monotonic_s()
        await _send(_refusing(endpoint, [429], **{"retry-after": retry_after}), clock)
        assert clock.monotonic_s() - started_s == waited_s


async def test_pauses_grow_to_a_bound() -> None:
    clock = ManualClock()
    started_s = clock.monotonic_s()
    await _send(_refusing(FakeEndpoint(), [503] * 8), clock)
    assert clock.monotonic_s() - started_s == 0.5 + 1 + 2 + 4 + 8 + 16 + 30 + 30


async def test_an_unknown_model_is_waited_for_only_while_the_fleet_forms() -> None:
    clock, endpoint = ManualClock(), FakeEndpoint()
    result = await _send(_refusing(endpoint, [404] * 3), clock)
    assert not result.failed
    result = await _send(_refusing(endpoint, [404] * 100), clock)
    assert result.failed
    assert json.loads(result.output)["response"]["status_code"] == 404


@pytest.mark.parametrize("status", [400, 408, 413, 422])
async def test_a_refused_line_is_not_asked_again(status: int) -> None:
    endpoint = FakeEndpoint()
    result = await _send(_refusing(endpoint, [status]), ManualClock())
    assert result.failed
    assert endpoint.asked.total() == 1


async def test_a_fault_is_tried_again_and_may_heal() -> None:
    endpoint = FakeEndpoint()
    result = await _send(_refusing(endpoint, [500, 502]), ManualClock())
    assert not result.failed
    assert endpoint.asked.total() == 3


async def test_a_line_has_a_deadline() -> None:
    async def hang(request: web.Request, body: dict[str, Any]) -> None:
        await asyncio.sleep(60)

    endpoint = FakeEndpoint()
    endpoint.behave = hang
    result = await _send(endpoint, ManualClock(), BatchSettings(line_timeout_s=0.05))
    assert json.loads(result.output)["error"]["code"] == "line_timeout"
    assert endpoint.asked.total() == 1
