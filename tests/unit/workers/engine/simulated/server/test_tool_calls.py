from __future__ import annotations

import json
import random
from typing import Any

import pytest

from workers.engine.simulated.server.refusals import Refusal
from workers.engine.simulated.server.tool_calls import CallReader, call_text, whole_call

WORDS = ["river", "sea"]
WEATHER: dict[str, Any] = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"enum": [3]}},
        "required": ["city", "days"],
    },
}


def streamed(pieces: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """What a client has put together from the deltas of `pieces`."""
    reader, content, calls = CallReader(), "", []
    for piece in pieces:
        delta = reader.feed(piece) or {}
        content += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                calls.append({"name": call["function"]["name"], "arguments": ""})
            else:
                calls[call["index"]]["arguments"] += call["function"]["arguments"]
    return content, calls


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_streamed_call_is_the_whole_one(size: int) -> None:
    for seed in range(10):
        text = call_text([WEATHER], random.Random(seed), WORDS)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        (expected,) = whole_call(text)[1]
        content, calls = streamed(pieces)
        assert content == ""
        assert calls == [expected["function"]]
        assert json.loads(calls[0]["arguments"])["days"] == 3


def test_text_before_a_call_is_content_and_half_a_tag_is_held_back() -> None:
    reader = CallReader()
    assert reader.feed("Well <tool") == {"content": "Well "}
    assert reader.feed("bar") == {"content": "<toolbar"}
    assert reader.feed("<tool_call>") is None
    assert not reader.called


def test_a_call_that_was_cut_is_text() -> None:
    text = '<tool_call>{"name": "weather", "arg'
    assert whole_call(text) == (text, [])


def test_a_tool_that_nothing_satisfies_is_refused() -> None:
    with pytest.raises(Refusal):
        call_text([{"name": "a", "parameters": {"enum": []}}], random.Random(0), WORDS)
