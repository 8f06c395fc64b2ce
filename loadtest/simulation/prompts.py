"""A workload's prompts as router and engines see them: by the keys of their blocks."""

from __future__ import annotations

from loadtest.workloads.requests import Role, Segment, TracedRequest, block_keys

_BLOCK_SIZE_UNKNOWN = 16


class KeyedPrompt:
    """A `router.prompt.Prompt` without tokens: equal keys are equal prefixes."""

    has_tokens = True
    exact = True

    def __init__(self, traced: TracedRequest) -> None:
        self._traced = traced
        self.tokens = traced.prompt_len
        self._sequences: dict[int, list[int]] = {}
        self._hashes: dict[int, list[int]] = {}

    def block_tokens(self, block_size: int | None) -> int:
        return block_size or _BLOCK_SIZE_UNKNOWN

    def hashes(self, block_size: int | None) -> list[int]:
        size = block_size or _BLOCK_SIZE_UNKNOWN
        found = self._hashes.get(size)
        if found is None:
            found = self._hashes[size] = self.sequence(size)[: self.tokens // size]
        return found

    def sequence(self, block_size: int) -> list[int]:
        """Keys of all full blocks of prompt and answer together, without the answer's last token:
        no engine computes what would follow it."""
        found = self._sequences.get(block_size)
        if found is None:
            found = self._sequences[block_size] = block_keys(self.segments, block_size)
        return found

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Of prompt and answer together, without the answer's last token."""
        traced = self._traced
        answer = Segment(traced.answer_key, traced.output_len - 1, Role.ASSISTANT)
        return (*traced.segments, answer)
