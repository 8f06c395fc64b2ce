"""Requests that have tools called, for an engine that was started with a parser of calls."""

from __future__ import annotations

from typing import Any

from tests.support.engine_contract.rows import (
    FREE,
    MODELS_CHOICE,
    ONLY,
    TURNS,
    USAGE,
    Fields,
    Row,
    chat,
    message,
    response,
)

PARSER_FLAGS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
_LENGTHS = frozenset({"completion_tokens", "total_tokens", "output_tokens"})
WEATHER: Fields = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": ["x"]}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}
NAMED: Fields = {"type": "function", "function": {"name": "weather"}}


RESPONSE_NAMED: Fields = {"type": "function", "name": "weather"}
MESSAGE_NAMED: Fields = {"type": "tool", "name": "weather"}


def _ending(row: Row) -> Row:
    """The row with a call at its end, however many tokens that takes.

    They come last: what they say is in the cache from then on, and not the same everywhere.
    """
    name = f"calling_{row.name}"
    return Row(name, row.path, row.body, free=MODELS_CHOICE | _LENGTHS)


def calling(name: str, **fields: Any) -> Row:
    asked: Fields = {"tools": [WEATHER], "max_tokens": 200, "ignore_eos": False} | fields
    return _ending(chat(name, **asked))


def in_response(name: str, **fields: Any) -> Row:
    tools = [WEATHER["function"] | {"type": "function"}]
    return response(f"{name}_with_parser", **{"tools": tools} | fields)


def in_message(name: str, **fields: Any) -> Row:
    function = dict(WEATHER["function"])
    tools = [function | {"input_schema": function.pop("parameters")}]
    return message(f"{name}_with_parser", **{"tools": tools} | fields)


def _cut(row: Row) -> Row:
    """A call that has no time to begin."""
    cut: Fields = {"max_output_tokens": 2} if "input" in row.body else {"max_tokens": 2}
    return Row(f"{row.name}_cut", row.path, row.body | cut, free=row.free)


def _called(row: Row) -> Row:
    long: Fields = {"max_output_tokens": 200} if "input" in row.body else {"max_tokens": 200}
    return _ending(Row(row.name, row.path, row.body | long))


def tool(name: str, **fields: Any) -> Row:
    return chat(f"parsed_{name}", **{"tools": [WEATHER]} | fields)


CALLS: tuple[Row, ...] = (
    tool("required_cut", tool_choice="required", max_tokens=2),
    tool("required_cut_streamed", tool_choice="required", max_tokens=2, stream=True),
    tool("required_ids", tool_choice="required", max_tokens=2, return_token_ids=True, **USAGE),
    tool("auto", **ONLY, exact=True),
    tool("auto_streamed", **ONLY, **USAGE, exact=True),
    tool("auto_free", tool_choice="auto"),
    tool("none", tool_choice="none", **ONLY, exact=True),
    tool("none_streamed", tool_choice="none", **ONLY, **USAGE, exact=True),
    tool("stop_held", tool_choice="none", **USAGE, **ONLY | {"stop": ["e e e"], "max_tokens": 9}),
    tool("logprobs", tool_choice="auto", logprobs=True, **USAGE),
    tool("unknown", tool_choice={"type": "function", "function": {"name": "nothing"}}),
    tool("no_name", tool_choice={"type": "function", "function": {}}),
    tool("odd_choice", tool_choice="sometimes"),
    chat("parsed_no_tools", messages=TURNS, **ONLY, exact=True),
    chat("parsed_no_tools_streamed", messages=TURNS, **USAGE, **ONLY, exact=True),
    chat("parsed_choice_alone", tool_choice="required", **FREE),
    in_response("auto"),
    in_response("auto_streamed", stream=True),
    _cut(in_response("required", tool_choice="required")),
    _cut(in_response("streamed", tool_choice="required", stream=True)),
    in_response("unknown", tool_choice={"type": "function", "name": "nothing"}),
    in_message("auto"),
    in_message("auto_streamed", stream=True),
    in_message("none", tool_choice={"type": "none"}),
    _cut(in_message("any", tool_choice={"type": "any"})),
    _cut(in_message("streamed", tool_choice={"type": "any"}, stream=True)),
    in_message("unknown", tool_choice={"type": "tool", "name": "nothing"}),
    calling("required", tool_choice="required"),
    calling("named", tool_choice=NAMED),
    calling("required_streamed", tool_choice="required", **USAGE),
    calling("named_streamed", tool_choice=NAMED, **USAGE),
    calling("single", tool_choice="required", parallel_tool_calls=False),
    _called(in_response("required", tool_choice="required")),
    _called(in_response("named", tool_choice=RESPONSE_NAMED)),
    _called(in_response("streamed", tool_choice="required", stream=True)),
    _called(in_message("any", tool_choice={"type": "any"})),
    _called(in_message("named", tool_choice=MESSAGE_NAMED)),
    _called(in_message("streamed", tool_choice={"type": "any"}, stream=True)),
)
