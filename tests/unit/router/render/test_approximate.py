"""Approximate bytes share prefixes where prompts do."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from router.render.approximate import render_approximate
from tests.support.render_bodies import BODIES, ODD_BODIES

TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": [{"type": "text", "text": "Ünï 🙂"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "21"},
    {"role": "assistant", "content": "21 degrees", "reasoning": "easy"},
]


def test_a_longer_conversation_extends_the_bytes_of_the_shorter() -> None:
    for tools in ([], [{"type": "function", "function": {"name": "f"}}]):
        texts = [
            render_approximate({"messages": TURNS[:count], "tools": tools})
            for count in range(1, len(TURNS) + 1)
        ]
        for shorter, longer in pairwise(texts):
            assert longer.startswith(shorter)
            assert len(longer) > len(shorter)


def test_text_given_as_parts_is_the_same_text() -> None:
    plain = {"messages": [{"role": "user", "content": "hi"}]}
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}
    assert render_approximate(plain) == render_approximate(parts)


def test_media_count_by_their_digest() -> None:
    def body(data: str) -> dict[str, Any]:
        part = {"type": "image_url", "image_url": {"url": f"data:{data * 100_000}"}}
        return {"messages": [{"role": "user", "content": [part]}]}

    one, other = render_approximate(body("a")), render_approximate(body("b"))
    assert one != other
    assert len(one) < 100


def test_tools_come_first() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    bytes_of = [
        render_approximate({"messages": [{"role": "user", "content": text}], "tools": tools})
        for text in ("a", "b")
    ]
    assert bytes_of[0][:-1] == bytes_of[1][:-1]


def test_prompts_extend_as_text_and_as_ids() -> None:
    assert render_approximate({"prompt": "abc"}) == b"abc"
    assert render_approximate({"prompt": ["abc", "def"]}) == b"abc"
    ids = render_approximate({"prompt": [1, 2, 3]})
    assert ids.startswith(render_approximate({"prompt": [1, 2]}))
    assert render_approximate({"prompt": [[1, 2, 3], [4]]}) == ids


def test_nothing_in_a_body_is_an_error() -> None:
    odd: list[dict[str, Any]] = [
        {},
        {"prompt": None},
        {"prompt": []},
        {"prompt": [None]},
        {"prompt": [-1, 2**70]},
        {"messages": None},
        {"messages": [None, 3, {}, {"role": 5, "content": 7, "name": {"a": 10**30}}]},
        {"messages": [{"role": "u", "content": "\ud800", "reasoning": "\udfff"}]},
        *BODIES.values(),
        *ODD_BODIES.values(),
    ]
    for body in odd:
        assert isinstance(render_approximate(body), bytes)


def test_every_field_counts_whatever_others_there_are() -> None:
    def bytes_of(**message: Any) -> bytes:
        return render_approximate({"messages": [message]})

    assert bytes_of(role="user", content="hi") == bytes_of(role="user", content="hi", id=1)
    assert bytes_of(name="a", content="hi") != bytes_of(name="b", content="hi")
    assert bytes_of(role="tool", tool_call_id="a") != bytes_of(role="tool", tool_call_id="b")


def test_texts_that_were_read_before_make_the_same_bytes() -> None:
    texts = [("system", "Be kind."), ("user", "Ünï \ud83d 🙂"), ("assistant", "")]
    fields = {"messages": [{"role": role, "content": text} for role, text in texts]}
    assert render_approximate(fields, texts) == render_approximate(fields)
    with_tools = fields | {"tools": [{"type": "function", "function": {"name": "f"}}]}
    assert render_approximate(with_tools, texts) == render_approximate(with_tools)
