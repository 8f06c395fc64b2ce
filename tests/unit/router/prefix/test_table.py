"""The blocks' table over long comings and goings."""

from __future__ import annotations

import numpy as np
import pytest

from router.prefix import table
from router.prefix.table import BlockTable


def test_comings_and_goings_at_one_size_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_OVERFLOW_MAX", 16)
    rng = np.random.default_rng(1)
    held = BlockTable()
    chains = [rng.integers(0, 2**63, 50).astype(np.uint64) for _ in range(800)]
    for place, chain in enumerate(chains):
        held.put_many(chain, np.ones(50, np.uint64))
        if place >= 64:  # 3,200 keys: just below four fifths of 4,096 slots
            held.pop_many(chains[place - 64])
        assert len(held) == 50 * min(place + 1, 64)
    held.check_invariants()


def test_a_table_that_grows_takes_no_more_than_twice_what_it_had() -> None:
    rng = np.random.default_rng(2)
    held = BlockTable()
    for _ in range(400):
        held.put_many(rng.integers(0, 2**63, 100).astype(np.uint64), np.ones(100, np.uint64))
        if len(held) > 1000:  # 16 bytes a slot; while it moves over, the one that was full too
            assert held.bytes_used < (len(held) + 100) * 16 * 3 / 0.8
    held.check_invariants()
