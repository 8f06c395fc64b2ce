"""A small model's words, and a worker that talks with them and may be broken."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from rhizome.clock import SystemClock
from tests.support.engine_contract.engines import simulated, write_tokenizer
from workers.engine.simulated.server.words import Words
from workers.engine.simulated.server.worker import SimulatedWorker


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return Words(write_tokenizer(tmp_path_factory.mktemp("model")), SystemClock())


@pytest.fixture
async def worker(words: Words) -> AsyncIterator[SimulatedWorker]:
    async with simulated(words, breakable=True) as one:
        yield one


@pytest.fixture
async def http(worker: SimulatedWorker) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{worker.port}"
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield client
