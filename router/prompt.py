"""A prompt as the scheduler sees it: its length and its chained block hashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rhizome.render.outcomes import Rendered
from rhizome.settings.tree import PrefixSettings
from router.prefix.hashing import block_hashes, byte_block_hashes, root_hash

_BLOCK_SIZE_UNKNOWN = 16


class Prompt(Protocol):
    """What placing a request needs to know of its prompt."""

    @property
    def tokens(self) -> int:
        """Length in tokens, at least 1."""
        ...

    @property
    def has_tokens(self) -> bool:
        """Whether token ids are known, if only of the first of several prompts."""
        ...

    @property
    def exact(self) -> bool:
        """Whether the token ids are the whole prompt as the engine will see it."""
        ...

    def block_tokens(self, block_size: int | None) -> int:
        """Tokens that one hash of `hashes(block_size)` stands for, at least 1."""
        ...

    def hashes(self, block_size: int | None) -> list[int]:
        """Chained hashes of the full blocks, first block first."""
        ...


class RenderedPrompt:
    """One prompt, exact (token ids) or approximate (bytes of the rendered text).

    Hashes are computed once per block size; approximate prompts have one size for all workers.
    """

    def __init__(
        self,
        rendered: Rendered,
        salt: str | None,
        settings: PrefixSettings,
        adapter: str | None = None,
    ) -> None:
        self._token_ids = rendered.token_ids
        self._text = rendered.text
        self._known_hashes = rendered.hashes
        self._root = root_hash(lora=adapter, salt=salt)
        self._settings = settings
        self._hashes: dict[int, list[int]] = {}
        ids = rendered.token_ids
        length = len(rendered.text) / settings.bytes_per_token if ids is None else len(ids)
        self.tokens = max(1, round(length))
        """Estimated from bytes in approximate mode."""
        self.has_tokens = ids is not None
        self.exact = rendered.exact

    @property
    def units(self) -> Sequence[int] | bytes:
        """Token ids, or the bytes that stand for them. Secret."""
        return self._text if self._token_ids is None else self._token_ids

    def block_tokens(self, block_size: int | None) -> int:
        if self.has_tokens:
            return block_size or _BLOCK_SIZE_UNKNOWN
        return self._settings.approximate_block_tokens

    def hashes(self, block_size: int | None) -> list[int]:
        size = (block_size or _BLOCK_SIZE_UNKNOWN) if self.has_tokens else 0
        found = self._hashes.get(size)
        if found is None:
            if self._known_hashes is not None:
                found = self._known_hashes(self._root, size)
            elif self._token_ids is not None:
                found = block_hashes(self._token_ids, size, self._root)
            else:
                found = byte_block_hashes(
                    self._text, self._settings.approximate_block_bytes, self._root
                )
            self._hashes[size] = found
        return found


class UnsharedPrompt:
    """What no other request shares a prefix with that a worker would keep: length, no hashes."""

    has_tokens = False
    exact = False

    def __init__(self, size_bytes: int, settings: PrefixSettings) -> None:
        self.tokens = max(1, round(size_bytes / settings.bytes_per_token))
        """Estimated."""

    def block_tokens(self, block_size: int | None) -> int:
        return block_size or _BLOCK_SIZE_UNKNOWN

    def hashes(self, block_size: int | None) -> list[int]:
        return []
