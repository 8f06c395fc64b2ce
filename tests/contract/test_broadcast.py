"""What every `Broadcast` promises: in memory, on Valkey, and between processes of one machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import cycle
from pathlib import Path

import pytest

from rhizome.settings.tree import RedisSettings
from rhizome.stores.broadcast import MESSAGE_BYTES_MAX, Broadcast, Listener
from rhizome.stores.open import open_stores
from rhizome.stores.sockets import SocketBroadcast
from tests.support.valkey import settings_for

_WAIT_S = 10.0
Opened = Callable[[], Broadcast]


@pytest.fixture(params=["memory", pytest.param("valkey", marks=pytest.mark.integration), "sockets"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | RedisSettings:
    if request.param == "sockets":
        return tmp_path
    if request.param == "memory":
        return RedisSettings()
    return settings_for(request.getfixturevalue("valkey_url"))


@pytest.fixture
async def opened(where: Path | RedisSettings) -> AsyncIterator[Opened]:
    """Makes the channel as another process would see it; in memory there is only this one."""
    if isinstance(where, Path):
        yield lambda: SocketBroadcast(where)
        return
    count = 2 if where.url is not None else 1
    both = [await open_stores(where) for _ in range(count)]
    turns = cycle(one.peers for one in both)
    yield lambda: next(turns)
    for one in both:
        await one.close()


async def _heard(listener: Listener, count: int) -> list[bytes]:
    found: list[bytes] = []
    async with asyncio.timeout(_WAIT_S):
        while len(found) < count:
            message = await listener.receive(_WAIT_S)
            if message is not None:
                found.append(message)
    return found


async def test_everybody_who_listens_hears_everything_in_its_publishers_order(
    opened: Opened,
) -> None:
    first, second = opened(), opened()
    async with first.listen() as one, second.listen() as other:
        said = [b"%d" % number for number in range(50)]
        for message in said:
            await first.publish(message)
            await asyncio.sleep(0.001)
        assert await _heard(one, 50) == said
        assert await _heard(other, 50) == said


async def test_silence_is_no_message_and_what_was_said_before_is_not_kept(opened: Opened) -> None:
    channel = opened()
    await channel.publish(b"nobody listens")
    async with channel.listen() as listener:
        assert await listener.receive(0.05) is None
        await channel.publish(b"now")
        assert await _heard(listener, 1) == [b"now"]


async def test_who_does_not_listen_any_more_hinders_nobody(opened: Opened) -> None:
    channel = opened()
    async with channel.listen() as stays:
        async with channel.listen():
            pass
        await channel.publish(b"still here")
        assert await _heard(stays, 1) == [b"still here"]


async def test_the_longest_message_arrives_whole_and_so_does_the_empty_one(opened: Opened) -> None:
    channel = opened()
    longest = bytes(range(256)) * (MESSAGE_BYTES_MAX // 256)
    async with channel.listen() as listener:
        await channel.publish(longest)
        await channel.publish(b"")
        assert await _heard(listener, 2) == [longest, b""]


async def test_a_listener_that_does_not_read_holds_up_no_publisher(opened: Opened) -> None:
    channel = opened()
    async with channel.listen(), channel.listen() as reads:
        async with asyncio.timeout(60):
            for number in range(40):
                await channel.publish(b"%d" % number)
                assert await _heard(reads, 1) == [b"%d" % number]


async def test_a_wait_that_is_cancelled_loses_nothing(opened: Opened) -> None:
    channel = opened()
    async with channel.listen() as listener:
        waiting = asyncio.ensure_future(listener.receive(_WAIT_S))
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await channel.publish(b"after")
        assert await _heard(listener, 1) == [b"after"]
