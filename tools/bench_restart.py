"""How soon a restarted router knows again what its workers hold.

`python -m tools.bench_restart [--workers N] [--blocks N]` starts an event relay for each worker, in
a process of its own, with an engine's side that has published that many blocks (more than its ring
of batches keeps), and goes on publishing. Then a router's event plane joins over real sockets. The
table says how long until its index credits 95 % of what it would if it had heard everything, and
what the loop was kept from meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from random import Random

import msgspec
import zmq

from rhizome.clock import SystemClock
from rhizome.fleet.records import EventSource, WorkerRecord, WorkerState
from rhizome.wire.kv_events import BlockStored, KVEventBatch, encode_batch
from router.events.plane import EventPlane
from router.prefix.hashing import block_hashes, root_hash
from router.prefix.index import PrefixIndex
from workers.event_relay import TOPIC, EventRelay

BLOCK_SIZE = 16
CHAIN_BLOCKS = 512
SHARE = 0.95
LIMIT_S = 180.0
RING_BATCHES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--relay", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.relay is not None:
        run_relay(options.relay, options.blocks)
        return
    relays = [start_relay(number, options.blocks) for number in range(options.workers)]
    try:
        sources = [read_source(relay) for relay in relays]
        asyncio.run(join(sources, options.blocks))
    finally:
        for relay in relays:
            relay.terminate()
        for relay in relays:
            relay.wait()


def chains(worker: int, blocks: int) -> Iterator[list[int]]:
    """The token ids of a worker's prompts."""
    rng = Random(worker)
    for _ in range(blocks // CHAIN_BLOCKS):
        yield [rng.randrange(128_000) for _ in range(CHAIN_BLOCKS * BLOCK_SIZE)]


def run_relay(worker: int, blocks: int) -> None:
    """A worker: its relay, and an engine that has published its blocks and goes on with one now
    and then."""
    relay = EventRelay("127.0.0.1", "127.0.0.1", ranks=1, ring_batches=RING_BATCHES)
    relay.expect_blocks(blocks * 2)
    relay.start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    engine = context.socket(zmq.XPUB)
    engine.set_hwm(0)
    engine.bind(relay.engine_endpoint)
    engine.recv()  # the relay's subscription
    sequence = 0

    def publish(tokens: list[int]) -> None:
        nonlocal sequence
        count = len(tokens) // BLOCK_SIZE
        event = BlockStored(
            block_hashes=list(range(sequence << 20, (sequence << 20) + count)),
            token_ids=tokens,
            block_size=BLOCK_SIZE,
            medium="GPU",
            group_idx=0,
        )
        payload = encode_batch(KVEventBatch(ts=time.time(), events=[event]))
        engine.send_multipart((TOPIC.encode(), sequence.to_bytes(8, "big"), payload))
        sequence += 1

    for tokens in chains(worker, blocks):
        publish(tokens)
    sys.stdout.write(msgspec.json.encode(relay.sources[0]).decode() + "\n")
    sys.stdout.flush()
    rng = Random(f"live {worker}")
    while True:
        time.sleep(0.05)
        publish([rng.randrange(128_000) for _ in range(8 * BLOCK_SIZE)])


def start_relay(worker: int, blocks: int) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own program
        [
            sys.executable,
            "-m",
            "tools.bench_restart",
            "--relay",
            str(worker),
            "--blocks",
            str(blocks),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )


def read_source(relay: subprocess.Popen[str]) -> EventSource:
    assert relay.stdout is not None
    return msgspec.convert(json.loads(relay.stdout.readline()), EventSource)


async def join(sources: list[EventSource], blocks: int) -> None:
    index = PrefixIndex(2**34)
    expected = {
        f"w{worker}": [
            block_hashes(tokens, BLOCK_SIZE, root_hash()) for tokens in chains(worker, blocks)
        ]
        for worker in range(len(sources))
    }
    await asyncio.sleep(2.0)  # the relays take in what was published
    longest = [0.0]
    watch = asyncio.create_task(watch_loop(longest))
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    async with EventPlane(index, SystemClock()) as plane:
        for worker, source in enumerate(sources):
            plane.joined(record(f"w{worker}", source, blocks))
        served_s = time.perf_counter() - began_s
        share = 0.0
        while share < SHARE and time.perf_counter() - began_s < LIMIT_S:
            await asyncio.sleep(0.1)
            share = credited(index, expected)
        took_s, took_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        await asyncio.sleep(1.0)
        final, totals = credited(index, expected), plane.totals()
    watch.cancel()
    rows = [
        ("workers x blocks", f"{len(sources)} x {blocks}"),
        ("serves, in fallback, after", f"{served_s * 1000:.1f} ms"),
        (f"{SHARE:.0%} of the hit rate after", f"{took_s:.2f} s" if share >= SHARE else "never"),
        ("processor time of the router", f"{took_cpu_s:.2f} s"),
        ("longest turn of its loop", f"{longest[0] * 1000:.0f} ms"),
        ("share credited a second later", f"{final:.4f}"),
        ("snapshots, failed", f"{totals.snapshots}, {totals.snapshots_failed}"),
        ("replays, gaps", f"{totals.replays}, {totals.gaps}"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        sys.stdout.write(f"{name:<{width}}  {value}\n")


async def watch_loop(longest: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0)
        longest[0] = max(longest[0], time.perf_counter() - before)
        await asyncio.sleep(0.001)


def credited(index: PrefixIndex, expected: dict[str, list[list[int]]]) -> float:
    """Of the blocks of some prompts of each worker, the part that the index credits to it."""
    found = asked = 0
    for target, prompts in expected.items():
        for hashes in prompts[:: max(1, len(prompts) // 8)]:
            asked += len(hashes)
            found += index.match(hashes, 0.0).get(target, 0)
    return found / max(1, asked)


def record(target: str, source: EventSource, blocks: int) -> WorkerRecord:
    return WorkerRecord(
        worker_id=target,
        incarnation="a",
        model="m",
        url="http://127.0.0.1:1",
        state=WorkerState.READY,
        events=(source,),
        block_size=BLOCK_SIZE,
        kv_blocks=blocks * 2,
    )


if __name__ == "__main__":
    main()
