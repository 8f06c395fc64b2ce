"""Every way to name media by URL is found, whatever the API, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.media.references import may_refer, references, replaced

URL = "https://media.example.com/cat.png"
DATA = "data:image/png;base64,AAAA"


def chat(part: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": [part]}]}


WAYS = {
    "chat image": chat({"type": "image_url", "image_url": {"url": URL}}),
    "chat image as text": chat({"type": "image_url", "image_url": URL}),
    "a part without a type": chat({"image_url": URL}),
    "chat audio": chat({"type": "audio_url", "audio_url": {"url": URL}}),
    "chat video": chat({"type": "video_url", "video_url": {"url": URL}}),
    "a tool's answer": {
        "messages": [{"role": "tool", "content": [{"type": "image_url", "image_url": URL}]}]
    },
    "Anthropic": chat({"type": "image", "source": {"type": "url", "url": URL}}),
    "Anthropic's tool result": chat(
        {
            "type": "tool_result",
            "content": [{"type": "image", "source": {"type": "url", "url": URL}}],
        }
    ),
    "a response's image": {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]
    },
    "a response's file": {
        "input": [{"role": "user", "content": [{"type": "input_file", "file_url": URL}]}]
    },
    "a call's output": {
        "input": [
            {
                "type": "function_call_output",
                "output": [{"type": "input_image", "image_url": URL}],
            }
        ]
    },
    "an embedding": {"input": [[{"role": "user", "content": [{"image_url": {"url": URL}}]}]]},
    "a score": {"data_1": {"content": [{"type": "image_url", "image_url": {"url": URL}}]}},
}


@pytest.mark.parametrize("body", WAYS.values(), ids=WAYS)
def test_a_url_is_found_and_replaced(body: dict[str, Any]) -> None:
    before = json.dumps(body)
    assert may_refer(body)
    assert references(body) == [URL]
    after = replaced(body, lambda _: DATA)
    assert references(after) == []
    assert json.dumps(after) == before.replace(URL, DATA)
    assert json.dumps(body) == before


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http:x", "//host/x", "gopher://h", "DATA", ""]
)
def test_whatever_is_no_data_is_a_reference(url: str) -> None:
    assert references(chat({"image_url": {"url": url}})) == [url]


@pytest.mark.parametrize("url", [DATA, DATA.upper()])
def test_data_pass(url: str) -> None:
    assert references(chat({"image_url": {"url": url}})) == []


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": f"See {URL}"}], "metadata": {"image_url": URL}},
        {"input": f"See {URL}", "system": None},
        {"input": [URL, URL]},
        {"input": [1, 2, 3]},
        {"prompt": URL},
    ],
)
def test_plain_text_is_not_searched(body: dict[str, Any]) -> None:
    assert not may_refer(body)
    assert references(body) == []


@pytest.mark.parametrize("key", ["image_url", "audio_url", "content"])
def test_a_field_of_a_message_is_searched(key: str) -> None:
    message = {"role": "user", "content": "Hi", "name": "n", key: {"image_url": URL}}
    assert may_refer({"messages": [message]})


def test_what_is_not_read_by_a_model_may_name_urls() -> None:
    schema = {"properties": {"image_url": {"type": "string", "default": URL}}}
    body = {
        "messages": [{"role": "user", "content": f"See {URL}"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
        "metadata": {"image_url": URL},
    }
    assert references(body) == []


def test_one_url_in_many_places_is_one_reference() -> None:
    part = {"image_url": {"url": URL}}
    assert references({"messages": [{"content": [part, part]}, {"content": [part]}]}) == [URL]
