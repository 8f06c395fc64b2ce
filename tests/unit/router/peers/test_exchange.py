"""The exchange over channels that are there, away, deaf or double."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from rhizome.clock import SystemClock
from rhizome.errors import StoreUnavailable
from rhizome.settings.tree import PeerSettings
from rhizome.stores.broadcast import Broadcast, Listener
from rhizome.stores.memory.broadcast import MemoryBroadcast
from rhizome.tasks import Tasks
from router.peers.exchange import Hearers, PeerExchange
from router.peers.messages import Prediction, decode
from router.peers.own import OwnNews
from router.peers.view import PeerView
from router.scheduling.load import LoadBook
from tests.support.waiting import eventually

_SETTINGS = PeerSettings(interval_s=0.002, whole_interval_s=0.05, lease_s=2.0)


@dataclass
class _Router:
    name: str
    channels: list[Broadcast]
    settings: PeerSettings = _SETTINGS
    book: LoadBook = field(default_factory=LoadBook)
    predicted: list[Prediction] = field(default_factory=list)
    freed: int = 0

    def __post_init__(self) -> None:
        self.own = OwnNews(self.name, self.book)
        self.view = PeerView(self.name, self.settings.lease_s)
        hearers = Hearers(self.predicted.append, self._free)
        self.exchange = PeerExchange(
            self.channels, self.own, self.view, hearers, self.settings, SystemClock()
        )

    def _free(self) -> None:
        self.freed += 1


class _Breakable:
    """A channel that can be away for those who publish, or deaf."""

    def __init__(self, inner: MemoryBroadcast) -> None:
        self._inner = inner
        self.is_away = False
        self.is_deaf = False
        self.listened = 0

    async def publish(self, message: bytes) -> None:
        if self.is_away:
            raise StoreUnavailable("it is away")
        await self._inner.publish(message)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        self.listened += 1
        inner = MemoryBroadcast() if self.is_deaf else self._inner
        async with inner.listen() as listener:
            yield listener


async def test_load_and_prompts_reach_the_other_router_and_their_end_does() -> None:
    channel = MemoryBroadcast()
    one, other = _Router("r1", [channel]), _Router("r2", [channel])
    async with Tasks("routers") as tasks:
        for router in (one, other):
            tasks.start(router.name, router.exchange.run())
        await eventually(lambda: len(one.view) == len(other.view) == 1)
        receipt = one.book.reserve("a", 7, 0.0)
        one.own.predicted("a", [1, 2], is_exact=True)
        await eventually(lambda: other.view.queued_tokens("a") == 7)
        assert [told.hashes() for told in other.predicted] == [[1, 2]]
        one.book.release(receipt)
        await eventually(lambda: other.view.in_flight("a") == 0)
        assert other.freed == 1
        assert one.view.loads() == {}


async def test_a_router_that_ends_in_order_is_gone_before_its_lease() -> None:
    channel = MemoryBroadcast()
    one, other = _Router("r1", [channel]), _Router("r2", [channel])
    one.book.reserve("a", 7, 0.0)
    async with Tasks("stays") as stays:
        stays.start("other", other.exchange.run())
        async with Tasks("leaves") as leaves:
            leaves.start("one", one.exchange.run())
            await eventually(lambda: other.view.in_flight("a") == 1)
        await eventually(lambda: len(other.view) == other.view.in_flight("a") == 0)
        assert other.exchange.counters.lost_routers == 0


async def test_without_its_channel_a_router_is_alone_says_so_once_and_heals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = _Breakable(MemoryBroadcast())
    one, other = _Router("r1", [channel]), _Router("r2", [channel])
    async with Tasks("routers") as tasks:
        for router in (one, other):
            tasks.start(router.name, router.exchange.run())
        await eventually(lambda: len(one.view) == len(other.view) == 1)
        channel.is_away = True
        await eventually(lambda: len(one.view) == len(other.view) == 0)
        one.book.reserve("a", 7, 0.0)
        assert caplog.text.count("counts its own alone") == 2
        assert one.exchange.counters.unsent > 0
        channel.is_away = False
        await eventually(lambda: other.view.in_flight("a") == 1)
        assert len(one.view) == 1


async def test_a_subscription_that_hears_not_even_its_own_router_is_made_anew() -> None:
    channel = _Breakable(MemoryBroadcast())
    channel.is_deaf = True
    one, other = _Router("r1", [channel]), _Router("r2", [channel])
    async with Tasks("routers") as tasks:
        for router in (one, other):
            tasks.start(router.name, router.exchange.run())
        await eventually(lambda: channel.listened == 2)
        channel.is_deaf = False
        await eventually(lambda: len(one.view) == len(other.view) == 1)


async def test_what_comes_over_two_channels_counts_once_and_one_of_them_is_enough() -> None:
    first, second = _Breakable(MemoryBroadcast()), MemoryBroadcast()
    one, other = _Router("r1", [first, second]), _Router("r2", [first, second])
    async with Tasks("routers") as tasks:
        for router in (one, other):
            tasks.start(router.name, router.exchange.run())
        await eventually(lambda: len(one.view) == len(other.view) == 1)
        one.book.reserve("a", 7, 0.0)
        one.own.predicted("a", [1, 2], is_exact=True)
        await eventually(lambda: other.view.in_flight("a") == 1)
        first.is_away = True
        one.book.reserve("a", 7, 0.0)
        await eventually(lambda: other.view.in_flight("a") == 2)
        assert len(other.predicted) == 1


async def test_what_cannot_be_read_is_counted_and_changes_nothing() -> None:
    channel = MemoryBroadcast()
    one = _Router("r1", [channel])
    async with Tasks("routers") as tasks:
        tasks.start("one", one.exchange.run())
        await eventually(lambda: one.exchange.counters.sent > 0)
        await channel.publish(b"\xc1 not a message")
        await eventually(lambda: one.exchange.counters.unreadable == 1)
        assert len(one.view) == 0


async def test_a_router_that_is_alone_tells_only_that_it_is_there() -> None:
    channel = MemoryBroadcast()
    settings = PeerSettings(interval_s=0.001, whole_interval_s=5.0, lease_s=60.0)
    one = _Router("r1", [channel], settings=settings)
    async with channel.listen() as listener, Tasks("routers") as tasks:
        tasks.start("one", one.exchange.run())
        await eventually(lambda: one.exchange.counters.sent > 0)
        for _ in range(20):
            one.book.release(one.book.reserve("a", 7, 0.0))
            await asyncio.sleep(0.002)
        heard = []
        while (message := await listener.receive(0.05)) is not None:
            heard.append(decode(message))
    assert heard
    assert all(told is not None and told.is_whole for told in heard)
