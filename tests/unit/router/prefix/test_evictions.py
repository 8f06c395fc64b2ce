"""How much of what is evicted is computed again, as caches of any size show it."""

from __future__ import annotations

from collections import OrderedDict
from random import Random

import numpy as np
import pytest

from router.prefix.evictions import Evictions
from router.prefix.index import PrefixIndex

WORD = 2**64


def play(asked: list[int], room: int, targets: int = 1) -> float:
    """Stores blocks as they are asked for, each at a target of its own by turns, evicts those used
    longest ago."""
    index = PrefixIndex(bytes_max=1 << 28)
    caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(targets)]
    for number in range(targets):
        index.add_worker(f"w{number}")
    for block in asked:
        number = block // 16 % targets
        cache = caches[number]
        if block in cache:
            cache.move_to_end(block)
            continue
        cache[block] = None
        index.store(f"w{number}", [block])
        if len(cache) > room:
            index.remove(f"w{number}", [cache.popitem(last=False)[0]])
    return index.evictions.recompute_share


@pytest.mark.parametrize("targets", [1, 4])
def test_a_cache_too_small_for_what_is_asked_computes_much_again(targets: int) -> None:
    rng = Random(1)
    blocks = [rng.randrange(WORD) for _ in range(1600)]
    asked = [rng.choice(blocks) for _ in range(16_000)]
    assert play(asked, 800 // targets, targets) > 0.7


def test_what_nobody_asks_for_again_is_no_loss() -> None:
    rng = Random(2)
    assert play([rng.randrange(WORD) for _ in range(5_000)], 1000) == 0.0


def test_a_cache_with_room_evicts_nothing() -> None:
    blocks = [Random(3).randrange(WORD) for _ in range(1000)]
    assert play(blocks * 5, 2000) == 0.0


def test_a_copy_that_goes_is_no_loss() -> None:
    index = PrefixIndex(bytes_max=1 << 28)
    blocks = np.arange(0, 16 * 2000, 16, np.uint64)
    for target in ("a", "b"):
        index.add_worker(target)
        index.store(target, blocks)
    for _ in range(3):
        index.remove("a", blocks)
        index.store("a", blocks)
    assert index.evictions.recompute_share == 0.0


def test_a_cleared_cache_evicts_nothing() -> None:
    index = PrefixIndex(bytes_max=1 << 28)
    blocks = np.arange(0, 16 * 2000, 16, np.uint64)
    index.add_worker("a")
    for _ in range(3):
        index.store("a", blocks)
        index.clear("a")
    assert index.evictions.recompute_share == 0.0


def test_what_was_too_little_is_forgotten_when_it_is_enough() -> None:
    evictions, rng = Evictions(), Random(4)
    for block in range(0, 16 * 4000, 16):
        evictions.evicted([block], lambda _: False)
        evictions.stored([block])
    assert evictions.recompute_share == pytest.approx(0.9)
    for _ in range(20_000):
        evictions.evicted([rng.randrange(WORD) // 16 * 16], lambda _: False)
    assert evictions.recompute_share < 0.01


def test_what_is_remembered_is_bounded() -> None:
    evictions = Evictions()
    evictions.evicted(np.arange(0, 16 * 200_000, 16, np.uint64), lambda _: False)
    evictions.stored(np.arange(0, 16 * 100_000, 16, np.uint64))
    assert evictions.recompute_share == 0.0, "the first ones were forgotten"
