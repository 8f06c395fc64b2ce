"""Words for segments: text and token ids that share exactly what the segments' keys share.

Text is made of words of the served tokenizer that are one token each and stay so whatever word is
beside them. So n tokens of a sequence are n words, a prefix of the tokens is a prefix of the text,
and a trace's blocks come out of the tokenizer as they went in. Which words qualify is found by
encoding them, and so is how the tokenizer begins a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loadtest.workloads.requests import Role, Segment
from rhizome.errors import ModelUnusable, TraceError
from rhizome.render.files import ModelFiles, read_files
from rhizome.render.tokenizer import ModelTokenizer

WORDS_MAX = 4096
"""Most words in use: enough that no two sequences begin alike."""
WORDS_MIN = 32
_CANDIDATES_MAX = 20_000
_SHUFFLES = 3
_CACHED_SEGMENTS = 8192

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Encoder(Protocol):
    """Text to token ids."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]: ...


class PromptWriter:
    """Writes prompts for one tokenizer; the same on every machine."""

    def __init__(self, encoder: Encoder, candidates: Iterable[str]) -> None:
        """Raises `ModelUnusable` when too few words survive the tokenizer."""
        self._encoder = encoder
        self._start, words = _surviving(encoder, candidates)
        self._words = [f" {word}" for word in words]
        self._ids = list(words.values())
        self._ids_json = [str(token_id).encode() for token_id in self._ids]
        self.lead_tokens = _lead_tokens(encoder, self._start + "".join(self._words)[1:])
        self.words = tuple(words)
        self._text_of = lru_cache(_CACHED_SEGMENTS)(self._text)
        self._json_of = lru_cache(_CACHED_SEGMENTS)(self._json)

    @staticmethod
    def open(directory: Path) -> PromptWriter:
        """For the tokenizer in a model's directory; raises `ModelUnusable`."""
        files = read_files(directory)
        return PromptWriter(ModelTokenizer(files), _vocabulary_words(files))

    def check_blocks(self, block_tokens: int) -> None:
        """Raises `TraceError` when blocks of this size cannot be told apart in text."""
        if block_tokens <= self.lead_tokens:
            raise TraceError(
                f"a block size of {block_tokens} does not fit the tokenizer, which begins every "
                f"prompt with {self.lead_tokens} tokens of its own",
                advice="Send token ids (--api ids), or give the trace's own block size.",
            )

    def encode(self, text: str) -> list[int]:
        """The tokenizer itself, without special tokens."""
        return self._encoder.encode(text, add_special_tokens=False)

    def ids(self, segments: Sequence[Segment]) -> list[int]:
        """The prompt's token ids, exactly as many as the segments have."""
        return [
            self._ids[place]
            for segment in segments
            for place in places_of(segment.key, segment.tokens, len(self._ids))
        ]

    def ids_json(self, segments: Sequence[Segment]) -> bytes:
        """The same as a JSON array."""
        parts = [self._json_of(segment.key, segment.tokens) for segment in segments]
        return b"[" + b",".join(parts) + b"]"

    def text(self, segments: Sequence[Segment]) -> str:
        """Text that the server encodes to exactly as many tokens as the segments have.

        The tokens that the server puts before it stand for the last ones of the first segment.
        """
        first, *rest = segments
        shortened = max(1, first.tokens - self.lead_tokens)
        parts = [self._text_of(first.key, shortened)]
        parts += [self._text_of(segment.key, segment.tokens) for segment in rest]
        return self._start + "".join(parts)[1:]

    def messages(
        self, segments: Sequence[Segment], answers: Mapping[int, str]
    ) -> list[dict[str, str]]:
        """The prompt as a chat: neighbours of one role are one message.

        `answers` holds what the model really said for some keys; the others get made-up answers.
        """
        messages: list[dict[str, str]] = []
        for segment in segments:
            real = answers.get(segment.key) if segment.role is Role.ASSISTANT else None
            text = self._text_of(segment.key, segment.tokens) if real is None else real
            if messages and messages[-1]["role"] == segment.role.value:
                messages[-1]["content"] += text
            else:
                content = text[1:] if real is None else text
                messages.append({"role": segment.role.value, "content": content})
        return messages

    def _text(self, key: int, tokens: int) -> str:
        return "".join([self._words[place] for place in places_of(key, tokens, len(self._words))])

    def _json(self, key: int, tokens: int) -> bytes:
        words = self._ids_json
        return b",".join([words[place] for place in places_of(key, tokens, len(words))])


def places_of(key: int, tokens: int, count: int) -> list[int]:
    """The sequence `key`: its first `tokens` numbers below `count` (splitmix64 of the position)."""
    state: npt.NDArray[np.uint64] = np.arange(1, tokens + 1, dtype=np.uint64)
    state *= _GOLDEN
    state += np.uint64(key)
    state ^= state >> np.uint64(30)
    state *= _MIX_1
    state ^= state >> np.uint64(27)
    state *= _MIX_2
    state ^= state >> np.uint64(31)
    places: list[int] = (state % np.uint64(count)).tolist()
    return places


def _vocabulary_words(files: ModelFiles) -> list[str]:
    """Plain words among the tokenizer's tokens, in the vocabulary's order."""
    model = files.tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    pieces = [entry[0] for entry in vocabulary] if isinstance(vocabulary, list) else vocabulary
    words = dict.fromkeys(str(piece).lstrip("Ġ▁ ") for piece in pieces or ())
    return [word for word in words if len(word) > 1 and word.isascii() and word.isalpha()]


def _surviving(encoder: Encoder, candidates: Iterable[str]) -> tuple[str, dict[str, int]]:
    """How a text begins (with a space or without), and the words with their ids."""
    offered = [word for word, _ in zip(candidates, range(_CANDIDATES_MAX), strict=False)]
    best: tuple[str, dict[str, int]] = ("", {})
    for start in ("", " "):
        found = _apart(encoder, start, offered)
        if len(found) > len(best[1]):
            best = (start, found)
    if len(best[1]) < WORDS_MIN:
        raise ModelUnusable(
            f"only {len(best[1])} words are one token of this tokenizer wherever they stand",
            advice=f"A load test needs {WORDS_MIN} of them to write prompts of a given length.",
        )
    return best


def _apart(encoder: Encoder, start: str, offered: Sequence[str]) -> dict[str, int]:
    """The words that are one token at the beginning, and the same one between others."""
    found: dict[str, int] = {}
    taken: set[int] = set()
    for word in offered:
        ids = encoder.encode(f"{start}{word} {word} {word}", add_special_tokens=False)
        if len(ids) == 3 and len(set(ids)) == 1 and ids[0] not in taken:
            found[word] = ids[0]
            taken.add(ids[0])
            if len(found) == WORDS_MAX:
                break
    order = list(found)
    rng = Random(len(order))
    for _ in range(_SHUFFLES):
        rng.shuffle(order)
        text = start + " ".join(order)
        if encoder.encode(text, add_special_tokens=False) != [found[word] for word in order]:
            return {}
    return found


def _lead_tokens(encoder: Encoder, text: str) -> int:
    """How many tokens the server puts before a text; raises `ModelUnusable` for one behind it."""
    plain = encoder.encode(text, add_special_tokens=False)
    whole = encoder.encode(text, add_special_tokens=True)
    lead = len(whole) - len(plain)
    if lead < 0 or whole[lead:] != plain:
        raise ModelUnusable(
            "the tokenizer adds tokens behind a prompt, so no prompt can continue another",
            advice="Send token ids (--api ids).",
        )
    return lead
