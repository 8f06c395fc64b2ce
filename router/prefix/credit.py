"""How many prompt tokens a match is worth."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def usable_blocks(block_size: int, prompt_tokens: int) -> int:
    """Leading blocks of a prompt that an engine can take from its cache at most.

    Whole blocks only, and never the block of the last prompt token: its logits are needed for the
    first new token, so vLLM looks for hits in `prompt_tokens - 1` tokens at most
    (`KVCacheManager.get_computed_blocks`).
    """
    return max(0, prompt_tokens - 1) // block_size


@dataclass(frozen=True, slots=True)
class TierWorth:
    """What a token that waits in a slower tier is worth beside one in the device's memory: the
    share of its prefill time that fetching it saves. 1 is as good, 0 is worthless."""

    host: float
    storage: float

    def __post_init__(self) -> None:
        if not 0 <= self.storage <= self.host <= 1:
            raise ValueError("a tier is worth between 0 and what a faster one is worth, at most 1")


class Matched(msgspec.Struct, frozen=True):
    """Leading blocks of a prompt by tier, each tier going on where the one before it ends; one
    number for each slot of the index (`PrefixIndex.slot_of`)."""

    device: Ints
    host: Ints | None = None
    """None, as for `storage`: no target holds anything there."""
    storage: Ints | None = None

    @property
    def reused(self) -> Ints:
        """Blocks that are not computed again, wherever they come from: what an engine reports as
        cached."""
        reused = self.device
        for tier in (self.host, self.storage):
            if tier is not None:
                reused = reused + tier
        return reused

    def worth(self, worth: TierWorth) -> Ints:
        """Blocks of device memory that are worth as much, rounded down: the credit for a choice.

        `device <= worth <= reused`.
        """
        if self.host is None and self.storage is None:
            return self.device
        slower = np.zeros(len(self.device))
        for tier, share in ((self.host, worth.host), (self.storage, worth.storage)):
            if tier is not None:
                slower += tier * share
        # A sum of shares may come out a hair below a whole number.
        return self.device + np.floor(slower + 1e-9).astype(np.int64)
