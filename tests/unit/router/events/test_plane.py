"""Real sockets on loopback: what an engine publishes is what the index believes, or nothing is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from random import Random

import msgspec
import pytest

from rhizome.clock import SystemClock
from rhizome.fleet.records import EventSource, WorkerRecord, WorkerState
from rhizome.wire.kv_events import KVEvent, KVEventBatch, encode_batch
from router.events.plane import EventPlane
from router.events.subscription import Subscription, Timing
from router.prefix.hashing import block_hashes, root_hash
from router.prefix.index import PrefixIndex
from tests.support.waiting import eventually
from tests.unit.router.events.publisher import Publisher
from tests.unit.router.prefix.events_told import BLOCK, removed, stored, tokens_of

TIMING = Timing(pause_s=0.02, pause_s_max=0.1, silence_s=1.0, check_s=0.2)


def worker(*sources: EventSource, incarnation: str = "one", ranks: int = 1) -> WorkerRecord:
    return WorkerRecord(
        worker_id="w1",
        incarnation=incarnation,
        model="m",
        url="http://127.0.0.1:1",
        state=WorkerState.READY,
        events=sources,
        block_size=BLOCK,
        kv_blocks=100_000,
        data_parallel=ranks,
    )


class Bench:
    def __init__(self, plane: EventPlane, index: PrefixIndex) -> None:
        self.plane = plane
        self.index = index

    def subscription(self, target: str = "w1") -> Subscription:
        return self.plane.subscriptions()[target]

    def matched(self, *numbers: int, target: str = "w1") -> int:
        """Leading blocks of this chain that the index credits."""
        hashes = block_hashes(tokens_of(*numbers), BLOCK, root_hash())
        return self.index.match(hashes, 0.0).get(target, 0)

    async def until_settled(self, target: str = "w1") -> None:
        def settled() -> bool:
            one = self.subscription(target)
            return one.connected and not one.feed.replaying and not one.feed.suspended

        await eventually(settled)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    index = PrefixIndex(2**26)
    async with EventPlane(index, SystemClock(), TIMING) as plane:
        yield Bench(plane, index)
    index.check_invariants()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as one:
        yield one


@pytest.mark.parametrize("curve", [False, True])
async def test_a_late_join_knows_what_was_published_before_and_after(
    bench: Bench, curve: bool
) -> None:
    with Publisher(curve=curve) as publisher:
        publisher.publish(stored([1, 2], tokens_of(1, 2)))
        bench.plane.joined(worker(publisher.source()))
        await eventually(lambda: bench.matched(1, 2, 3) == 2)
        await bench.until_settled()
        publisher.publish(stored([3], tokens_of(3), parent=2))
        await eventually(lambda: bench.matched(1, 2, 3) == 3)
        publisher.publish(removed(2))
        await eventually(lambda: bench.matched(1, 2, 3) == 1)
    assert bench.plane.totals().events == 3


async def test_a_lost_batch_is_replayed(bench: Bench, publisher: Publisher) -> None:
    bench.plane.joined(worker(publisher.source()))
    await bench.until_settled()
    publisher.publish(stored([1], tokens_of(1)))
    await eventually(lambda: bench.matched(1) == 1)
    publisher.keep(stored([2], tokens_of(2), parent=1))
    publisher.publish(stored([3], tokens_of(3), parent=2))
    await eventually(lambda: bench.matched(1, 2, 3) == 3)
    assert bench.plane.totals().clears == 0


async def test_a_batch_lost_at_the_end_is_found_by_the_check(
    bench: Bench, publisher: Publisher
) -> None:
    bench.plane.joined(worker(publisher.source()))
    await bench.until_settled()
    publisher.publish(stored([1], tokens_of(1)))
    await eventually(lambda: bench.matched(1) == 1)
    publisher.keep(removed(1))
    await eventually(lambda: bench.matched(1) == 0)


async def test_a_replay_with_holes_is_completed(bench: Bench, publisher: Publisher) -> None:
    for number in range(20):
        publisher.publish(stored([number], tokens_of(number)))
    publisher.drop_in_replay = {5, 11}
    bench.plane.joined(worker(publisher.source()))
    await eventually(lambda: all(bench.matched(number) for number in range(20)))
    assert publisher.replays[:2] == [0, 4]


async def test_a_long_ring_is_replayed_whole(bench: Bench, publisher: Publisher) -> None:
    for number in range(5000):
        publisher.keep(stored([number], tokens_of(number)))
    bench.plane.joined(worker(publisher.source()))
    await eventually(lambda: bench.index.block_count("w1") == 5000)
    await bench.until_settled()
    assert bench.plane.totals().clears == 0


async def test_an_engine_restarted_in_place_is_not_credited_for_its_past(bench: Bench) -> None:
    with Publisher() as first:
        bench.plane.joined(worker(first.source()))
        await bench.until_settled()
        first.publish(stored([1], tokens_of(1)))
        first.publish(stored([2], tokens_of(2), parent=1))
        await eventually(lambda: bench.matched(1, 2) == 2)
        ports = first.port, first.replay_port
    await eventually(lambda: bench.matched(1, 2) == 0)
    with Publisher(port=ports[0], replay_port=ports[1], first_ts=500.0) as second:
        second.publish(stored([1], tokens_of(1)))
        second.publish(stored([7], tokens_of(7)))
        await eventually(lambda: bench.matched(7) == 1)
        assert bench.matched(1, 2) == 1
        assert bench.plane.totals().restarts == 1


async def test_the_same_engine_after_a_lost_connection_keeps_its_credit(
    bench: Bench, publisher: Publisher
) -> None:
    bench.plane.joined(worker(publisher.source()))
    await bench.until_settled()
    publisher.publish(stored([1], tokens_of(1)))
    await eventually(lambda: bench.matched(1) == 1)
    # A frame over the limit makes the client's side drop the connection.
    publisher.send_frames(b"kv", b"\x00" * 8, b"\x00" * (17 * 2**20))
    await eventually(lambda: bench.subscription().counters.sessions == 2)
    await bench.until_settled()
    assert bench.matched(1) == 1
    assert bench.plane.totals().restarts == 0


async def test_a_publisher_without_the_key_is_not_believed(bench: Bench) -> None:
    with Publisher(curve=True) as genuine, Publisher() as plain, Publisher(curve=True) as other:
        key = genuine.source().curve_key
        for forger in (plain, other):
            forger.publish(stored([1], tokens_of(1)))
            bench.plane.joined(worker(forger.source(curve_key=key)))
            subscription = bench.subscription()
            for _ in range(20):
                forger.publish(stored([1], tokens_of(1)))
                await asyncio.sleep(0.01)
            assert not subscription.connected
            assert bench.matched(1) == 0
            assert forger.replays == []
            bench.plane.left(worker(forger.source()))


async def test_nonsense_is_counted_and_clears_where_it_stood_for_a_batch(
    bench: Bench, publisher: Publisher
) -> None:
    bench.plane.joined(worker(publisher.source()))
    await bench.until_settled()
    publisher.publish(stored([1], tokens_of(1)))
    await eventually(lambda: bench.matched(1) == 1)
    publisher.send_frames(b"kv", b"short", b"")
    publisher.send_frames(b"kv")
    publisher.send_frames(*[b"kv"] * 8)
    await eventually(lambda: bench.plane.totals().malformed == 3)
    assert bench.matched(1) == 1
    publisher.send_frames(b"kv", *publisher.keep_payload(b"\xc1 not msgpack"))
    await eventually(lambda: bench.matched(1) == 0)
    assert bench.plane.totals().undecodable == 1
    publisher.publish(stored([2], tokens_of(2)))
    await eventually(lambda: bench.matched(2) == 1)


async def test_a_message_of_too_many_frames_ends_the_connection(
    bench: Bench, publisher: Publisher
) -> None:
    bench.plane.joined(worker(publisher.source()))
    await bench.until_settled()
    publisher.send_frames(*[b"kv"] * 1000)
    await eventually(lambda: bench.subscription().counters.sessions == 2)


@pytest.mark.parametrize("seed", range(3))
async def test_lost_reordered_and_repeated_batches_end_in_what_the_engine_holds(
    bench: Bench, publisher: Publisher, seed: int
) -> None:
    rng = Random(seed)
    bench.plane.joined(worker(publisher.source()))
    await bench.until_settled()
    late: list[tuple[bytes, bytes]] = []
    faults = {"lost": 0, "late": 0, "twice": 0}
    for number in range(120):
        frames = publisher.keep(stored([number], tokens_of(number)))
        fate = rng.choice(["arrives"] * 6 + ["lost", "late", "twice"])
        if fate == "late":
            late.append(frames)
        for _ in range({"arrives": 1, "twice": 2}.get(fate, 0)):
            publisher.send_frames(b"kv", *frames)
        if fate in faults:
            faults[fate] += 1
        elif late:
            publisher.send_frames(b"kv", *late.pop())
        if not number % 10:
            await asyncio.sleep(0.01)
    assert min(faults.values()) > 0
    await eventually(lambda: bench.index.block_count("w1") == 120)
    await bench.until_settled()
    totals = bench.plane.totals()
    assert totals.gaps > 0
    assert totals.duplicates > 0
    assert totals.undecodable == 0


async def test_batches_of_another_engine_are_counted_and_not_believed(
    bench: Bench, publisher: Publisher
) -> None:
    """As when two ranks publish on one endpoint: the rank that spoke first is the target's."""
    bench.plane.joined(worker(publisher.source()))
    await bench.until_settled()
    for rank, number in ((0, 1), (1, 2)):
        batch = KVEventBatch(
            ts=1.0, events=[stored([number], tokens_of(number))], data_parallel_rank=rank
        )
        publisher.send_frames(b"kv", number.to_bytes(8, "big"), encode_batch(batch))
    await eventually(lambda: bench.plane.totals().foreign == 1)
    assert bench.matched(2) == 0


async def test_an_engine_that_announces_more_than_it_can_hold_takes_no_more_room(
    bench: Bench, publisher: Publisher
) -> None:
    bench.plane.joined(msgspec.structs.replace(worker(publisher.source()), kv_blocks=10))
    await bench.until_settled()
    for number in range(200):
        publisher.publish(stored([number], tokens_of(number)))
    await eventually(lambda: bench.matched(199) == 1)
    assert bench.index.block_count("w1") == 10
    assert bench.plane.totals().over_bound + bench.index.evicted_over_bound >= 190


async def test_another_topic_is_not_heard(bench: Bench, publisher: Publisher) -> None:
    bench.plane.joined(worker(publisher.source()))
    await bench.until_settled()
    sequence, payload = publisher.keep(stored([1], tokens_of(1)))
    publisher.send_frames(b"other", sequence, payload)
    publisher.publish(stored([2], tokens_of(2)))
    await eventually(lambda: bench.matched(2) == 1)
    assert bench.plane.totals().messages == 1


async def test_a_worker_that_left_is_forgotten_and_its_successor_starts_from_nothing(
    bench: Bench, publisher: Publisher
) -> None:
    first = worker(publisher.source())
    bench.plane.joined(first)
    await bench.until_settled()
    publisher.publish(stored([1], tokens_of(1)))
    await eventually(lambda: bench.matched(1) == 1)
    bench.plane.left(first)
    assert bench.matched(1) == 0
    assert bench.plane.subscriptions() == {}
    with Publisher() as successor:
        bench.plane.joined(worker(successor.source(), incarnation="two"))
        successor.publish(stored([2], tokens_of(2)))
        await eventually(lambda: bench.matched(2) == 1)
        assert bench.matched(1) == 0
        assert bench.plane.totals().events >= 2


async def test_each_rank_feeds_its_own_target(bench: Bench, publisher: Publisher) -> None:
    with Publisher() as second:
        sources = (publisher.source(), msgspec.structs.replace(second.source(), rank=1))
        bench.plane.joined(worker(*sources, ranks=2))
        publisher.publish(stored([1], tokens_of(1)))
        second.publish(stored([2], tokens_of(2)))
        await eventually(lambda: bench.matched(1, target="w1/0") == 1)
        await eventually(lambda: bench.matched(2, target="w1/1") == 1)
        assert bench.matched(1, target="w1/1") == 0


async def test_a_worker_without_events_can_be_predicted(bench: Bench) -> None:
    bench.plane.joined(worker())
    bench.index.predict("w1", block_hashes(tokens_of(1), BLOCK, root_hash()), 10.0)
    assert bench.matched(1) == 1


async def test_an_endpoint_that_cannot_be_used_costs_only_the_events(bench: Bench) -> None:
    bench.plane.joined(worker(EventSource(endpoint="nonsense")))
    await asyncio.sleep(0.05)
    assert not bench.subscription().connected
    bad_key = EventSource(endpoint="tcp://127.0.0.1:9", curve_key="short")
    bench.plane.left(worker())
    bench.plane.joined(worker(bad_key))
    await asyncio.sleep(0.05)
    assert not bench.subscription().connected


async def test_a_flood_leaves_the_loop_to_others(bench: Bench, publisher: Publisher) -> None:
    bench.plane.joined(worker(publisher.source()))
    await bench.until_settled()
    hashes, tokens = list(range(500)), tokens_of(*range(500))
    events: list[KVEvent] = [stored(hashes, tokens), removed(*hashes)]
    payload = encode_batch(KVEventBatch(ts=1.0, events=events))
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            publisher.send_frames(b"kv", *publisher.keep_payload(payload))

    flooding = asyncio.ensure_future(asyncio.to_thread(flood))
    loop = asyncio.get_running_loop()
    longest_s, end = 0.0, loop.time() + 1.0
    while loop.time() < end or bench.plane.totals().messages <= 100:
        before_s = time.thread_time()  # of this thread alone, however busy the machine is
        await asyncio.sleep(0)
        longest_s = max(longest_s, time.thread_time() - before_s)
    stop.set()
    await flooding
    assert longest_s < 0.5
