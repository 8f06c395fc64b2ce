"""The physical floor under a request's first token: what no router can take away from it."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.simulation.prompts import KeyedPrompt
from workers.engine.simulated.profile import EngineProfile, StepWork

_MS = 1000.0


class EndlessCache:
    """What an engine that forgets nothing would hold: the floor under any router's prefills.

    Its memory has a bound all the same: of more than `blocks_max` blocks, those that nobody asked
    for in a while are dropped, at least half of them kept.
    """

    def __init__(self, blocks_max: int) -> None:
        self._half = max(1, blocks_max // 2)
        self._young: set[int] = set()
        self._old: set[int] = set()

    def hits(self, keys: Sequence[int]) -> int:
        """How many leading blocks it holds; from now on it holds all of them."""
        known = 0
        young, old = self._young, self._old
        for key in keys:
            if key not in young and key not in old:
                break
            known += 1
        young.update(keys)
        if len(young) > self._half:
            self._old, self._young = young, set()
        return known


class PrefillFloor:
    """First-token times on an idle engine whose cache holds all that was asked before, of anyone.

    The distance to it is what queueing, forgetting and the choice of workers cost.
    """

    def __init__(self, profile: EngineProfile, blocks_max: int = 8_000_000) -> None:
        """Of more than `blocks_max` blocks, old ones are forgotten."""
        self._profile = profile
        self._endless = EndlessCache(blocks_max)

    def of_s(self, prompt: KeyedPrompt, tokens: int | None = None) -> float:
        """The request's floor in seconds; its prompt and answer are held from now on.

        `tokens` is the prompt's length where it is not the workload's, as for a chat's template.
        """
        profile = self._profile
        size, tokens = profile.block_size, tokens or prompt.tokens
        held = self._endless.hits(prompt.sequence(size))
        computed = min(held, (tokens - 1) // size) * size
        total_s = (profile.request_overhead_ms + profile.token_overhead_ms) / _MS
        while computed < tokens:
            chunk = min(profile.max_num_batched_tokens, tokens - computed)
            area = chunk * (computed + chunk / 2)
            total_s += profile.step_s(StepWork(1, 0, 0, chunk, area))
            computed += chunk
        return total_s
