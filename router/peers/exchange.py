"""Tells the other routers of this one's load, and hears them, over one or more channels.

News go out at once, and then not again for `interval_s`: what happens in between goes together.
Everything is told again every `whole_interval_s`, which makes good what was lost and renews the
lease; a router that hears of no other one tells no more than that. A channel that is away costs its
messages and nothing else: nobody waits for it, what is not sent is not kept, and when the others'
leases have ended this router counts its own load alone, and says so once. The same message may come
over two channels; it counts once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rhizome.clock import Clock
from rhizome.errors import StoreUnavailable
from rhizome.settings.tree import PeerSettings
from rhizome.stores.broadcast import Broadcast, Listener
from rhizome.stores.open import Stores
from rhizome.stores.sockets import SocketBroadcast
from rhizome.tasks import Tasks
from router.peers.messages import Prediction, Told, decode, encode, heading
from router.peers.own import OwnNews
from router.peers.view import PeerView

_log = logging.getLogger(__name__)
_OUTBOX_MAX = 64
_PAUSE_S = 0.5
_DEAF_INTERVALS = 4


@dataclass(slots=True)
class ExchangeCounters:
    """What went out and came in since the start."""

    sent: int = 0
    received: int = 0
    unreadable: int = 0
    unsent: int = 0
    """Messages that a channel did not take."""
    lost_routers: int = 0
    """Routers that fell silent without saying that they leave."""


@dataclass(slots=True)
class Hearers:
    """Who is told what came in."""

    predicted: Callable[[Prediction], None]
    """Another router has sent a prompt to a target."""
    freed: Callable[[], None]
    """Other routers have less at some target than before."""


def peer_channels(settings: PeerSettings, stores: Stores, siblings: Path | None) -> list[Broadcast]:
    """Where other routers can be told: on Redis, and in the directory of one router's processes."""
    if not settings.enabled:
        return []
    channels: list[Broadcast] = [SocketBroadcast(siblings)] if siblings is not None else []
    return [*channels, stores.peers] if stores.shared else channels


class PeerExchange:
    """The tasks around `OwnNews` and `PeerView`; `run` ends only when cancelled."""

    def __init__(
        self,
        channels: Sequence[Broadcast],
        own: OwnNews,
        view: PeerView,
        hearers: Hearers,
        settings: PeerSettings,
        clock: Clock,
    ) -> None:
        self.counters = ExchangeCounters()
        self._own = own
        self._view = view
        self._hearers = hearers
        self._settings = settings
        self._clock = clock
        self._news = asyncio.Event()
        self._asks = True
        self._whole_due_s = 0.0
        self._outlets = [_Outlet(channel, self.counters) for channel in channels]
        own.on_news = self._news.set

    async def run(self) -> None:
        """Tells and hears until cancelled; says goodbye then."""
        async with Tasks("peers") as tasks:
            tasks.start("expire", self._expire())
            for outlet in self._outlets:
                tasks.start("hear", self._listen(outlet))
                tasks.start("tell", outlet.run(self._clock, self._tell_all_soon))
            try:
                await self._tell()
            finally:
                await self._leave()

    async def _expire(self) -> None:
        """Forgets who fell silent, for ever."""
        while True:
            await self._clock.sleep(self._settings.lease_s / 16)
            lost = self._view.expire(self._clock.monotonic_s())
            if lost:
                self.counters.lost_routers += lost
                left = len(self._view)
                _log.warning(
                    "%d routers fell silent; load is shared with %s",
                    lost,
                    f"{left} others" if left else "nobody: this router counts its own alone",
                )

    async def _tell(self) -> None:
        settings, clock = self._settings, self._clock
        while True:
            now_s = clock.monotonic_s()
            if now_s >= self._whole_due_s:
                self._whole_due_s = now_s + settings.whole_interval_s
                self._news.clear()
                for told in self._own.whole(asks=self._asks):
                    self._offer(told)
                self._asks = False
            else:
                self._news.clear()
                if not len(self._view):
                    self._own.forget()
                elif (news := self._own.news()) is not None:
                    self._offer(news)
            await clock.sleep(settings.interval_s)
            if not self._news.is_set():
                await self._wait_for_news(self._whole_due_s - clock.monotonic_s())

    async def _wait_for_news(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        except TimeoutError:
            pass

    def _tell_all_soon(self) -> None:
        self._whole_due_s = 0.0
        self._news.set()

    def _offer(self, told: Told) -> None:
        message = encode(told)
        for outlet in self._outlets:
            outlet.offer(message)

    async def _leave(self) -> None:
        message = encode(self._own.last())
        for outlet in self._outlets:
            await outlet.send_last(message)

    async def _listen(self, outlet: _Outlet) -> None:
        """Subscribes again and again, whenever the subscription is lost or deaf."""
        while True:
            try:
                async with outlet.channel.listen() as listener:
                    self._asks = True
                    self._tell_all_soon()
                    await self._hear(listener, outlet)
            except StoreUnavailable as error:
                _log.debug("not listening to other routers: %s", error)
                await self._clock.sleep(_PAUSE_S)

    async def _hear(self, listener: Listener, outlet: _Outlet) -> None:
        """Raises `StoreUnavailable` when what this router says does not come back to it."""
        clock, own = self._clock, heading(self._own.router_id)
        deaf_s = _DEAF_INTERVALS * self._settings.whole_interval_s
        heard_own_s = clock.monotonic_s()
        while True:
            message = await listener.receive(self._settings.whole_interval_s)
            now_s = clock.monotonic_s()
            if message is None:
                if outlet.is_away:
                    heard_own_s = now_s
                elif now_s - heard_own_s > deaf_s:
                    raise StoreUnavailable("the subscription is deaf")
            elif message.startswith(own):
                heard_own_s = now_s
            else:
                self._take(message, now_s)

    def _take(self, message: bytes, now_s: float) -> None:
        told = decode(message)
        if told is None:
            self.counters.unreadable += 1
            return
        self.counters.received += 1
        for prediction in self._view.take(told, now_s):
            self._hearers.predicted(prediction)
        if told.asks:
            self._tell_all_soon()
        if self._view.take_freed():
            self._hearers.freed()


@dataclass(slots=True)
class _Outlet:
    """One channel's way out: in order, bounded, and waited for by nobody."""

    channel: Broadcast
    counters: ExchangeCounters
    is_away: bool = False
    _outbox: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(_OUTBOX_MAX))

    def offer(self, message: bytes) -> None:
        if self._outbox.full():
            self.counters.unsent += 1
        else:
            self._outbox.put_nowait(message)

    async def run(self, clock: Clock, on_return: Callable[[], None]) -> None:
        while True:
            message = await self._outbox.get()
            try:
                await self.channel.publish(message)
            except StoreUnavailable:
                self.is_away = True
                self.counters.unsent += 1 + self._outbox.qsize()
                while not self._outbox.empty():
                    self._outbox.get_nowait()
                await clock.sleep(_PAUSE_S)
            else:
                self.counters.sent += 1
                if self.is_away:
                    self.is_away = False
                    on_return()

    async def send_last(self, message: bytes) -> None:
        if not self.is_away:
            try:
                await self.channel.publish(message)
            except StoreUnavailable as error:
                _log.debug("could not say goodbye to other routers: %s", error)
