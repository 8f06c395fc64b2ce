"""One router that stores responses in the run's Valkey, in front of one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from rhizome.ids import new_id
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api
from tests.support.stored_responses import MINE, running


@pytest.fixture
def namespace() -> str:
    return new_id("test")


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with running_engine(FakeEngine()) as engine:
        yield engine


@pytest.fixture
async def api(valkey_url: str, namespace: str, engine: FakeEngine) -> AsyncIterator[Api]:
    async with running(valkey_url, namespace) as api:
        api.join(engine)
        yield api


@pytest.fixture
async def http(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=20, headers=MINE) as http:
        yield http
