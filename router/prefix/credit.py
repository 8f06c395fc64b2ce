"""How many prompt tokens a match is worth."""

from __future__ import annotations


def credited_tokens(blocks_matched: int, block_size: int, prompt_tokens: int) -> int:
    """Tokens that the engine will not compute again, given the leading blocks that it holds.

    Whole blocks only, and never the block of the last prompt token: its logits are needed for the
    first new token, so vLLM looks for hits in `prompt_tokens - 1` tokens at most
    (`KVCacheManager.get_computed_blocks`). 0 <= result < max(1, prompt_tokens).
    """
    blocks_usable = max(0, prompt_tokens - 1) // block_size
    return min(blocks_matched, blocks_usable) * block_size
