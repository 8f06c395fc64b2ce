"""The dialect of OpenAI's responses: named events, the last of which holds the whole response."""

from __future__ import annotations

import msgspec

from rhizome.errors import RequestError
from router.relay.dialect import OPENAI, Dialect, Note, PromptTokensDetails, Usage

ENDS = (b"event: response.completed", b"event: response.incomplete", b"event: response.failed")
"""How the last event of a stream begins."""
_PRELUDES = (
    b"event: response.created",
    b"event: response.queued",
    b"event: response.in_progress",
)
_FAILURE = b"event: error"
_DATA = b"data: "


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Details | None = None


class _Response(msgspec.Struct, frozen=True):
    usage: _Usage | None = None


class _Event(msgspec.Struct, frozen=True):
    response: _Response | None = None


_response_decoder = msgspec.json.Decoder(_Response)
_event_decoder = msgspec.json.Decoder(_Event)


def _counted(usage: _Usage | None) -> Usage | None:
    if usage is None:
        return None
    details = usage.input_tokens_details
    cached = None if details is None else PromptTokensDetails(details.cached_tokens)
    return Usage(usage.input_tokens, usage.output_tokens, cached)


def _usage(body: bytes) -> Usage | None:
    try:
        return _counted(_response_decoder.decode(body).usage)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _note(event: bytes) -> Note:
    if event.startswith(_FAILURE):
        return Note(is_failure=True)
    if not event.startswith(ENDS):
        return Note()
    try:
        response = _event_decoder.decode(event.partition(_DATA)[2]).response
    except (msgspec.MsgspecError, UnicodeDecodeError):
        response = None
    usage = None if response is None else _counted(response.usage)
    return Note(usage, is_end=True)


def _error_event(error: RequestError) -> bytes:
    told = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return b"event: error\ndata: " + msgspec.json.encode(told) + b"\n\n"


RESPONSES = Dialect(
    name="responses",
    marks=(_FAILURE, *ENDS),
    note=_note,
    usage=_usage,
    error_body=OPENAI.error_body,
    error_event=_error_event,
    preludes=_PRELUDES,
)
"""`response.completed` is the end, as are `response.incomplete` and `response.failed`."""
