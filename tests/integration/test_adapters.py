"""Adapters that a model's spec names, from a worker's own record to a client's answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from rhizome.clock import SystemClock
from rhizome.fleet.models import ModelSpec
from rhizome.stores.open import open_stores
from rhizome.tasks import Tasks
from tests.support.engine_contract.engines import write_tokenizer
from tests.support.serving import Api, running_api, settings_with
from tests.support.valkey import settings_for
from tests.support.waiting import eventually
from workers.lives import WorkerPlan, new_life

pytestmark = pytest.mark.integration

PROMPT = "one two three four five six seven eight nine ten " * 20
START_S = 60.0


@pytest.fixture(params=[{"pirate": "/a"}, ["pirate=/a"]], ids=["mapping", "list"])
async def api(
    request: pytest.FixtureRequest, valkey_url: str, tmp_path: Path
) -> AsyncIterator[Api]:
    """A router that has found a worker of the model and its adapter in the registry."""
    redis = settings_for(valkey_url)
    spec = ModelSpec(
        name="m",
        source=str(write_tokenizer(tmp_path / "model")),
        engine="simulated",
        block_size=16,
        engine_args={"enable-lora": True, "lora-modules": request.param},
    )
    settings = settings_with(
        redis__url=valkey_url, redis__namespace=redis.namespace, router__allow_anonymous=True
    )
    stores = await open_stores(redis)
    async with running_api(settings) as api, Tasks("workers") as tasks:
        life = new_life(WorkerPlan("w0", spec, settings), stores.registry, SystemClock())
        tasks.start("worker", life.run())
        await eventually(lambda: bool(api.router.fleet.eligible("pirate")), START_S)
        yield api
        await life.stop()
    await stores.close()


async def test_an_adapter_of_the_registry_is_listed_and_has_blocks_of_its_own(api: Api) -> None:
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 2}
    adapted = {**body, "model": "pirate"}
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as http:
        listed = (await http.get("/v1/models")).json()["data"]
        assert {one["id"]: one["parent"] for one in listed} == {"m": None, "pirate": "m"}

        async def cached(asked: dict[str, object]) -> int:
            answer = await http.post("/v1/completions", json=asked)
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert told["model"] == asked["model"]
            return int(told["usage"]["prompt_tokens_details"]["cached_tokens"])

        assert await cached(body) == 0
        assert await cached(adapted) == 0, "the model's own blocks are no help"

        async def is_known() -> bool:
            """The engine's events have told of the adapter's blocks, under its own root."""
            again = await http.post("/v1/completions", json=adapted)
            usage = again.json()["usage"]["prompt_tokens_details"]
            predicted = int(again.headers["x-rhizome-prefix-tokens"])
            return bool(predicted == usage["cached_tokens"] > 0)

        await eventually(is_known, START_S)
