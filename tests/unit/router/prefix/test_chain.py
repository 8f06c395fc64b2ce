from __future__ import annotations

from random import Random

import pytest

from router.prefix.chain import Chain, leading_of, spread_of
from router.prefix.index import PrefixIndex


def _hashes(count: int) -> list[int]:
    rng = Random(count)
    return [rng.getrandbits(64) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 30, 512])
def test_a_chain_is_looked_up_as_its_numbers_are(count: int) -> None:
    hashes = _hashes(512)
    chain = Chain(hashes)
    assert leading_of(chain, count) == leading_of(hashes, count) == hashes[:count]
    assert (spread_of(leading_of(chain, count)) == spread_of(hashes[:count])).all()


def test_all_of_a_chain_is_the_chain_itself() -> None:
    chain = Chain(_hashes(3))
    assert leading_of(chain, 3) is leading_of(chain, 9) is chain


@pytest.mark.parametrize("held", [0, 3, 11, 12, 40, 100])
def test_a_chain_and_its_numbers_match_alike(held: int) -> None:
    hashes = _hashes(100)
    index = PrefixIndex(2**24)
    for worker in ("w0", "w1"):
        index.add_worker(worker)
    index.store("w0", hashes[:held])
    index.store("w1", hashes[: held // 2])
    found = {worker: depth for worker, depth in (("w0", held), ("w1", held // 2)) if depth}
    assert index.match(Chain(hashes), 0.0) == index.match(hashes, 0.0) == found
    index.check_invariants()
