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
from array import array
from collections.abc import Callable, Iterable
from itertools import count, pairwise
from typing import Any

import tokenizers

BYTES_MAX = 32 * 2**20
"""Memory for one model's parts, in bytes (estimated)."""
_PART_BYTES = 400
ID_CODE = "I" if array("I").itemsize == 4 else "L"
ID_BYTES = 4
_numbers = count()
_SHAPE = re.compile(r"<[^<>]+>")
_ENDING_CHARS_MAX = 16
"""What is no longer, with its border, is no part of its own, such as what ends every message."""


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


class TokenPart:
    """The ids of a piece of text, as unsigned 32-bit numbers of this machine."""

    __slots__ = ("ids", "number")

    def __init__(self, ids: Iterable[int] | bytes) -> None:
        """Raises `TypeError` or `OverflowError` for what cannot be token ids; bytes are such
        numbers already."""
        self.ids = array(ID_CODE, ids)
        self.number = next(_numbers)
        """No other part of this process has it."""


def joined_ids(parts: Iterable[TokenPart]) -> array[int]:
    """The ids of the text that the parts are pieces of."""
    ids = array(ID_CODE)
    ids.frombytes(b"".join([part.ids for part in parts]))
    return ids


class RememberedParts:
    """The ids of parts that begin with a border, in two generations: what is asked for moves to the
    younger one, and the elder goes when the younger is full."""

    def __init__(
        self,
        borders: frozenset[str],
        encode: Callable[[str], TokenPart],
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """`encode` gives the ids of a text without adding any, and may raise."""
        self._find = re.compile("|".join(map(re.escape, borders))).finditer if borders else None
        self._encode = encode
        self._bytes_max = bytes_max
        self._young: dict[str, TokenPart] = {}
        self._old: dict[str, TokenPart] = {}
        self._young_bytes = self._old_bytes = 0
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[TokenPart]:
        """The parts of the text, whose ids are those of the whole; raises what `encode` raises."""
        texts = self._cut(text)
        return self._put_together(texts, self._look_up(texts))

    def encode_if_quick(self, text: str, new_chars_max: int) -> list[TokenPart] | None:
        """The same; None where more than so many characters would have to be tokenized."""
        texts = self._cut(text)  # once: a part that is cut anew is also hashed anew
        found = self._look_up(texts)
        if None in found and _new_chars(texts, found) > new_chars_max:
            return None
        return self._put_together(texts, found)

    def new_chars(self, text: str) -> int:
        """How much of the text would have to be tokenized."""
        texts = self._cut(text)
        return _new_chars(texts, self._look_up(texts))

    @property
    def bytes_used(self) -> int:
        """Estimated memory of all parts."""
        return self._young_bytes + self._old_bytes

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the sums disagree with the parts."""
        assert self._young_bytes == sum(_size(*one) for one in self._young.items())
        assert self._old_bytes == sum(_size(*one) for one in self._old.items())
        assert max(self._young_bytes, self._old_bytes) <= self._bytes_max // 2

    def _cut(self, text: str) -> list[str]:
        if self._find is None:
            return [text]
        starts = [found.start() for found in self._find(text)]
        cuts = [a for a, b in pairwise(starts) if b - a > _ENDING_CHARS_MAX] + starts[-1:]
        if not cuts:
            return [text]
        if cuts[0]:
            cuts.insert(0, 0)
        return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]

    def _look_up(self, texts: list[str]) -> list[TokenPart | None]:
        """The parts that are known."""
        found = list(map(self._young.get, texts))
        if self._old and None in found:
            for place, text in enumerate(texts):
                if found[place] is None:
                    found[place] = self._from_old(text)
        return found

    def _from_old(self, text: str) -> TokenPart | None:
        with self._lock:
            part = self._old.pop(text, None)
            if part is None:
                return self._young.get(text)
            self._old_bytes -= _size(text, part)
            self._keep(text, part)
        return part

    def _keep(self, text: str, part: TokenPart) -> None:
        size = _size(text, part)
        if self._young_bytes + size > self._bytes_max // 2:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        self._young[text] = part
        self._young_bytes += size

    def _put_together(self, texts: list[str], found: list[TokenPart | None]) -> list[TokenPart]:
        return [
            self._learned(text) if part is None else part
            for text, part in zip(texts, found, strict=True)
        ]

    def _learned(self, text: str) -> TokenPart:
        part = self._encode(text)
        with self._lock:
            known = self._young.get(text) or self._old.get(text)
            if known is None and _size(text, part) <= self._bytes_max // 8:
                self._keep(text, part)
        return part


def _new_chars(texts: list[str], found: list[TokenPart | None]) -> int:
    return sum([len(text) for text, part in zip(texts, found, strict=True) if part is None])


def _size(text: str, part: TokenPart) -> int:
    return _PART_BYTES + 4 * len(text) + part.ids.itemsize * len(part.ids)


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
