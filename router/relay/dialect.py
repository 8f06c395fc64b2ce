"""What the relay must know of an API's answers: how a stream ends, where its usage is, how its
errors look.

Each endpoint of `router.http.surface` names one. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from rhizome.errors import RequestError

_DATA = b"data: "


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """What the engine counted for one request, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: PromptTokensDetails | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the engine did not compute; None if it does not say."""
        if self.prompt_tokens_details is None:
            return None
        return self.prompt_tokens_details.cached_tokens


class Note(NamedTuple):
    """What one event of a stream tells beside its text."""

    usage: Usage | None = None
    is_end: bool = False
    """The stream has come to its proper end."""
    is_failure: bool = False
    """The engine itself reports an error."""
    is_usage_only: bool = False
    """It has nothing but usage: not to be passed on to a client that did not ask for it."""


NOTHING = Note()


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API's way of answering."""

    name: str
    marks: tuple[bytes, ...]
    """Bytes without which an event is one more token: passed on and not looked at."""
    note: Callable[[bytes], Note]
    """Reads an event that has a mark, without the blank line behind it; raises nothing."""
    usage: Callable[[bytes], Usage | None]
    """Usage in a whole, non-streaming answer; raises nothing."""
    error_body: Callable[[RequestError], bytes]
    """A refusal as a response body."""
    error_event: Callable[[RequestError], bytes]
    """A failure as the last event of a stream, the blank line included."""
    preludes: tuple[bytes, ...] = ()
    """How events begin that an engine sends before it has begun to work."""


class _Chunk(msgspec.Struct, frozen=True):
    usage: Usage | None = None
    choices: list[Any] | None = None
    error: Any = None


class _Answer(msgspec.Struct, frozen=True):
    """Of a whole answer nothing but its usage is made into objects."""

    usage: Usage | None = None


_decoder = msgspec.json.Decoder(_Chunk)
_answer_decoder = msgspec.json.Decoder(_Answer)
_END_MARK = b"data: [DONE]"


def _note(event: bytes) -> Note:
    if event.startswith(_END_MARK):
        return Note(is_end=True)
    if not event.startswith(_DATA):
        return NOTHING
    try:
        chunk = _decoder.decode(event[len(_DATA) :])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return NOTHING
    only = chunk.usage is not None and not chunk.choices
    return Note(chunk.usage, is_failure=chunk.error is not None, is_usage_only=only)


def _usage(body: bytes) -> Usage | None:
    try:
        return _answer_decoder.decode(body).usage
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _error_body(error: RequestError) -> bytes:
    return msgspec.json.encode(error.body())


def _error_event(error: RequestError) -> bytes:
    return _DATA + _error_body(error) + b"\n\n"


OPENAI = Dialect(
    name="openai",
    marks=(b'"usage"', b'"error"', _END_MARK),
    note=_note,
    usage=_usage,
    error_body=_error_body,
    error_event=_error_event,
)
"""Chat completions, completions and all that answers in one piece: `data: [DONE]` is the end."""
