"""What an engine hashed into its blocks beside their tokens, as its events say.

In vLLM's events a block's extra keys are, in this order, the LoRA name, `[media id, offset]` pairs,
the cache salt (a prompt's first block only) and digests of embeddings.
"""

from __future__ import annotations

from typing import Any

from rhizome.wire.kv_events import BlockStored


def salt_and_text(event: BlockStored) -> tuple[str | None, int]:
    """The salt that begins the event's chain, and how many of its blocks, from the first on, are of
    nothing more than tokens, adapter and salt."""
    count = len(event.block_hashes)
    rows = event.extra_keys
    if not rows:
        return None, count
    first = _without_adapter(rows[0], event.lora_name)
    salt: str | None = None
    if event.parent_block_hash is None and len(first) == 1 and isinstance(first[0], str):
        salt, first = first[0], []
    if first:
        return None, 0
    textual = 1
    for row in rows[1:count]:
        if _without_adapter(row, event.lora_name):
            break
        textual += 1
    return salt, min(textual, count)


def _without_adapter(row: list[Any] | None, lora_name: str | None) -> list[Any]:
    """A block's extra keys without the LoRA name that opens them."""
    if not row:
        return []
    if lora_name is not None and row[0] == lora_name:
        return row[1:]
    return row
