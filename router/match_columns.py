"""What a board's targets hold of a prompt, as columns: lists where they are few, arrays where many.

A target's credit is what the index says that it holds, scaled by the trust in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from router.fleet import Target
from router.prefix.chain import leading_of
from router.prefix.credit import TierWorth, usable_blocks
from router.prefix.index import PrefixIndex
from router.prompt import Prompt
from router.scheduling.types import Ints
from router.trust.book import TrustBook

Column = TypeVar("Column", list[int], Ints)
_KEPT_S = 0.1
_KEPT_MAX = 32


@dataclass(frozen=True, slots=True)
class MatchSources:
    """Who knows what is held, and how far to believe it."""

    index: PrefixIndex
    trust: TrustBook
    tiers: TierWorth


class Matches(ABC, Generic[Column]):
    """Of one board's targets; good until a target comes or goes."""

    def __init__(self, sources: MatchSources, targets: tuple[Target, ...]) -> None:
        self._sources = sources
        self._names = [target.target_id for target in targets]
        self._kept: dict[Prompt, tuple[float, Column]] = {}
        self.credit_scale = [1.0] * len(targets)
        """What a matched token of each target is worth."""
        self._is_scaled = False
        for row in range(len(targets)):
            self.refresh(row)

    def refresh(self, row: int) -> None:
        """Reads again what a matched token of the target is worth."""
        self.credit_scale[row] = self._sources.trust.credit_scale(self._names[row])
        self._is_scaled = min(self.credit_scale) < 1.0

    def tokens(self, prompt: Prompt, now_s: float, *, again: bool) -> Column:
        """The credit of each target; as it was a moment ago for a prompt that is looked at `again`
        and again, because it waits."""
        if not again:
            return self._credit(prompt, now_s)
        known = self._kept.pop(prompt, None)
        if known is None or now_s - known[0] >= _KEPT_S:
            known = now_s, self._credit(prompt, now_s)
        self._kept[prompt] = known
        if len(self._kept) > _KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        return known[1]

    @abstractmethod
    def _credit(self, prompt: Prompt, now_s: float) -> Column: ...

    def _rows_of_size(self, targets: tuple[Target, ...]) -> dict[int | None, list[tuple[int, int]]]:
        """For each block size in use the rows that have it, with their targets' slots."""
        rows: dict[int | None, list[tuple[int, int]]] = {}
        for row, target in enumerate(targets):
            slot = self._sources.index.slot_of(target.target_id)
            rows.setdefault(target.record.block_size, []).append((row, slot))
        return rows


class FewMatches(Matches[list[int]]):
    """As lists."""

    def __init__(self, sources: MatchSources, targets: tuple[Target, ...]) -> None:
        super().__init__(sources, targets)
        self.none = [0] * len(targets)
        self._rows = [
            (size, [(row, slot, 1 << slot if slot >= 0 else 0) for row, slot in rows])
            for size, rows in self._rows_of_size(targets).items()
        ]

    def _credit(self, prompt: Prompt, now_s: float) -> list[int]:
        """The prompt is matched once per block size in use."""
        index, tokens = self._sources.index, self.none
        for block_size, rows in self._rows:
            per_block = prompt.block_tokens(block_size)
            usable = usable_blocks(per_block, prompt.tokens)
            hashes = leading_of(prompt.hashes(block_size), usable)
            endings = index.endings(hashes, now_s)
            if endings is None:
                worth = index.match_tiers(hashes, now_s).worth(self._sources.tiers).tolist()
                tokens = tokens.copy()
                for row, slot, _ in rows:
                    tokens[row] = worth[slot] * per_block
                continue
            if endings:
                tokens = tokens.copy()
            for mask, depth in endings:
                for row, _, bit in rows:
                    if mask & bit:
                        tokens[row] = depth * per_block
        if self._is_scaled:
            return [int(one * scale) for one, scale in zip(tokens, self.credit_scale, strict=True)]
        return tokens


class ManyMatches(Matches[Ints]):
    """As arrays."""

    def __init__(self, sources: MatchSources, targets: tuple[Target, ...]) -> None:
        super().__init__(sources, targets)
        self.none = np.zeros(len(targets), np.int64)
        self._rows = [
            (size, *np.array(rows, np.intp).T) for size, rows in self._rows_of_size(targets).items()
        ]

    def _credit(self, prompt: Prompt, now_s: float) -> Ints:
        """As `FewMatches` does it."""
        index, tokens = self._sources.index, self.none
        for block_size, rows, slots in self._rows:
            hashes = prompt.hashes(block_size)
            if index.holds_none(hashes, now_s):
                continue
            per_block = prompt.block_tokens(block_size)
            usable = leading_of(hashes, usable_blocks(per_block, prompt.tokens))
            worth = index.match_tiers(usable, now_s).worth(self._sources.tiers)
            if len(self._rows) == 1:
                tokens = worth[slots] * per_block
                break
            if tokens is self.none:
                tokens = tokens.copy()
            tokens[rows] = worth[slots] * per_block
        if self._is_scaled:
            return (tokens * self.credit_scale).astype(np.int64)
        return tokens
