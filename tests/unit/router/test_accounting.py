"""Whatever happens to requests, each has one outcome and no load is left behind."""

from __future__ import annotations

import asyncio
from random import Random

import httpx
import pytest

from rhizome.outcome import Outcome
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api, settings_with
from tests.support.waiting import eventually

REQUESTS = 150
PATH = "/v1/chat/completions"


async def ask(http: httpx.AsyncClient, rng: Random) -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": f"{rng.randint(0, 20)} " * rng.randint(1, 200)}],
        "stream": rng.random() < 0.6,
    }
    if rng.random() < 0.1:
        body["messages"] = []
    await asyncio.sleep(rng.random() * 0.5)
    patience_s = rng.choice([0.01, 0.05, 10.0, 10.0, 10.0])
    try:
        async with asyncio.timeout(patience_s):
            await http.post(PATH, json=body)
    except (TimeoutError, httpx.HTTPError):
        return


@pytest.mark.parametrize("seed", range(3))
async def test_every_request_has_one_outcome_and_gives_its_load_back(seed: int) -> None:
    rng = Random(seed)
    settings = settings_with(
        router__admission__in_flight_max_per_worker=4,
        router__admission__queue_length_max=20,
        router__admission__queue_wait_s_max=0.3,
    )
    async with running_api(settings) as api:
        engines = [
            FakeEngine(),
            FakeEngine(die_after=1),
            FakeEngine(status=500),
            FakeEngine(words=["word "] * 200),
        ]
        async with (
            running_engine(engines[0]),
            running_engine(engines[1]),
            running_engine(engines[2]),
            running_engine(engines[3]),
            httpx.AsyncClient(base_url=api.url, timeout=10) as http,
        ):
            api.join(*engines)
            asked = [ask(http, Random(rng.random())) for _ in range(REQUESTS)]
            churning = asyncio.ensure_future(churn(api, engines, rng))
            await asyncio.gather(*asked)
            await churning
            await eventually(lambda: in_flight(api) == 0)
            assert api.counted("router_queue_depth", model="m") == 0
            assert sum(api.router.dispatcher.book.queued_tokens(f"w{n}") for n in range(4)) == 0
            api.router.dispatcher.book.check_invariants()
            api.router.dispatcher.index.check_invariants()
            served = sum(
                api.counted("router_requests_total", route=PATH, model="m", outcome=outcome.value)
                for outcome in Outcome
            )
            fault = api.counted("router_requests_total", route=PATH, model="m", outcome="fault")
            assert fault == 0
            assert 0 < served <= REQUESTS


async def churn(api: Api, engines: list[FakeEngine], rng: Random) -> None:
    """Workers leave and come back as new incarnations."""
    for turn in range(10):
        await asyncio.sleep(0.08)
        number = rng.randrange(4)
        api.router.fleet.remove(f"w{number}", "test", 0.0)
        await asyncio.sleep(0.02)
        record = engines[number].record(f"w{number}", incarnation=f"turn-{turn}")
        api.router.fleet.upsert(record, 0.0)


def in_flight(api: Api) -> float:
    return sum(api.counted("router_in_flight", target=f"w{number}") for number in range(4))
