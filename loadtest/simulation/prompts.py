"""A workload's prompts as router and engines see them: by the keys of their blocks."""

from __future__ import annotations

from loadtest.workloads.requests import Role, Segment, TracedRequest, block_keys

_BLOCK_SIZE_UNKNOWN = 16
_TEXT_BLOCK_TOKENS = 32
"""128 bytes at 4 bytes a token: the router's defaults."""


class KeyedPrompt:
    """A `router.prompt.Prompt` without tokens: equal keys are equal prefixes.

    One that is not exact is as the router sees it without a tokenizer: in blocks of text, of the
    same size for all workers.
    """

    def __init__(self, traced: TracedRequest, *, exact: bool = True) -> None:
        self.has_tokens = self.exact = exact
        self._traced = traced
        self.tokens = traced.prompt_len
        self._sequences: dict[int, list[int]] = {}
        self._hashes: dict[int, list[int]] = {}

    def block_tokens(self, block_size: int | None) -> int:
        return (block_size or _BLOCK_SIZE_UNKNOWN) if self.exact else _TEXT_BLOCK_TOKENS

    def hashes(self, block_size: int | None) -> list[int]:
        return self.keys(self.block_tokens(block_size))

    def keys(self, size: int) -> list[int]:
        """Keys of the prompt's full blocks of that many tokens."""
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
