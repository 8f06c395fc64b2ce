"""The physical floor under a request's first token: what no router can take away from it."""

from __future__ import annotations

from collections.abc import Iterable

from loadtest.simulation.prompts import KeyedPrompt
from loadtest.workloads.requests import Segment
from workers.engine.simulated.profile import EngineProfile, StepWork

_MS = 1000.0


class EndlessCache:
    """What an engine that forgets nothing would hold: the floor under any router's prefills.

    Prompts are held as the paths of their segments, so that its memory and time follow segments,
    not blocks. Memory has a bound all the same: of more than `segments_max`, those that nobody
    asked for in a while are dropped, at least half of them kept.
    """

    def __init__(self, segments_max: int) -> None:
        self._half = max(1, segments_max // 2)
        self._young: dict[int, int] = {}
        """The longest that each segment was seen, by the path before it and its own key."""
        self._old: dict[int, int] = {}

    def hits(self, segments: Iterable[Segment]) -> int:
        """How many leading tokens it holds; from now on it holds all of them."""
        known, path = 0, 0
        is_known = True
        young, old = self._young, self._old
        for key, tokens, _ in segments:
            if not tokens:
                continue
            place = hash((path, key))
            seen = max(young.get(place, 0), old.get(place, 0))
            if is_known:
                known += min(tokens, seen)
            path = hash((place, tokens))
            # Longer ones begin with the same tokens, but what follows them follows another path.
            is_known = is_known and seen >= tokens and (path in young or path in old)
            young[place] = max(tokens, seen)
            young[path] = 0
        if len(young) > self._half:
            self._old, self._young = young, {}
        return known


class PrefillFloor:
    """First-token times on an idle engine whose cache holds all that was asked before, of anyone.

    The distance to it is what queueing, forgetting and the choice of workers cost.
    """

    def __init__(self, profile: EngineProfile, segments_max: int = 4_000_000) -> None:
        """Of more than `segments_max` segments, old ones are forgotten."""
        self._profile = profile
        self._endless = EndlessCache(segments_max)

    def of_s(self, prompt: KeyedPrompt, tokens: int | None = None) -> float:
        """The request's floor in seconds; its prompt and answer are held from now on.

        `tokens` is the prompt's length where it is not the workload's, as for a chat's template.
        """
        profile = self._profile
        size, tokens = profile.block_size, tokens or prompt.tokens
        held = self._endless.hits(prompt.segments)
        computed = min(held, tokens - 1) // size * size
        total_s = (profile.request_overhead_ms + profile.token_overhead_ms) / _MS
        while computed < tokens:
            chunk = min(profile.max_num_batched_tokens, tokens - computed)
            area = chunk * (computed + chunk / 2)
            total_s += profile.step_s(StepWork(1, 0, 0, chunk, area))
            computed += chunk
        return total_s
