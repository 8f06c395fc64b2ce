"""The dialect of Anthropic's messages: named events, errors of its own shape."""

from __future__ import annotations

from typing import Any

import msgspec

from rhizome.errors import RequestError
from router.relay.dialect import NOTHING, Dialect, Note, PromptTokensDetails, Usage

_END = b"event: message_stop"
_FAILURE = b"event: error"
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's error types by status."""


class _Usage(msgspec.Struct, frozen=True):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Answer(msgspec.Struct, frozen=True):
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Answer)


def _counted(usage: _Usage) -> Usage:
    """Anthropic's input tokens leave those out that the cache served or took."""
    cached = usage.cache_read_input_tokens
    prompt = usage.input_tokens + (cached or 0) + (usage.cache_creation_input_tokens or 0)
    details = None if cached is None else PromptTokensDetails(cached_tokens=cached)
    return Usage(prompt, usage.output_tokens, details)


def _usage(body: bytes) -> Usage | None:
    try:
        found = _decoder.decode(body).usage
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return None if found is None else _counted(found)


def _note(event: bytes) -> Note:
    if event.startswith(_END):
        return Note(is_end=True)
    if event.startswith(_FAILURE):
        return Note(is_failure=True)
    usage = _usage(event.partition(b"data: ")[2])
    return NOTHING if usage is None else Note(usage)


def _error(error: RequestError) -> dict[str, Any]:
    kind = _KINDS.get(error.status)
    if kind is None:
        kind = "api_error" if error.status >= 500 else "invalid_request_error"
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _error_body(error: RequestError) -> bytes:
    return msgspec.json.encode(_error(error))


def _error_event(error: RequestError) -> bytes:
    return b"event: error\ndata: " + _error_body(error) + b"\n\n"


ANTHROPIC = Dialect(
    name="anthropic",
    marks=(b'"usage"', _FAILURE, _END),
    note=_note,
    usage=_usage,
    error_body=_error_body,
    error_event=_error_event,
)
"""`event: message_stop` is the end; usage comes with `message_delta`."""
