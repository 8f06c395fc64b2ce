"""Ids of words that were tokenized before, for text in ASCII and tokenizers that cut it into words.

Byte-level BPE tokenizes each word by itself, and finds the words with an expression over all of
Unicode, which takes most of its time. In ASCII text the same expression without Unicode finds the
same words, seven times as quickly. What the tokenizer's definition has beyond that, or a text
beyond ASCII, is left to the library.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers

from rhizome.render.remembering import ID_BYTES, ID_CODE, TokenPart

WORDS_MAX = 65_536
"""Most words kept; beyond it all begin anew."""
_WORD_CHARS_MAX = 64
"""Longest word that is kept."""
_OTHERS_MAX = 16
"""Most tokens that a text is searched for before its words are looked up."""
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What the library's `ByteLevel` looks for."""
_IN_ASCII = {
    r"\p{L}": "A-Za-z",
    r"\p{N}": "0-9",
    r"\p{Lu}": "A-Z",
    r"\p{Lt}": "",
    r"\p{Ll}": "a-z",
    r"\p{Lm}": "",
    r"\p{Lo}": "",
    r"\p{M}": "",
}
"""Classes of characters that expressions name, as far as they are ASCII."""
_TERM = re.compile(r"\\p\{\w+\}|\\.|\[\^?|\]|.", re.DOTALL)
_KNOWN_ESCAPES = frozenset({r"\s", r"\S", r"\r", r"\n", r"\'", r"\/", r"\.", r"\-"})


class Words:
    """The ids of words, put together to those of a text; thread-safe."""

    def __init__(
        self,
        pattern: re.Pattern[str],
        borders: frozenset[str],
        others: Sequence[str],
        encode: Callable[[str], list[int]],
    ) -> None:
        """`borders` are tokens that a text is cut at before anything else, `others` all tokens
        that the library may find in what lies between two of them."""
        self._pattern = pattern
        self._others = others
        self._encode = encode
        self._border = min(borders)
        self._border_id = encode(self._border)[0]
        self._borders = {border: _packed(encode(border)) for border in borders}
        self._cut = re.compile(f"({'|'.join(map(re.escape, borders))})").split
        self._known = self._borders.copy()

    @property
    def count(self) -> int:
        """Words that are kept."""
        return len(self._known) - len(self._borders)

    def part(self, text: str) -> TokenPart | None:
        """The ids of a text; None where words do not say. Raises what the library raises."""
        if not text.isascii() or any(other in text for other in self._others):
            return None
        between, *cut = self._cut(text)
        words = self._pattern.findall(between)
        for border, between in zip(cut[::2], cut[1::2], strict=True):
            words.append(border)
            words += self._pattern.findall(between)
        try:
            return TokenPart(b"".join(map(self._known.__getitem__, words)))
        except KeyError:
            return TokenPart(b"".join(map(self._learned(words).__getitem__, words)))

    def _learned(self, words: list[str]) -> dict[str, bytes]:
        """The ids of all these words; those that are new are tokenized by the library at once."""
        known = self._known
        missing = list(set(words).difference(known))
        ids = self._encode(self._border + self._border.join(missing))
        packed, begin = _packed(ids), 1
        learned: dict[str, bytes] = {}
        for word in missing:
            end = ids.index(self._border_id, begin) if len(learned) + 1 < len(missing) else len(ids)
            learned[word] = packed[begin * ID_BYTES : end * ID_BYTES]
            begin = end + 1
        kept = {word: own for word, own in learned.items() if len(word) <= _WORD_CHARS_MAX}
        if len(known) + len(kept) > WORDS_MAX:
            self._known = self._borders | kept
            return known | learned
        known.update(kept)
        return known if len(kept) == len(learned) else known | learned


def _packed(ids: list[int]) -> bytes:
    return array(ID_CODE, ids).tobytes()


def words_of(
    tokenizer: tokenizers.Tokenizer, borders: frozenset[str], encode: Callable[[str], list[int]]
) -> Words | None:
    """For a tokenizer and its borders; None if it does not cut ASCII into words as known here."""
    definition = json.loads(tokenizer.to_str())
    model, pattern = definition.get("model"), _pattern_of(definition.get("pre_tokenizer"))
    if model.get("type") != "BPE" or model.get("dropout") or pattern is None or not borders:
        return None
    if not _keeps_ascii(definition.get("normalizer")):
        return None
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    others = sorted(added - borders)
    return None if len(others) > _OTHERS_MAX else Words(pattern, borders, others, encode)


def _keeps_ascii(normalizer: Any) -> bool:
    return normalizer is None or (
        isinstance(normalizer, dict) and normalizer.get("type") in ("NFC", "NFKC")
    )


def _pattern_of(step: Any) -> re.Pattern[str] | None:
    """What finds the words, if they are found by one expression alone."""
    if not isinstance(step, dict):
        return None
    if step.get("type") == "ByteLevel":
        is_plain = step.get("use_regex", True) is True and not step.get("add_prefix_space", True)
        return in_ascii(_GPT2) if is_plain else None
    steps = step.get("pretokenizers") if step.get("type") == "Sequence" else None
    if not isinstance(steps, list) or len(steps) != 2:
        return None
    split, level = steps
    is_plain = (
        split.get("type") == "Split"
        and split.get("behavior") == "Isolated"
        and not split.get("invert")
        and level.get("type") == "ByteLevel"
        and level.get("use_regex", True) is False
        and not level.get("add_prefix_space", True)
    )
    expression = split.get("pattern", {}).get("Regex") if is_plain else None
    return in_ascii(expression) if isinstance(expression, str) else None


def in_ascii(expression: str) -> re.Pattern[str] | None:
    """The expression for text in ASCII; None if it names what is not known here."""
    terms: list[str] = []
    is_inside = False
    for term in _TERM.findall(expression):
        if term.startswith(r"\p"):
            if term not in _IN_ASCII or not (is_inside or _IN_ASCII[term]):
                return None
            terms.append(_IN_ASCII[term] if is_inside else f"[{_IN_ASCII[term]}]")
            continue
        if term.startswith("["):
            if is_inside:
                return None
            is_inside = True
        elif term == "]":
            is_inside = False
        elif (len(term) == 2 and term not in _KNOWN_ESCAPES) or (is_inside and term == "&"):
            return None
        terms.append(term)
    try:
        return re.compile("".join(terms), re.ASCII)
    except re.error:
        return None
