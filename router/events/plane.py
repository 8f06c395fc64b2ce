"""All subscriptions of a router: begun when a worker joins the fleet, ended when it leaves.

Promises: every target of a living worker is registered in the prefix index with the bound that the
worker gave; nothing of a worker that left stays in it. Workers without events are registered too,
for the index's predictions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Self

import zmq
import zmq.asyncio

from rhizome.clock import Clock
from rhizome.fleet.records import EventSource, WorkerRecord
from rhizome.tasks import Tasks
from router.events.sockets import ClientKeys
from router.events.subscription import LinkCounters, Subscription, Timing
from router.fleet import targets_of
from router.prefix.feed import EventFeed, FeedCounters
from router.prefix.index import PrefixIndex
from router.prefix.layout import CacheTraits, Layout
from router.prefix.verdicts import BlockCounters

_log = logging.getLogger(__name__)
_SOCKETS_MAX = 32_768  # three for each target, and one more while it replays


@dataclass(slots=True)
class EventCounters:
    """Sums over all targets, those that left included; every number but the lag only grows."""

    messages: int = 0
    """Live messages received."""
    batches: int = 0
    """Batches applied, replayed ones included."""
    events: int = 0
    gaps: int = 0
    replays: int = 0
    replays_failed: int = 0
    snapshots: int = 0
    snapshots_failed: int = 0
    restarts: int = 0
    """Engines found to be other processes than before."""
    duplicates: int = 0
    undecodable: int = 0
    malformed: int = 0
    foreign: int = 0
    """Batches of another engine than the one that a target's events come from."""
    unknown_parent: int = 0
    """Blocks not credited since the chain above them was not seen."""
    not_text: int = 0
    mismatched: int = 0
    passed_over: int = 0
    clears: int = 0
    over_bound: int = 0
    """Blocks forgotten since their engine cannot hold so many."""
    conflicts: int = 0
    """Times that a target was forgotten since two of its blocks had one name, or one had two."""
    lag_ms: float = 0.0
    """The largest lag of a living target's last live batch."""


class EventPlane:
    """A fleet listener; use it as a context manager, then let it listen to the fleet."""

    def __init__(self, index: PrefixIndex, clock: Clock, timing: Timing | None = None) -> None:
        self._index = index
        self._clock = clock
        self._timing = timing
        self._keys = ClientKeys.generate()
        self._context = zmq.asyncio.Context()
        self._context.set(zmq.MAX_SOCKETS, _SOCKETS_MAX)
        self._tasks = Tasks("events")
        self._targets: dict[str, tuple[str, ...]] = {}
        self._running: dict[str, tuple[Subscription, asyncio.Task[None]]] = {}
        self._departed = EventCounters()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._tasks.close()
        self._context.destroy(linger=0)

    def joined(self, record: WorkerRecord) -> None:
        """Registers the worker's targets and follows their events."""
        targets = tuple(target.target_id for target in targets_of(record))
        self._targets[record.worker_id] = targets
        for target in targets:
            self._index.add_worker(target, record.kv_blocks)
            self._index.describe(target, Layout.unheard(_traits(record)))
        for source in record.events:
            if 0 <= source.rank < len(targets) and targets[source.rank] not in self._running:
                self._follow(targets[source.rank], source, record)
            else:
                _log.warning(
                    "worker %s has no rank %d for its event source", record.worker_id, source.rank
                )

    def left(self, record: WorkerRecord) -> None:
        """Ends the worker's subscriptions and forgets its blocks."""
        for target in self._targets.pop(record.worker_id, ()):
            running = self._running.pop(target, None)
            if running is not None:
                subscription, task = running
                task.cancel()
                _add(self._departed, subscription)
            self._index.remove_worker(target)

    def subscriptions(self) -> Mapping[str, Subscription]:
        """The living subscriptions by target, with their feeds and counters."""
        return {target: subscription for target, (subscription, _) in self._running.items()}

    def subscription(self, target: str) -> Subscription | None:
        """The living subscription of a target."""
        running = self._running.get(target)
        return running[0] if running is not None else None

    @property
    def bytes_used(self) -> int:
        """Memory of the engines' names of their blocks, in bytes; each engine's own number of
        blocks bounds it."""
        return sum(
            subscription.feed.blocks.bytes_used for subscription, _ in self._running.values()
        )

    def totals(self) -> EventCounters:
        """The counters' sums."""
        sums = EventCounters(
            **{one.name: getattr(self._departed, one.name) for one in fields(EventCounters)}
        )
        sums.lag_ms = 0.0
        for subscription, _ in self._running.values():
            _add(sums, subscription)
        return sums

    def _follow(self, target: str, source: EventSource, record: WorkerRecord) -> None:
        feed = EventFeed(
            target,
            self._index,
            block_size=record.block_size,
            blocks_max=record.kv_blocks,
            can_replay=source.replay_endpoint is not None,
            can_snapshot=source.snapshots,
            traits=_traits(record),
        )
        subscription = Subscription(
            source, feed, self._context, self._keys, self._clock, self._timing
        )
        self._running[target] = (subscription, self._tasks.start(target, subscription.run()))


def _traits(record: WorkerRecord) -> CacheTraits:
    return CacheTraits(record.redoes_last_block, record.chunk_tokens)


def _add(sums: EventCounters, subscription: Subscription) -> None:
    parts: tuple[LinkCounters | FeedCounters | BlockCounters, ...] = (
        subscription.counters,
        subscription.feed.counters,
        subscription.feed.blocks.counters,
    )
    for part in parts:
        for one in fields(part):
            value: Any = getattr(part, one.name)
            if one.name == "lag_ms":
                sums.lag_ms = max(sums.lag_ms, value)
            elif hasattr(sums, one.name):
                setattr(sums, one.name, getattr(sums, one.name) + value)
