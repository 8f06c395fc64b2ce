"""What the prefix index costs: time per lookup, events per second, bytes per block.

`python -m tools.bench_index [--blocks N] [--workers N]` prints a table. Blocks are those of random
prompts, spread evenly over the workers, taken in as events the whole way (decoded, translated,
indexed), so that the memory is that of the reverse maps and of the engines' names too. Memory is
what the process grew by; times are of this thread's processor, which other load disturbs least.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from resource import getpagesize

import msgspec
import numpy as np

from rhizome.wire.kv_events import (
    BlockRemoved,
    BlockStored,
    KVEvent,
    KVEventBatch,
    decode_batch,
    encode_batch,
)
from router.prefix.chain import Chain
from router.prefix.engine_blocks import EngineBlocks
from router.prefix.hashing import block_hashes, root_hash
from router.prefix.index import PrefixIndex

BLOCK_SIZE = 16
CHAIN_BLOCKS = 512
ROOT = root_hash()
UNBOUNDED = 2**40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=256)
    options = parser.parse_args()
    rng = Random(1)
    rows: list[tuple[str, str]] = []
    rows += hashing(rng)
    rows += filling(options.blocks, options.workers, rng)
    rows += predicting(options.workers, rng)
    rows += streaming()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        sys.stdout.write(f"{name:<{width}}  {value}\n")


def hashing(rng: Random) -> list[tuple[str, str]]:
    rows = []
    for tokens in (1024, 4096, CHAIN_BLOCKS * BLOCK_SIZE):
        token_ids = [rng.randrange(128_000) for _ in range(tokens)]
        rows.append(_timed(f"hash {tokens} tokens", lambda t=token_ids: _hashed(t)))  # type: ignore[misc]  # a default binds the loop's value
    return rows


def filling(blocks: int, workers: int, rng: Random) -> list[tuple[str, str]]:
    """An index of `blocks` blocks of random prompts, and one prefix that every worker holds."""
    index = _empty(workers)
    engines = [
        EngineBlocks(f"w{number}", index, BLOCK_SIZE, UNBOUNDED) for number in range(workers)
    ]
    some: list[list[int]] = []
    gc.collect()
    before, cpu_s = _resident_bytes(), 0.0
    draws = np.random.default_rng(1)
    for number in range(blocks // CHAIN_BLOCKS):
        tokens = draws.integers(0, 128_000, CHAIN_BLOCKS * BLOCK_SIZE).tolist()
        event = _stored(number * CHAIN_BLOCKS, tokens)
        began_s = time.thread_time()
        engines[number % workers].apply([event])
        cpu_s += time.thread_time() - began_s
        if number % max(1, blocks // CHAIN_BLOCKS // 200) == 0:
            some.append(_hashed(tokens))
    gc.collect()
    count = blocks // CHAIN_BLOCKS * CHAIN_BLOCKS
    per_block = (_resident_bytes() - before) / count
    shared, varied = _random_chain(rng), _random_chain(rng)
    for number in range(workers):
        index.store(f"w{number}", shared)
        index.store(f"w{number}", varied[: CHAIN_BLOCKS - number % 64])
    own = [rng.randrange(128_000) for _ in range(CHAIN_BLOCKS * BLOCK_SIZE)]
    index.store("w0", _hashed(own))
    hashes = _hashed(own)
    rows = [
        ("blocks, workers", f"{count}, {workers}"),
        ("memory, names and reverse maps too", f"{per_block:.0f} bytes/block"),
        ("translate and index", f"{count / cpu_s / 1e3:.0f} k blocks/s"),
        _timed("match 512 blocks, one holder", lambda: index.match_slots(hashes, 0.0)),
        _timed("match 512 blocks, all hold it", lambda: index.match_slots(shared, 0.0)),
        _timed("the same to 64 depths", lambda: index.match_slots(varied, 0.0)),
        _timed("match 512, cold caches", lambda: index.match_slots(rng.choice(some), 0.0)),
        _timed("match, unknown prompt", lambda: index.match_slots([1, 2, 3], 0.0)),
        _timed("hash + match 8192 tokens", lambda: index.match_slots(_hashed(own), 0.0)),
    ]
    index.predict("w1", hashes, 1e9)
    rows.append(_timed("match with predictions alive", lambda: index.match_slots(hashes, 0.0)))
    began_s = time.thread_time()
    index.remove_worker("w0")
    rows.append(("forget a worker", f"{(time.thread_time() - began_s) * 1e3:.1f} ms"))
    return rows


def streaming() -> list[tuple[str, str]]:
    """Batches of an engine whose cache is full, decoded and all: a removal for each store."""
    rows = []
    for encoding in (encode_batch, _encoded_as_arrays):
        for blocks in (1, 16, 512):
            index = _empty(1)
            engine = EngineBlocks("w0", index, BLOCK_SIZE, UNBOUNDED)
            batches = [encoding(batch) for batch in _steps(blocks, 30_000 // blocks + 20)]
            began_s = time.thread_time()
            for payload in batches:
                engine.apply(decode_batch(payload).events)
            rate = 2 * blocks * len(batches) / (time.thread_time() - began_s)
            form = "maps" if encoding is encode_batch else "arrays"
            rows.append((f"events as {form}, {blocks} a batch", f"{rate / 1e3:.0f} k blocks/s"))
    return rows


def _steps(blocks: int, count: int) -> list[KVEventBatch]:
    draws = np.random.default_rng(2)
    steps = []
    for number in range(count):
        tokens = draws.integers(0, 128_000, blocks * BLOCK_SIZE).tolist()
        first = number * blocks
        events: list[KVEvent] = [
            BlockRemoved(block_hashes=[_engine_hash(one - blocks)], medium="GPU", group_idx=0)
            for one in range(first, first + blocks)
        ]
        steps.append(KVEventBatch(ts=1.0, events=[*events, _stored(first, tokens)]))
    return steps


def _stored(first: int, tokens: list[int]) -> BlockStored:
    return BlockStored(
        block_hashes=[_engine_hash(first + one) for one in range(len(tokens) // BLOCK_SIZE)],
        token_ids=tokens,
        block_size=BLOCK_SIZE,
        medium="GPU",
        group_idx=0,
    )


def _engine_hash(number: int) -> int:
    """Numbers as an engine's: no two alike, and in no order."""
    return (number + 1) * 0x9E3779B97F4A7C15 % 2**64


def _encoded_as_arrays(batch: KVEventBatch) -> bytes:
    """As older engines write it."""
    events: list[list[object]] = []
    for event in batch.events:
        if isinstance(event, BlockStored):
            facts = [None, event.token_ids, event.block_size, None, "GPU", None, None, 0]
            events.append(["BlockStored", event.block_hashes, *facts])
        elif isinstance(event, BlockRemoved):
            events.append(["BlockRemoved", event.block_hashes, "GPU", 0])
    return msgspec.msgpack.encode([batch.ts, events, None])


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * getpagesize()


def predicting(workers: int, rng: Random) -> list[tuple[str, str]]:
    index = _empty(workers)
    chains = [_random_chain(rng) for _ in range(400)]
    started = time.thread_time()
    for number, chain in enumerate(chains):
        index.predict(f"w{number % workers}", chain, 10.0 + number)
    per_call = (time.thread_time() - started) / len(chains)
    started = time.thread_time()
    index.expire(1e9)
    expired = (time.thread_time() - started) / len(chains)
    return [
        ("predict 512 new blocks", f"{per_call * 1e6:.0f} us"),
        ("expire 512 blocks", f"{expired * 1e6:.0f} us"),
    ]


def _empty(workers: int) -> PrefixIndex:
    index = PrefixIndex(UNBOUNDED)
    for number in range(workers):
        index.add_worker(f"w{number}")
    return index


def _random_chain(rng: Random) -> Chain:
    return Chain([rng.getrandbits(64) for _ in range(CHAIN_BLOCKS)])


def _hashed(token_ids: list[int]) -> Chain:
    return block_hashes(token_ids, BLOCK_SIZE, ROOT)


def _timed(name: str, call: Callable[[], object], rounds: int = 2000) -> tuple[str, str]:
    call()
    times = []
    for _ in range(rounds):
        started = time.thread_time()
        call()
        times.append(time.thread_time() - started)
    times.sort()
    p50, p99 = times[rounds // 2], times[rounds * 99 // 100]
    return name, f"{p50 * 1e6:.1f} us p50, {p99 * 1e6:.1f} us p99"


if __name__ == "__main__":
    main()
