"""A worker's event relay and a router's event plane, joined by real authenticated sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from rhizome.clock import SystemClock
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.wire.kv_events import BlockRemoved, BlockStored, KVEvent, KVEventBatch, encode_batch
from router.events.plane import EventPlane
from router.prefix.hashing import block_hashes, root_hash
from router.prefix.index import PrefixIndex
from tests.support.waiting import eventually
from workers.event_relay import TOPIC, EventRelay

BLOCK = 4


class PublishingEngine:
    """The engine's side: binds the socket file that the relay reads, and counts its batches."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self._socket = context.socket(zmq.XPUB)
        self._socket.sndhwm = 100_000  # as vLLM's publisher; ZMQ's 1,000 drops a burst unseen
        self._socket.bind(endpoint)
        self._sequence = 0

    def wait_for_the_relay(self) -> None:
        assert self._socket.poll(10_000), "the relay did not subscribe"

    def publish(self, *events: KVEvent) -> None:
        batch = KVEventBatch(ts=float(self._sequence + 1), events=list(events))
        sequence = self._sequence.to_bytes(8, "big")
        self._socket.send_multipart((TOPIC.encode(), sequence, encode_batch(batch)))
        self._sequence += 1


@contextmanager
def relayed(ring_batches: int = 10_000) -> Iterator[tuple[EventRelay, PublishingEngine]]:
    relay = EventRelay("127.0.0.1", "127.0.0.1", ranks=1, ring_batches=ring_batches)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    relay.start()
    try:
        engine = PublishingEngine(context, relay.engine_endpoint)
        engine.wait_for_the_relay()
        yield relay, engine
    finally:
        relay.stop()
        context.destroy(linger=0)


def stored(number: int) -> BlockStored:
    return BlockStored(block_hashes=[number], token_ids=[number] * BLOCK, block_size=BLOCK)


async def test_a_router_that_joins_late_knows_all_and_follows() -> None:
    index = PrefixIndex(2**26)
    with relayed() as (relay, engine):
        for number in range(3000):
            engine.publish(stored(number))
        async with EventPlane(index, SystemClock()) as plane:
            plane.joined(a_record(relay))
            await eventually(lambda: index.block_count("w1") == 3000)
            engine.publish(BlockRemoved(block_hashes=[7]), stored(3001))
            await eventually(lambda: index.block_count("w1") == 3000 and held(index, 3001))
            assert not held(index, 7)
            totals = plane.totals()
            # what is published between the replay and the first live batch is a gap that heals
            assert totals.gaps <= 1
            assert (totals.clears, totals.replays_failed) == (0, 0)


async def test_a_router_that_joins_late_knows_what_no_ring_keeps() -> None:
    """The engine has published far more than the relay's ring holds, and evicted some of it; the
    relay has all of that, as a router knows that was there before."""
    early, index = PrefixIndex(2**26), PrefixIndex(2**26)
    with relayed(ring_batches=5) as (relay, engine):
        relay.expect_blocks(10_000)
        for number in range(2000):
            engine.publish(stored(number))
        engine.publish(*(BlockRemoved(block_hashes=[number]) for number in range(500)))
        async with EventPlane(early, SystemClock()) as plane:
            plane.joined(a_record(relay))
            await eventually(lambda: held(early, 1999) and not held(early, 499))
        async with EventPlane(index, SystemClock()) as plane:
            plane.joined(a_record(relay))
            await eventually(lambda: index.block_count("w1") == 1500)
            assert not held(index, 7)
            engine.publish(BlockRemoved(block_hashes=[700]), stored(3001))
            await eventually(lambda: held(index, 3001))
            assert not held(index, 700)
            assert index.block_count("w1") == 1500
            totals = plane.totals()
            assert (totals.snapshots, totals.snapshots_failed) == (1, 0)
            assert (totals.clears, totals.restarts, totals.undecodable) == (0, 0, 0)
    index.check_invariants()


async def test_a_relay_bounds_what_it_keeps_by_the_engines_own_blocks() -> None:
    early, index = PrefixIndex(2**26), PrefixIndex(2**26)
    with relayed(ring_batches=5) as (relay, engine):
        relay.expect_blocks(100)
        for number in range(1000):
            engine.publish(stored(number))
        async with EventPlane(early, SystemClock()) as plane:
            plane.joined(a_record(relay))
            await eventually(lambda: held(early, 999))
        async with EventPlane(index, SystemClock()) as plane:
            plane.joined(a_record(relay))
            await eventually(lambda: index.block_count("w1") == 100)
            assert held(index, 999)


def a_record(relay: EventRelay) -> WorkerRecord:
    return WorkerRecord(
        worker_id="w1",
        incarnation="a",
        model="m",
        url="http://127.0.0.1:1",
        state=WorkerState.READY,
        events=relay.sources,
        block_size=BLOCK,
        kv_blocks=10_000,
    )


def held(index: PrefixIndex, number: int) -> bool:
    hashes = block_hashes([number] * BLOCK, BLOCK, root_hash())
    return bool(index.match(hashes, 0.0))
