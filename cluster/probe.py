"""Asks a worker's engine what it runs, by its own metrics; nobody else in the cluster knows all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp

from rhizome.fleet.records import WorkerRecord

_COUNTED = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_PAGE_BYTES_MAX = 4 * 2**20


async def in_flight(records: Iterable[WorkerRecord], timeout_s: float) -> dict[str, int]:
    """Requests running or waiting in each worker that answers within `timeout_s`."""
    known: dict[str, int] = {}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def ask(record: WorkerRecord) -> None:
            count = await _ask(session, record)
            if count is not None:
                known[record.worker_id] = count

        await asyncio.gather(*(ask(record) for record in records))
    return known


async def _ask(session: aiohttp.ClientSession, record: WorkerRecord) -> int | None:
    headers = {"Authorization": f"Bearer {record.api_key}"} if record.api_key else {}
    try:
        async with session.get(f"{record.url}/metrics", headers=headers) as response:
            if response.status != 200:
                return None
            page = await response.content.read(_PAGE_BYTES_MAX)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    return count_requests(page.decode("utf-8", errors="replace"))


def count_requests(page: str) -> int | None:
    """The requests on an engine's metrics page, over all its ranks; None when it names none."""
    counts = []
    for line in page.splitlines():
        name, _, rest = line.partition("{")
        if name not in _COUNTED and line.partition(" ")[0] not in _COUNTED:
            continue
        try:
            counts.append(float((rest or line).rpartition(" ")[2]))
        except ValueError:
            return None
    return int(sum(counts)) if counts else None
