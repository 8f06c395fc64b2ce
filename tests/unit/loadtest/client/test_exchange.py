"""One answer's times, counts and faults, fed by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from loadtest.client.exchange import Exchange
from loadtest.records import ErrorKind, RequestRecord
from loadtest.workloads.requests import Segment, TracedRequest


def exchange(status: int | None = 200, **options: bool) -> Exchange:
    request = TracedRequest(4, 1.0, "s", "t", (Segment(1, 9),), 3, 0)
    made = Exchange(request, 9, sent_s=1.0, **options)
    if status is not None:
        made.answered(status, {b"x-rhizome-worker": b"w1", b"x-request-id": b"r"}, 1.1)
    return made


def event(value: object, ending: str = "\n\n") -> bytes:
    return b"data: " + json.dumps(value).encode() + ending.encode()


def text(said: str, ending: str = "\n\n") -> bytes:
    return event({"choices": [{"text": said}]}, ending)


DONE = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 8},
}


def fed(made: Exchange, *pieces: tuple[bytes, float]) -> RequestRecord:
    for data, now_s in pieces:
        made.feed(data, now_s)
    made.end()
    return made.record(now_s=9.0)


def test_times_are_of_chunks_with_content() -> None:
    made = exchange(keep_text=True)
    record = fed(
        made,
        (event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}), 1.2),
        (text("a"), 1.5),
        (text("b"), 1.75),
        (text("") + text("c"), 2.5),
        (event({"choices": [], "usage": USAGE}) + DONE, 3.0),
    )
    assert record.error is None
    assert (record.ttft_ms, record.e2e_ms) == pytest.approx((500.0, 1500.0))
    assert record.tpot_ms == pytest.approx(500.0)
    assert np.frombuffer(record.gaps_ms, "<f4").tolist() == pytest.approx([250.0, 750.0])
    assert (record.prompt_tokens, record.output_tokens, record.cached_tokens) == (9, 3, 8)
    assert (record.worker, record.request_id, record.ended_s) == ("w1", "r", 9.0)
    assert (made.text, made.tokens) == ("abc", 3)


@pytest.mark.parametrize("ending", ["\n\n", "\r\n\r\n"])
def test_events_may_come_in_any_pieces(ending: str) -> None:
    stream = text("a", ending) + text("b", ending) + b"data: [DONE]" + ending.encode()
    for size in (1, 2, 7, len(stream)):
        made = exchange()
        for start in range(0, len(stream), size):
            made.feed(stream[start : start + size], 2.0)
        made.end()
        record = made.record(3.0)
        assert (record.error, record.output_tokens) == (None, 2), size


@pytest.mark.parametrize(
    "delta", [{"reasoning": "x"}, {"reasoning_content": "x"}, {"tool_calls": [{"index": 0}]}]
)
def test_reasoning_and_tool_calls_are_content(delta: dict[str, object]) -> None:
    record = fed(exchange(), (event({"choices": [{"delta": delta}]}), 2.0), (DONE, 2.1))
    assert (record.ttft_ms, record.error) == (1000.0, None)


@pytest.mark.parametrize(
    ("pieces", "kind", "said"),
    [
        ([text("a")], ErrorKind.INCOMPLETE, "no end mark"),
        ([DONE], ErrorKind.INCOMPLETE, "no content"),
        ([text("a"), event({"error": {"message": "died"}}), DONE], ErrorKind.STREAM_ERROR, "died"),
        ([b": on\n\n", event({"error": {"code": "queue_timeout"}})], ErrorKind.HTTP_429, "queue"),
        ([b"data: {oops\n\n"], ErrorKind.UNREADABLE, "malformed"),
    ],
)
def test_a_stream_that_is_not_whole_is_an_error(
    pieces: list[bytes], kind: ErrorKind, said: str
) -> None:
    record = fed(exchange(), *((piece, 2.0) for piece in pieces))
    assert record.error is kind
    assert said in record.detail


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, ErrorKind.HTTP_429), (404, ErrorKind.HTTP_4XX), (503, ErrorKind.HTTP_5XX)],
)
def test_an_error_status_tells_its_message(status: int, kind: ErrorKind) -> None:
    body = json.dumps({"error": {"message": "queue is full"}}).encode()
    record = fed(exchange(status), (body[:10], 2.0), (body[10:], 2.0))
    assert (record.error, record.detail, record.status) == (kind, "queue is full", status)


def test_the_first_fault_is_the_one_that_is_told() -> None:
    made = exchange(None)
    made.fail(ErrorKind.CONNECT, "refused")
    made.fail(ErrorKind.STOPPED)
    record = made.record(2.0)
    assert (record.error, record.detail, record.first_s) == (ErrorKind.CONNECT, "refused", None)
