"""What strangers tried, and the simulation once answered in another way than vLLM."""

from __future__ import annotations

import json
from typing import Any

from tests.support.engine_contract.rows import (
    FUNCTION,
    MODEL,
    ONLY,
    RIVERS,
    USAGE,
    Fields,
    Row,
    chat,
    completion,
    message,
    response,
)
from tests.support.engine_contract.rows_renders import rendered
from tests.support.engine_contract.rows_tools import NAMED, WEATHER

_USER = {"role": "user", "content": "a"}
_LONG: Fields = {"max_tokens": 9} | {name: ONLY[name] for name in ("ignore_eos", "temperature")}
CALL: Fields = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FUNCTION_CALL: Fields = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}


def odd(name: str, prompt: Any = "Rivers", *, exact: bool = True, **fields: Any) -> Row:
    return completion(f"odd_{name}", prompt, exact=exact, **ONLY | fields)


def odd_chat(name: str, messages: Any = (_USER,), *, exact: bool = True, **fields: Any) -> Row:
    return chat(f"odd_chat_{name}", messages=messages, exact=exact, **ONLY | fields)


def streamed(name: str, **options: Any) -> tuple[Row, Row]:
    asked: Fields = {"stream": True, "stream_options": options}
    return odd(name, **asked), odd_chat(name, **asked)


def both(name: str, **fields: Any) -> tuple[Row, ...]:
    """A completion and a chat that are refused, whole and streamed."""
    more: Fields = {"stream": True}
    return (
        odd(name, exact=False, **fields),
        odd(f"{name}_streamed", exact=False, **more | fields),
        odd_chat(name, exact=False, **fields),
        odd_chat(f"{name}_streamed", exact=False, **more | fields),
    )


def said(name: str, message: Any, **fields: Any) -> Row:
    return odd_chat(f"said_{name}", [_USER, message], exact=False, **fields)


def raw(name: str, path: str, body: Any = None, **fields: Any) -> Row:
    return Row(f"odd_{name}", path, body, **fields)


def tokenized(name: str, **fields: Any) -> Row:
    return Row(f"odd_tokenize_{name}", "/tokenize", {"messages": [_USER]} | fields)


def in_response(name: str, **fields: Any) -> Row:
    return response(f"odd_{name}", **fields)


def in_message(name: str, **fields: Any) -> Row:
    return message(f"odd_{name}", **fields)


def _assistant(**fields: Any) -> Fields:
    return {"role": "assistant", "content": "x"} | fields


STREAMS = (
    *streamed("no_options"),
    *streamed("usage_unasked", include_usage=None),
    *streamed("usage_in_each_alone", continuous_usage_stats=True),
    *streamed("usage_in_each_not", include_usage=False, continuous_usage_stats=True),
    *streamed("usage_as_text", include_usage="yes"),
    odd("two_nearly_greedy", n=2, temperature=1e-6),
    odd("minimum_of_stops", min_tokens=2, stop_token_ids=[300], return_token_ids=True),
    odd("minimum_then_other", min_tokens=9, **_LONG, stop_token_ids=[301]),
    odd("repeated", repetition_detection={"max_pattern_size": 2, "min_count": 3}, max_tokens=9),
    odd_chat("repeated", repetition_detection={"max_pattern_size": 1, "min_count": 2}, **USAGE),
    odd(
        "repeated_but_bound",
        min_tokens=4,
        repetition_detection={"max_pattern_size": 1, "min_count": 2},
        max_tokens=9,
    ),
    odd("listed_logprobs", exact=False, logprobs=2, logprob_token_ids=[5, 6]),
    odd("listed_logprobs_streamed", exact=False, logprobs=2, logprob_token_ids=[5, 6], **USAGE),
    odd_chat("listed_logprobs", exact=False, logprobs=True, logprob_token_ids=[300, 5]),
    odd("cut_as_text", list(range(300, 340)), truncate_prompt_tokens="5", return_token_ids=True),
    odd_chat("generation_as_text", add_generation_prompt="false", return_token_ids=True),
    odd_chat("special_as_number", add_special_tokens=1, return_token_ids=True),
    odd_chat("padded", chat_template_kwargs={"padding": True}, return_token_ids=True),
    odd("embeds_none", prompt_embeds=[]),
)
REFUSED = (
    *both("logprobs_beyond", logprob_token_ids=[5]),
    *both("unknown_bias", logit_bias={"99999": 1}),
    *both("unknown_stop", stop_token_ids=[99_999]),
    *both("nothing_allowed", allowed_token_ids=[]),
    *both("blank_bad_word", bad_words=[" "]),
    *both("thinking_budget", thinking_token_budget=5),
    *both("thinking_budget_text", thinking_token_budget="x"),
    *both("five_stops", stop=["a", "b", "c", "d", "e"]),
    *both("pattern_negative", repetition_detection={"max_pattern_size": -1}),
    *both("pattern_once", repetition_detection={"max_pattern_size": 2, "min_count": 1}),
    *both("no_request_id", request_id=None),
    *both("special_tokens_none", add_special_tokens=None),
    *both("media_arguments", mm_processor_kwargs={"a": 1}),
    *both("bound_wrongly", structured_outputs={"regex": "("}),
    odd("top_logprobs_streamed", exact=False, logprobs=21, stream=True),
    odd("empty_prompt_streamed", ["a", ""], exact=False, stream=True),
    odd("unknown_prompt_streamed", [99_999], exact=False, stream=True),
    odd("characters_beyond", "a" * 20_000, exact=False),
    odd("salt_surrogate", exact=False, cache_salt="\ud800"),
    Row(
        "odd_rank_streamed",
        "/v1/completions",
        {"prompt": "a", "stream": True},
        headers={"X-data-parallel-rank": "3"},
    ),
    odd_chat("echo_none", exact=False, echo=None),
    odd_chat("messages_none", None, exact=False),
)
MESSAGES = (
    said("nothing", {"role": "user", "content": None}),
    said("nothing_by_system", {"role": "system", "content": None}),
    said("nothing_by_tool", {"role": "tool", "tool_call_id": "x", "content": None}),
    said("nothing_by_assistant", _assistant(content=None)),
    said("strings", {"role": "user", "content": ["a", "b"]}),
    said("an_object", {"role": "user", "content": {"type": "text", "text": "a"}}),
    said("a_file", {"role": "user", "content": [{"type": "file", "file": {"file_id": "a"}}]}),
    said("by_number", {"role": "user", "content": "a", "name": 5}),
    said("for_number", {"role": "tool", "content": "a", "tool_call_id": 5}),
    said("calls_text", _assistant(tool_calls="x")),
    said("calls_numbers", _assistant(tool_calls=[5])),
    said("call_empty", _assistant(tool_calls=[{}])),
    said(
        "call_of_objects",
        _assistant(tool_calls=[CALL | {"function": {"name": "f", "arguments": {"a": 1}}}]),
    ),
    said("call", _assistant(tool_calls=[CALL]), return_token_ids=True),
)
HTTP = (
    raw("deep", "/v1/completions", b"[" * 2000),
    raw("not_utf8", "/v1/chat/completions", b'{"prompt":"\xff"}'),
    raw("endless_number", "/tokenize", b'{"seed":' + b"9" * 5000 + b"}"),
    raw("null", "/v1/completions", b"null"),
    raw("null_messages", "/v1/messages", b"null"),
    raw("plain_text", "/v1/completions", b"{}", headers={"content-type": "text/plain"}),
    raw("no_type", "/v1/responses", b"{}", headers={"content-type": ""}),
    raw(
        "json_and_more",
        "/tokenize",
        json.dumps({"prompt": "a"}).encode(),
        headers={"content-type": "application/json; charset=utf-8"},
    ),
    raw("render_as_text", "/v1/completions/render", b"{}", headers={"content-type": "text/plain"}),
    raw("slash", "/v1/completions/", b"{}"),
    raw("slash_and_query", "/v1/models/?a=b"),
    raw("slash_health", "/health/"),
    raw("ping_put", "/ping", b"", method="PUT"),
    raw("models_deleted", "/v1/models", method="DELETE"),
    raw("response_named_render", "/v1/responses/render"),
    raw(
        "invoked_surrogate",
        "/invocations",
        b'{"a":"\\ud800","prompt":"a","max_tokens":1,"allowed_token_ids":[300]}',
    ),
    raw("invoked_nan", "/invocations", b'{"temperature":NaN,"prompt":"a","max_tokens":1}'),
    raw("invoked_deep", "/invocations", b"[" * 2000),
    tokenized("no_tools", tools=[]),
    tokenized("media_arguments", mm_processor_kwargs={"a": 1}),
    tokenized("cut", truncate_prompt_tokens=3),
    tokenized("nobody", messages=[], model="nobody"),
)
OTHERS = (
    in_response("no_input", input=[]),
    in_response("empty_item", input=[{}]),
    in_response("text_item", input=["a"]),
    in_response("said_by_robot", input=[{"role": "robot", "content": "a"}]),
    in_response(
        "said_in_output",
        input=[{"role": "user", "content": [{"type": "output_text", "text": "a"}]}],
    ),
    in_response("reference", input=[{"type": "item_reference", "id": "x"}]),
    in_response("call_unnamed", input=[{"type": "function_call", "name": "f", "arguments": ""}]),
    in_response("called", input=[FUNCTION_CALL]),
    in_response(
        "called_and_answered",
        input=[
            FUNCTION_CALL,
            {"type": "function_call_output", "call_id": "a", "output": "b"},
            _USER,
        ],
    ),
    in_response("penalty", presence_penalty=3),
    in_response("truncation", truncation="auto"),
    in_response("parallel_unsaid", parallel_tool_calls=None),
    in_response("reasoning", reasoning={"effort": "low"}),
    in_response("reasoning_odd", reasoning={"effort": "x"}),
    in_response("cache_key", prompt_cache_key=5),
    in_response("choice_empty", tool_choice={}),
    in_response("choice_odd", tool_choice={"type": "x"}),
    in_response("tool_odd", tools=[{"type": "x"}]),
    in_response("tool_number", tools=[5]),
    in_response("calls", max_tool_calls=1),
    in_response("not_heeded", n=2, min_tokens=9, bad_words=[" "], stream_options="x"),
    in_response("template", prompt={"id": "a"}),
    in_response("five_stops", stop=["a"] * 5),
    in_response("unknown_stop", stop_token_ids=[99_999]),
    in_message("five_stops", stop_sequences=["a"] * 5),
    in_message("document", messages=[{"role": "user", "content": [{"type": "document"}]}]),
    in_message("system_odd", system=[{"type": "x"}]),
    in_message("nobody", messages=[None]),
    in_message("auto_alone", tool_choice={"type": "auto"}),
    in_message("thinking", thinking={"type": "enabled", "budget_tokens": 5}),
    in_message("thinking_odd", thinking={"type": "x"}),
    in_message("effort_odd", output_config={"effort": "x"}),
    in_message("bound", output_config={"format": {"type": "json_schema", "schema": {"type": "x"}}}),
    in_message(
        "counted_beyond",
        path="/v1/messages/count_tokens",
        messages=[{"role": "user", "content": "river " * 600}],
    ),
)
ORDER = (
    odd_chat("tools_of_nobody", exact=False, model="nobody", tools=[WEATHER]),
    odd_chat("tools_without_messages", [], exact=False, tools=[WEATHER]),
    odd_chat("media_without_messages", [], exact=False, mm_processor_kwargs={"a": 1}),
    odd_chat("template_and_media", exact=False, chat_template="x", mm_processor_kwargs={"a": 1}),
    odd("echo_of_embeds", exact=False, echo=True, prompt_embeds="a"),
    tokenized("special_as_number", add_special_tokens=1),
    raw("tokenize_text_media", "/tokenize", {"prompt": "a", "media_io_kwargs": {"a": {}}}),
    in_message("tools_of_nobody", model="nobody", tool_choice={"type": "auto"}),
    in_message(
        "call_unnamed",
        messages=[_assistant(content=[{"type": "tool_use", "name": "f", "input": {}}]), _USER],
    ),
    in_response("two_faults", input=["a"], seed="x"),
)
"""Two faults at once: which of them is told."""
ODD: tuple[Row, ...] = (*STREAMS, *REFUSED, *MESSAGES, *HTTP, *OTHERS, *ORDER)


def _render(name: str, path: str, **fields: Any) -> Row:
    row = Row(f"odd_{name}", path, {"model": MODEL, "max_tokens": 4} | fields)
    return rendered(row)


ODD_MORE: tuple[Row, ...] = (
    chat("odd_parsed_other_choice", tools=[WEATHER], tool_choice=NAMED | {"type": "x"}),
    chat(
        "odd_parsed_bound", tools=[WEATHER], tool_choice=NAMED, structured_outputs={"choice": ["a"]}
    ),
    chat("odd_parsed_without_reasoning", tools=[WEATHER], include_reasoning=False, **ONLY, **USAGE),
    _render("offsets", "/v1/completions", prompt="é🌍 Hi", return_token_offsets=True),
    _render("offsets_of_ids", "/v1/completions", prompt=[5, 6], return_token_offsets=True),
    _render("offsets_of_texts", "/v1/completions", prompt=["a", "b c"], return_token_offsets=True),
    _render(
        "offsets_cut",
        "/v1/completions",
        prompt=RIVERS,
        return_token_offsets=True,
        truncate_prompt_tokens=2,
    ),
    _render("offsets_chat", "/v1/chat/completions", messages=[_USER], return_token_offsets=True),
    _render("message", "/v1/messages", messages=[_USER]),
    _render("message_streamed", "/v1/messages", messages=[_USER], stream=True, system="be"),
    _render(
        "message_more",
        "/v1/messages",
        messages=[_USER],
        stop_sequences=["a"],
        top_k=5,
        vllm_xargs={"a": 1},
        cache_salt="a",
    ),
    _render(
        "message_tools", "/v1/messages", messages=[_USER], tools=[{"name": "f", "input_schema": {}}]
    ),
    _render("message_nobody", "/v1/messages", messages=[]),
    _render("response", "/v1/responses", input=RIVERS),
    _render("response_streamed", "/v1/responses", input=RIVERS, stream=True, temperature=0),
    _render(
        "response_more",
        "/v1/responses",
        input=[FUNCTION_CALL, _USER],
        stop=["a"],
        seed=5,
        max_output_tokens=7,
        kv_transfer_params={"a": 1},
        priority=3,
        instructions="be",
    ),
    _render("response_tools", "/v1/responses", input=RIVERS, tools=[FUNCTION]),
    _render(
        "response_bound", "/v1/responses", input=RIVERS, text={"format": {"type": "json_object"}}
    ),
)
