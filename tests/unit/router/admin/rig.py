"""A router with its admin API over real sockets, and a client of each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from rhizome.ids import hash_of
from tests.support.serving import Api, running_api, settings_with

CHAT: dict[str, object] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hello there " * 40}],
}
CLIENT_KEY, ADMIN_KEY = "client-key", "admin-key"


@asynccontextmanager
async def serving(**flags: object) -> AsyncIterator[tuple[Api, httpx.AsyncClient]]:
    """A router, and a client of its admin API."""
    settings = settings_with(
        router__admin__key=ADMIN_KEY,
        router__admin__keys={"ops": hash_of("ops-key")},
        router__keys={"alice": hash_of(CLIENT_KEY)},
        router__discovery__probe_interval_s=3600.0,
        **flags,
    )
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with (
        running_api(settings) as api,
        httpx.AsyncClient(
            base_url=f"{api.admin_url}/admin/v1", headers=headers, timeout=30
        ) as http,
    ):
        yield api, http


async def send(
    api: Api, body: dict[str, object] = CHAT, *, request_id: str = "", key: str = CLIENT_KEY
) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    if request_id:
        headers["x-request-id"] = request_id
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.post(f"{api.url}/v1/chat/completions", json=body, headers=headers)
