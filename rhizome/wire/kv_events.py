"""vLLM's KV event batches: msgpack frames of `[topic, sequence (8 bytes, big-endian), payload]`.

A payload is the array `[ts, events, data_parallel_rank]`. vLLM 0.32 writes each event as a map
tagged with `type`; older engines write a positional array whose first item is the tag. Both are
read by field, unknown fields and unknown event types are passed over, and anything else raises
`UndecodableBatch`. Engine hashes (64-bit integers or raw digests) are opaque handles.
"""

from __future__ import annotations

from typing import Any

import msgspec

EngineHash = int | bytes
END_OF_REPLAY = -1


class UndecodableBatch(ValueError):
    """The payload is not a KV event batch."""


class BlockStored(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks that a worker now holds, in chain order.

    `token_ids` holds `block_size` ids for each of `block_hashes`; `parent_block_hash` names the
    block before the first one, None at the start of a prompt. `extra_keys` has one entry a block:
    what else the engine hashed into it (LoRA name, cache salt, media hashes), or None.
    """

    block_hashes: list[EngineHash]
    parent_block_hash: EngineHash | None = None
    token_ids: list[int]
    block_size: int
    lora_name: str | None = None
    medium: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    lora_id: int | None = None
    locality: str | None = None
    ownership: str | None = None
    session_id: str | None = None
    """The session whose request stored the blocks; others may share them."""


class BlockRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks that a worker no longer holds on `medium`."""

    block_hashes: list[EngineHash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True, kw_only=True):
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


_KINDS: dict[str, type[BlockStored] | type[BlockRemoved] | type[AllBlocksCleared]] = {
    "BlockStored": BlockStored,
    "BlockRemoved": BlockRemoved,
    "AllBlocksCleared": AllBlocksCleared,
}
_POSITIONS: dict[str, tuple[str, ...]] = {
    "BlockStored": (
        "block_hashes",
        "parent_block_hash",
        "token_ids",
        "block_size",
        "lora_id",
        "medium",
        "lora_name",
        "extra_keys",
        "group_idx",
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}
_ALWAYS_WRITTEN = frozenset({"parent_block_hash", "lora_id", "lora_name", "medium"})
_decoder = msgspec.msgpack.Decoder()
_encoder = msgspec.msgpack.Encoder()


def decode_batch(payload: bytes) -> KVEventBatch:
    """The batch in `payload`; raises `UndecodableBatch`."""
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
    event = msgspec.convert(fields, structure)
    if isinstance(event, BlockStored) and (
        event.block_size < 1 or len(event.token_ids) != event.block_size * len(event.block_hashes)
    ):
        raise UndecodableBatch("token_ids do not fill the blocks")
    return event
