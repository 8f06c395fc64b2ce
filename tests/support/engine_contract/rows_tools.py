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
)

PARSER_FLAGS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
_LENGTHS = frozenset({"completion_tokens", "total_tokens"})
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


def calling(name: str, **fields: Any) -> Row:
    """A chat that ends with a call, however many tokens that takes.

    They come last: what they say is in the cache from then on, and not the same everywhere.
    """
    asked: Fields = {"tools": [WEATHER], "max_tokens": 200, "ignore_eos": False} | fields
    row = chat(f"calling_{name}", **asked)
    return Row(row.name, row.path, row.body, free=MODELS_CHOICE | _LENGTHS)


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
    calling("required", tool_choice="required"),
    calling("named", tool_choice=NAMED),
    calling("required_streamed", tool_choice="required", **USAGE),
    calling("named_streamed", tool_choice=NAMED, **USAGE),
    calling("single", tool_choice="required", parallel_tool_calls=False),
)
