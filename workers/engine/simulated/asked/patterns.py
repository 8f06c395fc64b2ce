"""Texts that match a regular expression, drawn from a seeded source.

Python's own parser reads the expression; each of its nodes is then answered by some text. What
vLLM's grammars refuse (look-around, back references) is refused here, too.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from re import _parser as parser  # type: ignore[attr-defined]  # the one parser there is
from typing import Any

_ANY = string.ascii_letters + string.digits + " -_.,"
_REPEATS_FREE = 4
"""Repetitions beyond the least, where the expression sets no bound."""
_CHARS_MAX = 16_384
_CATEGORIES = {
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_NOT_DIGIT": string.ascii_letters,
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_SPACE": string.ascii_letters + string.digits,
    "CATEGORY_WORD": string.ascii_letters + string.digits + "_",
    "CATEGORY_NOT_WORD": " -.,",
}
_ANCHORS = frozenset({"AT_BEGINNING", "AT_END"})


class PatternFault(ValueError):
    """The expression is broken, or asks for what no grammar can give."""


def matching(pattern: str, rng: random.Random) -> str:
    """A text that `pattern` matches in whole; raises `PatternFault`."""
    try:
        parsed = parser.parse(pattern)
        text = _Answer(rng).of(parsed)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternFault(f"invalid regex {pattern!r}: {error}") from error
    return text


class _Answer:
    """One text, node by node."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._made = 0
        self._cases: dict[str, Callable[[Any], str]] = {
            "LITERAL": chr,
            "NOT_LITERAL": lambda code: self._pick(_ANY.replace(chr(code), "")),
            "ANY": lambda _: self._pick(_ANY),
            "IN": self._in,
            "BRANCH": lambda value: self.of(self._rng.choice(value[1])),
            "SUBPATTERN": lambda value: self.of(value[-1]),
            "MAX_REPEAT": self._repeat,
            "MIN_REPEAT": self._repeat,
            "AT": self._at,
        }

    def of(self, nodes: Any) -> str:
        return "".join(self._node(kind.name, value) for kind, value in nodes)

    def _node(self, kind: str, value: Any) -> str:
        answer = self._cases.get(kind)
        if answer is None:
            raise PatternFault(f"{kind.lower().replace('_', ' ')} is not supported")
        text = answer(value)
        self._made += 1
        if self._made > _CHARS_MAX:
            raise PatternFault("the expression's texts are too long")
        return text

    def _pick(self, characters: str) -> str:
        return self._rng.choice(characters)

    def _at(self, value: Any) -> str:
        if value.name not in _ANCHORS:
            raise PatternFault("look-around is not supported")
        return ""

    def _repeat(self, value: Any) -> str:
        least, most, inner = value
        most = most if most != parser.MAXREPEAT else least + _REPEATS_FREE
        return "".join(self.of(inner) for _ in range(self._rng.randint(least, most)))

    def _in(self, items: Any) -> str:
        if items[0][0].name == "NEGATE":
            excluded = set().union(*map(_members, items[1:]))
            wanted = [one for one in map(chr, range(32, 0x2000)) if one not in excluded]
            plain = [one for one in _ANY if one not in excluded]
            if not wanted:
                raise PatternFault("a class of characters is empty")
            return self._rng.choice(plain or wanted)
        kind, value = self._rng.choice(items)
        if kind.name == "RANGE":
            return chr(self._rng.randint(*value))
        return self._rng.choice(sorted(_members((kind, value))))


def _members(item: Any) -> set[str]:
    kind, value = item
    if kind.name == "LITERAL":
        return {chr(value)}
    if kind.name == "RANGE":
        return set(map(chr, range(value[0], value[1] + 1)))
    return set(_CATEGORIES[value.name])
