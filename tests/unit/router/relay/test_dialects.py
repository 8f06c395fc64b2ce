"""Streams of every API end where they end, count what they count and fail in their own words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rhizome.errors import QueueFull, UnknownModel, WorkerDiedMidStream
from router.relay.dialect import Dialect
from router.relay.messages import ANTHROPIC
from router.relay.responses import RESPONSES
from router.relay.scanner import EventScanner


def event(name: str, **fields: Any) -> bytes:
    data = json.dumps({"type": name, **fields}, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode()


USAGE = {"input_tokens": 3, "cache_read_input_tokens": 16, "output_tokens": 2}
MESSAGES = [
    event("message_start", message={"id": "x", "usage": {"input_tokens": 19, "output_tokens": 0}}),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("content_block_delta", delta={"type": "text_delta", "text": 'event: error "usage"'}),
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage=USAGE),
    event("message_stop"),
]
COUNTED = {"input_tokens": 19, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 16}}
RESPONSE = [
    event("response.created", response={"id": "r", "usage": None}),
    event("response.output_text.delta", delta="event: response.completed"),
    event("response.completed", response={"id": "r", "usage": COUNTED}),
]
STREAMS = [(ANTHROPIC, MESSAGES), (RESPONSES, RESPONSE)]


def scanner(dialect: Dialect) -> EventScanner:
    return EventScanner(dialect, strip_usage=False, event_bytes_max=10_000)


@pytest.mark.parametrize(("dialect", "events"), STREAMS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_passes_unchanged_however_it_is_cut(
    dialect: Dialect, events: list[bytes], size: int
) -> None:
    whole = b"".join(events)
    reading = scanner(dialect)
    parts = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert b"".join(map(reading.feed, parts)) == whole
    assert reading.done
    assert not reading.failed
    assert reading.usage is not None
    assert (reading.usage.prompt_tokens, reading.usage.completion_tokens) == (19, 2)
    assert reading.usage.cached_tokens == 16
    assert reading.held_bytes == 0


@pytest.mark.parametrize(("dialect", "events"), STREAMS)
def test_a_stream_that_is_cut_short_has_not_ended(dialect: Dialect, events: list[bytes]) -> None:
    reading = scanner(dialect)
    reading.feed(b"".join(events[:-1]))
    assert not reading.done


@pytest.mark.parametrize(("dialect", "events"), STREAMS)
def test_an_error_of_the_engine_is_a_failure(dialect: Dialect, events: list[bytes]) -> None:
    reading = scanner(dialect)
    reading.feed(events[0] + event("error", error={"type": "api_error", "message": "no"}))
    assert reading.failed
    assert not reading.done


@pytest.mark.parametrize("name", ["response.incomplete", "response.failed"])
def test_a_response_may_end_otherwise_than_completed(name: str) -> None:
    reading = scanner(RESPONSES)
    reading.feed(RESPONSE[0] + event(name, response={"id": "r", "usage": COUNTED}))
    assert reading.done
    assert reading.usage is not None


@pytest.mark.parametrize("dialect", [ANTHROPIC, RESPONSES])
def test_what_ends_a_broken_stream_is_an_error_to_its_own_scanner(dialect: Dialect) -> None:
    told = dialect.error_event(WorkerDiedMidStream("the worker failed"))
    reading = scanner(dialect)
    assert reading.feed(told) == told
    assert reading.failed


@pytest.mark.parametrize(
    ("error", "kind"),
    [(UnknownModel("no"), "not_found_error"), (QueueFull("full"), "rate_limit_error")],
)
def test_anthropic_refusals_have_anthropics_shape(error: Any, kind: str) -> None:
    body = json.loads(ANTHROPIC.error_body(error))
    assert body == {"type": "error", "error": {"type": kind, "message": error.message}}


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (ANTHROPIC, {"type": "message", "usage": USAGE}),
        (RESPONSES, {"object": "response", "usage": COUNTED}),
    ],
)
def test_usage_of_a_whole_answer_counts_cached_tokens_in(
    dialect: Dialect, body: dict[str, Any]
) -> None:
    usage = dialect.usage(json.dumps(body).encode())
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (19, 2, 16)
    for broken in (b"", b"{", b"[]", b'{"usage": null}', b'{"usage": []}', b"\xff"):
        assert dialect.usage(broken) is None
