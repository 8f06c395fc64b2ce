"""Token ids of text that was tokenized before: a conversation's earlier messages cost nothing.

Tokenizers take special tokens out of a text before they do anything else, and what lies between
two of them is tokenized by itself. So a text may be cut at each special token, and the parts' ids
put together are the ids of the whole. Chat templates put such tokens around every message.

Holds for tokens that are matched as they are written and cannot overlap, and for tokenizers that
do not care where in a text a part stands; for others `borders_of` finds none and nothing is cut.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import tokenizers

BYTES_MAX = 32 * 2**20
"""Memory for one model's parts, in bytes (estimated)."""
_PART_BYTES = 200
_ID_BYTES = 8
_SHAPE = re.compile(r"<[^<>]+>")


def borders_of(tokenizer: tokenizers.Tokenizer) -> frozenset[str]:
    """The tokens at which texts may be cut; none if that could change their ids."""
    added = list(tokenizer.get_added_tokens_decoder().values())
    if tokenizer.encode_special_tokens or _minds_places(json.loads(tokenizer.to_str())):
        return frozenset()
    borders = set()
    for token in added:
        if _SHAPE.fullmatch(token.content):
            if not (token.lstrip or token.rstrip or token.single_word or token.normalized):
                borders.add(token.content)
        elif "<" in token.content or ">" in token.content:
            return frozenset()  # it could overlap with one of the others
    return frozenset(borders)


class RememberedParts:
    """The ids of parts that begin with a border; those not asked for longest go first."""

    def __init__(
        self,
        borders: frozenset[str],
        encode: Callable[[str], list[int]],
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """`encode` gives the ids of a text without adding any, and may raise."""
        self._borders = borders
        self._encode = encode
        self._bytes_max = bytes_max
        self._parts: dict[str, list[int]] = {}
        self._bytes_used = 0
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        """The ids of the whole text, as `encode` would give them; raises what it raises."""
        return self._put_together(self._cut(text))

    def encode_if_quick(self, text: str, new_chars_max: int) -> list[int] | None:
        """The same; None where more than so many characters would have to be tokenized."""
        parts = self._cut(text)  # once: a part that is cut anew is also hashed anew
        if self._new_chars(parts) > new_chars_max:
            return None
        return self._put_together(parts)

    def new_chars(self, text: str) -> int:
        """How much of the text would have to be tokenized."""
        return self._new_chars(self._cut(text))

    @property
    def bytes_used(self) -> int:
        """Estimated memory of all parts."""
        return self._bytes_used

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the sums disagree with the parts."""
        assert self._bytes_used == sum(_size(part, ids) for part, ids in self._parts.items())
        assert self._bytes_used <= self._bytes_max

    def _new_chars(self, parts: list[str]) -> int:
        known = self._parts
        return sum([len(part) for part in parts if part not in known])

    def _put_together(self, parts: list[str]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            ids += self._of(part)
        return ids

    def _cut(self, text: str) -> list[str]:
        borders = self._borders
        starts = [found.start() for found in _SHAPE.finditer(text) if found[0] in borders]
        if not starts:
            return [text]
        if starts[0]:
            starts.insert(0, 0)
        return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]

    def _of(self, part: str) -> list[int]:
        with self._lock:
            ids = self._parts.pop(part, None)
            if ids is not None:
                self._parts[part] = ids  # now the one asked for last
                return ids
        ids = self._encode(part)
        size = _size(part, ids)
        with self._lock:
            if part not in self._parts and size <= self._bytes_max // 8:
                self._parts[part] = ids
                self._bytes_used += size
                while self._bytes_used > self._bytes_max:
                    oldest = next(iter(self._parts))
                    self._bytes_used -= _size(oldest, self._parts.pop(oldest))
        return ids


def _size(part: str, ids: list[int]) -> int:
    return _PART_BYTES + 4 * len(part) + _ID_BYTES * len(ids)


def _minds_places(definition: dict[str, Any]) -> bool:
    """Whether some step treats the beginning of a text differently."""
    steps = [definition.get("normalizer"), definition.get("pre_tokenizer")]
    while steps:
        step = steps.pop()
        if not isinstance(step, dict):
            continue
        if step.get("prepend_scheme") == "first" or step.get("type") in ("Strip", "Precompiled"):
            return True
        for inside in ("normalizers", "pretokenizers"):
            steps += step.get(inside) or []
    return False
