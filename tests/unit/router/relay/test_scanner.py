"""The scanner forwards every byte but the usage that nobody asked for, however it is cut."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.relay.dialect import OPENAI
from router.relay.scanner import EventScanner, EventTooLong


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


TOKEN = event(id="1", choices=[{"index": 0, "delta": {"content": "hi"}}])
USAGE = event(
    id="1",
    choices=[],
    usage={
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
)
DONE = b"data: [DONE]\n\n"


def scan(scanner: EventScanner, stream: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return b"".join(scanner.feed(stream[a:b]) for a, b in pairwise(edges))


@given(cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_all_is_forwarded_when_the_client_asked_for_usage(cuts: list[int]) -> None:
    scanner = EventScanner(OPENAI, strip_usage=False, event_bytes_max=1000)
    stream = TOKEN + TOKEN + USAGE + DONE
    assert scan(scanner, stream, cuts) == stream
    assert scanner.done
    assert scanner.usage is not None
    assert scanner.usage.cached_tokens == 4


@given(cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_only_the_usage_event_is_dropped_when_the_router_asked_for_it(cuts: list[int]) -> None:
    scanner = EventScanner(OPENAI, strip_usage=True, event_bytes_max=1000)
    assert scan(scanner, TOKEN + TOKEN + USAGE + DONE, cuts) == TOKEN + TOKEN + DONE
    assert scanner.usage is not None
    assert scanner.usage.prompt_tokens == 7


def test_a_token_that_says_usage_is_kept() -> None:
    token = event(id="1", choices=[{"index": 0, "delta": {"content": '"usage" and "error"'}}])
    scanner = EventScanner(OPENAI, strip_usage=True, event_bytes_max=1000)
    assert scanner.feed(token) == token
    assert scanner.usage is None
    assert not scanner.failed


def test_a_usage_of_null_is_no_usage() -> None:
    token = event(id="1", choices=[{"index": 0}], usage=None)
    scanner = EventScanner(OPENAI, strip_usage=True, event_bytes_max=1000)
    assert scanner.feed(token) == token
    assert scanner.usage is None


def test_an_error_event_of_the_engine_is_noticed() -> None:
    scanner = EventScanner(OPENAI, strip_usage=True, event_bytes_max=1000)
    error = event(error={"message": "EngineDeadError"})
    assert scanner.feed(error) == error
    assert scanner.failed


def test_an_event_without_end_is_bounded() -> None:
    scanner = EventScanner(OPENAI, strip_usage=True, event_bytes_max=100)
    with pytest.raises(EventTooLong):
        scanner.feed(b"data: " + b"x" * 200)


def test_garbage_between_events_passes_through() -> None:
    scanner = EventScanner(OPENAI, strip_usage=True, event_bytes_max=1000)
    garbage = b': "usage" comment\n\ndata: {"usage": nonsense\n\n'
    assert scanner.feed(garbage) == garbage


def test_usage_of_a_whole_answer() -> None:
    usage = OPENAI.usage(
        b'{"usage": {"prompt_tokens": 3, "prompt_tokens_details": null}, "x": [1]}'
    )
    assert usage is not None
    assert usage.prompt_tokens == 3
    assert usage.cached_tokens is None
    assert OPENAI.usage(b"not json") is None
