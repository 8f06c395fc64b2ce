"""A stored response told again is the response: piece by piece, numbered alike each time."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from router.stored.events import begun, encoded, told

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [
        {"type": "output_text", "text": "Hello world", "annotations": []},
        {"type": "refusal", "refusal": "No."},
    ],
}
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "look",
    "arguments": '{"at": 1}',
}
REASONING = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Let me see."}],
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [REASONING, MESSAGE, CALL],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": None,
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def test_every_event_is_one_of_openais() -> None:
    for number, event in enumerate(told(RESPONSE)):
        typed = EVENT.validate_python({**event, "sequence_number": number}, strict=True)
        assert typed.type == event["type"]


def test_the_pieces_are_the_whole() -> None:
    events = list(told(RESPONSE))
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    assert deltas == ["Let me see.", "Hello world", "No.", '{"at": 1}']
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == RESPONSE["output"]
    assert events[-1] == {"type": "response.completed", "response": RESPONSE}
    for event in events[:2]:
        assert event["response"]["output"] == []


def test_what_was_told_before_the_end_begins_what_is_told_after_it() -> None:
    running = {**RESPONSE, "status": "queued", "output": []}
    assert [event["type"] for event in begun(running)] == [
        event["type"] for event in list(told(RESPONSE))[: len(begun(running))]
    ]


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ("completed", "response.completed"),
        ("failed", "response.failed"),
        ("incomplete", "response.incomplete"),
        ("cancelled", "response.incomplete"),
    ],
)
def test_the_end_is_what_the_response_came_to(status: str, end: str) -> None:
    assert list(told({**RESPONSE, "status": status}))[-1]["type"] == end


def test_an_event_is_sent_by_its_name_and_with_its_number() -> None:
    assert encoded({"type": "t", "x": 1}, 7) == (
        b'event: t\ndata: {"type":"t","x":1,"sequence_number":7}\n\n'
    )
