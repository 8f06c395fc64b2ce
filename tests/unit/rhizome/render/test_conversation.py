"""Messages that the engine reads in a way of its own are given up, not guessed."""

from __future__ import annotations

from typing import Any

import pytest

from rhizome.render.conversation import conversation_of, has_media, tools_of
from rhizome.render.outcomes import CannotRender, Why


def _user(part: Any) -> dict[str, Any]:
    return {"role": "user", "content": [part]}


def _calls(**fields: Any) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return {"role": "assistant", "content": "", "tool_calls": [{**call, **fields}]}


def _developer(**function: Any) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "f", **function}}
    return {"role": "developer", "content": "d", "tools": [tool]}


@pytest.mark.parametrize(
    "message",
    [
        "text",
        {"content": "x"},
        {"role": 5, "content": "x"},
        {"role": "user", "content": 5},
        _user(5),
        _user({"text": "x"}),
        _user({"type": ["text"], "text": "x"}),
        _user({"type": "text"}),
        _user({"type": "text", "text": None}),
        _user({"type": "hologram", "text": "x"}),
        _user({"type": "text", "text": "x", "uuid": "u"}),
        {"role": "assistant", "tool_calls": {}},
        {"role": "assistant", "tool_calls": ["x"]},
        _calls(id=None),
        _calls(type="custom"),
        _calls(function=None),
        _calls(function={"name": "f", "arguments": {}}),
        _calls(function={"name": "f", "arguments": "[" * 100_000}),
        {"role": "developer", "content": "d", "tools": "x"},
        {**_developer(), "tool_calls": [1]},
        _developer(parameters=None),
        _developer(description=5),
        _developer(strict="yes"),
    ],
)
@pytest.mark.parametrize("content_format", ["string", "openai"])
def test_a_message_of_an_unknown_shape_is_given_up(message: Any, content_format: Any) -> None:
    with pytest.raises(CannotRender) as caught:
        conversation_of([message], content_format)
    assert caught.value.why is Why.SHAPE


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url", "file", "image_embeds"])
def test_media_are_given_up(kind: str) -> None:
    parts: list[dict[str, Any]] = [
        {"type": kind, kind: {}},
        {kind: {}},
        {"type": "text", "text": "x", kind: "y"},
    ]
    for part in parts:
        assert has_media([_user(part)])
        with pytest.raises(CannotRender) as caught:
            conversation_of([_user(part)], "string")
        assert caught.value.why is Why.MEDIA


@pytest.mark.parametrize(
    "tool",
    [
        5,
        {},
        {"type": "custom", "function": {"name": "f"}},
        {"type": "function", "function": {"name": 5}},
        {"type": "function", "function": {"name": "f", "description": 5}},
        {"type": "function", "function": {"name": "f", "parameters": []}},
        {"type": "function", "function": {"name": "f", "strict": "yes"}},
        {"type": "function", "function": {"name": "f"}, "defer_loading": 1},
    ],
)
def test_a_tool_of_an_unknown_shape_is_given_up(tool: Any) -> None:
    for tools in ([tool], [], "f"):
        with pytest.raises(CannotRender):
            tools_of(tools)


def test_tools_have_the_engines_fields_in_its_order() -> None:
    tool = {
        "x": 1,
        "function": {"strict": None, "y": 2, "parameters": {"b": 1, "a": 2}, "name": "f"},
    }
    (kept,) = tools_of([tool]) or []
    assert list(kept) == ["type", "function"]
    assert list(kept["function"].items()) == [
        ("name", "f"),
        ("description", None),
        ("parameters", {"b": 1, "a": 2}),
    ]


def test_tool_call_arguments_become_objects() -> None:
    for arguments, parsed in (
        ('{"a": [1, 2.5]}', {"a": [1, 2.5]}),
        ("", {}),
        ("{oops", {}),
        ("[1]", {}),
        ('"x"', {}),
    ):
        message = _calls(function={"name": "f", "arguments": arguments})
        (seen,) = conversation_of([message], "string")
        assert seen["tool_calls"][0]["function"]["arguments"] == parsed
        assert message["tool_calls"][0]["function"]["arguments"] == arguments


def test_plain_messages_are_read_like_all_others() -> None:
    for role in ("system", "user", "assistant", "tool", "developer", "critic"):
        for content in ("", "Hello", "x-anthropic-billing-header: 1", "two\nlines"):
            for content_format in ("string", "openai"):
                plain: list[dict[str, Any]] = [{"role": role, "content": content}]
                longer = [{"role": role, "content": content, "refusal": None}]
                assert conversation_of(plain, content_format) == conversation_of(
                    longer, content_format
                )
