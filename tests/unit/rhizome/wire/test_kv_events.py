"""KV event batches: both encodings, strangers tolerated, garbage refused in one way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhizome.wire.kv_events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    KVEventBatch,
    UndecodableBatch,
    decode_batch,
    encode_batch,
)

STORED_MAP = {
    "type": "BlockStored",
    "block_hashes": [1, 2],
    "parent_block_hash": None,
    "token_ids": [5, 6, 7, 8],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": "adapter",
    "extra_keys": [["adapter"], None],
    "group_idx": 0,
}
STORED_ARRAY = [
    "BlockStored", [1, 2], None, [5, 6, 7, 8], 2, None, "GPU", "adapter", [["adapter"], None], 0,
]  # fmt: skip
STORED = BlockStored(
    block_hashes=[1, 2],
    token_ids=[5, 6, 7, 8],
    block_size=2,
    lora_name="adapter",
    medium="GPU",
    extra_keys=[["adapter"], None],
    group_idx=0,
)

engine_hashes = st.integers(-(2**63), 2**64 - 1) | st.binary(min_size=1, max_size=32)


def packed(*events: Any, rank: object = 0) -> bytes:
    return msgspec.msgpack.encode([1.5, list(events), rank])


@pytest.mark.parametrize("event", [STORED_MAP, STORED_ARRAY])
def test_maps_and_arrays_are_read_alike(event: Any) -> None:
    batch = decode_batch(packed(event, rank=3))
    assert batch == KVEventBatch(ts=1.5, events=[STORED], data_parallel_rank=3)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (["BlockRemoved", [7]], BlockRemoved(block_hashes=[7])),
        (["BlockRemoved", [b"\1"], "CPU"], BlockRemoved(block_hashes=[b"\1"], medium="CPU")),
        ({"type": "BlockRemoved", "block_hashes": [7]}, BlockRemoved(block_hashes=[7])),
        (["AllBlocksCleared"], AllBlocksCleared()),
        ({"type": "AllBlocksCleared"}, AllBlocksCleared()),
    ],
)  # fmt: skip
def test_every_kind_of_event_is_read(event: Any, expected: object) -> None:
    assert decode_batch(packed(event)).events == [expected]


def test_arrays_of_older_engines_may_end_early() -> None:
    event = ["BlockStored", [1], None, [5, 6], 2]
    assert decode_batch(packed(event)).events == [
        BlockStored(block_hashes=[1], token_ids=[5, 6], block_size=2)
    ]


@pytest.mark.parametrize("event", [STORED_MAP, STORED_ARRAY])
def test_a_window_group_may_name_some_of_the_blocks_or_say_nothing_of_them(event: Any) -> None:
    """vLLM leaves out the hashes of masked blocks, and all but the hashes of offloaded ones."""
    some: Any = {**event, "block_hashes": [2]} if isinstance(event, dict) else [*event]
    bare: Any = {**event, "token_ids": [], "block_size": 0} if isinstance(event, dict) else [*event]
    if isinstance(event, list):
        some[1], bare[3], bare[4] = [2], [], 0
    first, second = decode_batch(packed(some, bare)).events
    assert isinstance(first, BlockStored)
    assert isinstance(second, BlockStored)
    assert (first.block_hashes, first.blocks) == ([2], 2)
    assert (second.block_hashes, second.blocks) == ([1, 2], 0)


def test_unknown_fields_are_passed_over() -> None:
    assert decode_batch(packed({**STORED_MAP, "novel": {"x": [1]}})).events == [STORED]
    assert decode_batch(packed([*STORED_ARRAY, "spec", "novel", 9])).events == [STORED]
    longer = msgspec.msgpack.encode([1.5, [STORED_MAP], 0, "novel"])
    assert decode_batch(longer).events == [STORED]


def test_unknown_events_are_counted_and_passed_over() -> None:
    batch = decode_batch(packed({"type": "BlockMoved", "x": 1}, STORED_MAP, ["BlockPinned", 4]))
    assert batch.events == [STORED]
    assert batch.unknown_events == 2


def test_a_batch_without_a_rank_is_read() -> None:
    batch = decode_batch(msgspec.msgpack.encode([7, []]))
    assert (batch.ts, batch.events, batch.data_parallel_rank) == (7.0, [], None)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93",
        b"\x91" * 100_000,
        msgspec.msgpack.encode({"ts": 1, "events": []}),
        msgspec.msgpack.encode([1.0]),
        msgspec.msgpack.encode([1.0, {}]),
        msgspec.msgpack.encode(["now", []]),
        msgspec.msgpack.encode([1.0, [], "first"]),
        packed(None),
        packed([]),
        packed({"type": "BlockStored"}),
        packed({**STORED_MAP, "block_hashes": "12"}),
        packed({**STORED_MAP, "token_ids": [5, 6, 7]}),
        packed({**STORED_MAP, "block_size": 0}),
        packed({**STORED_MAP, "block_size": -2, "token_ids": []}),
        packed({**STORED_MAP, "block_size": -2}),
        packed(["BlockRemoved"]),
        packed(["BlockRemoved", [None]]),
    ],
)
def test_what_is_no_batch_is_undecodable(payload: bytes) -> None:
    with pytest.raises(UndecodableBatch):
        decode_batch(payload)


@given(
    st.lists(
        st.builds(
            BlockStored,
            block_hashes=st.lists(engine_hashes, min_size=2, max_size=2),
            parent_block_hash=st.none() | engine_hashes,
            token_ids=st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6),
            block_size=st.just(3),
            lora_name=st.none() | st.text(),
            medium=st.none() | st.text(),
            extra_keys=st.none() | st.just([["salt"], None]),
        )
        | st.builds(BlockRemoved, block_hashes=st.lists(engine_hashes))
        | st.builds(AllBlocksCleared),
        max_size=5,
    ),
    st.none() | st.integers(0, 64),
)
def test_what_is_encoded_is_decoded_to_the_same(events: list[Any], rank: int | None) -> None:
    batch = KVEventBatch(ts=12.25, events=events, data_parallel_rank=rank)
    assert decode_batch(encode_batch(batch)) == batch


@given(st.binary(max_size=200))
def test_garbage_is_undecodable_or_a_batch(payload: bytes) -> None:
    try:
        batch = decode_batch(payload)
    except UndecodableBatch:
        return
    assert isinstance(batch, KVEventBatch)


keys = st.sampled_from([*STORED_MAP, "novel"]) | st.integers(0, 2**64 - 1)
words = st.sampled_from(["BlockStored", "BlockRemoved", "type"]) | st.text(max_size=5)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats()
plain = st.recursive(
    st.none() | st.booleans() | numbers | words | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(plain)
def test_well_formed_nonsense_is_undecodable_or_a_batch(value: Any) -> None:
    for payload in (value, [1.0, [value], 0], [1.0, value], [value, [], value]):
        try:
            decode_batch(msgspec.msgpack.encode(payload))
        except UndecodableBatch:
            continue


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(set(STORED_MAP) - {"type"})), plain)
def test_a_stored_event_with_one_wrong_field_is_undecodable_or_read(field: str, value: Any) -> None:
    for event in ({**STORED_MAP, field: value}, {"type": "BlockRemoved", field: value}):
        try:
            decode_batch(packed(event))
        except UndecodableBatch:
            continue
