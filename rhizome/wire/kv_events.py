"""vLLM's KV event batches: msgpack frames of `[topic, sequence (8 bytes, big-endian), payload]`.

A payload is the array `[ts, events, data_parallel_rank]`. vLLM 0.32 writes each event as a map
tagged with `type`; older engines write a positional array whose first item is the tag. Both are
read by field, unknown fields and unknown event types are passed over, and anything else raises
`UndecodableBatch`. Engine hashes (64-bit integers or raw digests) are opaque handles.

What vLLM 0.32 writes is decoded straight into the types below; what is not quite so is looked at
piece by piece, which takes ten times as long.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import astuple

EngineHash = int | bytes
END_OF_REPLAY = -1
SNAPSHOT_REQUEST = b"snapshot"
"""Asks an event relay for what the engine holds now, where a replay's first sequence would stand.

Answered by `[b"", SNAPSHOT_REQUEST, number (8 bytes), payload]`, batches of `BlockStored`, numbered
from 0, and at the end `[b"", b"", END_OF_REPLAY, SnapshotEnd]`. vLLM itself takes it for a very
high sequence, and answers with an end that says nothing.
"""


class UndecodableBatch(ValueError):
    """The payload is not a KV event batch."""


class BlockStored(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag=True):
    """Blocks that a worker now holds, in chain order.

    `token_ids` holds `block_size` ids for each block from the one after `parent_block_hash` on
    (None: from the start of the prompt). Of these blocks `block_hashes` names all, or only some,
    where the group does not keep the others (a sliding window, a masked one). No ids at all: the
    engine does not say what the blocks are, only that they are there. `extra_keys` has one entry a
    hash: what else the engine hashed into it (LoRA name, cache salt, media hashes), or None.
    """

    block_hashes: list[EngineHash]
    parent_block_hash: EngineHash | None = None
    token_ids: list[int] = []
    block_size: int = 0
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    ownership: str | None = None
    session_id: str | None = None
    """The session whose request stored the blocks; others may share them."""

    @property
    def blocks(self) -> int:
        """Blocks that the token ids fill; at least as many as there are hashes, or none."""
        return len(self.token_ids) // self.block_size if self.token_ids else 0


class BlockRemoved(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag=True):
    """Blocks that a worker no longer holds on `medium`."""

    block_hashes: list[EngineHash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag=True):
    """The worker's cache is empty."""


KVEvent = BlockStored | BlockRemoved | AllBlocksCleared


class KVEventBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine step changed in the cache."""

    ts: float
    """Wall-clock seconds at the engine."""
    events: list[KVEvent]
    data_parallel_rank: int | None = None
    unknown_events: int = 0
    """Events of a type that this version does not know."""


class _StoredArray(msgspec.Struct, array_like=True, gc=False, tag="BlockStored"):
    """`BlockStored` of older engines, up to the last field whose place is certain."""

    block_hashes: list[EngineHash]
    parent_block_hash: EngineHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None


class _RemovedArray(msgspec.Struct, array_like=True, gc=False, tag="BlockRemoved"):
    block_hashes: list[EngineHash]
    medium: str | None = None
    group_idx: int | None = None


class _ClearedArray(msgspec.Struct, array_like=True, gc=False, tag="AllBlocksCleared"):
    pass


class _MapBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[KVEvent]
    data_parallel_rank: int | None = None


class _ArrayBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[_StoredArray | _RemovedArray | _ClearedArray]
    data_parallel_rank: int | None = None


class SnapshotEnd(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a snapshot stands for."""

    sequence: int
    """The last batch that it covers; -1 if the engine has published none."""
    ts: float
    """That batch's time stamp."""
    parts: int
    """Messages before this one."""


_KINDS: dict[str, type[BlockStored] | type[BlockRemoved] | type[AllBlocksCleared]] = {
    "BlockStored": BlockStored,
    "BlockRemoved": BlockRemoved,
    "AllBlocksCleared": AllBlocksCleared,
}
_POSITIONS = {
    "BlockStored": _StoredArray.__struct_fields__,
    "BlockRemoved": _RemovedArray.__struct_fields__,
    "AllBlocksCleared": (),
}
_ALWAYS_WRITTEN = frozenset({"parent_block_hash", "lora_id", "lora_name", "medium", "token_ids"})
_map_decoder = msgspec.msgpack.Decoder(_MapBatch)
_array_decoder = msgspec.msgpack.Decoder(_ArrayBatch)
_decoder = msgspec.msgpack.Decoder()
_encoder = msgspec.msgpack.Encoder()
_end_decoder = msgspec.msgpack.Decoder(SnapshotEnd)


def decode_batch(payload: bytes) -> KVEventBatch:
    """The batch in `payload`; raises `UndecodableBatch`."""
    batch = _as_maps(payload) or _as_arrays(payload) or _piece_by_piece(payload)
    for event in batch.events:
        if isinstance(event, BlockStored) and event.token_ids:
            blocks, left = divmod(len(event.token_ids), max(1, event.block_size))
            if event.block_size < 1 or left or blocks < len(event.block_hashes):
                raise UndecodableBatch("token_ids do not fill the blocks")
        elif isinstance(event, BlockStored) and event.block_size < 0:
            raise UndecodableBatch("a block cannot be of fewer than no tokens")
    return batch


def _as_maps(payload: bytes) -> KVEventBatch | None:
    try:
        raw = _map_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return KVEventBatch(ts=raw.ts, events=raw.events, data_parallel_rank=raw.data_parallel_rank)


def _as_arrays(payload: bytes) -> KVEventBatch | None:
    try:
        raw = _array_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    events: list[KVEvent] = [
        _KINDS[event.__struct_config__.tag](*astuple(event))  # type: ignore[index]  # tags are names
        for event in raw.events
    ]
    return KVEventBatch(ts=raw.ts, events=events, data_parallel_rank=raw.data_parallel_rank)


def _piece_by_piece(payload: bytes) -> KVEventBatch:
    try:
        raw = _decoder.decode(payload)
        if not isinstance(raw, list) or len(raw) < 2 or not isinstance(raw[1], list):
            raise UndecodableBatch("a batch is an array [ts, events, rank]")
        events: list[KVEvent] = []
        for item in raw[1]:
            event = _event(item)
            if event is not None:
                events.append(event)
        rank = raw[2] if len(raw) > 2 else None
        return KVEventBatch(
            ts=msgspec.convert(raw[0], float, strict=False),
            events=events,
            data_parallel_rank=msgspec.convert(rank, int | None),
            unknown_events=len(raw[1]) - len(events),
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableBatch(str(error)) from error


def encode_batch(batch: KVEventBatch) -> bytes:
    """The batch as vLLM 0.32 writes it: of what is None, only what vLLM always writes."""
    events = [_written(event) for event in batch.events]
    return _encoder.encode([batch.ts, events, batch.data_parallel_rank])


def encode_snapshot_end(end: SnapshotEnd) -> bytes:
    """The last frame of a snapshot."""
    return _encoder.encode(end)


def decode_snapshot_end(payload: bytes) -> SnapshotEnd:
    """The same read back; raises `UndecodableBatch`."""
    try:
        return _end_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UndecodableBatch(str(error)) from error


def _written(event: KVEvent) -> dict[str, Any]:
    written = {
        name: value
        for name, value in msgspec.structs.asdict(event).items()
        if value is not None or name in _ALWAYS_WRITTEN
    }
    return {"type": type(event).__name__, **written}


def _event(item: Any) -> KVEvent | None:
    if isinstance(item, dict):
        kind, fields = item.get("type"), item
    elif isinstance(item, list) and item:
        kind = item[0]
        fields = dict(zip(_POSITIONS.get(str(kind), ()), item[1:], strict=False))
    else:
        raise UndecodableBatch("an event is a tagged map or a tagged array")
    structure = _KINDS.get(str(kind))
    if structure is None:
        return None
    return msgspec.convert({**fields, "type": kind}, structure)
