"""What the simulated model says: token ids of its own tokenizer that decode to clean words.

The words are drawn by `TokenStream` from tokens that are one whole word each, so that text joined
to a later prompt is tokenized to the same ids again (as far as the tokenizer allows at all), and
pieces can be put together without looking back. A request that forces ids of its own is decoded
incrementally as vLLM does it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders

from rhizome.clock import Clock
from rhizome.errors import ModelUnusable
from rhizome.render.renderer import load_renderer
from rhizome.render.tokenizer import TokenizerFault, library_faults

_WORDS_MAX = 4096
_CANDIDATES_MAX = 65_536
_WORD = re.compile(r" [A-Za-z]{2,14}\Z")
_ANCHOR = "the"
_WORDS_MIN = 8


class Words:
    """A model directory's tokenizer and what can be said with it."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """Raises `ModelUnusable`."""
        self.renderer = load_renderer(directory, clock)
        self.library: Tokenizer = self.renderer.tokenizer.library
        config = _object(directory / "config.json")
        self._anchor = self.library.encode(_ANCHOR, add_special_tokens=False).ids
        self.size = int(config.get("vocab_size") or self.library.get_vocab_size())
        """Ids below this are valid."""
        self.max_model_len = config.get("max_position_embeddings")
        """The model's own limit, None where it names none."""
        self.end_ids = _end_ids(directory, config)
        self.token_chars_max = max(map(len, self.library.get_vocab()), default=1)
        """Length of the longest token."""
        self.pieces = dict(_clean_words(self.library))
        if len(self.pieces) < _WORDS_MIN:
            raise ModelUnusable(
                f"the tokenizer in {directory} has too few tokens that are words",
                advice="the simulated engine needs a text model's tokenizer",
            )
        self.vocabulary = sorted(self.pieces)
        self.plain = [self.pieces[token].strip() for token in self.vocabulary]
        """The words themselves."""
        self.escaped = {
            token: json.dumps(piece)[1:-1].encode() for token, piece in self.pieces.items()
        }
        """The pieces as they stand inside a JSON string."""

    def text_of(self, token: int) -> str:
        """What a token adds to a text, as far as it can be told of a token alone."""
        piece = self.pieces.get(token)
        return self.library.decode([token], skip_special_tokens=False) if piece is None else piece

    def ids_of(self, text: str) -> list[int]:
        """Tokens that add `text` to whatever is there."""
        anchor, ids = self._anchor, self.library.encode(text, add_special_tokens=False).ids
        decoded = self.library.decode([*anchor, *ids], skip_special_tokens=False)
        if decoded != _ANCHOR + text:
            # Some tokenizers put a blank before a text, but not within one.
            both = self.library.encode(_ANCHOR + text, add_special_tokens=False).ids
            ids = both[len(anchor) :] if both[: len(anchor)] == anchor else ids
        return list(ids)

    def token_strings(self, token_ids: Sequence[int]) -> list[str | None]:
        return [self.library.id_to_token(one) for one in token_ids]


class Detokenizer:
    """Text of forced ids, piece by piece; bytes that are not yet a character are held back."""

    def __init__(self, words: Words, prompt: Sequence[int], skip_special_tokens: bool) -> None:
        self._library = words.library
        self._skip = skip_special_tokens
        self._stream = decoders.DecodeStream(ids=list(prompt), skip_special_tokens=self._skip)

    def text(self, token_id: int) -> str:
        """The text that this token completes."""
        try:
            with library_faults():
                return self._stream.step(self._library, token_id) or ""
        except TokenizerFault:
            # Bytes that are no text at all upset the stream; vLLM begins a new one, too.
            self._stream = decoders.DecodeStream(skip_special_tokens=self._skip)
            return self._stream.step(self._library, token_id) or ""


def _clean_words(library: Tokenizer) -> Iterator[tuple[int, str]]:
    """Tokens that add one whole word after a word, and are what that word is tokenized to."""
    anchor = library.encode(_ANCHOR, add_special_tokens=False).ids
    alone = library.decode(anchor)
    vocabulary = library.get_vocab_size()
    stride = max(1, vocabulary // _CANDIDATES_MAX)
    candidates = []
    for token in range(0, vocabulary, stride):
        text = library.decode([*anchor, token])
        if text.startswith(alone) and _WORD.match(text, len(alone)):
            candidates.append((token, text))
    texts = [text for _, text in candidates]
    encodings = library.encode_batch_fast(texts, add_special_tokens=False)
    found = 0
    for (token, text), encoding in zip(candidates, encodings, strict=True):
        if encoding.ids == [*anchor, token]:
            yield token, text[len(alone) :]
            found += 1
            if found == _WORDS_MAX:
                return


def _end_ids(directory: Path, config: dict[str, Any]) -> list[int]:
    """The ids at which generation ends, the first one being the one that is said."""
    for source in (_object(directory / "generation_config.json"), config):
        ends = source.get("eos_token_id")
        if isinstance(ends, int):
            return [ends]
        if isinstance(ends, list) and ends:
            return [int(one) for one in ends]
    return []


def _object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"{file} cannot be read: {error}") from error
    return value if isinstance(value, dict) else {}
