"""What rendering a prompt can end in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec


class Why(StrEnum):
    """Why token ids are, or are not, what the engine will see; fit for a metric label."""

    EXACT = "exact"
    NO_TOKENIZER = "no_tokenizer"
    """The model's directory is not at hand."""
    NO_TEMPLATE = "no_template"
    """The model has no chat template that could be compiled."""
    OTHER_FORMAT = "other_format"
    """The engine renders this model with code of its own, not with a template."""
    REQUEST_TEMPLATE = "request_template"
    """The request brings its own template."""
    MEDIA = "media"
    """Images, audio or video become tokens only inside the engine."""
    SHAPE = "shape"
    """Fields that the engine refuses, or reads in a way that is not followed here."""
    SEVERAL_PROMPTS = "several_prompts"
    """The ids are those of the first of several prompts."""
    TEMPLATE_FAILED = "template_failed"
    TEMPLATE_TOO_LONG = "template_too_long"
    """The template took too many steps or too much time."""
    OUTPUT_TOO_LONG = "output_too_long"
    TOKENIZER_FAILED = "tokenizer_failed"
    DEADLINE = "deadline"
    NO_PROMPT = "no_prompt"
    """The body asks for no generation."""
    FAULT = "fault"
    """An error of this program."""
    LOADING = "loading"
    """The model's tokenizer is still being loaded."""
    STALLED = "stalled"
    """The tokenizer does not come back from earlier prompts; it is not asked for now."""
    BUSY = "busy"
    """Too many long prompts were being rendered at once."""


class CannotRender(Exception):
    """The engine's token ids cannot be known here; never an error of the request."""

    def __init__(self, why: Why, detail: str = "") -> None:
        super().__init__(f"{why}: {detail}" if detail else why)
        self.why = why


class Rendered(msgspec.Struct, frozen=True):
    """A prompt as far as it is known."""

    token_ids: Sequence[int] | None
    """None in approximate mode."""
    text: bytes
    """Bytes that extended conversations share a prefix of; empty when there are token ids."""
    why: Why
    hashes: Callable[[int, int], list[int]] | None = None
    """Block hashes of the token ids by their root and the block size, where they are known."""

    @property
    def exact(self) -> bool:
        """Whether `token_ids` is the whole prompt as the engine will see it."""
        return self.why is Why.EXACT
