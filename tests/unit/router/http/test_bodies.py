"""Bodies are refused with the field's name, or read without losing anything."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rhizome.errors import InvalidRequest, MalformedBody
from router.http.bodies import read_chat, read_completion, read_tokenizer_body

HI = [{"role": "user", "content": "Hi"}]


def _bytes(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", **fields})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"model": "\xff"}',
        b'{"model": NaN}',
        b'{"model": Infinity}',
        b'{"model": "m"} trailing',
        b'{"model": 1e999}',
        b'{"a": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": "m", "x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
)
@pytest.mark.parametrize("read", [read_chat, read_completion, read_tokenizer_body])
def test_what_is_not_a_json_object_is_malformed(read: Any, data: bytes) -> None:
    with pytest.raises(MalformedBody) as caught:
        read(data)
    assert caught.value.status == 400
    assert caught.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": ["Hi"]}, "messages.0"),
        ({"messages": [*HI, None]}, "messages.1"),
        ({"messages": [{"content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": 5, "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": {}}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": ["a", 5]}]}, "messages.0.content.1"),
        ({"messages": HI, "stream": "yes"}, "stream"),
        ({"messages": HI, "stream": 1}, "stream"),
        ({"messages": HI, "stream_options": True}, "stream_options"),
        ({"messages": HI, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"messages": HI, "max_tokens": "many"}, "max_tokens"),
        ({"messages": HI, "max_tokens": -1}, "max_tokens"),
        ({"messages": HI, "max_tokens": 1.5}, "max_tokens"),
        ({"messages": HI, "max_tokens": True}, "max_tokens"),
        ({"messages": HI, "max_completion_tokens": []}, "max_completion_tokens"),
        ({"messages": HI, "n": 0}, "n"),
        ({"messages": HI, "temperature": "hot"}, "temperature"),
        ({"messages": HI, "temperature": -0.1}, "temperature"),
        ({"messages": HI, "top_p": []}, "top_p"),
        ({"messages": HI, "cache_salt": 5}, "cache_salt"),
        ({"messages": HI, "tools": {}}, "tools"),
        ({"messages": HI, "chat_template_kwargs": []}, "chat_template_kwargs"),
    ],
)
def test_a_wrong_chat_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_chat(_bytes(**fields))
    assert caught.value.param == param
    assert caught.value.body()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        5,
        True,
        {},
        [],
        [[]],
        [None],
        ["a", 1],
        [1, "a"],
        [1.5],
        [-1],
        [2**40],
        [True],
        [[1], []],
    ],
)
def test_a_wrong_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_completion(_bytes(prompt=prompt))
    assert caught.value.param == "prompt"


def test_the_number_of_prompts_is_bounded() -> None:
    assert len(read_completion(_bytes(prompt=["a"] * 2048)).prompts) == 2048
    with pytest.raises(InvalidRequest, match="2048"):
        read_completion(_bytes(prompt=["a"] * 2049))


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("", [""]),
        ("a", ["a"]),
        (["a", ""], ["a", ""]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_every_form_of_prompt_is_read(prompt: Any, prompts: list[Any]) -> None:
    body = read_completion(_bytes(prompt=prompt))
    assert body.prompts == prompts
    assert body.first_prompt == prompts[0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": [1]}, "prompt"),
        ({"tokens": "a"}, "tokens"),
        ({"tokens": ["a"]}, "tokens"),
        ({"messages": []}, "messages"),
    ],
)
def test_a_wrong_tokenizer_body_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tokenizer_body(_bytes(**fields))
    assert caught.value.param == param


def test_tokenizer_bodies_are_read() -> None:
    bodies: list[dict[str, Any]] = [
        {"prompt": "a"},
        {"messages": HI},
        {"tokens": []},
        {"tokens": [1]},
    ]
    for fields in bodies:
        assert read_tokenizer_body(_bytes(**fields)).model == "m"


def test_absent_and_null_fields_are_fine() -> None:
    names = "stream stream_options max_tokens max_completion_tokens n temperature top_p tools"
    body = read_chat(_bytes(messages=HI, **dict.fromkeys(names.split())))
    assert (body.stream, body.include_usage, body.max_tokens, body.n) == (False, False, None, 1)
    assert (body.cache_salt, body.session) == (None, None)


def test_views_read_what_was_sent() -> None:
    body = read_chat(
        _bytes(
            messages=HI,
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=5,
            max_completion_tokens=7.0,
            n=2,
            cache_salt="salt",
            user="u",
            prompt_cache_key="k",
        )
    )
    assert (body.stream, body.include_usage, body.max_tokens, body.n) == (True, True, 7, 2)
    assert (body.cache_salt, body.session) == ("salt", "k")


@pytest.mark.parametrize(
    ("field", "value", "session"),
    [
        ("session_id", "s", "s"),
        ("user", "u" * 999, "u" * 256),
        ("user", 5, None),
        ("user", "", None),
    ],
)
def test_the_session_hint_is_text_of_bounded_length(
    field: str, value: Any, session: str | None
) -> None:
    assert read_chat(_bytes(messages=HI, **{field: value})).session == session


def test_an_unstreamed_body_goes_on_as_it_came() -> None:
    data = b'{ "model":"m",  "messages":[{"role":"user","content":"Hi"}], "new": 1.0 }'
    body = read_chat(data)
    assert body.for_engine is data
    assert not body.usage_added


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False, "other": 1}])
def test_a_stream_always_reports_its_usage(options: Any) -> None:
    sent = {
        "model": "m",
        "messages": HI,
        "stream": True,
        "unknown": [1, {"a": None}],
        "big": 10**30,
    }
    if options is not None:
        sent["stream_options"] = options
    body = read_chat(msgspec.json.encode(sent))
    assert body.usage_added
    assert msgspec.json.decode(body.for_engine) == {
        **sent,
        "stream_options": {**(options or {}), "include_usage": True},
    }
    assert body.fields == sent


def test_a_stream_that_asked_for_usage_goes_on_as_it_came() -> None:
    data = _bytes(messages=HI, stream=True, stream_options={"include_usage": True})
    body = read_chat(data)
    assert body.for_engine is data
    assert not body.usage_added


def test_a_client_cannot_make_the_engine_announce_its_blocks_again() -> None:
    fields = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "vllm_xargs": {"kv_cache_report_mode": "full", "other": 1},
    }
    sent = msgspec.json.decode(read_chat(msgspec.json.encode(fields)).for_engine)
    assert sent == {**fields, "vllm_xargs": {"other": 1}}


TEXT = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "texts"),
    [
        ([TEXT], [("user", "hi")]),
        ([TEXT, {"content": "", "role": "assistant"}], [("user", "hi"), ("assistant", "")]),
        ([TEXT, TEXT | {"name": "Ann"}], None),
        ([TEXT, {"role": "user", "content": [{"type": "text", "text": "hi"}]}], None),
        ([TEXT, {"role": "assistant", "content": None}], None),
        ([TEXT, {"role": "assistant", "tool_calls": []}], None),
    ],
)
def test_texts_are_those_of_messages_that_have_nothing_else(messages: Any, texts: Any) -> None:
    body = read_chat(msgspec.json.encode({"model": "m", "messages": messages}))
    assert body.texts == texts
