"""What the prefix index costs: time per lookup, events per second, bytes per block.

`python -m tools.bench_index [--blocks N] [--workers N]` prints a table. The bytes per block are
what the estimates in `router/prefix/index.py` and `router/prefix/prediction.py` stand for: dicts
grow by doubling, so the table has the number right before and right after a growth, and the
estimates are for the worse one.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from random import Random

from router.prefix.hashing import block_hashes, root_hash
from router.prefix.index import BLOCK_BYTES, HOLDING_BYTES, PrefixIndex
from router.prefix.prediction import BLOCK_BYTES as PREDICTED_BLOCK_BYTES
from router.prefix.prediction import ENTRY_BYTES

BLOCK_SIZE = 16
CHAIN_BLOCKS = 512
ROOT = root_hash()
UNBOUNDED = 2**40
GROWTH_AT = 2**18 * 2 // 3
"""Entries at which a dict of this size is full."""
KEY_BYTES = 48
"""A 64-bit integer as it lies in memory."""


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
    rows += memory(rng)
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
    """An index of `blocks` holdings: random chains, and one prefix that every worker holds."""
    chains = [_random_chain(rng) for _ in range(max(1, blocks // CHAIN_BLOCKS))]
    shared = _random_chain(rng)
    index = _empty(workers)
    started = time.perf_counter()
    for number, chain in enumerate(chains):
        index.store(f"w{number % workers}", chain)
    stored_s = time.perf_counter() - started
    count = len(chains) * CHAIN_BLOCKS
    rows = [("store", f"{count / stored_s / 1e6:.2f} M blocks/s")]
    for number in range(workers):
        index.store(f"w{number}", shared[: CHAIN_BLOCKS - number % 64])
    token_ids = [rng.randrange(128_000) for _ in range(CHAIN_BLOCKS * BLOCK_SIZE)]
    own = _hashed(token_ids)
    index.store("w0", own)
    some = rng.sample(chains, min(200, len(chains)))
    rows += [
        _timed("match 512 blocks, one holder", lambda: index.match(own, 0.0)),
        _timed("match 512 blocks, all hold it", lambda: index.match(shared, 0.0)),
        _timed("hash + match 512 blocks", lambda: index.match(_hashed(token_ids), 0.0)),
        _timed("match, cold caches", lambda: index.match(rng.choice(some), 0.0)),
        _timed("match, unknown prompt", lambda: index.match([1, 2, 3], 0.0)),
    ]
    index.predict("w1", own, 1e9)
    rows.append(_timed("match with predictions alive", lambda: index.match(own, 0.0)))
    started = time.perf_counter()
    for number, chain in enumerate(chains):
        index.remove(f"w{number % workers}", chain)
    removed_s = time.perf_counter() - started
    rows.append(("remove", f"{count / removed_s / 1e6:.2f} M blocks/s"))
    return rows


def predicting(workers: int, rng: Random) -> list[tuple[str, str]]:
    index = _empty(workers)
    chains = [_random_chain(rng) for _ in range(400)]
    started = time.perf_counter()
    for number, chain in enumerate(chains):
        index.predict(f"w{number % workers}", chain, 10.0 + number)
    per_call = (time.perf_counter() - started) / len(chains)
    started = time.perf_counter()
    index.expire(1e9)
    expired = (time.perf_counter() - started) / len(chains)
    return [
        ("predict 512 new blocks", f"{per_call * 1e6:.0f} us"),
        ("expire 512 blocks", f"{expired * 1e6:.0f} us"),
    ]


def memory(rng: Random) -> list[tuple[str, str]]:
    """Bytes of one block of one target, its key included."""
    rows = []
    for count in (GROWTH_AT, GROWTH_AT + 1):
        hashes = [rng.getrandbits(64) for _ in range(count)]
        stored = _bytes_per_block(hashes, lambda index, part: index.store("w0", part))
        predicted = _bytes_per_block(hashes, lambda index, part: index.predict("w0", part, 1.0))
        estimates = (BLOCK_BYTES + HOLDING_BYTES, PREDICTED_BLOCK_BYTES + ENTRY_BYTES)
        rows += [
            (f"memory, {count} stored", f"{stored:.0f} bytes/block (estimate: {estimates[0]})"),
            (
                f"memory, {count} predicted",
                f"{predicted:.0f} bytes/block (estimate: {estimates[1]})",
            ),
        ]
    return rows


def _bytes_per_block(hashes: list[int], fill: Callable[[PrefixIndex, list[int]], None]) -> float:
    gc.collect()
    tracemalloc.start()
    index = _empty(1)
    for start in range(0, len(hashes), CHAIN_BLOCKS):
        fill(index, hashes[start : start + CHAIN_BLOCKS])
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / len(hashes) + KEY_BYTES


def _empty(workers: int) -> PrefixIndex:
    index = PrefixIndex(UNBOUNDED)
    for number in range(workers):
        index.add_worker(f"w{number}")
    return index


def _random_chain(rng: Random) -> list[int]:
    return [rng.getrandbits(64) for _ in range(CHAIN_BLOCKS)]


def _hashed(token_ids: list[int]) -> list[int]:
    return block_hashes(token_ids, BLOCK_SIZE, ROOT)


def _timed(name: str, call: Callable[[], object], rounds: int = 2000) -> tuple[str, str]:
    call()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    times.sort()
    p50, p99 = times[rounds // 2], times[rounds * 99 // 100]
    return name, f"{p50 * 1e6:.1f} us p50, {p99 * 1e6:.1f} us p99"


if __name__ == "__main__":
    main()
