"""Routers that store responses, and a client's requests for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from rhizome.clock import Clock
from tests.support.clocks import PATIENCE, HurriedClock
from tests.support.serving import Api, running_api, settings_with

MINE = {"authorization": "Bearer rzk-mine"}
THEIRS = {"authorization": "Bearer rzk-theirs"}
HI = {"model": "m", "input": "Hello"}


@asynccontextmanager
async def running(
    url: str | None, namespace: str, clock: Clock | None = None, **more: Any
) -> AsyncIterator[Api]:
    """A router with two clients' keys, storing in the Redis at `url` if there is one; it looks
    after background work more often than others."""
    flags: dict[str, Any] = {"router__api_keys": ["rzk-mine", "rzk-theirs"], **PATIENCE, **more}
    if url is not None:
        flags |= {"redis__url": url, "redis__namespace": namespace}
    async with running_api(
        settings_with(**flags), clock=clock or HurriedClock(hurries=True)
    ) as api:
        yield api


async def ask(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A response that must be given."""
    answer = await http.post("/v1/responses", json={**HI, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
