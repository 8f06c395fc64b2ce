"""Work goes on while the client stays, and is cancelled when it leaves."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from rhizome.errors import ClientLeft, QueueFull
from router.http.client import while_client_stays


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> Message:
    return {"type": "http.disconnect"}


async def test_work_ends_normally_while_the_client_stays() -> None:
    done: list[bool] = []

    async def work() -> None:
        done.append(True)

    await while_client_stays(never, work())
    assert done == [True]


async def test_leaving_cancels_the_work_and_lets_it_clean_up() -> None:
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            cleaned = True

    with pytest.raises(ClientLeft):
        await while_client_stays(gone, work())
    assert cleaned


async def test_an_error_of_the_work_comes_through_as_it_is() -> None:
    async def work() -> None:
        raise QueueFull("full", retry_after_s=3)

    with pytest.raises(QueueFull, match="full"):
        await while_client_stays(never, work())


async def test_cancelling_from_outside_stays_a_cancellation() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await while_client_stays(never, work())
